"""How many chunks may be on their way at once. Values only.

The window grows by a chunk for each that is acknowledged, as long as acknowledgements come about as fast as the fastest
did; it shrinks when they come much later, for then chunks wait in a queue somewhere: in this device's modem, in the
broker, before a slow disk. After a shrink it grows by one a window. So a link of 1 kB/s has a chunk or two on its way,
and not what it takes half a minute to carry, behind which a ping would be late and the connection seem dead.

Where a message may hold several chunks, the window grows beyond the messages that may be in flight, and each message
takes a share of it: a slow start as before, with bundles only where single chunks do not fill the line.
"""

__all__ = ["Window"]

_FIRST = 4
# More than the best round trip by this: still no queue worth shrinking for, and too much of one to grow.
_QUEUE_S = 1.0
_LONG_QUEUE_S = 3.0
# The same beyond the messages that may be in flight: an event waits behind what is queued.
_WIDE_QUEUE_S = 0.25
_LONG_WIDE_QUEUE_S = 0.5


class Window:
    """`size` is in chunks, from 1 to `limit` messages of as many as `widen` said. Times are seconds of a monotonic
    clock."""

    def __init__(self) -> None:
        self.opened(limit=1)

    def opened(self, *, limit: int) -> None:
        """A new connection: nothing is known of it, and a message holds one chunk."""
        self._messages = self._limit = max(1, limit)
        self._size = float(min(_FIRST, self._limit))
        self._threshold = float(self._limit)
        self._best_s = float("inf")
        self._shrunk_s = float("-inf")

    def widen(self, chunks: int) -> None:
        """A message may hold so many chunks from now on."""
        before, self._limit = self._limit, self._messages * chunks
        if self._threshold >= before:
            self._threshold = float(self._limit)
        self._size = min(self._size, float(self._limit))

    @property
    def size(self) -> int:
        return int(self._size)

    @property
    def bundle(self) -> int:
        """How many chunks go in one message, so that all of the window does in as many as may be in flight."""
        return -(-self.size // self._messages)

    def acknowledged(self, chunks: int, *, sent_s: float, now_s: float) -> None:
        """`chunks` more have been acknowledged, the newest of them sent at `sent_s`."""
        took_s = now_s - sent_s
        self._best_s = min(self._best_s, took_s)
        is_wide = self._size > self._messages
        if took_s > self._best_s + (_LONG_WIDE_QUEUE_S if is_wide else _LONG_QUEUE_S) and sent_s > self._shrunk_s:
            self._shrink(now_s, least=self._messages if is_wide else 1)
        elif took_s <= self._best_s + (_WIDE_QUEUE_S if self._size >= self._messages else _QUEUE_S):
            step = chunks if self._size < self._threshold else chunks / self._size
            self._size = min(float(self._limit), self._size + step)

    def shrink(self, now_s: float) -> None:
        """It was too much: to the half, and slowly from there. What was sent before does not count against it."""
        self._shrink(now_s, least=1)

    def _shrink(self, now_s: float, *, least: int) -> None:
        self._size = max(float(least), self._size / 2)
        self._threshold = self._size
        self._shrunk_s = now_s
