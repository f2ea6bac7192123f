"""Anomaly: how well scores tell anomalies from what is normal."""

import math
from dataclasses import dataclass

import numpy as np

from edgeinfer.quantize.dataset import Samples
from edgeinfer.quantize.evaluate import Scored
from edgeinfer.quantize.metrics.base import Judged, Usual, example_scores
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import SamplesError

__all__ = ["Auc", "area_under_roc"]


_TWO = 2


@dataclass(frozen=True, slots=True)
class Auc(Usual):
    """The area under the ROC curve of the score over examples: groups of rows, by their mean, or rows."""

    name: str = "auc"
    labelled: bool = True

    def judge(self, scored: Scored, reference: Scored, samples: Samples) -> Judged:
        del reference
        scores, labels = example_scores(_single(scored.rows), samples)

        def resample(places: Array) -> float:
            picked = labels[places]
            return area_under_roc(scores[places], picked) if 0 < np.sum(picked == 1) < len(picked) else math.nan

        return Judged(area_under_roc(scores, labels), len(labels), None, resample)


def _single(rows: Array) -> Array:
    """(N,): the score, or of two classes how much the second one's is above the first one's."""
    flat = rows.reshape(len(rows), -1)
    if flat.shape[1] == _TWO:
        return flat[:, 1] - flat[:, 0]
    if flat.shape[1] != 1:
        raise SamplesError(f"expected one score a sample for auc, or two classes, found {flat.shape[1]}")
    return flat[:, 0]


def area_under_roc(scores: Array, labels: Array) -> float:
    """The chance that an anomaly scores above a normal example, ties counting half (Mann-Whitney U)."""
    _, ranks, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = (np.cumsum(counts) - (counts - 1) / 2.0)[ranks]
    positives = int(np.sum(labels == 1))
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        raise SamplesError(
            f"expected normal examples and anomalies to evaluate with, found {negatives} and {positives}"
        )
    statistic = float(mean_rank[labels == 1].sum()) - positives * (positives + 1) / 2.0
    return statistic / (positives * negatives)
