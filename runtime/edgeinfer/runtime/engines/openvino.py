"""OpenVINO on the CPU, for ONNX files.

For models of some size on x86-64, in integers above all; on small ones the fixed cost of a call (about 30 us) outweighs
what the kernels gain. A model takes some 35 MB more than with ONNX Runtime, and 50 to 70 ms to load, since its kernels
are compiled then.
"""

import mmap
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edgeinfer.runtime.engines.base import Array, missing_engine
from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.manifest import TensorSpec

__all__ = ["OpenVinoEngine", "import_openvino", "may_compile"]

_TELEMETRY = "openvino_telemetry"


def import_openvino() -> ModuleType:
    """The library, without its telemetry. Raises ImportError.

    OpenVINO writes an identity into the user's home and calls a web analytics service as soon as it is imported, unless
    the user has declined. Where the package that does so cannot be imported, OpenVINO (and NNCF) go on without it.
    """
    sys.modules.setdefault(_TELEMETRY, None)  # type: ignore[arg-type]  # None bars the import: the import system, 5.3.1
    import openvino

    module: ModuleType = openvino
    return module


def may_compile() -> bool:
    """Whether this process may execute memory that it has written: OpenVINO compiles its kernels as it loads a model.
    The daemon's unit forbids it (systemd.exec(5), MemoryDenyWriteExecute), and so may SELinux (execmem)."""
    try:
        mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
    except OSError:
        return False
    return True


class OpenVinoEngine:
    """An ONNX model, compiled for the CPU plugin. No compiled model is kept on disk.

    Threads are not pinned to cores: other pipelines and other programs run there too. Floats are computed as float32:
    by default they become bfloat16 on CPUs that have it, and a model says something else there.
    """

    name = "openvino"

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        try:
            library: Any = import_openvino()
        except ImportError as error:
            raise missing_engine(self.name) from error
        if not may_compile():
            raise ModelError(
                f"{path}: OpenVINO cannot run here: this process may not execute memory that it has written",
                hint="choose a variant of another engine, or set MemoryDenyWriteExecute=no in the service's unit",
            )
        self.version = str(library.__version__).split("-", maxsplit=1)[0]
        try:
            compiled = library.Core().compile_model(_read_onnx(library, path), "CPU", _settings(threads))
            self._request = compiled.create_infer_request()
            self._tensor = library.Tensor
            self.inputs = tuple(_spec(port) for port in compiled.inputs)
            self.outputs = tuple(_spec(port) for port in compiled.outputs)
        except Exception as error:  # the library raises RuntimeError and others without a common public base
            raise ModelError(f"{path}: OpenVINO cannot load it: {_last_line(error)}") from error
        if not self.outputs:  # to OpenVINO an empty file is a model that does nothing
            raise ModelError(f"{path}: OpenVINO cannot load it: it has no outputs")

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        self._check(inputs)
        try:
            for index, array in enumerate(inputs):
                # Read where it is. Handed to infer() instead, it takes 30 us more to get there.
                tensor = self._tensor(np.require(array, requirements=["C", "W"]), shared_memory=True)
                self._request.set_input_tensor(index, tensor)
            results = self._request.infer(share_outputs=False)
        except Exception as error:  # as above
            raise ModelError(f"OpenVINO failed: {_last_line(error)}") from error
        return [results[index] for index in range(len(self.outputs))]

    def interrupt(self) -> bool:
        """Its requests can be cancelled between two operations of the outermost graph only: a loop goes on."""
        return False

    def close(self) -> None:
        del self._request

    def _check(self, inputs: Sequence[Array]) -> None:
        """OpenVINO casts other dtypes, and reads past the end of arrays of other shapes, without a word."""
        if len(inputs) != len(self.inputs):
            raise ModelError(f"expected {len(self.inputs)} inputs, found {len(inputs)}")
        for array, spec in zip(inputs, self.inputs, strict=True):
            if array.dtype != spec.dtype or not _fits(array.shape, spec.shape):
                raise ModelError(
                    f"input {spec.name}: expected {spec.dtype} {list(spec.shape)}, "
                    f"found {array.dtype} {list(array.shape)}"
                )


def _read_onnx(library: Any, path: Path) -> Any:
    """By name of the format: left to itself, OpenVINO guesses, and a package's file may be ONNX only."""
    frontend = library.frontend.FrontEndManager().load_by_framework("onnx")
    return frontend.convert(frontend.load(str(path)))


def _settings(threads: int) -> dict[str, object]:
    return {
        "CACHE_DIR": "",
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(one in (size, -1) for size, one in zip(shape, wanted, strict=True))


def _spec(port: Any) -> TensorSpec:
    shape = tuple(-1 if size.is_dynamic else int(size.get_length()) for size in port.partial_shape)
    return TensorSpec(name=str(port.any_name), shape=shape, dtype=str(port.element_type.to_dtype()))


def _last_line(error: Exception) -> str:
    """The lines before it say where in the library it was raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
