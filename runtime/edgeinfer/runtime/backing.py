"""What stands behind a pipeline and its source: the buffer, as far as they need to know it."""

import threading
from typing import Protocol

__all__ = ["Backing"]


class Backing(Protocol):
    """The part of `Buffer` that may hold a source back, or lets it give up what it has read."""

    @property
    def durable_since_s(self) -> float:
        """Everything that was appended before this moment of the monotonic clock survives a power cut."""
        ...

    def wait_for_room(self, stop: threading.Event) -> None:
        """Return once few results are in memory, or `stop` is set."""
        ...

    def flush(self, timeout_s: float) -> bool:
        """Make everything durable that was appended so far; False where that took longer."""
        ...
