"""Agreement: the share of examples on which a candidate says the same as the float model.

Beside an accuracy on few samples it tells noise from damage.
"""

from dataclasses import dataclass

import numpy as np

from edgeinfer.quantize import boxes
from edgeinfer.quantize.dataset import Samples
from edgeinfer.quantize.evaluate import THRESHOLD_PERCENTILE, Scored
from edgeinfer.quantize.metrics.base import Judged, Usual, example_scores, mean_of
from edgeinfer.quantize.metrics.values import PixelAgreement, cosines, spreads
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.manifest import Task

__all__ = ["Agreement", "agreement", "agreements"]

# Two points are the same from this distance on, in sides of the picture (PCK at 0.05).
_SAME_POINT = 0.05
# Two values are the same where they differ by less than this share of the value's standard deviation.
_SAME_VALUE = 0.1


@dataclass(frozen=True, slots=True)
class Agreement(Usual):
    """The mean of `agreements`, as a metric: needs no labels."""

    task: Task
    name: str = "agreement"

    def judge(self, scored: Scored, reference: Scored, samples: Samples) -> Judged:
        return mean_of(agreements(scored, reference, samples, task=self.task))


def agreement(scored: Scored, reference: Scored, samples: Samples, *, task: Task) -> float:
    """The mean of `agreements`, 0 to 1."""
    return float(np.mean(agreements(scored, reference, samples, task=task)))


def agreements(scored: Scored, reference: Scored, samples: Samples, *, task: Task) -> Array:
    """(examples,) 0 to 1: the same class; every reported box with a partner; the same side of the float model's own
    threshold; the share of values, points or cells that agree; or the cosine of embeddings."""
    ours, theirs = scored.rows, reference.rows
    same: Array
    match task:
        case "classification":
            same = ours.argmax(axis=1) == theirs.argmax(axis=1)
        case "detection":
            pairs = zip(scored.shown, reference.shown, strict=True)
            return np.array([boxes.matches(found, wanted) == len(found) == len(wanted) for found, wanted in pairs])
        case "anomaly":
            return _same_side(ours, theirs, samples)
        case "keypoints":
            distance = np.linalg.norm(ours[..., :2] - theirs[..., :2], axis=-1)
            neither = np.isnan(ours[..., 0]) & np.isnan(theirs[..., 0])
            same = (neither | (distance <= _SAME_POINT)).mean(axis=1)
        case "segmentation":
            shares = PixelAgreement().judge(scored, reference, samples).per_example
            assert shares is not None  # noqa: S101 - it is a mean
            return shares
        case "embedding":
            return cosines(ours, theirs)
        case "regression" | "raw":
            first, second = (rows.reshape(len(rows), -1).astype(np.float64) for rows in (ours, theirs))
            same = np.mean(np.abs(first - second) <= _SAME_VALUE * spreads(second), axis=1)
    return same


def _same_side(ours: Array, theirs: Array, samples: Samples) -> Array:
    scores, labels = example_scores(theirs, samples)
    normal = scores[labels == 0]
    limit = np.percentile(normal if len(normal) else scores, THRESHOLD_PERCENTILE)
    same: Array = (example_scores(ours, samples)[0] > limit) == (scores > limit)
    return same
