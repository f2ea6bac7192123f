"""Classification: how often the right class is the best one, or among the best."""

from dataclasses import dataclass

import numpy as np

from edgeinfer.quantize.dataset import Samples
from edgeinfer.quantize.evaluate import Scored
from edgeinfer.quantize.metrics.base import Judged, Usual, mean_of
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import SamplesError

__all__ = ["TopK"]


@dataclass(frozen=True, slots=True)
class TopK(Usual):
    """The share of rows whose class is among the `k` best. Among equal scores the class with the lower index is better,
    as `argmax` has it."""

    k: int = 1
    labelled: bool = True

    @property
    def name(self) -> str:
        return f"top{self.k}_accuracy"

    def judge(self, scored: Scored, reference: Scored, samples: Samples) -> Judged:
        del reference
        classes = scored.rows.shape[1]
        y = samples.y
        if y.dtype.kind != "i" or y.ndim != 1:
            raise SamplesError(f"expected one class a sample for {self.name}, found labels {y.shape} of {y.dtype}")
        if y.min() < 0 or y.max() >= classes:
            raise SamplesError(
                f"expected labels of 0 to {classes - 1} for a model with {classes} outputs, "
                f"found {y.min()} to {y.max()}"
            )
        return mean_of(_ranks(scored.rows, y) < self.k)


def _ranks(scores: Array, labels: Array) -> Array:
    """How many classes are better than the right one, (N,). NaN is better than all, as `argmax` has it."""
    own = scores[np.arange(len(labels)), labels][:, np.newaxis]
    earlier = np.arange(scores.shape[1]) < labels[:, np.newaxis]
    better = (scores > own) | (np.isnan(scores) & ~np.isnan(own)) | (earlier & ((scores == own) | np.isnan(scores)))
    ranks: Array = better.sum(axis=1)
    return ranks
