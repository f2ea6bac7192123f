"""What stands where a sensor gave nothing.

`hold`: the channel's last value, 0 before there was one. `zero`: 0. `drop`: the row is left out. `interpolate`: on the
line between the values before and after, so that rows wait for the value after; at most `patience` rows wait, then the
last value is held.

A channel that has given nothing for more than `max_gap_ns` makes its rows unusable, whatever stands there.
"""

from collections import deque
from math import isnan
from typing import Literal, Protocol

from edgeinfer.runtime.series.rows import Row

__all__ = ["Filler", "Missing", "make_filler"]

Missing = Literal["hold", "interpolate", "drop", "zero"]


class Filler(Protocol):
    """Rows in, rows without gaps out; None stands for rows that are unusable."""

    def add(self, row: Row) -> list[Row | None]: ...

    def finish(self) -> list[Row | None]:
        """What waits, at the end or before a pause."""
        ...


def make_filler(missing: Missing, *, max_gap_ns: int, patience: int) -> Filler:
    """`max_gap_ns` 0: any gap is filled."""
    if missing == "interpolate":
        return _Interpolating(max_gap_ns, patience)
    return _Immediate(missing, max_gap_ns)


class _Seen:
    """The last value of each channel and where it was."""

    def __init__(self, max_gap_ns: int) -> None:
        self._max_gap_ns = max_gap_ns
        self.values: list[float] = []
        self.places: list[int | None] = []

    def note(self, row: Row) -> bool:
        """Take what the row gives; True where nothing is missing."""
        if not self.values:
            self.values = [0.0] * len(row.values)
            self.places = [None] * len(row.values)
        complete = True
        for channel, value in enumerate(row.values):
            if isnan(value):
                complete = False
            else:
                self.values[channel] = value
                self.places[channel] = row.place_ns
        return complete

    def too_old(self, place_ns: int) -> bool:
        """Whether a channel has given nothing for too long to be used at this place."""
        if not self._max_gap_ns:
            return False
        return any(seen is None or place_ns - seen > self._max_gap_ns for seen in self.places)


class _Immediate:
    def __init__(self, missing: Missing, max_gap_ns: int) -> None:
        self._missing = missing
        self._seen = _Seen(max_gap_ns)

    def add(self, row: Row) -> list[Row | None]:
        if self._seen.note(row):
            return [row]
        if self._seen.too_old(row.place_ns):
            return [None]
        if self._missing == "drop":
            return []
        if self._missing == "hold":
            return [Row(row.place_ns, list(self._seen.values))]
        return [Row(row.place_ns, [0.0 if isnan(value) else value for value in row.values])]

    def finish(self) -> list[Row | None]:
        return []


class _Interpolating:
    def __init__(self, max_gap_ns: int, patience: int) -> None:
        self._max_gap_ns = max_gap_ns
        self._patience = patience
        self._before = _Seen(max_gap_ns)  # as of the last row that was given out
        self._waiting: deque[Row] = deque()

    def add(self, row: Row) -> list[Row | None]:
        if self._waiting:
            # A channel that gives again closes the gap before it.
            for channel, (value, last) in enumerate(zip(row.values, self._waiting[-1].values, strict=True)):
                if isnan(last) and not isnan(value):
                    self._close_gap(channel, row.place_ns, value)
        self._waiting.append(row)
        return self._ready()

    def finish(self) -> list[Row | None]:
        given: list[Row | None] = []
        while self._waiting:
            given.append(self._hold())
            given += self._ready()
        return given

    def _close_gap(self, channel: int, after_ns: int, after: float) -> None:
        gap: list[Row] = []
        for row in reversed(self._waiting):
            if not isnan(row.values[channel]):
                before_ns, before = row.place_ns, row.values[channel]
                break
            gap.append(row)
        else:
            before_ns, before = self._last_given(channel, after_ns, after)
        span = after_ns - before_ns
        if self._max_gap_ns and after_ns - min(before_ns, gap[-1].place_ns) > self._max_gap_ns:
            return
        for row in gap:
            share = (row.place_ns - before_ns) / span if span > 0 else 1.0
            row.values[channel] = before + min(max(share, 0.0), 1.0) * (after - before)

    def _last_given(self, channel: int, after_ns: int, after: float) -> tuple[int, float]:
        """Before the first value of all there is no line: what comes first stands there, too."""
        seen = self._before.places[channel] if self._before.places else None
        return (after_ns, after) if seen is None else (seen, self._before.values[channel])

    def _ready(self) -> list[Row | None]:
        given: list[Row | None] = []
        while self._waiting:
            head = self._waiting[0]
            if not any(map(isnan, head.values)):
                self._before.note(head)
                given.append(self._waiting.popleft())
            elif len(self._waiting) > self._patience or self._is_too_wide(head):
                given.append(self._hold())
            else:
                break
        return given

    def _is_too_wide(self, head: Row) -> bool:
        """Whether a gap in the oldest row is already wider than one that may be filled."""
        if not self._max_gap_ns:
            return False
        newest_ns = self._waiting[-1].place_ns
        places = self._before.places or [None] * len(head.values)
        began = (head.place_ns if seen is None else seen for seen in places)
        return any(
            isnan(value) and newest_ns - since > self._max_gap_ns
            for value, since in zip(head.values, began, strict=True)
        )

    def _hold(self) -> Row | None:
        """The oldest row without the values after it."""
        head = self._waiting.popleft()
        self._before.note(head)
        return None if self._before.too_old(head.place_ns) else Row(head.place_ns, list(self._before.values))
