"""The checks of `edgeinfer doctor` that need the runtime: engines that really run, configuration that can be read."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from edgeinfer.devices import doctor
from edgeinfer.devices.doctor import Finding
from edgeinfer.runtime.engines import available_engines, load_engine
from edgeinfer.runtime.errors import ConfigError, EdgeInferError

__all__ = ["check_config", "check_engines"]

T = TypeVar("T")

_CANARIES = {"onnx": "canary.onnx", "litert": "canary.tflite", "openvino": "canary.onnx"}


def check_engines() -> list[Finding]:
    """Run a model of one operator on every engine that is installed: importing one proves nothing."""
    return [_check_engine(name) for name in available_engines()]


def _check_engine(name: str) -> Finding:
    import numpy as np

    check = f"engine {name}"
    sample = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)
    try:
        engine = load_engine(name, Path(doctor.__file__).parent / "canary" / _CANARIES[name])
        (output,) = engine.run([sample])
        version = engine.version
        engine.close()
    except EdgeInferError as error:
        return Finding(check, False, error.message, error.hint or _mend(np.__version__))
    if not np.array_equal(output, sample):
        return Finding(check, False, f"expected {sample.tolist()}, found {output.tolist()}", "install the engine again")
    return Finding(check, True, version)


def _mend(numpy_version: str) -> str:
    if numpy_version.startswith("1."):
        return "install the engine again, for this Python and this processor"
    return "tflite-runtime needs numpy 1: pip install 'edgeinfer[tflite]' in an environment of its own"


def check_config(path: Path, load: Callable[[Path], T]) -> tuple[Finding, T | None]:
    """Whether `load` takes a configuration file, and what it says."""
    check = f"configuration {path.name}"
    try:
        config = load(path)
    except ConfigError as error:
        return Finding(check, False, error.message, error.hint or "correct the file"), None
    return Finding(check, True, str(path)), config
