"""Lanes: events before results, shares by weight, exact tombstones, and the cap with many of them."""

import json
import os
import random
from collections.abc import Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buffer_files import ALL, assert_chained, assert_contiguous, new, read, rotate, segments, sizes
from edgeinfer.runtime.buffer import Buffer, BufferConfig
from edgeinfer.runtime.buffer_file import tombstones
from edgeinfer.runtime.buffer_file.connection import transaction
from edgeinfer.runtime.buffer_file.lanes import Lanes, Segment, segment_limit
from edgeinfer.runtime.buffer_file.tombstones import Run
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.buffer_store import BufferStore
from edgeinfer.runtime.chunk import EVENTS, RESULTS, TOMBSTONE, StoredChunk
from edgeinfer.runtime.codec import decode
from edgeinfer.runtime.config import parse_config
from edgeinfer.runtime.errors import ConfigError
from edgeinfer.runtime.results import Kind, Result

pytestmark = pytest.mark.timeout(1200)  # hundreds of transactions: minutes on a slow disk

MIB = 1 << 20


def segment(number: int, pipeline: str, lane: int, first_seq: int, size: int, *, is_open: bool = False) -> Segment:
    return Segment(number, pipeline, lane, first_seq, first_seq + 9, 1, size, is_open=is_open, is_dense=True)


def held_by(chunks: Sequence[StoredChunk]) -> dict[str, int]:
    held: dict[str, int] = {}
    for chunk in chunks:
        if chunk.codec != TOMBSTONE:
            held[chunk.pipeline] = held.get(chunk.pipeline, 0) + len(chunk.body)
    return held


class TestVictim:
    def test_results_go_before_events_however_old(self) -> None:
        lanes = Lanes([segment(1, "a", EVENTS, 1, 900), segment(2, "a", RESULTS, 11, 10)])
        assert lanes.victim() == segment(2, "a", RESULTS, 11, 10)
        lanes.remove(segment(2, "a", RESULTS, 11, 10))
        assert lanes.victim() == segment(1, "a", EVENTS, 1, 900)

    def test_the_lane_furthest_over_its_share_gives_its_oldest(self) -> None:
        lanes = Lanes(
            [
                segment(1, "a", RESULTS, 1, 100),
                segment(2, "b", RESULTS, 11, 100),
                segment(3, "b", RESULTS, 21, 50),
                segment(4, "b", RESULTS, 5, 20),
            ]
        )
        victim = lanes.victim()
        assert victim is not None
        assert victim.id == 4

    @pytest.mark.parametrize(("weight", "pipeline"), [(1.0, "b"), (1.9, "b"), (2.1, "a"), (0.1, "b")])
    def test_a_weight_makes_the_share_larger(self, weight: float, pipeline: str) -> None:
        lanes = Lanes([segment(1, "a", RESULTS, 1, 100), segment(2, "b", RESULTS, 11, 200)], weights={"b": weight})
        victim = lanes.victim()
        assert victim is not None
        assert victim.pipeline == pipeline

    def test_nothing_held_has_no_victim(self) -> None:
        assert Lanes().victim() is None

    def test_what_is_acknowledged(self) -> None:
        closed, full = segment(1, "a", RESULTS, 1, 9), segment(2, "b", RESULTS, 11, 500, is_open=True)
        growing = segment(3, "c", RESULTS, 21, 9, is_open=True)
        lanes = Lanes([growing, full, closed])
        assert lanes.acknowledged(30, limit=500) == [closed, full]
        assert lanes.acknowledged(30, limit=500, also_open=True) == [closed, full, growing]
        assert lanes.acknowledged(19, limit=500, also_open=True) == [closed]
        assert lanes.older_than(21) == [closed, full]


@pytest.mark.parametrize(
    ("max_bytes", "pipelines", "limit"),
    [(MIB, 1, MIB // 8), (MIB, 20, 16 << 10), (256 * MIB, 1, 4 * MIB), (256 * MIB, 16, 2 * MIB), (1 << 40, 1, 2 << 30)],
)
def test_segments_are_a_fraction_of_a_share(max_bytes: int, pipelines: int, limit: int) -> None:
    assert segment_limit(max_bytes, pipelines) == limit


class TestPacking:
    def test_events_have_chunks_of_their_own(self, tmp_path: Path) -> None:
        path = tmp_path / "buffer.db"
        buffer = Buffer(BufferConfig(path=str(path), flush_interval_s=3600), acknowledged=lambda _: 0)
        for frame in range(20):
            for pipeline in "ab":
                buffer.append(pipeline, Result(Kind.ANOMALY, 1, frame))
                if frame % 5 == 0:
                    buffer.append(pipeline, Result(Kind.EVENT, 1, frame, extra={"rule": "r"}))
        assert buffer.flush(60)
        lanes = {one.key for one in segments(buffer._store)}
        assert buffer.close()
        assert lanes == {("a", RESULTS), ("a", EVENTS), ("b", RESULTS), ("b", EVENTS)}
        chunks = read(path)
        assert assert_contiguous(chunks) == 48
        for chunk in chunks:
            kinds = {row.kind for row in decode(chunk.codec, chunk.body, n=chunk.n)}
            assert kinds in ({Kind.EVENT}, {Kind.ANOMALY})
        with BufferReader(path) as reader:
            events = reader.events(0, limit=ALL)
            assert sum(chunk.n for chunk in events) == 8
            assert [chunk.first_seq for chunk in events] == sorted(chunk.first_seq for chunk in events)
            assert all(chunk in chunks for chunk in events)
            assert reader.events(events[0].last_seq, limit=1) == events[1:2]
            assert reader.events(events[-1].last_seq, limit=1) == []

    def test_a_weight_must_be_above_zero(self) -> None:
        assert parse_config("[weights]\ndoor = 2.5\n", BufferConfig).weights == {"door": 2.5}
        with pytest.raises(ConfigError, match="weights"):
            parse_config("[weights]\ndoor = 0\n", BufferConfig)
        with pytest.raises(ConfigError, match="max_age_s"):
            parse_config("max_age_s = 3\n", BufferConfig)


class TestFull:
    def test_events_outlive_results(self, tmp_path: Path) -> None:
        path = tmp_path / "buffer.db"
        store = BufferStore(path, max_bytes=MIB)
        for number in range(400):
            store.write([new(os.urandom(9000), n=5), new(b"event", n=1, lane=EVENTS, t0_ns=number)])
            assert path.stat().st_size <= MIB
        store.close()
        chunks = read(path)
        assert assert_contiguous(chunks) == 2400
        with BufferReader(path) as reader:
            assert len(reader.events(0, limit=ALL)) == 400, "every event is still there"
            evicted = reader.evicted_counts()
        gone = [chunk for chunk in chunks if chunk.codec == TOMBSTONE]
        assert evicted == {"full": sum(chunk.n for chunk in gone)}
        assert all(chunk.n == 5 for chunk in gone), "an event lies between each and the next"
        assert len(gone) <= sum(chunk.codec != TOMBSTONE for chunk in chunks) + 1

    def test_each_pipeline_keeps_its_share(self, tmp_path: Path) -> None:
        path = tmp_path / "buffer.db"
        store = BufferStore(path, max_bytes=2 * MIB, weights={"heavy": 3.0})
        rng = random.Random(1)
        for _ in range(1000):
            pipeline = rng.choices(["loud", "heavy", "quiet"], weights=[10, 5, 0.1])[0]
            store.write([new(rng.randbytes(5000), pipeline=pipeline)])
        store.close()
        held = held_by(read(path))
        assert 2 < held["heavy"] / held["loud"] < 4.5
        assert held["quiet"] > 20_000, "what is far below its share loses nothing"

    def test_the_cap_holds_with_many_lanes(self, tmp_path: Path) -> None:
        path = tmp_path / "buffer.db"
        store = BufferStore(path, max_bytes=MIB)
        rng = random.Random(2)
        total = 0
        for _ in range(60):
            chunks = [
                new(rng.randbytes(rng.randrange(20, 6000)), n=3, pipeline=f"pipeline-{number}", lane=number % 2)
                for number in range(40)
            ]
            half = len(chunks) // 2
            for part in (chunks[:half], chunks[half:]):
                store.write(part)
                total += 3 * len(part)
                assert path.stat().st_size <= MIB
        store.close()
        found = read(path)
        assert assert_contiguous(found) == total
        assert assert_chained(found, BufferReader(path).epoch) > 5
        with BufferReader(path) as reader:
            assert reader.audit_counts()["evicted"] == sum(c.n for c in found if c.codec == TOMBSTONE) > 0
        kept = sum(chunk.codec != TOMBSTONE for chunk in found)
        assert len(found) - kept <= kept + 1

    def test_what_is_acknowledged_goes_first_also_from_open_segments(self, tmp_path: Path) -> None:
        path = tmp_path / "buffer.db"
        store = BufferStore(path, max_bytes=MIB)
        for pipeline in "abcdefgh":
            store.write([new(os.urandom(90_000), pipeline=pipeline)])
        assert all(one.is_open for one in segments(store))
        store.acknowledged = store.next_seq - 1
        kept = store.next_seq
        for _ in range(6):
            store.write([new(os.urandom(90_000), pipeline="x")])
        store.close()
        with BufferReader(path) as reader:
            assert reader.audit_counts()["evicted"] == 0
            assert sum(chunk.first_seq >= kept for chunk in reader.chunks(0, limit=ALL)) == 6

    def test_only_what_was_not_acknowledged_counts(self, tmp_path: Path) -> None:
        """A segment that holds both: acknowledged numbers of a lane that is in between are no loss."""
        path = tmp_path / "buffer.db"
        store = BufferStore(path, max_bytes=MIB)
        for number in range(10):
            store.write([new(pipeline="ab"[number % 2])])
        store.acknowledged = 45
        assert [store._file.evict(one, 45, reason="full") for one in segments(store)] == [25, 30]
        store.close()
        assert sizes(read(path)) == [(46, -55)]


class TestTombstones:
    @settings(max_examples=60, deadline=None)
    @given(
        lanes=st.lists(st.integers(0, 3), min_size=1, max_size=40),
        order=st.randoms(use_true_random=False),
        acknowledged=st.integers(0, 60),
    )
    def test_any_order_of_evictions_leaves_exact_counts(
        self, tmp_path_factory: pytest.TempPathFactory, lanes: list[int], order: random.Random, acknowledged: int
    ) -> None:
        path = tmp_path_factory.mktemp("tombstones") / "buffer.db"
        total = 0
        with closing(BufferStore(path, max_bytes=MIB)) as store:  # an example may also end while it draws
            for number, lane in enumerate(lanes):
                n = 1 + number % 3
                store.write([new(n=n, pipeline="ab"[lane // 2], lane=lane % 2, t0_ns=number)])
                total += n
                if number % 5 == 4:
                    rotate(store)
            victims = segments(store)
            order.shuffle(victims)
            gone: set[int] = set()
            for victim in victims[: 1 + len(victims) // 2]:
                numbers = [
                    n
                    for chunk in read(path)
                    if chunk.codec != TOMBSTONE
                    for n in range(chunk.first_seq, chunk.last_seq + 1)
                ]
                store._file.evict(victim, acknowledged, reason="full")
                left = {
                    n
                    for chunk in read(path)
                    if chunk.codec != TOMBSTONE
                    for n in range(chunk.first_seq, chunk.last_seq + 1)
                }
                gone |= {number for number in numbers if number not in left and number > acknowledged}
        chunks = [chunk for chunk in read(path) if chunk.last_seq > acknowledged]
        tombs = [chunk for chunk in chunks if chunk.codec == TOMBSTONE]
        assert {n for chunk in tombs for n in range(chunk.first_seq, chunk.last_seq + 1)} == gone
        following = max(acknowledged + 1, chunks[0].first_seq) if chunks else total + 1
        for chunk in chunks:
            assert max(chunk.first_seq, acknowledged + 1) == following
            following = chunk.last_seq + 1
        assert following == max(total, acknowledged) + 1 or following == total + 1
        for one, two in pairwise(tombs):
            assert one.last_seq + 1 < two.first_seq, "those that adjoin are one"
        with BufferReader(path) as reader:
            assert reader.audit_counts()["evicted"] == len(gone)

    def test_those_of_different_reasons_stay_apart(self, tmp_path: Path) -> None:
        path = tmp_path / "buffer.db"
        store = BufferStore(path, max_bytes=MIB)
        for pipeline in "abc":
            store.write([new(pipeline=pipeline)])
        for one, reason in zip(segments(store), ("full", "age", "age"), strict=True):
            store._file.evict(one, 0, reason=reason)
        store.close()
        chunks = read(path)
        assert sizes(chunks) == [(1, -10), (11, -20)]
        assert [json.loads(chunk.body)["reason"] for chunk in chunks] == ["full", "age"]
        with BufferReader(path) as reader:
            assert reader.evicted_counts() == {"age": 20, "full": 10}

    def test_the_link_is_that_of_the_last_chunk_under_it(self, tmp_path: Path) -> None:
        path = tmp_path / "buffer.db"
        store = BufferStore(path, max_bytes=MIB)
        for number in range(6):
            store.write([new(b"%d" % number, pipeline="ab"[number > 2])])
        before = read(path)
        first, second = segments(store)
        store._file.evict(second, 0, reason="full")
        assert [c.link for c in read(path)] == [c.link for c in before[:3]] + [before[5].link]
        store._file.evict(first, 0, reason="full")
        assert [chunk.link for chunk in read(path)] == [before[5].link]
        store.write([new(b"after")])
        store.close()
        assert assert_chained(read(path), 0) == 1, "the chain goes on behind it"

    def test_acknowledged_ones_move_into_a_log_that_is_bounded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tombstones, "_LOG_ROWS", 5)
        path = tmp_path / "buffer.db"
        store = BufferStore(path, max_bytes=MIB)
        with transaction(store._file.db) as db:
            for number in range(12):
                tombstones.add(db, [Run(1 + 10 * number, 4, 0)], reason="full")
        with BufferReader(path) as reader:
            store.drop_up_to(45)
            assert [run.first_seq for run in reader.evicted()[0]] == [1 + 10 * number for number in range(12)]
            assert reader.evicted()[1] == 1
            assert reader.first_seq() == 51
            store.drop_up_to(200)
            assert reader.evicted()[0][0].first_seq == 71
            assert reader.evicted()[1] == 65
            assert reader.evicted_counts() == {"full": 48}
        store.close()


class TestReaders:
    def test_nothing_is_read_beyond_what_is_asked_for(self, tmp_path: Path) -> None:
        """A page of chunks at the front of many segments: the others are not looked into."""
        path = tmp_path / "buffer.db"
        store = BufferStore(path, max_bytes=1 << 24)
        for number in range(60):
            store.write([new(pipeline=f"p{number % 3}")])
            if number % 3 == 2:
                rotate(store)
        with BufferReader(path) as reader:
            statements: list[str] = []
            reader._db.set_trace_callback(statements.append)
            found = reader.chunks(25, limit=4)
            reader._db.set_trace_callback(None)
        store.close()
        assert sizes(found) == [(21, 10), (31, 10), (41, 10), (51, 10)]
        touched = {part for text in statements for part in text.split() if part.startswith("seg_")}
        assert len(touched) <= 6

    def test_links_are_known_before_any_number_that_is_held(self, tmp_path: Path) -> None:
        path = tmp_path / "buffer.db"
        store = BufferStore(path, max_bytes=1 << 24)
        for number in range(12):
            store.write([new(b"%d" % number, pipeline="ab"[number % 2], lane=number % 3 == 0)])
            if number == 5:
                rotate(store)
        store._file.evict(segments(store)[0], 0, reason="full")
        with BufferReader(path) as reader:
            chunks = reader.chunks(0, limit=ALL)
            assert assert_chained(chunks, reader.epoch) > 5
            for chunk in chunks:
                assert reader.link_before(chunk.last_seq + 1) == chunk.link
            assert reader.link_before(1) != b""
            assert reader.link_before(chunks[-1].last_seq) == b"", "in the middle of a chunk"
            assert reader.link_before(10_000) == b""
            assert [reader.link_before(c.first_seq) for c in chunks[1:]] == [c.link for c in chunks[:-1]]
        store.close()

    def test_segments_that_go_while_one_reads(self, tmp_path: Path) -> None:
        path = tmp_path / "buffer.db"
        store = BufferStore(path, max_bytes=MIB)
        with BufferReader(path) as reader:
            after = 0
            for _ in range(200):
                store.write([new(os.urandom(20_000), pipeline=f"p{after % 7}", lane=after % 2)])
                page = reader.chunks(after, limit=3)
                assert_contiguous(page, first=page[0].first_seq)
                assert page[0].first_seq <= after + 1 <= page[-1].last_seq
                after = page[0].last_seq
        store.close()
