"""Waiting for a condition with a deadline, instead of sleeping for luck."""

import threading
from collections.abc import Callable

__all__ = ["ENDS_WITHIN_S", "wait_until"]

# A service ends within two seconds of a signal. On a machine under load, with a disk that takes tenths of a second for
# each sync, it takes longer; what does not end in this time hangs.
ENDS_WITHIN_S = 30.0

_POLL_S = 0.02


def wait_until(predicate: Callable[[], bool], *, timeout_s: float = 120.0, what: str = "the condition") -> None:
    """Return once `predicate()` is true. Fails the test after `timeout_s` seconds."""
    import time

    pause = threading.Event()
    deadline = time.monotonic() + timeout_s
    while not predicate():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s} s for {what}")
        pause.wait(_POLL_S)
