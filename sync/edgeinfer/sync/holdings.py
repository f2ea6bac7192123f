"""What the console has beyond the number up to which it has everything, as its acknowledgements tell. Values only."""

from bisect import bisect_right

from edgeinfer.sync.messages import Ack

__all__ = ["Holdings"]

# A console names a hundred gaps; beyond this many ranges nothing is remembered.
_MAX_RANGES = 1024
_MOST = 1 << 63

Range = tuple[int, int]


class Holdings:
    """Disjoint, sorted ranges that are stored beyond `seq`, told up to `known`: what lies in none of them and is not
    above `known` is missing."""

    def __init__(self, seq: int = 0) -> None:
        self.seq = seq
        self.known = seq
        self.ranges: list[Range] = []

    @classmethod
    def told(cls, ack: Ack, *, seq: int, most: int, before: "Holdings") -> "Holdings":
        """What `ack` tells, which is believed up to `seq` where it claims more, and of no number above `most`; with
        what was known `before` of those that it says nothing of. The newer word counts: what `ack` calls missing is."""
        found = cls(seq)
        at = max(seq, ack.seq) + 1
        for low, high in ack.gaps[:_MAX_RANGES]:
            if high < max(low, at):
                continue  # nobody's gap
            if low > at:
                found._add(at, min(low - 1, most))
            at = max(at, high + 1)
            found.known = min(max(found.known, high), most)
        if ack.highest and ack.complete and len(ack.gaps) <= _MAX_RANGES:
            found._add(at, min(ack.highest, most))
            found.known = max(found.known, min(ack.highest, most))
            return found
        if ack.gaps and ack.gaps[:_MAX_RANGES][-1][1] == at - 1:
            found._add(at, min(at, most))  # or the last gap would be longer
            at += 1
        elif ack.seq == at - 1:
            at += 1  # or it would be acknowledged; an older word than `seq` says nothing of what follows that
        found._keep(before, at)
        return found

    def has(self, seq: int) -> bool:
        return self.covers(seq, seq)

    def lacks(self, seq: int) -> bool:
        """Whether `seq` is known to be missing."""
        return self.seq < seq <= self.known and not self.has(seq)

    def covers(self, first: int, last: int) -> bool:
        """Whether all of `first` to `last` is known to be stored."""
        return last <= self.seq or last <= self.end_at(max(first, self.seq + 1))

    def end_at(self, seq: int) -> int:
        """The last number of the range that `seq` lies in; 0 for none."""
        index = bisect_right(self.ranges, (seq, _MOST)) - 1
        return self.ranges[index][1] if index >= 0 and seq <= self.ranges[index][1] else 0

    def missing_since(self, newer: "Holdings", *, below: int) -> int:
        """The lowest number up to `below` that was stored by this word, and by a `newer` one is missing; 0 for none."""
        return next((start for start, _ in self.ranges if start <= below and newer.lacks(start)), 0)

    def _add(self, first: int, last: int) -> None:
        if first <= last and len(self.ranges) < _MAX_RANGES:
            self.ranges.append((first, last))

    def _keep(self, before: "Holdings", at: int) -> None:
        for first, last in before.ranges:
            self._add(max(first, at), last)
