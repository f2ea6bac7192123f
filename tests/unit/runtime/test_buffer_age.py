"""Age, by a clock of the buffer's own; marks, and which numbers belong to a time range."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buffer_files import assert_contiguous, new, read, segments, sizes
from edgeinfer.runtime.buffer_file import marks as marks_module
from edgeinfer.runtime.buffer_file.marks import OwnClock
from edgeinfer.runtime.buffer_file.timeline import Interval, Mark, intervals, numbers_between, overlap, size
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.buffer_store import BufferStore
from edgeinfer.runtime.chunk import EVENTS, TOMBSTONE

pytestmark = pytest.mark.timeout(1200)  # hundreds of transactions: minutes on a slow disk

SECOND = 1_000_000_000
YEARS = 10 * 365 * 86_400
START_S = 1_800_000_000


class Clocks:
    """The device's clocks, as a test sets them."""

    def __init__(self) -> None:
        self.day_s = float(START_S)
        self.up_s = 1000.0

    def passes(self, seconds: float) -> None:
        self.day_s += seconds
        self.up_s += seconds


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    found = Clocks()

    class Steered(OwnClock):
        def __init__(self, start_ns: int) -> None:
            super().__init__(start_ns, monotonic_ns=lambda: round(found.up_s * SECOND))

    monkeypatch.setattr("edgeinfer.runtime.buffer_file.file.OwnClock", Steered)
    monkeypatch.setattr("edgeinfer.runtime.buffer_file.file.time.time_ns", lambda: round(found.day_s * SECOND))
    return found


def marks(path: Path) -> list[Mark]:
    with BufferReader(path) as reader:
        return reader.marks()


def opened(path: Path, *, max_age_s: float = 3600.0) -> BufferStore:
    return BufferStore(path, max_bytes=1 << 24, max_age_s=max_age_s)


class TestAge:
    def test_what_is_older_goes_and_is_counted(self, tmp_path: Path, clocks: Clocks) -> None:
        path = tmp_path / "buffer.db"
        store = opened(path)
        for number in range(60):
            store.write([new(b"%d" % number, pipeline="ab"[number % 2], lane=number % 4 == 0)])
            clocks.passes(120)
            store.drop_up_to(0)
        chunks = read(path)
        assert assert_contiguous(chunks) == 600
        assert chunks[0].n > 200, "an hour is 30 of 60 chunks"
        kept = sum(chunk.n for chunk in chunks if chunk.codec != TOMBSTONE)
        assert 300 <= kept <= 300 + 100, "and an eighth of an hour more, for segments go whole"
        with BufferReader(path) as reader:
            assert reader.evicted_counts() == {"age": 600 - kept}
        clocks.passes(5000)
        store.drop_up_to(0)
        assert sizes(read(path)) == [(1, -600)]
        store.close()

    @pytest.mark.parametrize("jump_s", [YEARS, -YEARS, -START_S])
    def test_a_time_of_day_that_jumps_deletes_nothing(self, tmp_path: Path, clocks: Clocks, jump_s: float) -> None:
        path = tmp_path / "buffer.db"
        store = opened(path)
        store.write([new()])
        for _ in range(3):
            clocks.day_s += jump_s
            clocks.passes(60)
            store.drop_up_to(0)
            store.write([new()])
            clocks.day_s -= jump_s
        store.close()
        store = opened(path)
        clocks.passes(60)
        store.drop_up_to(0)
        store.close()
        assert sizes(read(path)) == [(1, 10), (11, 10), (21, 10), (31, 10)]

    def test_the_time_in_which_the_device_is_off_does_not_count(self, tmp_path: Path, clocks: Clocks) -> None:
        path = tmp_path / "buffer.db"
        for _ in range(3):
            store = opened(path)
            store.write([new()])
            for _ in range(10):
                clocks.passes(100)
                store.drop_up_to(0)
            store.write([new()])
            store.close()
            clocks.day_s += YEARS
            clocks.up_s = 5.0  # another boot
        assert sizes(read(path))[0] == (1, 10)
        store = opened(path)
        clocks.passes(500)  # 3500 s of running since the first result
        store.drop_up_to(0)
        assert sizes(read(path))[0] == (1, 10)
        clocks.passes(1200)  # its age is known by the mark after it, 1000 s later
        store.drop_up_to(0)
        assert sizes(read(path))[0][1] < 0
        store.close()

    def test_what_is_acknowledged_is_no_loss(self, tmp_path: Path, clocks: Clocks) -> None:
        path = tmp_path / "buffer.db"
        store = opened(path)
        for _ in range(4):
            store.write([new(), new(lane=EVENTS)])
        clocks.passes(4000)
        store.drop_up_to(55)
        store.close()
        assert sizes(read(path)) == [(56, -25)]

    def test_without_a_limit_nothing_is_too_old(self, tmp_path: Path, clocks: Clocks) -> None:
        store = opened(tmp_path / "buffer.db", max_age_s=0.0)
        store.write([new()])
        clocks.passes(YEARS)
        store.drop_up_to(0)
        assert len(segments(store)) == 1
        store.close()


class TestMarks:
    def test_one_at_each_start_and_every_ten_minutes(self, tmp_path: Path, clocks: Clocks) -> None:
        path = tmp_path / "buffer.db"
        for _ in range(2):
            store = opened(path, max_age_s=0.0)
            for _ in range(25):
                store.write([new()])
                clocks.passes(60)
            store.close()
        assert [mark.first_seq for mark in marks(path)] == [1, 101, 201, 251, 351, 451]
        assert [mark.t_ns // SECOND - START_S for mark in marks(path)] == [0, 600, 1200, 1500, 2100, 2700]

    def test_one_when_the_time_of_day_has_jumped(self, tmp_path: Path, clocks: Clocks) -> None:
        path = tmp_path / "buffer.db"
        store = opened(path, max_age_s=0.0)
        for jump_s in (0, 0.2, YEARS, 0, -YEARS, 5):
            clocks.day_s += jump_s
            store.write([new()])
            clocks.passes(1)
        store.close()
        assert [mark.first_seq for mark in marks(path)] == [1, 21, 41]

    def test_their_number_is_bounded(self, tmp_path: Path, clocks: Clocks, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(marks_module, "_MOST_MARKS", 200)
        path = tmp_path / "buffer.db"
        store = opened(path, max_age_s=0.0)
        for _ in range(500):
            store.write([new()])
            clocks.passes(700)
        store.close()
        assert 100 <= len(marks(path)) <= 200
        assert marks(path)[-1].first_seq == 4991

    def test_a_new_epoch_moves_them(self, tmp_path: Path, clocks: Clocks) -> None:
        path = tmp_path / "buffer.db"
        store = opened(path, max_age_s=0.0)
        for _ in range(6):
            store.write([new()])
            clocks.passes(700)
        store.acknowledged = 25
        store.begin_epoch()
        store.close()
        assert sizes(read(path)) == [(1, 10), (11, 10), (21, 10), (31, 10)]
        assert [mark.first_seq for mark in marks(path)] == [1, 11, 21, 31]
        assert marks(path)[0].t_ns == (START_S + 1400) * SECOND


class TestTimeline:
    MARKS = (Mark(1, 1000, 0), Mark(101, 1600, 600), Mark(151, 9000, 1000), Mark(201, 9600, 1600))

    def test_numbers_by_intervals(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("edgeinfer.runtime.buffer_file.timeline.JUMP_NS", 10)
        found = intervals(self.MARKS, durable_seq=230, clock_ns=1700)
        assert found == [
            Interval(1, 100, 1000, 1600),
            Interval(101, 150, 1600, 2000),  # then it was off, until 9000
            Interval(151, 200, 9000, 9600),
            Interval(201, 230, 9600, 9700),
        ]
        assert numbers_between(found, 1700, 1800).numbers == ((101, 150),)
        assert numbers_between(found, 3000, 8000).numbers == ()
        ranged = numbers_between(found, 1700, 9100)
        assert (ranged.since_ns, ranged.until_ns, ranged.numbers) == (1600, 9600, ((101, 200),))
        assert numbers_between(found, 0, 1 << 63).numbers == ((1, 230),)

    def test_what_came_before_the_first_mark_may_be_of_any_time(self) -> None:
        found = intervals([Mark(50, 1000, 0)], durable_seq=60, clock_ns=10)
        assert numbers_between(found, 5, 6).numbers == ((1, 49),)
        assert numbers_between(intervals([], durable_seq=7, clock_ns=0), 5, 6).numbers == ((1, 7),)

    def test_a_clock_that_was_set_back_makes_two_runs(self) -> None:
        minute = 60 * SECOND
        found = intervals(
            [Mark(1, 100 * minute, 0), Mark(11, 500 * minute, minute), Mark(21, 102 * minute, 2 * minute)],
            durable_seq=30,
            clock_ns=3 * minute,
        )
        assert numbers_between(found, 100 * minute, 110 * minute).numbers == ((1, 10), (21, 30))

    @given(
        st.lists(st.tuples(st.integers(1, 50), st.integers(0, 8)), max_size=6),
        st.lists(st.tuples(st.integers(1, 50), st.integers(0, 8)), max_size=6),
    )
    def test_overlap_agrees_with_counting(self, one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
        ours, theirs = (self.disjoint(ranges) for ranges in (one, other))
        both = {n for first, last in ours for n in range(first, last + 1)} & {
            n for first, last in theirs for n in range(first, last + 1)
        }
        found = overlap(tuple(ours), theirs)
        assert {n for first, last in found for n in range(first, last + 1)} == both
        assert size(found) == len(both)

    @staticmethod
    def disjoint(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for first, length in sorted(ranges):
            if not found or found[-1][1] < first:
                found.append((first, first + length))
        return found
