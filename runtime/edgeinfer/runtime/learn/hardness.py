"""Which inputs are worth a person's time, and how many of them are kept. Values in, values out; time is an argument.

An input is hard where the model is unsure of it (its margin is low: margin sampling, T. Scheffer et al., "Active
hidden Markov models", 2001), where it is unlike what the package was made with, or where a candidate in shadow says
something else. The best of each span of time is kept, so that neither a burst nor one kind of input takes the budget.
"""

import math
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from edgeinfer.runtime.learn.settings import ExamplesConfig
from edgeinfer.runtime.learn.statistics import Values
from edgeinfer.runtime.manifest import Distribution
from edgeinfer.runtime.posts import AnomalyPost, DetectPost, DistancePost, ForecastPost, Postprocess
from edgeinfer.runtime.results import Item, Kind

__all__ = ["Hardness", "Spans", "margin_of", "novelty"]

_HOUR_NS, _DAY_NS = 3_600_000_000_000, 86_400_000_000_000
# A day that is not yet known to be hard: this part of its budget is not paced over the rest of it.
_UNPACED = 0.1
_CONFIDENT = 1.0


class Hardness(NamedTuple):
    """Why an input is worth to be labelled: `reason` is "margin", "novel" or "shadow", `detail` the statistic that is
    out of the ordinary; `value` orders inputs of one reason, from 0 to 1; `margin` is 1 where the model is sure."""

    reason: str
    value: float
    margin: float
    detail: str = ""


def margin_of(kind: Kind, items: tuple[Item, ...], declared: Postprocess) -> float:
    """How far the result is from being another one, 0 to 1; 1 where the task knows no such thing.

    Classes: the best score less the second best (less what is left of 1 where only one is reported). Boxes: how far
    the nearest score is from the threshold. Anomalies: the distance to the threshold, as a part of it.
    """
    if not items:
        return _CONFIDENT
    if kind is Kind.CLASSIFICATION:
        best = items[0].score
        return min(abs(best - (items[1].score if len(items) > 1 else 1.0 - best)), 1.0)
    if isinstance(declared, DetectPost):
        return min(*(abs(item.score - declared.score_threshold) for item in items), _CONFIDENT)
    if isinstance(declared, AnomalyPost | ForecastPost | DistancePost) and declared.threshold:
        return min(abs(items[0].score / declared.threshold - 1.0), 1.0)
    return _CONFIDENT


def novelty(values: Values, reference: Mapping[str, Distribution]) -> tuple[float, str]:
    """How far the most unusual of `values` lies outside of the 0.5 % and 99.5 % quantiles, as a part of their distance
    and at most 1, with its name; (0, "") where none does."""
    farthest, name = 0.0, ""
    for statistic, value in values.items():
        known = reference.get(statistic)
        if known is None or known.low <= value <= known.high:
            continue
        beyond = max(known.low - value, value - known.high)
        width = known.high - known.low
        excess = min(beyond / width, 1.0) if width > 0.0 else 1.0
        if math.isnan(excess):
            excess = 1.0
        if excess > farthest:
            farthest, name = excess, statistic
    return farthest, name


class Spans:
    """Time in spans, of each of which one input is kept: the hardest, by `worth`.

    A span lasts as long as what is left of the day's budget asks for, and no shorter than the hour's allows. A reason
    counts for less the more often it was kept, so that a camera at night gives other things than night, too.
    """

    def __init__(self, config: ExamplesConfig, *, kept_today: int = 0) -> None:
        self._config = config
        self._reasons: Counter[str] = Counter()
        self._kept = kept_today
        self._day_end_ns = 0
        self._end_ns = 0

    def worth(self, hardness: Hardness) -> float:
        return (hardness.value + 1e-3) / (1 + self._reasons[hardness.reason])

    def is_over(self, now_ns: int) -> bool:
        """Whether the span has ended: then the hardest input of it is to be kept, and `begin` called."""
        if not self._day_end_ns:
            self._day_end_ns = now_ns + _DAY_NS
            self.begin(now_ns)
        return now_ns >= self._end_ns

    def begin(self, now_ns: int) -> None:
        if now_ns >= self._day_end_ns:
            self._day_end_ns, self._kept = now_ns + _DAY_NS, 0
        left = self._config.per_day - self._kept
        if left <= 0:
            self._end_ns = self._day_end_ns
            return
        shortest_ns = _HOUR_NS // self._config.per_hour
        paced_ns = 0 if self._kept < _UNPACED * self._config.per_day else (self._day_end_ns - now_ns) // left
        self._end_ns = now_ns + max(shortest_ns, paced_ns)

    def keep(self, reason: str) -> None:
        self._kept += 1
        self._reasons[reason] += 1

    @property
    def budget_left(self) -> bool:
        return self._kept < self._config.per_day
