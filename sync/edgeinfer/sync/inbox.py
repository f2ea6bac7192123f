"""A bounded queue between the network thread and whoever reads messages."""

import threading
from collections import deque
from collections.abc import Callable

__all__ = ["Inbox"]


class Inbox:
    """Messages that were received and not read yet. It never refuses one: its writer looks at `full` and stops
    reading from the network, so at most what one read brings lies above the limits. `on_room` is called, by the
    reader's thread and without a lock held, once it is no longer full."""

    def __init__(self, *, max_messages: int, max_bytes: int, on_room: Callable[[], None] = lambda: None) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._on_room = on_room
        self._bytes = 0
        self._messages: deque[tuple[str, bytes]] = deque()
        self._changed = threading.Condition()

    @property
    def full(self) -> bool:
        return len(self._messages) >= self._max_messages or self._bytes >= self._max_bytes

    def put(self, topic: str, payload: bytes) -> None:
        with self._changed:
            self._messages.append((topic, payload))
            self._bytes += len(payload)
            self._changed.notify()

    def get(self, timeout_s: float) -> tuple[str, bytes] | None:
        """The oldest message; waits up to `timeout_s` for one."""
        with self._changed:
            if not self._messages and timeout_s > 0:
                self._changed.wait(timeout_s)
            if not self._messages:
                return None
            was_full = self.full
            message = self._messages.popleft()
            self._bytes -= len(message[1])
            has_room_now = was_full and not self.full
        if has_room_now:
            self._on_room()
        return message

    def wake(self) -> None:
        """Make every waiter return at once."""
        with self._changed:
            self._changed.notify_all()
