"""Messages that reach ingest by another way than the broker: over HTTP, or from a file that somebody carried.

Whoever delivers waits until the ingest thread has committed what they brought, and gets its acknowledgements. What
waits is bounded: a delivery is taken apart into pieces, one piece of each deliverer waits at a time, and of
deliverers no more than a few.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from edgeinfer.runtime.errors import ConsoleError, EdgeInferError
from edgeinfer.sync.messages import Ack

__all__ = ["BusyError", "Deliveries", "Delivery", "Message"]

Message = tuple[str, bytes]

# One transaction's worth.
_PIECE_MESSAGES = 256
_PIECE_BYTES = 8 << 20
_AT_ONCE = 4


class BusyError(ConsoleError):
    """What was delivered could not be committed in time, or too many others deliver. Deliver it again: what has been
    stored is known."""

    recoverable = True


class Delivery:
    """One piece on its way through the ingest thread, which calls `finish` once."""

    def __init__(self, messages: list[Message]) -> None:
        self.messages = messages
        self.acks: dict[tuple[str, int], Ack] = {}
        self._done = threading.Event()
        self._error: EdgeInferError | None = None

    def answer(self, device: str, ack: Ack) -> None:
        self.acks[device, ack.epoch] = ack

    def finish(self, error: EdgeInferError | None = None) -> None:
        self._error = error
        self._done.set()

    def wait(self, timeout_s: float) -> bool:
        """Whether it was finished in time. Raises what it was finished with."""
        if not self._done.wait(timeout_s):
            return False
        if self._error is not None:
            raise self._error
        return True


class Deliveries:
    """Handed in by any thread, taken by the one of ingest; `wake` tells it that there is one."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._waiting: deque[Delivery] = deque()
        self._deliverers = threading.BoundedSemaphore(_AT_ONCE)
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self) -> Delivery | None:
        """The one that has waited longest."""
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    def close(self) -> None:
        """Nothing more is taken; those who wait are told so."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = list(self._waiting), deque()
        for delivery in waiting:
            delivery.finish(_stopped())

    def deliver(self, messages: Sequence[Message], timeout_s: float) -> dict[str, tuple[Ack, ...]]:
        """Hand in `messages` piece by piece, and wait until each has been committed. As `Ingest.deliver`."""
        deadline_s = time.monotonic() + timeout_s
        acks: dict[tuple[str, int], Ack] = {}
        if not self._deliverers.acquire(timeout=max(0.0, timeout_s)):
            raise BusyError(f"expected at most {_AT_ONCE} deliveries at once, this is one more", hint="try again")
        try:
            for piece in _pieces(messages):
                acks.update(self._deliver(Delivery(piece), deadline_s))
        finally:
            self._deliverers.release()
        found: dict[str, tuple[Ack, ...]] = {}
        for (device, _), ack in acks.items():
            found[device] = (*found.get(device, ()), ack)
        return found

    def _deliver(self, delivery: Delivery, deadline_s: float) -> dict[tuple[str, int], Ack]:
        self._hand_in(delivery)
        try:
            if not delivery.wait(max(0.0, deadline_s - time.monotonic())):
                raise BusyError("what was delivered has not been stored in time", hint="deliver it again")
        finally:
            self._withdraw(delivery)
        return delivery.acks

    def _hand_in(self, delivery: Delivery) -> None:
        with self._lock:
            if self._closed:
                raise _stopped()
            self._waiting.append(delivery)
        self._wake()

    def _withdraw(self, delivery: Delivery) -> None:
        with self._lock:
            if delivery in self._waiting:
                self._waiting.remove(delivery)


def _pieces(messages: Sequence[Message]) -> Iterator[list[Message]]:
    piece: list[Message] = []
    size = 0
    for message in messages:
        if piece and (len(piece) >= _PIECE_MESSAGES or size + len(message[1]) > _PIECE_BYTES):
            yield piece
            piece, size = [], 0
        piece.append(message)
        size += len(message[1])
    if piece:
        yield piece


def _stopped() -> ConsoleError:
    return ConsoleError("the console has been stopped", hint="deliver it again when it runs")
