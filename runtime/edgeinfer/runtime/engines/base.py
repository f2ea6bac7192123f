"""The contract of an engine, and the choice of one by name.

engine = load_engine("litert", Path("kws.tflite"), threads=1)
outputs = engine.run([engine_input])
"""

import contextlib
import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeinfer.devices.distributions import installed_version
from edgeinfer.runtime.errors import DependencyError, ModelError
from edgeinfer.runtime.manifest import TensorSpec

__all__ = [
    "Array",
    "Engine",
    "available_engines",
    "cast_limits",
    "dequantize",
    "engine_versions",
    "import_engine",
    "load_engine",
    "quantize_input",
]

Array = npt.NDArray[Any]

_MODULES = {"onnx": ("onnxruntime",), "litert": ("ai_edge_litert", "tflite_runtime"), "openvino": ("openvino",)}
_PACKAGES = {"onnx": ("onnxruntime",), "litert": ("ai-edge-litert", "tflite-runtime"), "openvino": ("openvino",)}
_LIBRARIES = {"onnx": ("onnxruntime",), "litert": ("ai_edge_litert.interpreter", "tflite_runtime.interpreter")}
_EXTRAS = {"onnx": "onnx", "litert": "litert", "openvino": "openvino"}


class Engine(Protocol):
    """A loaded model. `run` may be called from one thread at a time.

    `name` is the engine's name and `version` the library's; `inputs` and `outputs` are in the order of the
    model, with quantization where the tensor is an integer one.
    """

    name: str
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """One inference. Arrays have the shapes and dtypes of `inputs` (-1 may be any size); the outputs
        have those of `outputs` and belong to the caller. Raises ModelError."""
        ...

    def interrupt(self) -> bool:
        """Ask the call that is under way in another thread to end soon: it then raises ModelError. False where this
        engine cannot be asked."""
        ...

    def close(self) -> None:
        """Give back the memory. Calling `run` afterwards is an error."""
        ...


def load_engine(name: str, path: Path, *, threads: int = 1, spin: bool = False, isolate: bool = False) -> Engine:
    """Load a model file. Raises ModelError for a file that the engine cannot run, DependencyError where
    the engine is not installed. `threads` are intra-op threads; `spin` lets them busy-wait (ONNX Runtime);
    `isolate` gives the engine a process of its own."""
    if not path.is_file():
        raise ModelError(f"{path}: no such model file")
    if name not in _MODULES:
        raise DependencyError(f"expected an engine of {sorted(_MODULES)}, found {name!r}")
    if isolate:
        from edgeinfer.runtime.engines.isolated import IsolatedEngine

        return IsolatedEngine(name, path, threads=threads, spin=spin)
    if name == "onnx":
        from edgeinfer.runtime.engines.onnx import OnnxEngine

        return OnnxEngine(path, threads=threads, spin=spin)
    if name == "openvino":
        from edgeinfer.runtime.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(path, threads=threads)
    from edgeinfer.runtime.engines.litert import LiteRtEngine

    return LiteRtEngine(path, threads=threads)


def import_engine(name: str) -> None:
    """Load the engine's library, where it is installed: the memory that it takes is no model's."""
    if name == "openvino":
        from edgeinfer.runtime.engines.openvino import import_openvino

        with contextlib.suppress(ImportError):
            import_openvino()
    for module in _LIBRARIES.get(name, ()):
        try:
            importlib.import_module(module)
        except ImportError:
            continue
        return


def available_engines() -> tuple[str, ...]:
    """The engines whose library is installed here, and may do here what it does. No library is imported."""
    found = (name for name, modules in _MODULES.items() if any(importlib.util.find_spec(m) for m in modules))
    return tuple(name for name in found if name != "openvino" or _openvino_may_compile())


def _openvino_may_compile() -> bool:
    from edgeinfer.runtime.engines.openvino import may_compile

    return may_compile()


def engine_versions() -> dict[str, str]:
    """Name to library and version of each engine that is installed here. Nothing is imported."""
    found: dict[str, str] = {}
    for name, packages in _PACKAGES.items():
        for package in packages:
            version = installed_version(package)
            if version:
                found.setdefault(name, f"{package} {version}")
    return found


def missing_engine(name: str) -> DependencyError:
    """The error for an engine whose library is absent."""
    return DependencyError(f"the {name} engine is not installed", hint=f"pip install 'edgeinfer[{_EXTRAS[name]}]'")


def quantize_input(values: Array, spec: TensorSpec) -> Array:
    """Float values as the tensor wants them: q = clip(round(x / scale) + zero_point), or cast. To integers they are
    clipped then, too: the cast alone would make 255 of -1."""
    dtype = np.dtype(spec.dtype)
    if spec.scale is None or spec.zero_point is None:
        if dtype.kind in "iu" and values.dtype.kind == "f":
            values = np.clip(values, *cast_limits(dtype))
        return values.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    quantized = np.rint(values / np.float32(spec.scale)) + spec.zero_point
    clipped: Array = np.clip(quantized, limits.min, limits.max).astype(dtype)
    return clipped


def cast_limits(dtype: np.dtype[Any]) -> tuple[np.float32, np.float32]:
    """The least and the largest float32 that an integer type can hold."""
    limits = np.iinfo(dtype)
    low, high = np.float32(limits.min), np.float32(limits.max)
    # float32 has no 2**31 - 1: the nearest is one more.
    return low, high if int(high) <= limits.max else np.nextafter(high, np.float32(0))


def dequantize(values: Array, spec: TensorSpec) -> Array:
    """Tensor values as float32: scale * (q - zero_point) where the tensor is quantized."""
    if spec.scale is None or spec.zero_point is None:
        return values
    real: Array = (values.astype(np.float32) - spec.zero_point) * np.float32(spec.scale)
    return real
