"""LiteRT (ai-edge-litert), and tflite-runtime where only that works: both have the same Interpreter."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeinfer.devices.distributions import installed_version
from edgeinfer.runtime.engines.base import Array, missing_engine
from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.manifest import TensorSpec

__all__ = ["LiteRtEngine"]

_LIBRARIES = (("ai_edge_litert", "ai-edge-litert"), ("tflite_runtime", "tflite-runtime"))


class LiteRtEngine:
    """A TFLite model in an interpreter of its own.

    Libraries are tried by constructing an interpreter, not by importing them: tflite-runtime imports under
    numpy 2 and fails only then.
    """

    name = "litert"

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        self._interpreter, self.version = _construct(path, threads)
        try:
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"{path}: LiteRT cannot prepare it: {_first_line(error)}") from error
        inputs = self._interpreter.get_input_details()
        outputs = self._interpreter.get_output_details()
        self.inputs = tuple(_spec(detail) for detail in inputs)
        self.outputs = tuple(_spec(detail) for detail in outputs)
        self._input_indices = [int(detail["index"]) for detail in inputs]
        self._output_indices = [int(detail["index"]) for detail in outputs]

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        interpreter = self._interpreter
        try:
            for index, value in zip(self._input_indices, inputs, strict=True):
                interpreter.set_tensor(index, value)
            interpreter.invoke()
            return [interpreter.get_tensor(index) for index in self._output_indices]
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"LiteRT failed: {_first_line(error)}") from error

    def interrupt(self) -> bool:
        """Its interpreter can be cancelled from C++ only."""
        return False

    def close(self) -> None:
        del self._interpreter


def _construct(path: Path, threads: int) -> tuple[Any, str]:
    failures: list[str] = []
    absent: ImportError | None = None
    for module, package in _LIBRARIES:
        try:
            library = importlib.import_module(f"{module}.interpreter")
        except ImportError as error:
            absent = error
            continue
        try:
            interpreter = library.Interpreter(model_path=str(path), num_threads=threads)
        except (RuntimeError, ValueError, SystemError) as error:
            failures.append(f"{package}: {_first_line(error)}")
            continue
        return interpreter, f"{package} {installed_version(package)}"
    if failures:
        raise ModelError(f"{path}: LiteRT cannot load it: {'; '.join(failures)}")
    raise missing_engine("litert") from absent


def _spec(detail: dict[str, Any]) -> TensorSpec:
    # The signature shows which dimension the model leaves open; the plain shape is what is allocated now.
    shape = tuple(int(size) for size in detail["shape_signature"])
    scales = detail["quantization_parameters"]["scales"]
    zero_points = detail["quantization_parameters"]["zero_points"]
    dtype = detail["dtype"]().dtype.name
    quantized = len(scales) == 1 and dtype in {"int8", "uint8", "int16"}
    return TensorSpec(
        name=str(detail["name"]),
        shape=shape,
        dtype=dtype,
        scale=float(scales[0]) if quantized else None,
        zero_point=int(zero_points[0]) if quantized else None,
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0][:300]
