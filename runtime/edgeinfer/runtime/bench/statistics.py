"""From the times of calls to figures: histograms of bounded size, and ratios with their interval."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

__all__ = ["Block", "Ratio", "Summary", "bucket", "drift", "merged", "percentile_ns", "ratio", "summary"]

# A bucket is at most 1/512 of its values wide, so its middle is within 0.1 % of each of them.
_PRECISION_BITS = 10
_Z_95 = 1.96


class Block(NamedTuple):
    """Calls of one variant without a pause. `round` counts the turns that all variants took together; `at_s` is when
    it ended, from the start of the measurement. `energy_uj` None: nothing tells it."""

    round: int
    at_s: float
    calls: int
    total_ns: int
    median_ns: float
    cpu_ns: int
    energy_uj: float | None = None


class Ratio(NamedTuple):
    """A ratio of medians with the interval that holds the true one 95 times in 100; both 0.0: there is none."""

    value: float = 0.0
    low: float = 0.0
    high: float = 0.0


class Summary(NamedTuple):
    """Calls, and time, CPU time and energy a call."""

    calls: int = 0
    mean_ns: float = 0.0
    cpu_ns: float = 0.0
    energy_uj: float | None = None


def bucket(ns: int) -> int:
    """The middle of the bucket that counts a call of `ns` nanoseconds: up to 1023 ns each has its own, beyond they
    grow with the value."""
    shift = max(0, ns.bit_length() - _PRECISION_BITS)
    return ((ns >> shift) << shift) + ((1 << shift) >> 1)


def merged(into: dict[int, int], counts: Mapping[int, int]) -> None:
    """Add a block's counts to those of a whole run."""
    for value, count in counts.items():
        into[value] = into.get(value, 0) + count


def percentile_ns(counts: Mapping[int, int], share: float) -> int:
    """The nearest-rank percentile of a histogram; 0 for an empty one."""
    rank, seen = max(1, math.ceil(share * sum(counts.values()))), 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= rank:
            return value
    return 0


def ratio(ours: Sequence[Block], theirs: Sequence[Block]) -> Ratio:
    """The median ratio of our blocks to theirs of the same round. The interval is that of a median by order statistics
    (the binomial distribution of how many lie below it): it assumes no distribution and forgives outliers. Of fewer
    than six rounds it is their whole range, which holds it less often than 95 times in 100."""
    of_round = {block.round: block.median_ns for block in theirs}
    found = sorted(block.median_ns / of_round[block.round] for block in ours if of_round.get(block.round, 0.0) > 0.0)
    if not found:
        return Ratio()
    rank = _low_rank(len(found))
    return Ratio(statistics.median(found), found[rank], found[-1 - rank])


def _low_rank(n: int) -> int:
    """The place of the lower bound among `n` ascending values, the upper one as far from the other end. By the normal
    approximation to the binomial (within one rank of the exact one), widened to whole ranks."""
    return max(0, math.floor(n / 2 - _Z_95 * math.sqrt(n) / 2))


def drift(blocks: Sequence[Block], window_s: float) -> tuple[float, float]:
    """The medians in nanoseconds of the blocks of the first and of the last `window_s`; 0.0 where there is no block."""
    if not blocks:
        return 0.0, 0.0
    begin_s, end_s = blocks[0].at_s, blocks[-1].at_s
    first = [block.median_ns for block in blocks if block.at_s <= begin_s + window_s]
    last = [block.median_ns for block in blocks if block.at_s >= end_s - window_s]
    return statistics.median(first), statistics.median(last)


def summary(blocks: Iterable[Block]) -> Summary:
    calls = total_ns = cpu_ns = known = 0
    energy_uj = 0.0
    for block in blocks:
        calls, total_ns, cpu_ns = calls + block.calls, total_ns + block.total_ns, cpu_ns + block.cpu_ns
        if block.energy_uj is not None:
            energy_uj, known = energy_uj + block.energy_uj, known + block.calls
    if not calls:
        return Summary()
    return Summary(calls, total_ns / calls, cpu_ns / calls, energy_uj / known if known else None)
