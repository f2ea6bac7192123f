"""What an acknowledgement says of what lies beyond its number."""

from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.console.ledger import Ledger
from edgeinfer.sync.holdings import Holdings
from edgeinfer.sync.messages import Ack

MOST = 1000


def told(ack: Ack, *, before: Holdings | None = None, most: int = MOST, seq: int | None = None) -> Holdings:
    return Holdings.told(ack, seq=ack.seq if seq is None else seq, most=most, before=before or Holdings())


def test_between_the_gaps_all_is_stored() -> None:
    found = told(Ack(7, 10, ((11, 20), (31, 40)), highest=50))
    assert found.ranges == [(21, 30), (41, 50)]
    assert found.covers(1, 10)
    assert found.covers(21, 30)
    assert found.covers(5, 10)
    assert not found.covers(10, 11)
    assert not found.covers(29, 31)
    assert not found.covers(51, 51)
    assert [seq for seq in range(1, 60) if found.lacks(seq)] == [*range(11, 21), *range(31, 41)]


def test_with_more_gaps_than_are_named_nothing_is_known_beyond_them() -> None:
    found = told(Ack(7, 10, ((11, 20),), highest=50, complete=False))
    assert found.ranges == [(21, 21)]
    assert not found.lacks(22)
    assert not found.has(22)


def test_what_was_known_beyond_is_kept_where_nothing_newer_is_said() -> None:
    before = told(Ack(7, 10, ((11, 20), (31, 40)), highest=50))
    found = told(Ack(7, 10, ((11, 20),), highest=50, complete=False), before=before)
    assert found.ranges == [(21, 21), (22, 30), (41, 50)]
    assert found.covers(22, 30)


def test_the_newer_word_counts() -> None:
    before = told(Ack(7, 0, ((1, 10),), highest=50))
    newer = told(Ack(7, 20, ((21, 30),), highest=50), before=before)
    assert before.missing_since(newer, below=100) == 0  # 11 is still stored: it is below the new number
    third = told(Ack(7, 20, ((21, 45),), highest=50), before=told(Ack(7, 20, ((21, 30),), highest=50)))
    assert told(Ack(7, 20, ((21, 30),), highest=50)).missing_since(third, below=100) == 31
    assert told(Ack(7, 20, ((21, 30),), highest=50)).missing_since(third, below=30) == 0


def test_of_what_was_never_sent_nothing_is_stored() -> None:
    assert told(Ack(7, 0, ((1, 10),), highest=2000), most=40).ranges == [(11, 40)]
    assert told(Ack(7, 500, highest=600), seq=20, most=40).ranges == []
    assert told(Ack(7, 500, highest=600), seq=20, most=40).covers(1, 20)


@given(gaps=st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), max_size=8), highest=st.integers(0, 200))
def test_whatever_a_console_names_is_kept_in_order(gaps: list[tuple[int, int]], highest: int) -> None:
    found = told(Ack(7, 20, tuple(gaps), highest=highest))
    numbers = [number for pair in found.ranges for number in pair]
    assert numbers == sorted(numbers)
    assert all(20 < low <= high <= MOST for low, high in found.ranges)
    assert not any(found.has(seq) and found.lacks(seq) for seq in range(1, 220))


@given(
    stored=st.lists(st.tuples(st.integers(1, 120), st.integers(1, 12)), max_size=25),
    named=st.integers(1, 5),
)
def test_a_console_is_never_taken_to_have_what_it_lacks(stored: list[tuple[int, int]], named: int) -> None:
    """Against the ledger that makes the acknowledgements, however many gaps it names."""
    ledger, found = Ledger(), Holdings()
    for first, n in stored:
        ledger.store(first, n)
        ack = Ack(
            7, ledger.contiguous, ledger.gaps(named), highest=ledger.highest, complete=len(ledger.ranges) <= named
        )
        found = told(ack, before=found)
        has = {seq for seq in range(1, 140) if seq <= ledger.contiguous}
        has |= {seq for low, high in ledger.ranges for seq in range(low, high + 1)}
        assert all(seq in has for seq in range(1, 140) if found.has(seq))
        assert not any(seq in has for seq in range(1, 140) if found.lacks(seq))
        if ack.complete:
            assert all(found.has(seq) for seq in has)


def test_a_word_that_was_overtaken_says_nothing_of_what_follows_the_newer_one() -> None:
    late = Ack(7, 3, ((4, 4), (6, 7), (11, 13)), highest=19, complete=False)
    before = Holdings.told(Ack(7, 22, ((23, 44),), highest=45), seq=22, most=45, before=Holdings())
    found = Holdings.told(late, seq=22, most=45, before=before)
    assert found.ranges == [(45, 45)]
