"""Class scores of many candidates: which of them are good enough, and of which class."""

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.engines.base import dequantize
from edgeinfer.runtime.manifest import DetectPost, TensorSpec
from edgeinfer.runtime.postprocess.boxes import Floats, Labels

__all__ = ["Chosen", "ClassScores", "sigmoid"]

Array = npt.NDArray[Any]
Chosen = tuple[npt.NDArray[np.intp], Floats, Labels]


class ClassScores:
    """Reads (n, classes), or (classes, n) with `classes_first`. Integers are compared as they are: only the best score
    of each candidate is made real. `skip` leading classes are none."""

    def __init__(
        self,
        declared: DetectPost,
        spec: TensorSpec,
        *,
        classes_first: bool = False,
        activation: str = "",
        skip: int = 0,
    ) -> None:
        self._threshold = declared.score_threshold
        self._activation = activation or declared.activation
        self._spec = spec
        self._axis = 0 if classes_first else 1
        self._skip = skip

    def choose(self, raw: Array) -> Chosen:
        """Places of the candidates at or above the threshold, their scores (m,) and their best classes (m,)."""
        if self._activation == "softmax":
            raw = _softmax(dequantize(raw, self._spec).astype(np.float32, copy=False), self._axis)
        scored = raw[self._skip :] if self._axis == 0 else raw[:, self._skip :]
        if not scored.size:
            return np.zeros(0, np.intp), np.zeros(0, np.float32), np.zeros(0, np.int64)
        best = scored.max(axis=self._axis)
        if self._activation != "softmax":
            best = dequantize(best, self._spec)
        real: Floats = best.astype(np.float32, copy=False)
        if self._activation == "sigmoid":
            real = sigmoid(real)
        places = np.flatnonzero(real >= self._threshold)
        chosen = scored[:, places] if self._axis == 0 else scored[places]
        return places, real[places], chosen.argmax(axis=self._axis)


def sigmoid(values: Array) -> Floats:
    with np.errstate(over="ignore"):
        odds = 1.0 + np.exp(-values)
    return np.reciprocal(odds).astype(np.float32, copy=False)


def _softmax(logits: Array, axis: int) -> Array:
    powers = np.exp(logits - logits.max(axis=axis, keepdims=True))
    scaled: Array = powers / powers.sum(axis=axis, keepdims=True)
    return scaled
