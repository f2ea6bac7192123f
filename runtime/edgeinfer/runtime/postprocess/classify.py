"""Classification: the best classes with their scores."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.engines.base import dequantize
from edgeinfer.runtime.manifest import ClassifyPost, TensorSpec
from edgeinfer.runtime.postprocess.outputs import choose_output
from edgeinfer.runtime.preprocess import Region
from edgeinfer.runtime.results import Item

__all__ = ["Classify", "softmax"]

Array = npt.NDArray[Any]
_EIGHT_BITS = {"uint8", "int8"}


class Classify:
    """The largest are looked for one after the other: for the few that are reported that is faster than a partition.
    Integer scores stay integers until they are chosen, for their order is that of the real ones."""

    def __init__(self, declared: ClassifyPost, outputs: Sequence[TensorSpec]) -> None:
        self._output = declared.output
        self._spec = spec = choose_output(outputs, declared.output)
        self._softmax = declared.activation == "softmax"
        self._top_k = declared.top_k
        dtype = np.dtype(spec.dtype)
        self._is_integer = dtype.kind in "iu" and not self._softmax
        if self._is_integer:
            self._lowest = int(np.iinfo(dtype).min)
            self._real = _to_real(spec)

    def __call__(self, model_input: Array, outputs: Sequence[Array], region: Region) -> tuple[Item, ...]:
        if self._is_integer:
            return self._best_integers(outputs[self._output].flatten())
        scores = outputs[self._output].reshape(-1).astype(np.float32)
        return self._best_floats(softmax(dequantize(scores, self._spec)) if self._softmax else scores)

    def _best_integers(self, levels: Array) -> tuple[Item, ...]:
        """Overwrites `levels`."""
        lowest, real = self._lowest, self._real
        best: list[Item] = []
        for _ in range(min(self._top_k, levels.size)):
            place = int(levels.argmax())
            level = levels.item(place)
            if level == lowest:
                return (*best, *self._lowest_ones(levels.size, [item.label for item in best]))
            best.append(Item(place, real(level)))
            levels[place] = lowest
        return tuple(best)

    def _lowest_ones(self, classes: int, taken: list[int]) -> list[Item]:
        """Where only the lowest level is left, what was taken cannot be told from the rest by its level."""
        free = [place for place in range(min(self._top_k, classes)) if place not in taken]
        score = self._real(self._lowest)
        return [Item(place, score) for place in free[: self._top_k - len(taken)]]

    def _best_floats(self, scores: Array) -> tuple[Item, ...]:
        """Overwrites `scores`."""
        best: list[Item] = []
        for _ in range(min(self._top_k, scores.size)):
            place = int(scores.argmax())
            score = scores.item(place)
            if not math.isfinite(score):
                return (*best, *self._best_of_the_finite(scores, self._top_k - len(best)))
            best.append(Item(place, score))
            scores[place] = -math.inf
        return tuple(best)

    def _best_of_the_finite(self, scores: Array, count: int) -> list[Item]:
        """NaN is the largest for argmax, and infinite scores are none."""
        sound = np.flatnonzero(np.isfinite(scores))
        order = sound[np.argsort(-scores[sound], kind="stable")][:count]
        return [Item(place, score) for place, score in zip(order.tolist(), scores[order].tolist(), strict=True)]


def _to_real(spec: TensorSpec) -> Callable[[int], float]:
    """From a quantized level to (level - zero point) * scale; 8 bits by a table, in which a negative level counts from
    the end, as Python counts."""
    scale, zero_point = spec.scale, spec.zero_point
    if scale is None or zero_point is None:
        return float
    if spec.dtype not in _EIGHT_BITS:
        return lambda level: (level - zero_point) * scale
    signed = spec.dtype == "int8"
    levels = [*range(128), *range(-128, 0)] if signed else list(range(256))
    return [(level - zero_point) * scale for level in levels].__getitem__


def softmax(logits: Array) -> Array:
    """exp(x) / sum(exp(x)), shifted by the largest so that nothing overflows. All NaN where one is NaN or infinite."""
    largest = logits.max(initial=-math.inf)
    if not math.isfinite(largest):
        return np.full_like(logits, math.nan)
    powers = np.exp(logits - largest)
    scaled: Array = powers / powers.sum()
    return scaled
