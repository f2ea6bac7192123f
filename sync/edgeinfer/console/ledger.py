"""The bookkeeping of one device and epoch: which sequence numbers are accounted for. Values only, no I/O.

Sequence numbers start at 1. Each is in exactly one state: stored, evicted (the device said so), missing (the
device can never send it), undecodable (it came whole, but nobody here can read it), or not seen yet. Everything
but the last is *settled*; `contiguous` is the highest number up to which all are settled, and what the console
acknowledges.

`conflicts` counts chunks that were refused because they belie what is stored; they settle nothing. `made` is the
highest number that the device has ever said it made, and settles nothing either.

    ledger = Ledger()
    new = ledger.settle(1, 100)             # ((1, 100),): the numbers not settled before
    new = ledger.settle(51, 100)            # ((101, 150),), and 50 duplicates counted
"""

from bisect import bisect_left
from collections.abc import Iterable

__all__ = ["Ledger", "Range"]

Range = tuple[int, int]
"""First and last, both included."""


class Ledger:
    """Settled numbers as `contiguous` and the disjoint, sorted, never touching ranges beyond it."""

    def __init__(
        self,
        *,
        contiguous: int = 0,
        ranges: Iterable[Range] = (),
        stored: int = 0,
        duplicates: int = 0,
        evicted: int = 0,
        missing: int = 0,
        undecodable: int = 0,
        conflicts: int = 0,
        made: int = 0,
    ) -> None:
        self.contiguous = contiguous
        self._ranges: list[Range] = sorted(ranges)
        self.stored = stored
        self.duplicates = duplicates
        self.evicted = evicted
        self.missing = missing
        self.undecodable = undecodable
        self.conflicts = conflicts
        self.made = made

    @property
    def ranges(self) -> tuple[Range, ...]:
        return tuple(self._ranges)

    @property
    def highest(self) -> int:
        """The highest settled number; 0 for none."""
        return self._ranges[-1][1] if self._ranges else self.contiguous

    def store(self, first: int, n: int) -> tuple[Range, ...]:
        """`n` results from `first` on have come. Returns the ranges that are new; the rest are duplicates."""
        new = self._settle(first, first + n - 1)
        fresh = _size(new)
        self.stored += fresh
        self.duplicates += n - fresh
        return new

    def evict(self, first: int, n: int) -> tuple[Range, ...]:
        """The device evicted `n` results from `first` on. Returns what was not settled before."""
        new = self._settle(first, first + n - 1)
        fresh = _size(new)
        self.evicted += fresh
        self.duplicates += n - fresh
        return new

    def give_up(self, first: int, n: int) -> tuple[Range, ...]:
        """`n` results from `first` on came in a form that cannot be read. Returns what was not settled before."""
        new = self._settle(first, first + n - 1)
        fresh = _size(new)
        self.undecodable += fresh
        self.duplicates += n - fresh
        return new

    def recover(self, cause: str, n: int) -> None:
        """`n` of the results that `store` has just counted as duplicates were not stored: they were settled as `cause`
        (evicted, missing, undecodable), and have come after all."""
        setattr(self, cause, getattr(self, cause) - n)
        self.stored += n
        self.duplicates -= n

    def raise_floor(self, lowest: int) -> tuple[Range, ...]:
        """The device holds nothing below `lowest`: what is unsettled there never comes. Returns those ranges."""
        if lowest <= self.contiguous + 1:
            return ()
        new = self._settle(1, lowest - 1)
        self.missing += _size(new)
        return new

    def is_settled(self, number: int) -> bool:
        if number <= self.contiguous:
            return number > 0
        place = bisect_left(self._ranges, number, key=lambda pair: pair[1])
        return place < len(self._ranges) and self._ranges[place][0] <= number

    def unsettled(self, first: int, last: int) -> tuple[Range, ...]:
        """The parts of first..last that are not settled."""
        found: list[Range] = []
        at = max(first, self.contiguous + 1)
        for start, end in self._ranges[self._first_touching(at) :]:
            if at > last or start > last:
                break
            if start > at:
                found.append((at, start - 1))
            at = max(at, end + 1)
        if at <= last:
            found.append((at, last))
        return tuple(found)

    def gaps(self, limit: int) -> tuple[Range, ...]:
        """The first `limit` unsettled ranges below the highest settled number."""
        found: list[Range] = []
        after = self.contiguous
        for first, last in self._ranges[:limit]:
            found.append((after + 1, first - 1))
            after = last
        return tuple(found)

    @property
    def absent(self) -> int:
        """How many numbers are settled without a result."""
        return self.evicted + self.missing + self.undecodable

    @property
    def gap_results(self) -> int:
        """How many numbers lie in gaps."""
        return self.highest - self.contiguous - _size(self._ranges)

    def _settle(self, first: int, last: int) -> tuple[Range, ...]:
        new = self.unsettled(first, last)
        if new:
            self._merge(first, last)
        return new

    def _merge(self, first: int, last: int) -> None:
        low = self._first_touching(first)
        high = low
        while high < len(self._ranges) and self._ranges[high][0] <= last + 1:
            first, last = min(first, self._ranges[high][0]), max(last, self._ranges[high][1])
            high += 1
        if first <= self.contiguous + 1:
            self.contiguous = max(self.contiguous, last)
            del self._ranges[:high]
        else:
            self._ranges[low:high] = [(first, last)]

    def _first_touching(self, first: int) -> int:
        """Index of the first range that ends at or after `first - 1`."""
        return bisect_left(self._ranges, first - 1, key=lambda pair: pair[1])


def _size(ranges: Iterable[Range]) -> int:
    return sum(last - first + 1 for first, last in ranges)
