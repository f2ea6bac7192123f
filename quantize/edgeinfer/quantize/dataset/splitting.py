"""Sets samples apart to calibrate with, so that none of them is evaluated with."""

from dataclasses import replace

import numpy as np

from edgeinfer.quantize.dataset.samples import Samples
from edgeinfer.quantize.rows import spread
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import SamplesError
from edgeinfer.runtime.manifest import Task

__all__ = ["split"]

# One fifth of the samples, at most this many examples: min/max ranges settle within some dozens of samples.
CALIBRATION_SHARE = 0.2
MAX_CALIBRATION_EXAMPLES = 100
# Rows that are really fed while calibrating: more only costs time.
MAX_CALIBRATION_ROWS = 256
# Fewer are not split where no class has two.
_MIN_EXAMPLES = 10


def split(samples: Samples, *, task: Task, in_sequence: bool = False) -> Samples:
    """The same samples with `calibration` set and `x`, `y`, `group`, `boxes` free of what is in it.

    Deterministic and stratified: within each label the examples (whole groups) are taken at equal distances;
    for anomaly only normal ones, since a reconstruction model must be calibrated on what it reconstructs.
    `in_sequence`: the rows of a group stay next to each other, as a model with states needs them.
    Raises SamplesError where too few samples are there to hold any back.
    """
    if samples.calibration is not None:
        rows = _limited(len(samples.calibration), None, in_sequence=in_sequence)
        return replace(samples, calibration=samples.calibration.picked(rows))
    groups = np.arange(len(samples.y)) if samples.group is None else samples.group
    examples, first = np.unique(groups, return_index=True)
    labels = samples.y[first] if _has_classes(samples) else np.zeros(len(examples), np.int64)
    taken = examples[_stratified(labels, classes=[0] if task == "anomaly" else np.unique(labels).tolist())]
    if len(taken) == 0 or len(taken) == len(examples):
        raise SamplesError(
            f"expected enough samples to calibrate with some and evaluate with others, found {len(examples)} examples",
            hint="give at least two samples of each class, or samples to calibrate with",
        )
    mask = np.isin(groups, taken)
    kept, calibrating = np.flatnonzero(~mask), np.flatnonzero(mask)
    group = None if samples.group is None else samples.group[calibrating]
    fed = _limited(len(calibrating), group, in_sequence=in_sequence)
    return replace(
        samples,
        x=samples.x.picked(kept),
        y=samples.y[kept],
        group=None if samples.group is None else samples.group[kept],
        boxes=None if samples.boxes is None else tuple(samples.boxes[index] for index in kept),
        calibration=samples.x.picked(calibrating[fed]),
        calibration_group=None if group is None else group[fed],
    )


def _has_classes(samples: Samples) -> bool:
    return samples.y.ndim == 1 and samples.y.dtype.kind == "i"


def _limited(count: int, group: Array | None, *, in_sequence: bool) -> Array:
    """At most as many places of `count` as are fed: at equal distances, or from each group as many as it may have."""
    if not in_sequence:
        return spread(MAX_CALIBRATION_ROWS, count)
    if group is None:
        return np.arange(min(count, MAX_CALIBRATION_ROWS))
    names = np.unique(group)
    share = max(1, MAX_CALIBRATION_ROWS // len(names))
    places = np.concatenate([np.flatnonzero(group == name)[:share] for name in names])
    return places[:MAX_CALIBRATION_ROWS]


def _stratified(labels: Array, *, classes: list[int]) -> Array:
    """Indices of the examples to calibrate with: per class at most all but one. Where single classes have too few to
    give any away, as many as the quota says are taken over all classes."""
    quota = min(CALIBRATION_SHARE, MAX_CALIBRATION_EXAMPLES / len(labels))
    chosen: list[Array] = []
    for label in classes:
        members = np.flatnonzero(labels == label)
        count = min(max(1, round(len(members) * quota)), len(members) - 1)
        chosen.append(members[spread(count, len(members))])
    taken: Array = np.sort(np.concatenate(chosen))
    if len(taken) or len(labels) < _MIN_EXAMPLES:
        return taken
    # One sample a class, as in a picture of each: the ranges of the activations need no class of their own.
    members = np.flatnonzero(np.isin(labels, classes))
    return members[spread(max(1, round(len(members) * quota)), len(members))]
