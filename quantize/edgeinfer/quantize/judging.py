"""Judges candidates: their metric against the float model's on the same samples, with a paired test."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from edgeinfer.quantize import metrics
from edgeinfer.quantize.candidate import Candidate
from edgeinfer.quantize.dataset import Samples
from edgeinfer.quantize.evaluate import Scored, score_rows
from edgeinfer.quantize.metrics import Metric
from edgeinfer.quantize.rows import Rows, spread
from edgeinfer.quantize.search.entry import Judged
from edgeinfer.quantize.search.statistics import Difference, bootstrap_difference, paired_difference
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.manifest import DetectPost, Postprocess, Task

__all__ = ["Judge"]

# Enough to see whether outputs are of any use, few enough to be cheap.
_FEW = 24
Tick = Callable[[float], None]


def _untold(_done: float) -> None:
    return


@dataclass(slots=True)
class Judge:
    """Holds what the reference said of all samples and of a few; candidates are held against it."""

    samples: Samples
    task: Task
    post: Postprocess
    metric: Metric
    threads: int = 1
    _float_model: Candidate | None = None
    _few: Samples | None = None
    _reference: Scored | None = None
    _reference_judged: metrics.Judged | None = None
    _reference_few: Scored | None = None

    def open(self, reference: Candidate) -> None:
        """Have the reference say its part. Raises ModelError, SamplesError."""
        self._float_model = reference
        self._few = _picked(self.samples, spread(_FEW, len(self.samples.x)))
        self._reference = self._score(reference, self.samples, _untold)
        self._reference_judged = self.metric.judge(self._reference, self._reference, self.samples)
        self._reference_few = self._score(reference, self._few, _untold)

    @property
    def few(self) -> Rows:
        """The rows that are screened on."""
        assert self._few is not None  # noqa: S101 - `open` comes first
        return self._few.x

    @property
    def reference(self) -> Scored:
        assert self._reference is not None  # noqa: S101 - as above
        return self._reference

    @property
    def base(self) -> float:
        """The float model's metric."""
        assert self._reference_judged is not None  # noqa: S101 - as above
        return self._reference_judged.value

    def agreement_on_few(self, candidate: Candidate) -> float:
        """Raises ModelError."""
        assert self._few is not None  # noqa: S101 - as above
        assert self._reference_few is not None  # noqa: S101 - as above
        scored = self._score(candidate, self._few, _untold)
        return metrics.agreement(scored, self._reference_few, self._few, task=self.task)

    def judge(self, candidate: Candidate, *, tick: Tick = _untold) -> tuple[Judged, Array]:
        """On all samples, and what it `said` of them. Raises ModelError, SamplesError."""
        scored = self.reference if candidate is self._float_model else self._score(candidate, self.samples, tick)
        ours, theirs = self.metric.judge(scored, self.reference, self.samples), self._reference_judged
        assert theirs is not None  # noqa: S101 - as above
        agreement = metrics.agreement(scored, self.reference, self.samples, task=self.task)
        return Judged(ours.value, agreement, self._difference(ours, theirs), ours.count), self.said(scored)

    def said(self, scored: Scored) -> Array:
        """What is kept of each candidate until the search ends, (N,) or (0,): the classes that it called, the scores
        that a threshold follows from, and nothing of what no report looks at again."""
        if self.task == "classification" and scored.rows.ndim == 2:
            classes: Array = scored.rows.argmax(axis=1)
            return classes
        return scored.rows if scored.rows.ndim == 1 and not scored.found else np.zeros(0)

    def _difference(self, ours: metrics.Judged, theirs: metrics.Judged) -> Difference:
        """How much worse `ours` is."""
        if not self.metric.higher_is_better:
            ours, theirs = theirs, ours
        if not np.isfinite(ours.value) or not np.isfinite(theirs.value):
            return Difference(np.inf, -np.inf, np.inf, 1.0)
        if ours.per_example is not None and theirs.per_example is not None:
            return paired_difference(ours.per_example, theirs.per_example)
        return bootstrap_difference(lambda places: theirs.resample(places) - ours.resample(places), ours.count)

    def _score(self, candidate: Candidate, samples: Samples, tick: Tick) -> Scored:
        return score_rows(
            candidate,
            samples.x,
            post=self.post,
            threads=self.threads,
            tick=tick,
            group=samples.group,
            lowest=self.metric.lowest if isinstance(self.post, DetectPost) else None,
            keep_outputs=self.metric.outputs,
        )


def _picked(samples: Samples, places: Array) -> Samples:
    return replace(
        samples,
        x=samples.x.picked(places),
        y=samples.y[places],
        group=None if samples.group is None else samples.group[places],
        boxes=None if samples.boxes is None else tuple(samples.boxes[int(place)] for place in places),
    )
