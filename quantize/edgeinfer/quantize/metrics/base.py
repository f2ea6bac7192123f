"""What a metric is: it judges what a candidate said of the samples."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from edgeinfer.quantize.dataset import Samples
from edgeinfer.quantize.evaluate import Scored
from edgeinfer.runtime.engines.base import Array

__all__ = ["Judged", "Metric", "Unit", "Usual", "example_scores", "mean_of"]

Unit = Literal["points", "percent"]


@dataclass(frozen=True, slots=True)
class Judged:
    """How good a candidate is over `count` examples.

    `per_example` (count,) are the figures whose mean `value` is: 0 or 1 for right or wrong, a squared error, ...; None
    for a metric that is no mean. `resample` gives the metric over the examples at these places, some of them more than
    once, as a bootstrap draws them: NaN where it has none there. The examples of two candidates are in the same order.
    """

    value: float
    count: int
    per_example: Array | None
    resample: Callable[[Array], float]


class Metric(Protocol):
    """`unit` is that of a drop: points (hundredths of a metric of 0 to 1), or per cent of the float model's value for
    errors without a bound. `labelled`: it needs labels, else it holds a candidate against the float model. `lowest` is
    the score that boxes are kept from for it, None: as declared. `outputs`: it needs `Scored.outputs`."""

    @property
    def name(self) -> str: ...

    @property
    def unit(self) -> Unit: ...

    @property
    def higher_is_better(self) -> bool: ...

    @property
    def labelled(self) -> bool: ...

    @property
    def lowest(self) -> float | None: ...

    @property
    def outputs(self) -> bool: ...

    def judge(self, scored: Scored, reference: Scored, samples: Samples) -> Judged:
        """`reference` is what the float model said of the same samples. Raises SamplesError for labels that do not
        fit."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Usual:
    """What most metrics are: a share of 0 to 1, the higher the better, without labels."""

    unit: Unit = "points"
    higher_is_better: bool = True
    labelled: bool = False
    lowest: float | None = None
    outputs: bool = False


def mean_of(figures: Array) -> Judged:
    """For a metric that is the mean of a figure an example."""
    figures = figures.astype(np.float64)
    return Judged(
        value=float(figures.mean()),
        count=len(figures),
        per_example=figures,
        resample=lambda places: float(figures[places].mean()),
    )


def example_scores(rows: Array, samples: Samples) -> tuple[Array, Array]:
    """Score and label of each example: the mean over its group's rows."""
    if samples.group is None:
        return rows, samples.y
    groups, first, counts = np.unique(samples.group, return_index=True, return_counts=True)
    sums = np.bincount(np.searchsorted(groups, samples.group), weights=rows, minlength=len(groups))
    return sums / counts, samples.y[first]
