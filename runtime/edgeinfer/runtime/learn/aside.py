"""Work beside the pipeline: one job at a time in a thread of its own, and who has it done never waits.

aside = Aside[int]("shadow-m")
aside.offer(lambda: 6 * 7)        # True; False while another job is under way
aside.take()                      # None, and once it is done 42
"""

import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Aside"]

T = TypeVar("T")


class Aside(Generic[T]):
    """`offer`, `take` and `busy_s` are for one thread, `close` for any. The thread begins with the first job. A job
    may not raise. `idle` is set while none is under way."""

    def __init__(self, name: str) -> None:
        self.idle = threading.Event()
        self.idle.set()
        self._name = name
        self._jobs: queue.SimpleQueue[Callable[[], T] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._began_s = 0.0
        self._done: T | None = None

    def offer(self, job: Callable[[], T]) -> bool:
        """Have it done, if nothing else is. Raises RuntimeError where no thread can be started."""
        if not self.idle.is_set():
            return False
        if self._thread is None:
            # A daemon: a job that hangs for ever must not keep the process.
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            thread.start()
            self._thread = thread
        self._began_s = time.monotonic()
        self.idle.clear()
        self._jobs.put(job)
        return True

    def take(self) -> T | None:
        """What the last job gave, once."""
        if not self.idle.is_set():
            return None
        done, self._done = self._done, None
        return done

    def busy_s(self) -> float:
        """How long the job has taken that is under way; 0 where there is none."""
        return 0.0 if self.idle.is_set() else time.monotonic() - self._began_s

    def close(self) -> None:
        """The thread ends after the job that it is at. May be called twice."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._done = job()
            del job  # and the frame with it, until the next comes
            self.idle.set()
