"""What is asked of the package: how much may be lost, and what shall be small."""

import math
from dataclasses import dataclass
from typing import Literal

from edgeinfer.quantize.search.entry import Entry

__all__ = ["Goal", "Objective"]

Objective = Literal["latency", "size", "energy"]
# Rounding in the subtraction of two shares must not refuse a drop of exactly the budget.
_EPSILON = 1e-9


@dataclass(frozen=True, slots=True)
class Goal:
    """`max_drop` is in points of the metric, hundredths; of a metric without a bound in per cent of `base`, the float
    model's value, which is then given. `min_agreement` is a share. `time_s` is how long the search may take."""

    max_drop: float
    min_agreement: float | None = None
    max_bytes: int | None = None
    objective: Objective = "latency"
    time_s: float = math.inf
    percent: bool = False
    base: float = 1.0

    def drop(self, difference: float) -> float:
        """A difference of the metric, in points or per cent."""
        if not self.percent:
            return difference * 100.0
        return difference / abs(self.base) * 100.0 if self.base else math.copysign(math.inf, difference or 1.0)

    @property
    def unit(self) -> Literal["points", "percent"]:
        return "percent" if self.percent else "points"

    def misses(self, entry: Entry) -> str:
        """Why a judged candidate does not keep the budget, or cannot be run; "" where it does."""
        assert entry.judged is not None  # noqa: S101 - the caller asks of judged ones
        judged = entry.judged
        if entry.timing is not None and entry.timing.error:
            return entry.timing.error  # what the target cannot run is of no use to it, however small it is
        if math.isnan(judged.metric_value):
            return "its metric is no number"
        drop = self.drop(judged.difference.value)
        if not drop <= self.max_drop + _EPSILON:
            return f"loses {drop:.2f} {_words(self.unit)}, more than the {self.max_drop:g} allowed"
        if self.min_agreement is not None and not judged.agreement >= self.min_agreement - _EPSILON:
            return f"agrees with the float model on {judged.agreement:.4f}, less than {self.min_agreement:g}"
        return self.too_large(entry)

    def too_large(self, entry: Entry) -> str:
        if self.max_bytes is not None and entry.bytes > self.max_bytes:
            return f"has {entry.bytes} bytes, more than the {self.max_bytes} allowed"
        return ""

    def keeps(self, entry: Entry) -> bool:
        """Whether it has been judged and keeps the budget."""
        return not entry.refused and entry.judged is not None and not self.misses(entry)

    def cost(self, entry: Entry) -> float:
        """What shall be small: latency as a ratio, bytes, or energy (CPU time where that is not readable)."""
        if self.objective == "size":
            return float(entry.bytes)
        timing = entry.timing
        if timing is None or timing.error:
            return math.inf
        energy = timing.energy_uj or timing.cpu_us or timing.ratio
        cost = energy if self.objective == "energy" else timing.ratio
        return math.inf if math.isnan(cost) else cost

    def least_cost(self, entry: Entry) -> float:
        """What it may turn out to be: a measured latency's lower end."""
        cost, timing = self.cost(entry), entry.timing
        if self.objective != "latency" or timing is None or timing.estimated or not 0.0 < timing.ratio_low < cost:
            return cost
        return timing.ratio_low


def _words(unit: str) -> str:
    return "points" if unit == "points" else "per cent"
