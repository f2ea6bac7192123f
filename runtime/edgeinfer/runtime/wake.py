"""What wakes the one thread that waits for it.

    wake = Wake()
    wake.set()          # from any thread, as often as it likes
    wake.wait(1.0)      # returns at once, and the next one waits again

A `threading.Event` makes a lock for each wait and takes another one before and after it. Here is one lock for all, held
while there is nothing to do: fewer steps between a result that is handed over and its commit.
"""

import threading
from contextlib import suppress

__all__ = ["Wake"]


class Wake:
    """Set or not, at first not."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """The thread that waits, or the next one to wait, goes on."""
        if self._lock.locked():
            with suppress(RuntimeError):  # another thread was faster
                self._lock.release()

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is set, and take that back; False if it was not set in time."""
        return self._lock.acquire(timeout=timeout_s)
