"""Drift: whether scores and inputs still are what they were. Values in, values out; time is an argument.

    watch = DriftWatch(config, reference)
    watch.add({"score": 0.9, "label": 1.0}, {"brightness": 0.4})
    report = watch.report()

A statistic has drifted where its index or its Kolmogorov-Smirnov statistic is above the configured bound and above
what chance alone gives, for as many independent values as the window is worth. Many statistics are looked at, and
often: the chance is divided among them.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.learn.distribution import describe, effective_count, ks, ks_limit, psi, psi_limit
from edgeinfer.runtime.learn.settings import DriftConfig
from edgeinfer.runtime.learn.statistics import Values
from edgeinfer.runtime.manifest import Distribution, Reference

__all__ = ["MIN_WINDOW", "DriftReport", "DriftWatch", "Learner"]

# Fewer values say nothing: as many a report needs.
MIN_WINDOW = 50
_CHANCE = 1e-3
# What changes slowly is worth few values, and what comes back each day more than it seems: with this many, a window
# that lies far from the reference is told of, and one that only wanders is not.
_LEAST_WORTH = 20.0

Array = npt.NDArray[np.float64]


class DriftReport(NamedTuple):
    """The largest indices and statistics over scores and over inputs, over `n` frames. `worst` is the statistic that
    is farthest beyond its bound, or nearest to it."""

    psi_score: float
    ks_score: float
    psi_input: float
    ks_input: float
    n: int
    drifted: bool
    worst: str

    def extra(self) -> dict[str, int | float | str]:
        """As a result carries it."""
        fields = {
            name: round(value, 6) if isinstance(value, float) else value for name, value in self._asdict().items()
        }
        return {**fields, "drifted": int(self.drifted)}


class _Shift(NamedTuple):
    name: str
    psi: float
    ks: float
    excess: float  # above 1: drifted


class DriftWatch:
    """Holds the last frames that were looked at against a reference."""

    def __init__(self, config: DriftConfig, reference: Reference) -> None:
        self._config = config
        self._scores = _Group(reference.scores, config.window)
        self._inputs = _Group(reference.inputs, config.window)

    def add(self, scores: Values, inputs: Values) -> None:
        self._scores.add(scores)
        self._inputs.add(inputs)

    def report(self) -> DriftReport | None:
        """None before there are enough frames, or where nothing can be compared."""
        n = max(self._scores.added, self._inputs.added)
        statistics = len(self._scores.reference) + len(self._inputs.reference)
        if n < MIN_WINDOW or not statistics:
            return None
        chance = _CHANCE / (2.0 * statistics)
        scores = list(self._scores.shifts(self._config, chance))
        inputs = list(self._inputs.shifts(self._config, chance))
        if not (scores or inputs):
            return None
        worst = max(scores + inputs, key=lambda shift: shift.excess)
        return DriftReport(
            psi_score=max((shift.psi for shift in scores), default=0.0),
            ks_score=max((shift.ks for shift in scores), default=0.0),
            psi_input=max((shift.psi for shift in inputs), default=0.0),
            ks_input=max((shift.ks for shift in inputs), default=0.0),
            n=min(n, self._config.window),
            drifted=worst.excess > 1.0,
            worst=worst.name,
        )


class _Group:
    """The windows of the statistics that the reference knows."""

    def __init__(self, reference: Mapping[str, Distribution], window: int) -> None:
        self.reference = reference
        self.added = 0
        self._windows: dict[str, deque[float]] = {name: deque(maxlen=window) for name in reference}

    def add(self, values: Values) -> None:
        self.added += 1
        windows = self._windows
        for name, value in values.items():
            if name in windows:
                windows[name].append(value)

    def shifts(self, config: DriftConfig, chance: float) -> Iterator[_Shift]:
        for name, window in self._windows.items():
            if len(window) >= MIN_WINDOW:
                values = np.fromiter(window, np.float64, len(window))
                yield _shift(name, self.reference[name], values, config=config, chance=chance)


def _shift(name: str, reference: Distribution, values: Array, *, config: DriftConfig, chance: float) -> _Shift:
    worth = _worth(values)
    index, distance = psi(reference, values), ks(reference, values)
    excess = max(
        index / max(config.psi, psi_limit(reference, worth, chance=chance)),
        distance / max(config.ks, ks_limit(reference, worth, chance=chance)),
    )
    return _Shift(name, index, distance, excess)


def _worth(values: Array) -> float:
    """How many independent values these, in the order in which they came, count for."""
    return min(max(effective_count(values), _LEAST_WORTH), float(len(values)))


class Learner:
    """Makes a reference of the first frames: those of a pipeline whose package brings none."""

    def __init__(self, frames: int) -> None:
        self._frames = frames
        self._added = 0
        self._scores: dict[str, list[float]] = {}
        self._inputs: dict[str, list[float]] = {}

    def add(self, scores: Values, inputs: Values) -> Reference | None:
        """The reference, once enough frames were added."""
        self._added += 1
        for kept, values in ((self._scores, scores), (self._inputs, inputs)):
            for name, value in values.items():
                kept.setdefault(name, []).append(value)
        return self._reference() if self._added >= self._frames else None

    def _reference(self) -> Reference:
        return Reference(scores=_described(self._scores), inputs=_described(self._inputs))


def _described(kept: dict[str, list[float]]) -> dict[str, Distribution]:
    arrays = {name: np.asarray(values) for name, values in kept.items()}
    return {
        name: describe(values, effective=_worth(values)) for name, values in arrays.items() if np.isfinite(values).any()
    }
