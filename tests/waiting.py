"""Waiting for a condition with a deadline, instead of sleeping for luck."""

import threading
from collections.abc import Callable

__all__ = ["wait_until"]

_POLL_S = 0.02


def wait_until(predicate: Callable[[], bool], *, timeout_s: float = 30.0, what: str = "the condition") -> None:
    """Return once `predicate()` is true. Fails the test after `timeout_s` seconds."""
    import time

    pause = threading.Event()
    deadline = time.monotonic() + timeout_s
    while not predicate():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s} s for {what}")
        pause.wait(_POLL_S)
