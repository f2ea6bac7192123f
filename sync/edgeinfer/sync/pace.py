"""How much of a file is on its way at once, up or down. Values only.

What is asked for or sent waits in the broker and the modem before everything that comes after it: acknowledgements,
confirmations, events. So it begins small and alone, grows with quick answers and shrinks with slow ones.
"""

__all__ = ["Pace"]

_FIRST_PART_BYTES = 8 << 10
_LEAST_PART_BYTES = 2 << 10
# An answer within this, and more at once is no burden; one that takes longer than the other: less. Twice as much takes
# at most twice as long, and then is still not slow.
_QUICK_S = 1.5
_SLOW_S = 4.0


class Pace:
    """`part_bytes` at once, `window` times; more than one part only where it is as large as can be."""

    def __init__(self, *, most_bytes: int, window: int) -> None:
        self._most_bytes = most_bytes
        self._window = window
        self.part_bytes = min(most_bytes, _FIRST_PART_BYTES)

    @property
    def window(self) -> int:
        return self._window if self.part_bytes == self._most_bytes else 1

    def connected(self) -> None:
        """A new connection may be another line: no more at once than at first."""
        self.part_bytes = min(self.part_bytes, _FIRST_PART_BYTES)

    def answered(self, after_s: float) -> None:
        if after_s <= _QUICK_S:
            self.part_bytes = min(2 * self.part_bytes, self._most_bytes)
        elif after_s >= _SLOW_S:
            self.slower()

    def slower(self) -> None:
        """An answer came late, or none did."""
        self.part_bytes = max(self.part_bytes // 2, min(_LEAST_PART_BYTES, self._most_bytes))
