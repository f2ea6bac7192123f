"""Candidates: the files that are measured against each other, and how they are made from the given models."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeinfer.quantize.feeding import FED_ALONE, Feeding, OneInput
from edgeinfer.quantize.modelfile import ModelFile, is_integer
from edgeinfer.quantize.progress import Progress
from edgeinfer.runtime.engines import Engine, load_engine
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import ModelError, UsageError

__all__ = ["Candidate", "float_candidates", "make_candidates", "open_candidate"]

# A file that shrank by less than this share was not quantized, whatever its tool says.
MIN_SHRINK = 0.02
# Below this size the file's own structure outweighs its weights and says nothing about them.
_TINY_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class Candidate:
    """One file to measure. `refused` says why it is none, before anything was measured; "" means it is one.

    `quantized` tells a made candidate from the float model that the user gave.
    """

    id: str
    engine: str
    precision: str
    path: Path
    quantized: bool
    refused: str = ""
    feeding: Feeding = FED_ALONE


def open_candidate(candidate: Candidate, *, threads: int = 1) -> Engine:
    """Its engine, as one of a single input. Raises ModelError, DependencyError."""
    engine = load_engine(candidate.engine, candidate.path, threads=threads)
    return engine if candidate.feeding == FED_ALONE else OneInput(engine, candidate.feeding)


@dataclass(frozen=True, slots=True)
class _Scheme:
    """A way to quantize: `make` writes the file at its second argument, calibrating with the third, and
    returns "" or why what it wrote is of no use."""

    id: str
    precision: str
    make: Callable[[Path, Path, Array], str]


def float_candidates(models: Sequence[ModelFile]) -> list[Candidate]:
    """The given models themselves. Raises UsageError for one that is already quantized, or two of a kind."""
    for model in models:
        _check_is_float(model)
    engines = [model.engine for model in models]
    if len(set(engines)) != len(engines):
        raise UsageError(f"expected at most one model of each format, found {len(models)} for {engines[0]}")
    return [Candidate(f"{model.engine}-fp32", model.engine, "fp32", model.path, quantized=False) for model in models]


def _check_is_float(model: ModelFile) -> None:
    what = ""
    if is_integer(model.inputs[0]):
        what = f"its input is {model.inputs[0].dtype}"
    elif model.engine == "litert":
        from edgeinfer.quantize.schemes.litert import integer_weights

        count = integer_weights(model.path.read_bytes())
        what = f"{count} of its weight tensors are integers" if count else ""
    else:
        from edgeinfer.quantize.schemes.onnx import quantized_nodes

        count = quantized_nodes(model.path)
        what = f"it holds {count} quantization nodes" if count else ""
    if what:
        raise UsageError(
            f"{model.path}: expected a float model, found one that is quantized already: {what}",
            hint="pack it as it is: edgeinfer package create",
        )


def make_candidates(model: ModelFile, calibration: Array, folder: Path, *, progress: Progress) -> list[Candidate]:
    """Every scheme that fits the model's format, written into `folder`.

    A scheme that fails, does nothing or does what another did gives a refused candidate: it is shown in the
    table, with its reason.
    """
    made: list[Candidate] = []
    contents: dict[bytes, str] = {}
    schemes = _schemes(model.engine)
    for index, scheme in enumerate(schemes):
        progress(f"making {scheme.id}", index / len(schemes))
        target = folder / f"{scheme.id}{model.path.suffix.lower()}"
        refused = _make(scheme, model, target, calibration)
        if not refused:
            first = contents.setdefault(hashlib.sha256(target.read_bytes()).digest(), scheme.id)
            refused = f"is the same file as {first}" if first != scheme.id else ""
        made.append(Candidate(scheme.id, model.engine, scheme.precision, target, quantized=True, refused=refused))
    return made


def _schemes(engine: str) -> tuple[_Scheme, ...]:
    if engine == "onnx":
        from edgeinfer.quantize.schemes import onnx

        return (
            _Scheme("onnx-u8s8", "int8", onnx.static_u8s8),
            _Scheme("onnx-u8s8-percentile", "int8", onnx.static_u8s8_percentile),
            _Scheme("onnx-u8u8", "int8", onnx.static_u8u8),
            _Scheme("onnx-int8-dynamic", "int8-dynamic", onnx.dynamic_u8),
        )
    from edgeinfer.quantize.schemes import litert

    return (
        _Scheme("litert-int8-weights", "int8-weights", litert.weight_only_int8),
        _Scheme("litert-int8", "int8", litert.static_int8),
    )


def _make(scheme: _Scheme, model: ModelFile, target: Path, calibration: Array) -> str:
    try:
        refused = scheme.make(model.path, target, calibration)
    except ModelError as error:
        return error.message
    if refused:
        return refused
    before, after = model.path.stat().st_size, target.stat().st_size
    if before > _TINY_BYTES and after > before * (1.0 - MIN_SHRINK):
        return f"nothing was quantized: the file has {after} bytes, the float one {before}"
    return ""
