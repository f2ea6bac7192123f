"""Turns: one holder at a time, and one that never gives its turn back can be left behind."""

import threading

__all__ = ["Turns"]

# How often one that waits looks whether the turns have been renewed.
_LOOK_S = 0.25


class Turns:
    """A lock whose holder can be given up. Each who takes a turn gets a token, and gives that token back."""

    def __init__(self) -> None:
        self._current = threading.Lock()

    def take(self) -> threading.Lock:
        """Wait for the turn; the token."""
        return self.try_take() or self._wait()

    def try_take(self) -> "threading.Lock | None":
        """The token, or None where another holds the turn."""
        token = self._current
        if not token.acquire(blocking=False):
            return None
        if token is self._current:
            return token
        token.release()
        return None

    def is_current(self, token: threading.Lock) -> bool:
        """Whether the holder of `token` has not been left behind."""
        return token is self._current

    def leave_behind(self) -> None:
        """Whoever holds the turn keeps it for ever; everybody else goes on with new ones."""
        self._current = threading.Lock()

    def _wait(self) -> threading.Lock:
        while True:
            token = self._current
            if not token.acquire(timeout=_LOOK_S):
                continue
            if token is self._current:
                return token
            token.release()
