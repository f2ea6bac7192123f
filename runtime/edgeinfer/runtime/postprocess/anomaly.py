"""Anomaly: the reconstruction error, or the model's own score, against the package's threshold."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.engines.base import dequantize
from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.manifest import AnomalyPost, TensorSpec
from edgeinfer.runtime.postprocess.outputs import LARGEST
from edgeinfer.runtime.preprocess import Region, concrete_shape
from edgeinfer.runtime.results import Item

__all__ = ["Anomaly", "verdict"]

Array = npt.NDArray[Any]


class Anomaly:
    """One item: label 1 for an anomaly, 0 for none, and the score (for `mse` the mean squared error)."""

    def __init__(self, declared: AnomalyPost, model_input: TensorSpec, outputs: Sequence[TensorSpec]) -> None:
        self._input = model_input
        self._output = outputs[0]
        self._threshold = declared.threshold
        self._mse = declared.score == "mse"
        in_size, out_size = (int(np.prod(concrete_shape(spec))) for spec in (model_input, outputs[0]))
        if self._mse and in_size != out_size:
            raise ModelError(f"a reconstruction has the size of its input: expected {in_size} values, found {out_size}")

    def __call__(self, model_input: Array, outputs: Sequence[Array], region: Region) -> tuple[Item, ...]:
        made = dequantize(outputs[0], self._output).reshape(-1)
        if not self._mse:
            return verdict(float(made[0]), self._threshold) if made.size else ()
        with np.errstate(all="ignore"):
            given = dequantize(model_input, self._input).reshape(-1)
            if made.size != given.size or not made.size:
                raise ModelError(f"expected a reconstruction of {given.size} values, found {made.size}")
            difference = given - made
            return verdict(float(np.dot(difference, difference)) / difference.size, self._threshold)


def verdict(score: float, threshold: float) -> tuple[Item, ...]:
    """A score that is no number, which no sound input gives, is an anomaly with the largest score there is."""
    if not -LARGEST <= score <= LARGEST:
        return (Item(1, LARGEST),)
    return (Item(int(score > threshold), score),)
