"""Sensors as sources of windows: rows come in by their kind, and `edgeinfer.runtime.series` cuts windows from them."""

import threading
import time
from collections import deque
from collections.abc import Sequence

from edgeinfer.runtime.errors import EdgeInferError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.series import Shape, Shaper, Window
from edgeinfer.runtime.sources.arrivals import Arrivals
from edgeinfer.runtime.sources.named_channels import taken_by_name
from edgeinfer.runtime.sources.sensor_kinds import open_arrivals
from edgeinfer.runtime.sources.sensor_settings import (
    CsvSource,
    JoinedSource,
    SensorSource,
    StdinSource,
    has_recorded_times,
)

__all__ = ["Series", "is_live_sensor", "open_series", "shape_of"]

_SECOND_NS = 1_000_000_000


class Series:
    """Frames from rows. Live rows may also end a window by not coming."""

    def __init__(
        self, arrivals: Arrivals, shaper: Shaper, *, live: bool, by_clock: bool, timed: bool, stop: threading.Event
    ) -> None:
        """`timed`: a recording that says when its rows were measured."""
        self.live = live
        self._arrivals = arrivals
        self._shaper = shaper
        self._by_clock = by_clock
        self._timed = timed
        self._began_ns: int | None = None
        self._stop = stop
        self._windows: deque[Window] = deque()
        self._failure: EdgeInferError | None = None
        self._index = 0

    def read(self) -> Frame | None:
        while not self._windows:
            if self._failure is not None:
                raise self._failure
            if self._stop.is_set() or not self._take():
                return None
        window = self._windows.popleft()
        frame = Frame(window.data, window.t_ns, window.mono_ns, self._index, stream_ns=self._stream_ns(window))
        self._index += 1
        return frame

    def _stream_ns(self, window: Window) -> int:
        """Rules that count seconds count the recording's own, however fast it is read; where it begins without times,
        as one whose time column has another name, those of its reading."""
        self._timed = self._timed and (window.timed or self._began_ns is not None)
        if not self._timed:
            return -1
        if self._began_ns is None:
            self._began_ns = window.place_ns
        return window.place_ns - self._began_ns

    def close(self) -> None:
        self._arrivals.close()

    def _take(self) -> bool:
        """One row, or a moment without one; False at the end. A sensor that fails ends its windows first: a session
        was one until then."""
        try:
            arrival = next(self._arrivals)
        except StopIteration:
            self._windows += self._shaper.finish()
            return bool(self._windows)
        except EdgeInferError as error:
            self._failure = error
            self._windows += self._shaper.finish()
            return True
        if arrival is not None:
            self._windows += self._shaper.add(arrival)
        elif self._by_clock:
            self._windows += self._shaper.advance(time.monotonic_ns())
        return True


def open_series(config: SensorSource, stop: threading.Event, channels: Sequence[str] = ()) -> Series:
    """`channels`: as of `open_source`. Raises SourceError where that is known at once: a file that is not there."""
    config = taken_by_name(config, channels)
    shape = shape_of(config)
    if isinstance(config, JoinedSource):
        from edgeinfer.runtime.sources.joined import channel_counts, joined_arrivals

        arrivals, shaper = joined_arrivals(config, stop), Shaper(shape, channels=channel_counts(config))
    else:
        arrivals, shaper = open_arrivals(config, stop, channels), Shaper(shape)
    return Series(
        arrivals,
        shaper,
        live=is_live_sensor(config),
        by_clock=not has_recorded_times(config),
        timed=_is_timed(config),
        stop=stop,
    )


def is_live_sensor(config: SensorSource) -> bool:
    """Standard input is read as it comes, and whole."""
    return not isinstance(config, StdinSource) and not has_recorded_times(config)


def _is_timed(config: SensorSource) -> bool:
    """Without a time column the rows of a file have an order, and no times."""
    if isinstance(config, JoinedSource):
        return has_recorded_times(config)
    return isinstance(config, CsvSource | StdinSource) and has_recorded_times(config) and bool(config.time_column)


def shape_of(config: SensorSource) -> Shape:
    """What is made of the rows, in ns."""
    period_ns = round(_SECOND_NS / config.rate_hz) if config.rate_hz else 0
    tolerance_ns = round(config.tolerance_s * _SECOND_NS)
    if isinstance(config, JoinedSource):
        tolerance_ns = tolerance_ns or period_ns
    return Shape(
        window=config.window,
        stride=config.window if config.windows == "tumbling" else config.stride,
        cut="sessions" if config.windows == "session" else "slices",
        session_gap_ns=round(config.gap_s * _SECOND_NS),
        min_rows=config.min_rows,
        missing=config.missing,
        max_gap_ns=round(config.max_gap_s * _SECOND_NS),
        period_ns=period_ns,
        resample=config.resample,
        tolerance_ns=tolerance_ns,
    )
