"""A float model as the user gave it: which engine runs it, and what it takes and gives."""

from dataclasses import dataclass
from pathlib import Path

from edgeinfer.runtime.engines import load_engine
from edgeinfer.runtime.errors import ModelError, UsageError
from edgeinfer.runtime.manifest import TensorSpec

__all__ = ["ModelFile", "is_integer", "open_model"]

_ENGINES = {".onnx": "onnx", ".tflite": "litert"}


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model file that its engine has loaded once. `library` is the engine's version."""

    path: Path
    engine: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    library: str

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample, without the batch dimension."""
        return self.inputs[0].shape[1:]


def open_model(path: Path, *, threads: int = 1) -> ModelFile:
    """Load `path` with the engine that its suffix names, and look at it.

    Raises UsageError for a missing file, another suffix, more than one input or open sizes; ModelError for a file that
    the engine cannot load.
    """
    engine_name = _ENGINES.get(path.suffix.lower())
    if not path.is_file():
        raise UsageError(f"{path}: no such model file")
    if engine_name is None:
        raise UsageError(f"{path}: expected a model file of {sorted(_ENGINES)}, found {path.suffix or 'no suffix'!r}")
    if path.stat().st_size == 0:
        raise ModelError(f"{path}: expected a model, found an empty file", hint="get the file again")
    engine = load_engine(engine_name, path, threads=threads)
    try:
        model = ModelFile(path, engine_name, engine.inputs, engine.outputs, engine.version)
    finally:
        engine.close()
    _check_input(model)
    return model


def _check_input(model: ModelFile) -> None:
    if len(model.inputs) != 1:
        names = ", ".join(spec.name for spec in model.inputs)
        raise UsageError(f"{model.path}: expected a model with one input, found {len(model.inputs)}: {names}")
    shape = model.inputs[0].shape
    if not shape or shape[0] not in {-1, 1} or any(size < 1 for size in shape[1:]):
        raise UsageError(
            f"{model.path}: expected an input with a batch of 1 (or open) and fixed sizes after it, found {shape}",
            hint="fix the sizes when exporting the model, or with python -m onnxruntime.tools.make_dynamic_shape_fixed",
        )


def is_integer(spec: TensorSpec) -> bool:
    """Whether a tensor holds integers, as those of fully quantized models do."""
    return spec.dtype in {"int8", "uint8", "int16"}
