"""The parts that rules are made of. Each is stepped once a frame; time is monotonic, in ns, and comes in."""

from collections import Counter, deque
from typing import Generic, TypeVar

__all__ = ["Allowance", "Dwell", "Level", "NOfM", "Settled"]

_SECOND_NS = 1_000_000_000
_HOUR_S = 3600.0

T = TypeVar("T")


class Level:
    """Hysteresis: true from beyond `enter` on until beyond `leave` on the other side; in between, and for a NaN, it
    stays what it was. With `enter` below `leave` it is true below."""

    def __init__(self, enter: float, leave: float, *, below: bool = False) -> None:
        self._sign = -1.0 if below else 1.0
        self._enter, self._leave = self._sign * enter, self._sign * leave
        self._state = False

    def step(self, value: float | None) -> bool:
        """None: there is nothing to compare, which is not true."""
        if value is None:
            self._state = False
        elif self._state:
            self._state = not self._sign * value < self._leave
        else:
            self._state = self._sign * value > self._enter
        return self._state


class NOfM:
    """True where `n` of the last `m` frames were; before there were `m`, the missing ones were not."""

    def __init__(self, n: int, m: int) -> None:
        self._n = n
        self._last: deque[bool] = deque(maxlen=m)
        self._sum = 0

    def step(self, value: bool) -> bool:
        if len(self._last) == self._last.maxlen:
            self._sum -= self._last[0]
        self._last.append(value)
        self._sum += value
        return self._sum >= self._n


class Dwell:
    """True once it was true for `seconds` without a break."""

    def __init__(self, seconds: float) -> None:
        self._least_ns = int(seconds * _SECOND_NS)
        self.since_ns: int | None = None

    def step(self, value: bool, now_ns: int) -> bool:
        if not value:
            self.since_ns = None
            return False
        if self.since_ns is None:
            self.since_ns = now_ns
        return now_ns - self.since_ns >= self._least_ns


class Settled(Generic[T]):
    """The value that was there in `n` of the last `m` frames, and then for `dwell_s`; until another one is, the last
    such value. With n <= m / 2 two can be: the newest of them counts."""

    def __init__(self, start: T, *, n: int, m: int, dwell_s: float) -> None:
        self.value = start
        self._n = n
        self._last: deque[T] = deque(maxlen=m)
        self._counts: Counter[T] = Counter()
        self._candidate = start
        self._dwell = Dwell(dwell_s)

    def step(self, value: T, now_ns: int) -> bool:
        """Whether `value` has changed by this frame."""
        if len(self._last) == self._last.maxlen:
            oldest = self._last[0]
            self._counts[oldest] -= 1
            if not self._counts[oldest]:
                del self._counts[oldest]
        self._last.append(value)
        self._counts[value] += 1
        if self._counts[value] >= self._n and value != self._candidate:
            self._candidate = value
            self._dwell.step(False, now_ns)
        if not self._dwell.step(self._candidate != self.value, now_ns):
            return False
        self.value = self._candidate
        self._dwell.step(False, now_ns)
        return True


class Allowance:
    """How many events may be: none for `cooldown_s` after one, and `per_hour` by a token bucket, which holds as many
    and begins full. `suppressed` counts those that were refused since the last that was not."""

    def __init__(self, *, cooldown_s: float = 0.0, per_hour: int = 0) -> None:
        self.suppressed = 0
        self._cooldown_ns = int(cooldown_s * _SECOND_NS)
        self._per_hour = per_hour
        self._tokens = float(per_hour)
        self._filled_ns: int | None = None
        self._last_ns: int | None = None

    def take(self, now_ns: int) -> bool:
        """Whether an event may be raised now; one that may not is counted."""
        cooling = self._last_ns is not None and now_ns - self._last_ns < self._cooldown_ns
        if cooling or not self._take_token(now_ns):
            self.suppressed += 1
            return False
        self._last_ns = now_ns
        return True

    def take_suppressed(self) -> int:
        """The count, which begins anew."""
        count, self.suppressed = self.suppressed, 0
        return count

    def _take_token(self, now_ns: int) -> bool:
        if not self._per_hour:
            return True
        passed_s = (now_ns - self._filled_ns) / _SECOND_NS if self._filled_ns is not None else 0.0
        self._filled_ns = now_ns
        self._tokens = min(float(self._per_hour), self._tokens + passed_s * self._per_hour / _HOUR_S)
        # Ten thousand small sums of fractions may be a hair short of a whole token.
        if self._tokens < 1.0 - 1e-9:
            return False
        self._tokens = max(0.0, self._tokens - 1.0)
        return True
