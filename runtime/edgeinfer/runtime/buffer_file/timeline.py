"""Which numbers belong to a time range, by the marks of a buffer. Values only.

Between two marks numbers were given from the moment of the first one on, for as long as the buffer's own clock says
that passed; so time in which the device was off, or by which its time of day jumped, belongs to no interval. A range
of time becomes the numbers of every interval that it touches: rounded outwards to marks, and exact by numbers.
"""

from collections.abc import Iterable, Sequence

import msgspec

__all__ = [
    "FOREVER_NS",
    "JUMP_NS",
    "Interval",
    "Mark",
    "Ranges",
    "TimeRange",
    "intervals",
    "numbers_between",
    "overlap",
    "size",
]

# A step of the time of day by more than this is a jump; what a clock that is slewed does in ten minutes is far below.
JUMP_NS = 30_000_000_000
# Beyond every clock.
FOREVER_NS = 1 << 63

# Inclusive runs of numbers, in order.
Ranges = tuple[tuple[int, int], ...]


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """At this moment every number from `first_seq` on was still to be given. `t_ns` is the time of day (UTC, since
    1970), `clock_ns` the buffer's own (see `marks`)."""

    first_seq: int
    t_ns: int
    clock_ns: int


class Interval(msgspec.Struct, frozen=True):
    """The numbers from `first_seq` to `last_seq` were given from `since_ns` to `until_ns`, UTC in ns since 1970."""

    first_seq: int
    last_seq: int
    since_ns: int
    until_ns: int


class TimeRange(msgspec.Struct, frozen=True):
    """The numbers that were given between two moments, which are those that were asked for, rounded outwards."""

    since_ns: int
    until_ns: int
    numbers: Ranges


def intervals(marks: Sequence[Mark], *, durable_seq: int, clock_ns: int) -> list[Interval]:
    """Every number from 1 to `durable_seq`, by the marks in order. `clock_ns` is when the last of them was given.
    What came before the first mark may be of any time before it."""
    if not marks:
        return [Interval(1, durable_seq, 0, FOREVER_NS)]
    found = [Interval(1, marks[0].first_seq - 1, 0, marks[0].t_ns)]
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        last_seq = durable_seq if following is None else following.first_seq - 1
        until_ns = mark.t_ns + (clock_ns if following is None else following.clock_ns) - mark.clock_ns
        if following is not None and abs(following.t_ns - until_ns) <= JUMP_NS:
            until_ns = max(until_ns, following.t_ns)  # a clock that was slewed
        found.append(Interval(mark.first_seq, last_seq, mark.t_ns, until_ns))
    return [interval for interval in found if interval.first_seq <= interval.last_seq]


def numbers_between(found: Iterable[Interval], since_ns: int, until_ns: int) -> TimeRange:
    """The numbers of the intervals that the range touches."""
    touched = [interval for interval in found if interval.since_ns <= until_ns and interval.until_ns >= since_ns]
    if not touched:
        return TimeRange(since_ns, until_ns, ())
    return TimeRange(
        min(since_ns, *(interval.since_ns for interval in touched)),
        max(until_ns, *(interval.until_ns for interval in touched)),
        _joined((interval.first_seq, interval.last_seq) for interval in touched),
    )


def overlap(one: Ranges, other: Iterable[tuple[int, int]]) -> Ranges:
    """The numbers that are in both; each is in order and has no doubles."""
    found = []
    rest = list(one)
    for first, last in other:
        while rest and rest[0][1] < first:
            rest.pop(0)
        for start, end in rest:
            if start > last:
                break
            found.append((max(first, start), min(last, end)))
    return tuple(found)


def size(ranges: Iterable[tuple[int, int]]) -> int:
    """How many numbers."""
    return sum(last - first + 1 for first, last in ranges)


def _joined(ranges: Iterable[tuple[int, int]]) -> Ranges:
    joined: list[tuple[int, int]] = []
    for first, last in ranges:
        if joined and joined[-1][1] + 1 >= first:
            joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    return tuple(joined)
