"""Classification: the best classes with their scores."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.engines.base import dequantize
from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.manifest import ClassifyPost, TensorSpec
from edgeinfer.runtime.preprocess import Region
from edgeinfer.runtime.results import Item

__all__ = ["Classify", "softmax"]

Array = npt.NDArray[Any]


class Classify:
    def __init__(self, declared: ClassifyPost, outputs: Sequence[TensorSpec]) -> None:
        if not 0 <= declared.output < len(outputs):
            raise ModelError(f"the package reads output {declared.output}, the model has {len(outputs)}")
        self._output = declared.output
        self._spec = outputs[declared.output]
        self._softmax = declared.activation == "softmax"
        self._top_k = declared.top_k

    def __call__(self, model_input: Array, outputs: Sequence[Array], region: Region) -> tuple[Item, ...]:
        scores = outputs[self._output].reshape(-1).astype(np.float32)
        if self._softmax:
            scores = softmax(dequantize(scores, self._spec))
        best = _take_best(scores, min(self._top_k, scores.size))
        scale, zero_point = self._spec.scale, self._spec.zero_point
        if self._softmax or scale is None or zero_point is None:
            return tuple(Item(label, score) for label, score in best)
        # The order of quantized values is that of the real ones: only the best need to be made real.
        return tuple(Item(label, (score - zero_point) * scale) for label, score in best)


def _take_best(scores: Array, count: int) -> list[tuple[int, float]]:
    """The `count` largest with their places, the lower place first among equals. Overwrites `scores`.

    For the few that are reported, looking for the largest that often is faster than a partition.
    """
    best = []
    for _ in range(count):
        place = int(scores.argmax())
        best.append((place, float(scores[place])))
        scores[place] = -np.inf
    return best


def softmax(logits: Array) -> Array:
    """exp(x) / sum(exp(x)), shifted by the largest so that nothing overflows."""
    powers = np.exp(logits - logits.max())
    scaled: Array = powers / powers.sum()
    return scaled
