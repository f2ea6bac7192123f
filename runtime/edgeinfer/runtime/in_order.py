"""Has what several threads are done with recorded in the order in which they took it.

No thread waits for another: who finds that a frame before its own is missing leaves it to who brings that one. How far
the others may get ahead of the oldest missing one is bounded, so that what waits does not fill the memory.
"""

import itertools
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["InOrder"]

T = TypeVar("T")


class InOrder(Generic[T]):
    """`record` is called with one outcome after the other, by one thread at a time."""

    def __init__(self, record: Callable[[T], None], *, ahead: int) -> None:
        self._record = record
        self._ahead = ahead
        self._tickets = itertools.count()
        self._issued = 0
        self._next = 0
        self._waiting: dict[int, T] = {}
        self._recording = threading.Lock()
        self._progress = threading.Condition()
        self._someone_waits = False

    def ticket(self) -> int:
        """The next place in the order. To be called by one thread at a time."""
        number = next(self._tickets)
        self._issued = number + 1
        return number

    def wait_for_room(self, timeout_s: float) -> bool:
        """Whether another ticket may be taken, at the latest after `timeout_s`."""
        if self.has_room():
            return True
        with self._progress:
            self._someone_waits = True
            if not self.has_room():
                self._progress.wait(timeout_s)
            self._someone_waits = False
        return self.has_room()

    def has_room(self) -> bool:
        """Whether another ticket may be taken now."""
        return self._issued - self._next < self._ahead

    def deposit(self, ticket: int, outcome: T) -> None:
        """What came of a ticket; `drain` has it recorded, once its turn has come."""
        self._waiting[ticket] = outcome

    def drain(self) -> None:
        """Record what is next in the order, as far as it is there, unless another thread is at it."""
        # Looked at once more after the lock was given back: who came meanwhile did not get it.
        while self._next in self._waiting and self._recording.acquire(blocking=False):
            try:
                while (outcome := self._waiting.pop(self._next, None)) is not None:
                    try:
                        self._record(outcome)
                    finally:
                        self._next += 1
            finally:
                self._recording.release()
        if self._someone_waits:
            with self._progress:
                self._progress.notify_all()

    def rest(self) -> list[T]:
        """What has not been recorded: taken out, in its order."""
        return [outcome for ticket in sorted(self._waiting) if (outcome := self._waiting.pop(ticket, None)) is not None]
