"""Whether several files are of the same model: their outputs on the same samples, side by side."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgeinfer.quantize.feeding import FED_ALONE, Feeding, OneInput
from edgeinfer.quantize.modelfile import ModelFile
from edgeinfer.runtime.engines import Engine, dequantize, load_engine, quantize_input
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import UsageError

__all__ = ["Inputs", "check_same"]

# Float engines differ by 1e-6 of the largest value, weights kept as float16 by 1e-3; other preprocessing by far more.
_TOLERANCE = 5e-3
_MAX_SAMPLES = 16
_HINT = "are they a pair of the same training? does one of them hold preprocessing, or a softmax, that the other lacks?"


class Inputs(Protocol):
    """What `check_same` needs of the samples."""

    def __len__(self) -> int: ...

    def row(self, index: int) -> Array: ...


@dataclass(frozen=True, slots=True)
class _Difference:
    """Over some samples: the largest difference of a value, as a share of the largest value, and how often another
    place of the output is the largest."""

    largest: float
    share: float
    argmax_differs: int


def check_same(models: Sequence[ModelFile], rows: Inputs, *, feeding: Feeding = FED_ALONE, threads: int = 1) -> None:
    """Compare each model with the first on up to 16 of the samples. `rows.row(i)` is float32 (1, *input shape) as the
    first takes it; the others may have sizes of 1 elsewhere, or outputs in another order.

    Raises UsageError for files that do not say the same, ModelError where one fails.
    """
    if len(models) < 2 or len(rows) == 0:
        return
    first, *others = models
    for other in others:
        _check_shapes(first, other)
    count = min(len(rows), _MAX_SAMPLES)
    samples = [rows.row(index * len(rows) // count) for index in range(count)]
    expected = _answers(first, samples, feeding, threads)
    for other in others:
        found = _answers(other, samples, feeding, threads)
        _check_answers(first, other, expected, _paired(first, other, expected, found))


def _check_shapes(first: ModelFile, other: ModelFile) -> None:
    ours, theirs = first.input_shape, other.input_shape
    if _essential(ours) == _essential(theirs) or (
        1 in {len(_essential(ours)), len(_essential(theirs))} and math.prod(ours) == math.prod(theirs)
    ):
        return
    turned = sorted(_essential(ours)) == sorted(_essential(theirs))
    raise UsageError(
        f"expected two files of the same model, found {_name(first)} with input {ours} and "
        f"{_name(other)} with input {theirs}",
        hint="the same sizes in another order: export both with the same layout (channels last for TFLite; "
        "onnx2tf -kat INPUT keeps an input's layout), or quantize them one by one"
        if turned
        else "give the files of one model, or quantize them one by one",
    )


def _essential(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _name(model: ModelFile) -> str:
    return str(model.original or model.path)


def _answers(model: ModelFile, samples: Sequence[Array], feeding: Feeding, threads: int) -> list[list[Array]]:
    """Of each sample: all outputs as real numbers."""
    loaded: Engine = load_engine(model.engine, model.path, threads=threads)
    engine = loaded if feeding == FED_ALONE else OneInput(loaded, feeding)
    with contextlib.closing(engine):
        spec = engine.inputs[0]
        shape = (1, *model.input_shape)
        return [
            [
                dequantize(output, given).astype(np.float64)
                for output, given in zip(
                    engine.run([quantize_input(sample.reshape(shape), spec)]), engine.outputs, strict=True
                )
            ]
            for sample in samples
        ]


def _paired(
    first: ModelFile, other: ModelFile, expected: list[list[Array]], found: list[list[Array]]
) -> list[list[Array]]:
    """`found` in the order and the shapes of `expected`. Of outputs with the same shape the nearest is taken."""
    order: list[int] = []
    for place, output in enumerate(expected[0]):
        fitting = [
            index
            for index, theirs in enumerate(found[0])
            if index not in order and _essential(theirs.shape) == _essential(output.shape)
        ]
        if not fitting:
            raise UsageError(
                f"expected two files of the same model, found that {_name(first)} has an output "
                f"{first.outputs[place].name!r} of shape {output.shape} and {_name(other)} has outputs of "
                f"{', '.join(str(theirs.shape) for theirs in found[0])}",
                hint="give the files of one model, or quantize them one by one",
            )
        order.append(min(fitting, key=lambda index: _apart(output, found[0][index])))
    return [
        [answers[index].reshape(output.shape) for index, output in zip(order, wanted, strict=True)]
        for answers, wanted in zip(found, expected, strict=True)
    ]


def _apart(ours: Array, theirs: Array) -> float:
    return float(np.abs(ours.reshape(-1) - theirs.reshape(-1)).max(initial=0.0))


def _check_answers(first: ModelFile, other: ModelFile, expected: list[list[Array]], found: list[list[Array]]) -> None:
    for place, spec in enumerate(first.outputs):
        difference = _difference([row[place] for row in expected], [row[place] for row in found])
        if difference.share <= _TOLERANCE:
            continue
        raise UsageError(
            f"expected two files of the same model, found that {_name(first)} and {_name(other)} differ by up to "
            f"{difference.largest:.3g} ({difference.share:.1%} of the largest value) in the output {spec.name!r}, and "
            f"in which value is the largest on {difference.argmax_differs} of {len(expected)} samples",
            hint=_HINT,
        )


def _difference(ours: list[Array], theirs: list[Array]) -> _Difference:
    a, b = np.stack([row.reshape(-1) for row in ours]), np.stack([row.reshape(-1) for row in theirs])
    if a.size == 0:
        return _Difference(0.0, 0.0, 0)
    scale = max(float(np.nanmax(np.abs(a), initial=0.0)), float(np.finfo(np.float32).tiny))
    # A value that only one of them cannot say is as far off as any.
    apart = np.where(np.isnan(a) & np.isnan(b), 0.0, np.nan_to_num(np.abs(a - b), nan=scale, posinf=scale))
    largest = float(apart.max())
    return _Difference(largest, largest / scale, int(np.sum(a.argmax(axis=1) != b.argmax(axis=1))))
