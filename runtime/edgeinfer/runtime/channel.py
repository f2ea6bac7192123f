"""From the capturing thread to the inference thread: everything in order, or only the latest."""

import threading
from collections import deque

from edgeinfer.runtime.model import Prepared

__all__ = ["Channel"]


class Channel:
    """Holds prepared frames between two threads.

    Recorded sources: a bounded queue; `put` waits, nothing is skipped. Live sources (`latest_wins`): one
    place; a frame that was not taken is replaced and given back to be counted as superseded.
    """

    def __init__(self, *, latest_wins: bool, depth: int = 4) -> None:
        self._latest_wins = latest_wins
        self._depth = 1 if latest_wins else depth
        self._frames: deque[Prepared] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._finished = False

    def put(self, prepared: Prepared) -> Prepared | None:
        """Returns the frame that lost its place: the older one, or this one where the channel is closed."""
        with self._changed:
            if self._latest_wins and self._frames and not self._closed:
                replaced = self._frames.popleft()
                self._frames.append(prepared)
                return replaced
            while len(self._frames) >= self._depth and not self._closed:
                self._changed.wait()
            if self._closed:
                return prepared
            self._frames.append(prepared)
            self._changed.notify()
        return None

    def get(self, timeout_s: float) -> Prepared | None:
        """The next frame; None after `timeout_s` or at the end."""
        with self._changed:
            if not self._frames and not self._finished:
                self._changed.wait(timeout_s)
            if not self._frames:
                return None
            prepared = self._frames.popleft()
            # Waking a thread costs more than taking a frame: let the capturing one fill up in one go.
            if len(self._frames) <= self._depth // 2:
                self._changed.notify()
            return prepared

    def finish(self) -> None:
        """No more frames will come: a waiting `get` need not wait for its time."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def close(self) -> list[Prepared]:
        """Nothing more goes in; what is still here is handed back."""
        with self._changed:
            self._closed = True
            rest = list(self._frames)
            self._frames.clear()
            self._changed.notify_all()
        return rest

    def __len__(self) -> int:
        return len(self._frames)
