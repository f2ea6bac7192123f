"""Several sensors as one series, joined on time."""

import contextlib
import heapq
import logging
import queue
import threading
from collections.abc import Iterator
from typing import NamedTuple

from edgeinfer.runtime.backoff import Backoff
from edgeinfer.runtime.errors import EdgeInferError, SourceError
from edgeinfer.runtime.series import Arrival
from edgeinfer.runtime.sources.arrivals import IDLE_S, Arrivals, Skipped
from edgeinfer.runtime.sources.background import MAX_WAITING, put_newest
from edgeinfer.runtime.sources.sensor_kinds import kind_of, open_here
from edgeinfer.runtime.sources.sensor_settings import (
    HostSource,
    I2cSource,
    IioSource,
    Input,
    JoinedSource,
    ModbusSource,
    has_recorded_times,
)

__all__ = ["channel_counts", "joined_arrivals"]

logger = logging.getLogger(__name__)

_JOIN_S = 0.2


def channel_counts(config: JoinedSource) -> list[int]:
    """How many columns each input has, whether it is there or not."""
    return [_count(one) for one in config.inputs]


def _count(config: Input) -> int:
    match config:
        case HostSource():
            from edgeinfer.runtime.sources.host import CHANNELS

            return len(config.columns or CHANNELS)
        case I2cSource() | ModbusSource():
            return len(config.registers)
        case IioSource():
            return len(config.channels)
        case _:
            return len(config.columns)


def joined_arrivals(config: JoinedSource, stop: threading.Event) -> Arrivals:
    return _merged(config, stop) if has_recorded_times(config) else _collected(config, stop)


def _merged(config: JoinedSource, stop: threading.Event) -> Arrivals:
    """Recorded inputs in the order of their times."""
    inputs = [_tagged(one, index, stop) for index, one in enumerate(config.inputs)]
    yield from heapq.merge(*inputs, key=lambda arrival: arrival.place_ns)


def _tagged(config: Input, index: int, stop: threading.Event) -> Iterator[Arrival]:
    with contextlib.closing(open_here(config, stop)) as rows:
        for arrival in rows:
            if arrival is not None:
                yield arrival._replace(source=index)


class _News(NamedTuple):
    """What an input says: a row; or why it gives none, and whether it ever will."""

    source: int
    arrival: Arrival | None = None
    failure: str = ""
    at_end: bool = False


def _collected(config: JoinedSource, stop: threading.Event) -> Arrivals:
    """Live inputs as they come, each read by a thread of its own that opens it again when it fails. Raises SourceError
    when none of them gives rows any more."""
    news: queue.Queue[_News] = queue.Queue(MAX_WAITING)
    ended = threading.Event()
    threads = [
        threading.Thread(target=_Feeder(one, index, news, ended).run, name=f"input-{index}", daemon=True)
        for index, one in enumerate(config.inputs)
    ]
    for thread in threads:
        thread.start()
    away: dict[int, _News] = {}
    try:
        while not stop.is_set():
            try:
                new = news.get(timeout=IDLE_S)
            except queue.Empty:
                yield None
                continue
            if new.arrival is not None:
                away.pop(new.source, None)
                yield new.arrival
                continue
            away[new.source] = new
            if len(away) == len(threads):
                if all(one.at_end for one in away.values()):
                    return
                raise SourceError("joined: no input can be read: " + "; ".join(one.failure for one in away.values()))
    finally:
        ended.set()
        for thread in threads:
            thread.join(_JOIN_S)


class _Feeder:
    """Reads one live input for as long as it goes."""

    def __init__(self, config: Input, index: int, news: "queue.Queue[_News]", ended: threading.Event) -> None:
        self._config = config
        self._index = index
        self._news = news
        self._ended = ended
        self._name = f"{index} ({kind_of(config)})"
        self._skipped = Skipped(f"input {self._name}")
        self._backoff = Backoff()
        self._is_away = False

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                self._read_all()
            except EdgeInferError as error:
                self._wait_after(str(error))
            except Exception as error:  # the top of this thread
                logger.exception("event=input_crashed input=%s", self._name)
                self._wait_after(f"internal error: {error}")
            else:
                if not self._ended.is_set():
                    self._say(_News(self._index, failure=f"input {self._name} has ended", at_end=True))
                return

    def _read_all(self) -> None:
        with contextlib.closing(open_here(self._config, self._ended)) as rows:
            for arrival in rows:
                if self._ended.is_set():
                    return
                if arrival is None:
                    continue
                if self._is_away:
                    self._is_away = False
                    logger.info("event=input_back input=%s", self._name)
                self._backoff.reset()
                self._say(_News(self._index, arrival._replace(source=self._index)))

    def _wait_after(self, failure: str) -> None:
        self._is_away = True
        wait_s = self._backoff.next()
        logger.warning("event=input_failed input=%s retry_s=%.1f error=%s", self._name, wait_s, failure)
        self._say(_News(self._index, failure=failure))
        self._ended.wait(wait_s)

    def _say(self, new: _News) -> None:
        put_newest(self._news, new, self._skipped)
