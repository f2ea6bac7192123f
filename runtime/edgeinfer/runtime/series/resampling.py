"""Resamples one channel: samples at any time become values at the ticks of a regular grid.

The value at a tick depends on the samples around it alone, never on when it is asked for:

- `linear`: on the line between the samples before and after. Where samples come at twice the rate or faster, the
  mean of that polygon over one period around the tick: a box filter against aliasing, which leaves a line a line.
- `hold`: the last sample; where several came since the last tick, their mean.

A sample further than `tolerance_ns` from the tick is not used for it; with none left, the value is missing.
"""

from bisect import bisect_left, bisect_right
from typing import Literal, Protocol

from edgeinfer.runtime.series.rows import MISSING

__all__ = ["Channel", "Resample", "make_channel"]

Resample = Literal["linear", "hold"]


class Channel(Protocol):
    """Samples of one channel. Ticks are asked for in growing order."""

    def add(self, at_ns: int, value: float) -> None:
        """The next sample. One that is not newer than the last is passed over."""
        ...

    def is_final(self, tick_ns: int, now_ns: int) -> bool:
        """Whether no sample after `now_ns` could change the value at the tick."""
        ...

    def value(self, tick_ns: int) -> float:
        """The value at the tick; NaN where it is missing. Forgets the samples that later ticks need no more."""
        ...

    def first(self) -> int | None:
        """The time of the oldest sample that is kept."""
        ...


def make_channel(resample: Resample, *, period_ns: int, tolerance_ns: int) -> Channel:
    if resample == "hold":
        return _Held(period_ns, tolerance_ns)
    return _Linear(period_ns, tolerance_ns)


class _Samples:
    def __init__(self, period_ns: int, tolerance_ns: int) -> None:
        self._period_ns = period_ns
        self._tolerance_ns = tolerance_ns
        self._times: list[int] = []
        self._values: list[float] = []

    def add(self, at_ns: int, value: float) -> None:
        if not self._times or at_ns > self._times[-1]:
            self._times.append(at_ns)
            self._values.append(value)

    def first(self) -> int | None:
        return self._times[0] if self._times else None

    def _forget(self, before_ns: int) -> None:
        """Keep one sample at or before `before_ns` and all after it."""
        unneeded = bisect_right(self._times, before_ns) - 1
        if unneeded > 0:
            del self._times[:unneeded]
            del self._values[:unneeded]


class _Held(_Samples):
    def is_final(self, tick_ns: int, now_ns: int) -> bool:
        return now_ns > tick_ns or bool(self._times and self._times[-1] >= tick_ns)

    def value(self, tick_ns: int) -> float:
        end = bisect_right(self._times, tick_ns)
        since = bisect_right(self._times, tick_ns - self._period_ns)
        value = MISSING
        if end - since > 1:
            value = sum(self._values[since:end]) / (end - since)
        elif end and tick_ns - self._times[end - 1] <= self._tolerance_ns:
            value = self._values[end - 1]
        self._forget(tick_ns)
        return value


class _Linear(_Samples):
    def __init__(self, period_ns: int, tolerance_ns: int) -> None:
        super().__init__(period_ns, tolerance_ns)
        self._half_ns = period_ns // 2
        self._wait_ns = max(tolerance_ns, self._half_ns)

    def is_final(self, tick_ns: int, now_ns: int) -> bool:
        if now_ns > tick_ns + self._wait_ns:
            return True
        if not self._times or self._times[-1] < tick_ns:
            return False
        return self._times[-1] >= tick_ns + self._half_ns or not self._is_dense(tick_ns)

    def value(self, tick_ns: int) -> float:
        from_ns, to_ns = tick_ns - self._half_ns, tick_ns + self._half_ns
        if self._is_dense(tick_ns) and self._times[0] <= from_ns and self._times[-1] >= to_ns:
            value = self._mean(from_ns, to_ns)
        else:
            value = self._on_the_line(tick_ns)
        self._forget(from_ns)
        return value

    def _is_dense(self, tick_ns: int) -> bool:
        """Whether the samples around the tick come at twice the rate or faster."""
        after = bisect_left(self._times, tick_ns)
        if not 0 < after < len(self._times):
            return False
        return 2 * (self._times[after] - self._times[after - 1]) <= self._period_ns

    def _on_the_line(self, tick_ns: int) -> float:
        times, values = self._times, self._values
        after = bisect_left(times, tick_ns)
        has_before = after > 0 and tick_ns - times[after - 1] <= self._tolerance_ns
        has_after = after < len(times) and times[after] - tick_ns <= self._tolerance_ns
        if has_after and (not has_before or times[after] == tick_ns):
            return values[after]
        if has_before and not has_after:
            return values[after - 1]
        return self._between(after - 1, tick_ns) if has_before else MISSING

    def _between(self, before: int, at_ns: int) -> float:
        """On the line from sample `before` to the next."""
        start_ns, start = self._times[before], self._values[before]
        share = (at_ns - start_ns) / (self._times[before + 1] - start_ns)
        return start + share * (self._values[before + 1] - start)

    def _mean(self, from_ns: int, to_ns: int) -> float:
        """Of the polygon through the samples, by the trapezoidal rule, which is exact for it."""
        times, values = self._times, self._values
        first, last = bisect_right(times, from_ns), bisect_left(times, to_ns)
        at_ns = from_ns
        value = self._between(first - 1, from_ns)
        area = 0.0
        for index in range(first, last):
            area += (times[index] - at_ns) * (values[index] + value)
            at_ns, value = times[index], values[index]
        end = self._between(last - 1, to_ns)
        area += (to_ns - at_ns) * (end + value)
        return area / (2 * (to_ns - from_ns))
