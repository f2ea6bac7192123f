"""The way of a row: onto the regular grid where a rate is declared, gaps filled, windows cut."""

from collections.abc import Iterable, Sequence
from math import isnan
from typing import Any, Literal

import msgspec
import numpy.typing as npt

from edgeinfer.runtime.series.grid import Grid
from edgeinfer.runtime.series.missing import Missing, make_filler
from edgeinfer.runtime.series.resampling import Resample
from edgeinfer.runtime.series.rows import Arrival, Row, Window, real_or_missing
from edgeinfer.runtime.series.windows import Cutter, Sessions, Slices

__all__ = ["Shape", "Shaper"]

_END_OF_TIME_NS = 1 << 100
# Short windows, too, are cut from sensors that are a little late now and then.
_LEAST_BRIDGED_ROWS = 16


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What is made of the rows of a series. Zeros leave a thing out.

    `window` rows every `stride` rows, or, for sessions, from pause to pause of more than `session_gap_ns`.
    `period_ns` and `tolerance_ns`: the regular grid. `max_gap_ns`: no window reaches over a longer gap.
    """

    window: int
    stride: int = 1
    cut: Literal["slices", "sessions"] = "slices"
    session_gap_ns: int = 0
    min_rows: int = 1
    missing: Missing = "hold"
    max_gap_ns: int = 0
    period_ns: int = 0
    resample: Resample = "linear"
    tolerance_ns: int = 0

    def pause_ns(self) -> int:
        """No row for longer than this is a pause: the next one begins anew. 0: there are none.

        Where nothing else is said, a grid is made up over a gap as long as a window, as a window of nothing but
        values that were made up says nothing; or over as much as samples may reach.
        """
        usual_ns = max(max(self.window, _LEAST_BRIDGED_ROWS) * self.period_ns, 2 * self.tolerance_ns)
        return self.session_gap_ns or self.max_gap_ns or usual_ns

    def reach_ns(self) -> int:
        """How far a sample may lie from the tick that it is used for."""
        return self.tolerance_ns or self.pause_ns()


class Shaper:
    """One series. `channels`: how many each sensor has that is joined here; one entry where nothing is joined; None
    where that is known with the first row.

    The caller hands in rows and the time; windows come back.
    """

    def __init__(self, shape: Shape, *, channels: Sequence[int] | None = None) -> None:
        self._shape = shape
        self._sensors = channels
        self._pause_ns = shape.pause_ns()
        self._grid: Grid | None = None
        self._filler = make_filler(shape.missing, max_gap_ns=shape.max_gap_ns, patience=shape.window)
        self._cutter: Cutter = (
            Sessions(shape.window, shape.min_rows) if shape.cut == "sessions" else Slices(shape.window, shape.stride)
        )
        self._last: Arrival | None = None
        self._last_row_ns = 0

    def add(self, arrival: Arrival) -> list[Window]:
        """The windows that this row completes."""
        windows = self._pause_before(arrival.place_ns)
        values = real_or_missing(arrival.values)
        if not self._shape.period_ns:
            self._last = arrival
            return windows + self._cut(self._filler.add(Row(arrival.place_ns, values)))
        if all(map(isnan, values)):  # for the grid this is no row
            return windows + self._from_grid(arrival.place_ns)
        self._last = arrival
        if self._grid is None:
            self._grid = self._new_grid(len(values))
        self._grid.add(arrival.place_ns, values, arrival.source)
        return windows + self._from_grid(arrival.place_ns)

    def advance(self, now_ns: int) -> list[Window]:
        """No row before the place `now_ns` will come any more: a pause closes a session, a sensor of several that
        gives nothing is waited for no longer."""
        return self._pause_before(now_ns) or self._from_grid(now_ns)

    def finish(self) -> list[Window]:
        """The series ends."""
        return self._pause()

    def _pause_before(self, place_ns: int) -> list[Window]:
        last = self._last
        if last is None or not self._pause_ns or place_ns - last.place_ns <= self._pause_ns:
            return []
        return self._pause()

    def _pause(self) -> list[Window]:
        windows = self._from_grid(_END_OF_TIME_NS) + self._cut(self._filler.finish())
        windows += self._window(self._cutter.pause())
        self._grid = self._last = None
        return windows

    def _new_grid(self, channels: int) -> Grid:
        shape = self._shape
        return Grid(
            self._sensors or (channels,),
            period_ns=shape.period_ns,
            resample=shape.resample,
            tolerance_ns=shape.reach_ns(),
        )

    def _from_grid(self, now_ns: int) -> list[Window]:
        windows: list[Window] = []
        if self._grid is not None:
            for row in self._grid.advance(now_ns):
                windows += self._cut(self._filler.add(row))
        return windows

    def _cut(self, rows: Iterable[Row | None]) -> list[Window]:
        windows: list[Window] = []
        for row in rows:
            if row is None:
                self._cutter.discard()
                continue
            self._last_row_ns = row.place_ns
            windows += self._window(self._cutter.add(row))
        return windows

    def _window(self, data: npt.NDArray[Any] | None) -> list[Window]:
        """Its time: that of the last row that came, and how far the window's newest lies before or behind it."""
        last = self._last
        if data is None or last is None:
            return []
        away_ns = self._last_row_ns - last.place_ns if last.dated else 0
        return [Window(last.t_ns + away_ns, last.mono_ns, data, self._last_row_ns, last.timed)]
