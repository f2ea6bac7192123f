"""ONNX Runtime on the CPU."""

from collections.abc import Sequence
from pathlib import Path

from edgeinfer.runtime.engines.base import Array, missing_engine
from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.manifest import TensorSpec

__all__ = ["OnnxEngine"]

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(uint16)": "uint16",
    "tensor(int16)": "int16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}
# Errors are raised; printed as well they would only tear a display.
_LOG_FATAL_ONLY = 4


class OnnxEngine:
    """An ONNX model in an inference session of its own.

    Threads are pinned to a number: the default asks for CPU affinity, which a seccomp filter refuses.
    Spinning is off by default: at camera rates it costs two to three times the CPU.
    """

    name = "onnx"

    def __init__(self, path: Path, *, threads: int = 1, spin: bool = False) -> None:
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise missing_engine(self.name) from error
        self.version = str(ort.__version__)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _LOG_FATAL_ONLY
        for pool in ("intra", "inter"):
            options.add_session_config_entry(f"session.{pool}_op.allow_spinning", "1" if spin else "0")
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the library's own exception classes share no public base
            raise ModelError(f"{path}: ONNX Runtime cannot load it: {_first_line(error)}") from error
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())
        for spec in self.inputs:
            if spec.dtype not in _DTYPES.values():
                raise ModelError(f"{path}: input {spec.name!r}: expected a tensor of numbers, found {spec.dtype}")
        self._input_names = [spec.name for spec in self.inputs]
        self._output_names = [spec.name for spec in self.outputs]
        # The handle by which another thread ends a call. Passing one costs nothing.
        self._new_options = ort.RunOptions
        self._options = ort.RunOptions()
        self._interrupted = False

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        if self._interrupted:  # the last call, maybe just when it was done
            self._options, self._interrupted = self._new_options(), False
        try:
            outputs: list[Array] = self._session.run(
                self._output_names, dict(zip(self._input_names, inputs, strict=True)), self._options
            )
        except Exception as error:  # as above
            raise ModelError(f"ONNX Runtime failed: {_first_line(error)}") from error
        return outputs

    def interrupt(self) -> bool:
        """ONNX Runtime looks at the flag between two nodes, so that it ends a loop, not a node that never ends."""
        self._interrupted = True
        self._options.terminate = True
        return True

    def close(self) -> None:
        del self._session


def _spec(node: object) -> TensorSpec:
    kind = getattr(node, "type", "")
    shape = tuple(size if isinstance(size, int) else -1 for size in getattr(node, "shape", ()))
    return TensorSpec(name=getattr(node, "name", ""), shape=shape, dtype=_DTYPES.get(kind, kind))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0][:300]
