"""When an engine that has crashed may be started again. Values only: the time comes in."""

from edgeinfer.runtime.backoff import Backoff

__all__ = ["Revival"]

# An engine that has worked so long since its last crash is started again without a wait.
_HEALTHY_S = 60.0


class Revival:
    """`reason` says why the engine is gone, until it is back."""

    def __init__(self) -> None:
        self.reason = ""
        self._crashed_at_s = float("-inf")
        self._not_before_s = float("-inf")
        self._backoff = Backoff()

    def crashed(self, reason: str, now_s: float) -> None:
        """The first crash costs no wait; further ones cost more and more, up to a minute."""
        if now_s - self._crashed_at_s > _HEALTHY_S:
            self._backoff.reset()
        else:
            self._not_before_s = now_s + self._backoff.next()
        self._crashed_at_s = now_s
        self.reason = reason

    def wait_s(self, now_s: float) -> float:
        """How long to wait from now on; 0 or less: not at all."""
        return self._not_before_s - now_s

    def came_back(self) -> str:
        """Why it had been gone; empty where it was not."""
        reason, self.reason = self.reason, ""
        return reason
