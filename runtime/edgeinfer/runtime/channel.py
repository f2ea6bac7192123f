"""From the capturing thread to the inference thread: everything in order, or only the latest.

One thread puts, one thread gets. Where neither has to wait, no lock is taken: a deque's `append` and `popleft` are
atomic, and each side first says that it waits and then looks once more, so that no wake-up is lost.
"""

import threading
from collections import deque

from edgeinfer.runtime.model import Prepared

__all__ = ["Channel"]

# Frames that wait keep the engines at work while the capturing thread has no core: as many as fit some memory.
_RECORDED_BYTES = 8 << 20
_LEAST_RECORDED, _MOST_RECORDED = 4, 32
_LIVE_DEPTH = 1


class Channel:
    """Holds prepared frames between two threads.

    Recorded sources: a bounded queue; `put` waits, nothing is skipped. How many may wait depends on their size. Live
    sources (`latest_wins`): where `depth` frames wait, the oldest is replaced and given back to be counted as
    superseded.
    """

    def __init__(self, *, latest_wins: bool, depth: int = 0) -> None:
        self._latest_wins = latest_wins
        self._depth = depth or (_LIVE_DEPTH if latest_wins else 0)
        self._frames: deque[Prepared] = deque()
        self._changed = threading.Condition()
        self._getter_waits = False
        self._putter_waits = False
        self._closed = False
        self._finished = False

    def put(self, prepared: Prepared) -> Prepared | None:
        """Returns the frame that lost its place: an older one, or this one where the channel is closed."""
        if self._latest_wins:
            return self._replace(prepared)
        if not self._depth:
            size = prepared.target.nbytes + prepared.frame.data.nbytes
            self._depth = min(max(_RECORDED_BYTES // max(size, 1), _LEAST_RECORDED), _MOST_RECORDED)
        if len(self._frames) >= self._depth and not self._wait_for_room():
            return prepared
        self._frames.append(prepared)
        if self._getter_waits:
            self._wake()
        # Closed in between: either `close` has found this frame, or it is still here.
        return self._take() if self._closed else None

    def get(self, timeout_s: float) -> Prepared | None:
        """The next frame; None after `timeout_s` or at the end."""
        # Of a live source under the lock: a frame may be just changing places.
        prepared = (None if self._latest_wins else self._take()) or self._wait_for_frame(timeout_s)
        # Waking a thread costs more than taking a frame: let the capturing one fill up in one go.
        if self._putter_waits and len(self._frames) <= self._depth // 2:
            self._wake()
        return prepared

    def finish(self) -> None:
        """No more frames will come: a waiting `get` need not wait for its time."""
        self._finished = True
        self._wake()

    def close(self) -> list[Prepared]:
        """Nothing more goes in; what is still here is handed back."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        rest = []
        while (prepared := self._take()) is not None:
            rest.append(prepared)
        return rest

    def __len__(self) -> int:
        return len(self._frames)

    def _replace(self, prepared: Prepared) -> Prepared | None:
        with self._changed:
            if self._closed:
                return prepared
            lost = self._take() if len(self._frames) >= self._depth else None
            self._frames.append(prepared)
            if lost is not None and lost.is_first:  # what is in front now is the first that the model sees
                self._frames[0] = self._frames[0]._replace(is_first=True)
            self._changed.notify_all()
        return lost

    def _take(self) -> Prepared | None:
        try:
            return self._frames.popleft()
        except IndexError:
            return None

    def _wait_for_frame(self, timeout_s: float) -> Prepared | None:
        with self._changed:
            self._getter_waits = True
            if not self._frames and not self._finished and not self._closed:
                self._changed.wait(timeout_s)
            self._getter_waits = False
            return self._take()

    def _wait_for_room(self) -> bool:
        """False where the channel was closed."""
        with self._changed:
            self._putter_waits = True
            while len(self._frames) >= self._depth and not self._closed:
                self._changed.wait()
            self._putter_waits = False
        return not self._closed

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
