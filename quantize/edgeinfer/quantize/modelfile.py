"""A float model as the user gave it: which engine runs it, and what it takes and gives."""

from dataclasses import dataclass, replace
from pathlib import Path

from edgeinfer.quantize.feeding import FED_ALONE, Feeding, frame_input
from edgeinfer.runtime.engines import load_engine
from edgeinfer.runtime.errors import ConfigError, ModelError, UsageError
from edgeinfer.runtime.manifest import Preprocess, TensorSpec
from edgeinfer.runtime.preprocess import resolve_input

__all__ = ["ModelFile", "engine_of", "is_integer", "open_model", "with_sizes"]

_ENGINES = {".onnx": "onnx", ".tflite": "litert"}


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model file that its engine has loaded once. `library` is the engine's version; of a model of several inputs,
    `inputs` has the frame's alone.

    `original` is the file that the user gave, with its `sha256`; `path` is another one where it had to be changed, and
    `notes` say what was. `unquantizable` says why no scheme can make anything smaller of it, "" where one may.
    """

    path: Path
    engine: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    library: str
    original: Path | None = None
    sha256: str = ""
    notes: tuple[str, ...] = ()
    unquantizable: str = ""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample, without the batch dimension."""
        return self.inputs[0].shape[1:]


def open_model(path: Path, *, threads: int = 1, feeding: Feeding = FED_ALONE, open_sizes: bool = False) -> ModelFile:
    """Load `path` with the engine that its suffix names, and look at it.

    `feeding` says what inputs beside the frame's are fed with; `open_sizes` lets the model leave sizes of the frame's
    open, to be closed by `with_sizes`.

    Raises UsageError for a missing file, another suffix, more than one input or open sizes; ModelError for a file that
    the engine cannot load.
    """
    engine_name = engine_of(path)
    if path.stat().st_size == 0:
        raise ModelError(f"{path}: expected a model, found an empty file", hint="get the file again")
    engine = load_engine(engine_name, path, threads=threads)
    try:
        frame = frame_input(engine.inputs, engine.outputs, feeding, about=str(path))
        model = ModelFile(path, engine_name, (frame,), engine.outputs, engine.version)
    finally:
        engine.close()
    _check_input(model, open_sizes=open_sizes)
    return model


def engine_of(path: Path) -> str:
    """The engine that a model file's suffix names. Raises UsageError for a missing file or another suffix."""
    if not path.is_file():
        raise UsageError(f"{path}: no such model file")
    engine = _ENGINES.get(path.suffix.lower())
    if engine is None:
        raise UsageError(f"{path}: expected a model file of {sorted(_ENGINES)}, found {path.suffix or 'no suffix'!r}")
    return engine


def with_sizes(model: ModelFile, preprocess: Preprocess) -> ModelFile:
    """The model with the sizes of its input that it leaves open and the declaration gives. Raises ConfigError."""
    try:
        spec = resolve_input(preprocess, model.inputs[0])
    except ModelError as error:
        raise ConfigError(f"{model.path}: {error.message}", hint=error.hint) from error
    return replace(model, inputs=(spec,))


def _check_input(model: ModelFile, *, open_sizes: bool) -> None:
    shape = model.inputs[0].shape
    smallest = -1 if open_sizes else 1
    if not shape or shape[0] not in {-1, 1} or any(size < smallest or size == 0 for size in shape[1:]):
        raise UsageError(
            f"{model.path}: expected an input with a batch of 1 (or open) and fixed sizes after it, found {shape}",
            hint="package create takes open sizes that --preprocess declares; else fix them when exporting the model, "
            "or with python -m onnxruntime.tools.make_dynamic_shape_fixed",
        )


def is_integer(spec: TensorSpec) -> bool:
    """Whether a tensor holds integers, as those of fully quantized models do."""
    return spec.dtype in {"int8", "uint8", "int16"}
