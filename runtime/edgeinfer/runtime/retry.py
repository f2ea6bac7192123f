"""When something that failed may be tried again, by the clock."""

import time

from edgeinfer.runtime.backoff import Backoff

__all__ = ["Retry"]


class Retry:
    """Keeps a part of the tick from being tried again at once after it went wrong; so its log is kept short too."""

    def __init__(self) -> None:
        self._backoff = Backoff()
        self._not_before_s = 0.0

    def due(self) -> bool:
        return time.monotonic() >= self._not_before_s

    def failed(self) -> float:
        """Seconds until it is due again."""
        wait_s = self._backoff.next()
        self._not_before_s = time.monotonic() + wait_s
        return wait_s

    def reset(self) -> None:
        self._backoff.reset()
        self._not_before_s = 0.0
