"""How rows of sensors come in: as an iterator, in its own thread or in that of the pipeline.

for arrival in rows:         # raises SourceError; its end is the end of the source
    if arrival is None: ...  # nothing for a moment: look whether to stop
"""

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence

from edgeinfer.runtime.series import Arrival

__all__ = ["IDLE_S", "Arrivals", "Skipped", "now_arrived", "sampled", "wait_until_due"]

logger = logging.getLogger(__name__)

Arrivals = Generator[Arrival | None, None, None]

# Nothing waits longer than this without a look at whether it has to stop.
IDLE_S = 0.1


def now_arrived(values: Sequence[float]) -> Arrival:
    """A live row: it lies where the monotonic clock is."""
    mono_ns = time.monotonic_ns()
    return Arrival(mono_ns, time.time_ns(), mono_ns, values)


def sampled(sample: Callable[[], Sequence[float]], interval_s: float, stop: threading.Event) -> Arrivals:
    """What `sample` gives, now and then every `interval_s`. A sample that took too long delays the next ones; none is
    made up for."""
    due_s = time.monotonic()
    while not stop.is_set():
        for _ in wait_until_due(due_s, stop):
            yield None
        if stop.is_set():
            return
        yield now_arrived(sample())
        due_s = max(due_s, time.monotonic() - interval_s) + interval_s


def wait_until_due(due_s: float, stop: threading.Event) -> Iterator[None]:
    """Wait in steps, each of which is a chance to look at something else."""
    while (left_s := due_s - time.monotonic()) > 0 and not stop.wait(min(left_s, IDLE_S)):
        yield None


class Skipped:
    """Counts what of a source could not be used, and says so at the 1st, 10th, 100th, ... time."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.count = 0

    def note(self, reason: object) -> None:
        self.count += 1
        if str(self.count).rstrip("0") == "1":
            logger.warning("event=row_skipped origin=%s count=%d reason=%s", self.origin, self.count, reason)
