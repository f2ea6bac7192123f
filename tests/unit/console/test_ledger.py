"""The ledger against a set of numbers: slow, and obviously right."""

from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.console.ledger import Ledger

NUMBERS = st.integers(1, 60)
STEPS = st.lists(st.tuples(st.sampled_from(["store", "evict", "floor"]), NUMBERS, st.integers(1, 12)), max_size=40)


def _expand(ranges: tuple[tuple[int, int], ...]) -> set[int]:
    return {number for first, last in ranges for number in range(first, last + 1)}


@given(STEPS)
def test_it_settles_what_a_set_would(steps: list[tuple[str, int, int]]) -> None:
    ledger, settled = Ledger(), set[int]()
    counts = {"store": 0, "evict": 0, "floor": 0, "duplicates": 0}
    for step, first, n in steps:
        wanted = set(range(1, first)) if step == "floor" else set(range(first, first + n))
        call = {"store": ledger.store, "evict": ledger.evict}.get(step)
        new = ledger.raise_floor(first) if call is None else call(first, n)
        assert _expand(new) == wanted - settled
        counts[step] += len(wanted - settled)
        counts["duplicates"] += 0 if step == "floor" else len(wanted & settled)
        settled |= wanted
        _check_shape(ledger, settled)
    found = {"store": ledger.stored, "evict": ledger.evicted, "floor": ledger.missing, "duplicates": ledger.duplicates}
    assert found == counts


def _check_shape(ledger: Ledger, settled: set[int]) -> None:
    contiguous = next(n for n in range(100) if n + 1 not in settled)
    assert ledger.contiguous == contiguous
    assert _expand(ledger.ranges) == {n for n in settled if n > contiguous}
    assert ledger.highest == max(settled, default=0)
    ends = [contiguous, *(end for pair in ledger.ranges for end in pair)]
    assert all(low < high for low, high in zip(ends[::2], ends[1::2], strict=False))
    assert all(right[0] > left[1] + 1 for left, right in zip(ledger.ranges, ledger.ranges[1:], strict=False))
    assert [number for number in range(102) if ledger.is_settled(number)] == sorted(settled)
    assert _expand(ledger.unsettled(1, 100)) == set(range(1, 101)) - settled
    gaps = _expand(ledger.gaps(1000))
    assert gaps == set(range(contiguous + 1, ledger.highest)) - settled
    assert ledger.gap_results == len(gaps)
    assert settled.isdisjoint(gaps)


def test_gaps_are_limited() -> None:
    ledger = Ledger()
    for first in range(10, 100, 10):
        ledger.store(first, 1)
    assert ledger.gaps(2) == ((1, 9), (11, 19))


def test_it_is_made_again_from_its_parts() -> None:
    ledger = Ledger(contiguous=5, ranges=[(8, 9)], stored=7)
    assert ledger.store(6, 2) == ((6, 7),)
    assert (ledger.contiguous, ledger.ranges, ledger.stored) == (9, (), 9)


def test_numbers_are_not_walked_one_by_one() -> None:
    ledger = Ledger()
    assert ledger.evict(1, 1 << 32) == ((1, 1 << 32),)
    assert ledger.raise_floor(1 << 60) == (((1 << 32) + 1, (1 << 60) - 1),)
