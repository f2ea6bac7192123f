"""Keywords in a stream of sound: scores are averaged over time, and a word is reported once.

The recipe is that of TensorFlow's speech_commands example (`RecognizeCommands`, also in TensorFlow Lite Micro's
micro_speech), counted in frames in place of milliseconds: the frames of a stream are equally far apart.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.manifest import KeywordsPost, TensorSpec
from edgeinfer.runtime.postprocess.classify import softmax
from edgeinfer.runtime.postprocess.outputs import choose_output, real_values
from edgeinfer.runtime.preprocess import Region
from edgeinfer.runtime.results import Item

__all__ = ["Keywords"]

Array = npt.NDArray[Any]
_NOTHING: tuple[Item, ...] = ()


class Keywords:
    """No item, or the word that is recognised in this very frame with its averaged score."""

    def __init__(self, declared: KeywordsPost, outputs: Sequence[TensorSpec]) -> None:
        self._declared = declared
        self._spec = choose_output(outputs, declared.output)
        self._quiet = frozenset(declared.quiet)
        self._recent = np.zeros((declared.average, 0), dtype=np.float32)
        self.reset()

    def reset(self) -> None:
        """Another stream begins: what was heard of the last one is forgotten."""
        self._frames = 0
        self._heard = 0
        self._recognised = -1
        self._reported_at: int | None = None

    def __call__(self, model_input: Array, outputs: Sequence[Array], region: Region) -> tuple[Item, ...]:
        declared = self._declared
        scores = real_values(outputs[declared.output], self._spec)
        if declared.activation == "softmax":
            scores = softmax(scores)
        self._frames += 1
        if not scores.size or not np.isfinite(scores).all():
            return _NOTHING  # one broken vector must not stay in the average
        mean = self._average(scores)
        if self._heard < declared.min_count:
            return _NOTHING
        best = int(mean.argmax())
        score = mean.item(best)
        if score <= declared.threshold or best == self._recognised or self._is_suppressed():
            return _NOTHING
        self._recognised = best
        if best in self._quiet:
            self._reported_at = None
            return _NOTHING
        self._reported_at = self._frames
        return (Item(best, score),)

    def _average(self, scores: Array) -> Array:
        """The mean over the last vectors, with this one."""
        if self._recent.shape[1] != scores.size:
            self._recent = np.zeros((self._declared.average, scores.size), dtype=np.float32)
            self._heard = 0
        self._recent[self._heard % self._declared.average] = scores
        self._heard += 1
        kept = min(self._heard, self._declared.average)
        mean: Array = self._recent[:kept].mean(axis=0, dtype=np.float64)
        return mean

    def _is_suppressed(self) -> bool:
        """A word so soon behind another one is taken for a mistake."""
        return self._reported_at is not None and self._frames - self._reported_at <= self._declared.suppress
