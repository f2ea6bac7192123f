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
        raw = outputs[self._output].reshape(-1)
        if not self._softmax and raw.size > self._top_k:
            # The order of quantized values is that of the real ones: only the best need to be made real.
            best = np.argpartition(raw, -self._top_k)[-self._top_k :]
            scores = dequantize(raw[best], self._spec)
        else:
            scores = dequantize(raw, self._spec)
            scores = softmax(scores) if self._softmax else scores
            best = np.arange(raw.size)
        order = np.lexsort((best, -scores))[: self._top_k]
        return tuple(
            Item(label, score) for label, score in zip(best[order].tolist(), scores[order].tolist(), strict=True)
        )


def softmax(logits: Array) -> Array:
    """exp(x) / sum(exp(x)), shifted by the largest so that nothing overflows."""
    powers = np.exp(logits - logits.max())
    scaled: Array = powers / powers.sum()
    return scaled
