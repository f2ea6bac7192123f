"""What may be sent now: the seam between what sends and what keeps the books of a metered line."""

import enum
from typing import Protocol

__all__ = ["UNLIMITED", "Allowance", "Priority"]


class Priority(enum.IntEnum):
    """Whose turn it is when there is not enough for all; the lowest goes first."""

    CONTROL = 0  # state, birth, reports, ends of jobs: small, and never held back
    EVENTS = 1
    RESULTS = 2
    UPDATES = 3  # ranges of packages that come down
    BLOBS = 4  # snapshots and examples
    TELEMETRY = 5  # a moment of the device, log lines: lost without harm


class Allowance(Protocol):
    """Asked before each message and told after it. Times are seconds of a monotonic clock."""

    def room(self, priority: Priority, now_s: float) -> int:
        """Bytes that may be sent now at this priority; 0: none, ask again later. Above 0 the next message may go
        whatever its size, else a large one would never go: the following ones wait the longer for it."""

    def spare(self, priority: Priority, now_s: float) -> int:
        """Bytes that may be sent now without making anybody wait for them: as many as may be put together."""

    def spent(self, priority: Priority, size: int, now_s: float) -> None:
        """`size` bytes went out (or, for UPDATES, came in)."""


class _Unlimited:
    def room(self, _priority: Priority, _now_s: float) -> int:
        return 1 << 62

    spare = room

    def spent(self, _priority: Priority, _size: int, _now_s: float) -> None:
        pass


UNLIMITED: Allowance = _Unlimited()
