"""Reads rows in a thread of its own: what may block (a bus, a port, a broker) holds up neither the pipeline's thread
nor a stop."""

import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

from edgeinfer.runtime.errors import EdgeInferError, SourceError
from edgeinfer.runtime.series import Arrival
from edgeinfer.runtime.sources.arrivals import IDLE_S, Arrivals, Skipped

__all__ = ["MAX_WAITING", "Open", "in_background", "put_newest"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
# Opens the rows; the event says when to end.
Open = Callable[[threading.Event], Arrivals]
# Rows that may wait for a pipeline that does not keep up; beyond, the oldest are lost.
MAX_WAITING = 4096
_JOIN_S = 0.2


def in_background(open_rows: Open, name: str) -> Arrivals:
    """The rows of `open_rows`, which is called and read by a thread that ends with this iterator. Raises what it
    raises."""
    waiting: queue.Queue[Arrival | EdgeInferError | None] = queue.Queue(MAX_WAITING)
    ended = threading.Event()
    skipped = Skipped(name)

    def work() -> None:
        try:
            with contextlib.closing(open_rows(ended)) as rows:
                for arrival in rows:
                    if ended.is_set():
                        return
                    if arrival is not None:
                        put_newest(waiting, arrival, skipped)
        except EdgeInferError as error:
            put_newest(waiting, error, skipped)
        except Exception as error:
            logger.exception("event=sensor_crashed source=%s", name)
            put_newest(waiting, SourceError(f"{name}: internal error: {error}"), skipped)
        finally:
            put_newest(waiting, None, skipped)

    thread = threading.Thread(target=work, name=f"sensor-{name}"[:15], daemon=True)
    thread.start()
    try:
        yield from _taken(waiting)
    finally:
        ended.set()
        thread.join(_JOIN_S)


def _taken(waiting: "queue.Queue[Arrival | EdgeInferError | None]") -> Arrivals:
    while True:
        try:
            taken = waiting.get(timeout=IDLE_S)
        except queue.Empty:
            yield None
            continue
        if taken is None:
            return
        if isinstance(taken, EdgeInferError):
            raise taken
        yield taken


def put_newest(waiting: queue.Queue[T], item: T, skipped: Skipped) -> None:
    """Put `item` in; where there is no room, the oldest goes."""
    while True:
        try:
            waiting.put_nowait(item)
        except queue.Full:
            with contextlib.suppress(queue.Empty):
                waiting.get_nowait()
                skipped.note("the pipeline does not keep up")
        else:
            return
