"""The regular grid: channels of one sensor, or of several that are joined on time, become rows at every tick.

A row of the grid is made when each of its channels is final: because of its own samples, or because so much time has
gone by that no sample can matter any more. So a sensor that died holds the others up by the tolerance, and no longer;
and in which order the samples of different sensors came changes nothing.
"""

from collections.abc import Sequence
from itertools import chain
from math import isnan

from edgeinfer.runtime.series.resampling import Channel, Resample, make_channel
from edgeinfer.runtime.series.rows import Row

__all__ = ["Grid"]

_BEGINNING_NS = -(1 << 100)


class Grid:
    """Ticks lie `period_ns` apart: from the first sample on, or for joined sensors at the multiples of the period,
    which all of them share. The columns are those of the sensors, one after the other.

    `channels`: how many each sensor has.
    """

    def __init__(self, channels: Sequence[int], *, period_ns: int, resample: Resample, tolerance_ns: int) -> None:
        self._period_ns = period_ns
        self._sensors: list[list[Channel]] = [
            [make_channel(resample, period_ns=period_ns, tolerance_ns=tolerance_ns) for _ in range(count)]
            for count in channels
        ]
        self._channels = list(chain.from_iterable(self._sensors))
        self._next_ns: int | None = None
        self._newest_ns = _BEGINNING_NS

    def add(self, place_ns: int, values: Sequence[float], sensor: int) -> None:
        """A row of one of the sensors, NaN where a value is missing."""
        for channel, value in zip(self._sensors[sensor], values, strict=True):
            if not isnan(value):
                channel.add(place_ns, value)
                self._newest_ns = max(self._newest_ns, place_ns)

    def advance(self, now_ns: int) -> list[Row]:
        """The rows that are final, as no sample before `now_ns` will come any more. No row lies behind the newest
        sample of all: where nobody measures, nothing is made up."""
        if self._next_ns is None:
            self._next_ns = self._first_tick()
        rows: list[Row] = []
        while self._next_ns is not None and self._next_ns <= self._newest_ns:
            tick_ns = self._next_ns
            if not all(channel.is_final(tick_ns, now_ns) for channel in self._channels):
                break
            rows.append(Row(tick_ns, [channel.value(tick_ns) for channel in self._channels]))
            self._next_ns = tick_ns + self._period_ns
        return rows

    def _first_tick(self) -> int | None:
        firsts = [first for channel in self._channels if (first := channel.first()) is not None]
        if not firsts:
            return None
        oldest_ns = min(firsts)
        return oldest_ns if len(self._sensors) == 1 else -(-oldest_ns // self._period_ns) * self._period_ns
