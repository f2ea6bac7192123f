"""Waits between tries: random, growing, capped. Fleets that wake together must not knock together."""

import random

__all__ = ["Backoff"]


class Backoff:
    """`next()` gives seconds: uniform in the upper half of a span that doubles up to `cap_s`."""

    def __init__(self, *, first_s: float = 0.5, cap_s: float = 60.0) -> None:
        self._first_s = first_s
        self._cap_s = cap_s
        self._span_s = first_s

    def next(self) -> float:
        span_s = self._span_s
        self._span_s = min(2 * span_s, self._cap_s)
        return span_s * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """After a success."""
        self._span_s = self._first_s
