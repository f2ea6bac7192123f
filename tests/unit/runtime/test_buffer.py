"""The results buffer: numbering, durability, acknowledgement, eviction, readers."""

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buffer_files import (
    ALL,
    assert_contiguous,
    evict_oldest,
    new,
    noise,
    read,
    rotate,
    segments,
    sizes,
)
from edgeinfer.runtime.buffer import Buffer, BufferConfig
from edgeinfer.runtime.buffer_file.file import open_file
from edgeinfer.runtime.buffer_file.lanes import Segment
from edgeinfer.runtime.buffer_file.schema import BufferState, pack_state
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.buffer_store import BufferStore, NewChunk
from edgeinfer.runtime.chunk import PACKED, TOMBSTONE, StoredChunk
from edgeinfer.runtime.codec import decode
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.results import Item, Kind, Result
from waiting import wait_until

pytestmark = pytest.mark.timeout(1200)  # hundreds of transactions: minutes on a slow disk


def make(path: Path, *, acknowledged: Callable[[int], int] = lambda _: 0, **options: float) -> Buffer:
    return Buffer(BufferConfig(path=str(path), **options), acknowledged=acknowledged)  # type: ignore[arg-type]  # ints and floats


def result(frame: int, kind: Kind = Kind.CLASSIFICATION) -> Result:
    return Result(kind, 10**18 + frame, frame, items=(Item(frame % 7, 0.5),))


def frames_of(chunks: Sequence[StoredChunk], pipeline: str) -> list[int]:
    mine = [chunk for chunk in chunks if chunk.pipeline == pipeline]
    return [row.frame for chunk in mine for row in decode(chunk.codec, chunk.body, n=chunk.n)]


def test_several_pipelines_and_threads_share_one_numbering(tmp_path: Path) -> None:
    path = tmp_path / "buffer.db"
    buffer = make(path)

    def fill(pipeline: str) -> None:
        for frame in range(1234):
            buffer.append(pipeline, result(frame))

    names = ["a", "b", "c", "d"]
    threads = [threading.Thread(target=fill, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert buffer.close(60)
    assert buffer.durable_seq == 4 * 1234
    assert buffer.pending == 0
    chunks = read(path)
    assert assert_contiguous(chunks) == 4 * 1234
    for name in names:
        assert frames_of(chunks, name) == list(range(1234))


def test_durable_seq_follows_a_flush(tmp_path: Path) -> None:
    buffer = make(tmp_path / "buffer.db", flush_interval_s=3600)
    assert buffer.durable_seq == 0
    for frame in range(7):
        buffer.append("p", result(frame))
    assert buffer.flush(60)
    assert buffer.durable_seq == 7
    with BufferReader(tmp_path / "buffer.db") as reader:
        assert (reader.durable_seq(), reader.first_seq()) == (7, 1)
        assert reader.epoch == buffer.epoch
        assert reader.audit_counts() == {"made": 7, "durable": 7, "evicted": 0}
        assert reader.bytes() > 0
    assert buffer.close(60)


def test_four_full_chunks_and_events_are_written_at_once(tmp_path: Path) -> None:
    buffer = make(tmp_path / "buffer.db", flush_interval_s=3600, chunk_results=10)
    for frame in range(25):
        buffer.append("p", result(frame))
    for frame in range(20):
        buffer.append("r", result(frame))
    wait_until(lambda: buffer.durable_seq == 40)
    assert buffer.pending == 5
    buffer.append("q", result(0, Kind.EVENT))
    wait_until(lambda: buffer.durable_seq == 46)
    assert buffer.close(60)


def test_the_interval_flushes_a_partial_chunk(tmp_path: Path) -> None:
    buffer = make(tmp_path / "buffer.db", flush_interval_s=0.05)
    buffer.append("p", result(1))
    wait_until(lambda: buffer.durable_seq == 1)
    assert buffer.close(60)


def test_a_closed_buffer_takes_nothing(tmp_path: Path) -> None:
    buffer = make(tmp_path / "buffer.db")
    assert buffer.close(60)
    with pytest.raises(BufferStorageError, match="closed"):
        buffer.append("p", result(1))
    assert buffer.close(60)


def test_a_new_writer_goes_on_with_numbers_and_epoch(tmp_path: Path) -> None:
    path = tmp_path / "buffer.db"
    epochs = []
    for run in range(3):
        buffer = make(path)
        epochs.append(buffer.epoch)
        assert buffer.durable_seq == run * 5
        for frame in range(5):
            buffer.append("p", result(frame))
        assert buffer.close(60)
    assert len(set(epochs)) == 1
    assert assert_contiguous(read(path)) == 15


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "buffer.db"
    buffer = make(path)
    with pytest.raises(BufferStorageError, match="another process"):
        make(path)
    assert buffer.close(60)
    assert make(path).close()


def test_a_folder_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BufferStorageError, match="cannot be made"):
        make(tmp_path / "file" / "buffer.db")
    (tmp_path / "buffer.db.lock").mkdir()
    with pytest.raises(BufferStorageError, match="cannot be opened"):
        make(tmp_path / "buffer.db")


def test_a_result_that_no_chunk_can_hold_costs_only_itself(tmp_path: Path) -> None:
    """One bad value must not take its neighbours, or the writer's thread, with it."""
    path = tmp_path / "buffer.db"
    buffer = make(path, flush_interval_s=3600)
    for frame in range(10):
        buffer.append("p", Result(Kind.CLASSIFICATION, 1, 1 << 70 if frame == 4 else frame))
    assert buffer.flush(60)
    assert buffer.durable_seq == 9
    assert buffer.close(60)
    assert frames_of(read(path), "p") == [0, 1, 2, 3, 5, 6, 7, 8, 9]


def test_frames_are_added_up_over_restarts(tmp_path: Path) -> None:
    path = tmp_path / "buffer.db"
    for _ in range(2):
        buffer = make(path)
        for frame in range(7):
            buffer.append("a", Result(Kind.ANOMALY, 1, frame))
        buffer.append("a", Result(Kind.FRAMES, 1, extra={"inferred": 3, "failed": 1}))
        buffer.append("b", Result(Kind.FRAMES, 2, extra={"stale": 1}))
        assert buffer.close(60)
    with BufferReader(path) as reader:
        assert reader.frames() == {"a": {"failed": 2, "inferred": 14}, "b": {"stale": 2}}


def test_a_frame_is_counted_as_inferred_when_its_result_is_durable(tmp_path: Path) -> None:
    """Not before, and not from a count that a power cut could take: the two always agree."""
    buffer = make(tmp_path / "buffer.db")
    for frame in range(5):
        buffer.append("a", Result(Kind.DETECTION, 1, frame))
    assert buffer.flush(60)
    with BufferReader(tmp_path / "buffer.db") as reader:
        assert reader.frames() == {"a": {"inferred": reader.durable_seq()}}
    assert buffer.close(60)


class TestReaders:
    def test_a_reader_never_keeps_the_writer_waiting(self, tmp_path: Path) -> None:
        """Another process sits in a read transaction; the writer goes on, and the reader then sees all."""
        path = tmp_path / "buffer.db"
        buffer = make(path, flush_interval_s=0.01)
        buffer.append("p", result(0))
        assert buffer.flush(60)
        script = (
            "import sys\nfrom pathlib import Path\nfrom edgeinfer.runtime.buffer_reader import BufferReader\n"
            "reader = BufferReader(Path(sys.argv[1]))\nreader._db.execute('BEGIN')\n"
            "print(reader.durable_seq(), flush=True)\nsys.stdin.readline()\n"
            "print(reader.durable_seq(), flush=True)\nreader._db.execute('ROLLBACK')\nprint(reader.durable_seq())\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as reader:
            assert reader.stdout is not None
            assert reader.stdin is not None
            assert reader.stdout.readline() == "1\n"
            for frame in range(1, 3000):
                buffer.append("p", result(frame))
            assert buffer.flush(60)
            reader.stdin.write("\n")
            reader.stdin.flush()
            assert reader.stdout.readline() == "1\n", "one snapshot"
            assert reader.stdout.readline() == "3000\n"
        assert buffer.close(60)

    def test_what_a_clean_close_left_is_readable_without_write_permission(self, tmp_path: Path) -> None:
        path = tmp_path / "buffer.db"
        buffer = make(path)
        buffer.append("p", result(0))
        assert buffer.close(60)
        assert not path.with_name("buffer.db-wal").exists()
        assert len(read(path)) == 1
        assert not path.with_name("buffer.db-wal").exists()

    @pytest.mark.parametrize("content", [b"", b"no database" * 100, b"SQLite format 3\0" + bytes(100)])
    def test_what_is_no_buffer_is_refused(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "buffer.db"
        path.write_bytes(content)
        with pytest.raises(BufferStorageError):
            BufferReader(path)
        with pytest.raises(BufferStorageError, match="no such"):
            BufferReader(tmp_path / "none.db")

    @settings(max_examples=40, deadline=None)
    @given(
        sizes=st.lists(st.integers(1, 9), min_size=1, max_size=30), after=st.integers(0, 280), limit=st.integers(1, 40)
    )
    def test_chunks_begin_with_the_one_that_holds_the_next_number(
        self, tmp_path_factory: pytest.TempPathFactory, sizes: list[int], after: int, limit: int
    ) -> None:
        path = tmp_path_factory.mktemp("chunks") / "buffer.db"
        store = BufferStore(path, max_bytes=1 << 20)
        for number, size in enumerate(sizes):
            store.write([new(n=size, pipeline="pq"[number % 3 == 0], lane=number % 2)])
            if number % 7 == 6:
                rotate(store)
        with BufferReader(path) as reader:
            found = reader.chunks(after, limit=limit)
        store.close()
        everything = []
        first = 1
        for size in sizes:
            everything.append((first, size))
            first += size
        wanted = [(seq, size) for seq, size in everything if seq + size - 1 > after][:limit]
        assert [(chunk.first_seq, chunk.n) for chunk in found] == wanted


class TestAcknowledged:
    def test_segments_go_once_all_of_them_is_acknowledged(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edgeinfer.runtime.buffer_file.segments.segment_limit", lambda *_: 2000)
        path = tmp_path / "buffer.db"
        acknowledged = 0
        asked: set[int] = set()

        def answer(epoch: int) -> int:
            asked.add(epoch)
            return acknowledged

        buffer = make(path, acknowledged=answer, flush_interval_s=0.02)
        for frame in range(5000):
            buffer.append("p", Result(Kind.CLASSIFICATION, 10**18 + frame * 7919 % 10007, frame * 104729 % 1000003))
            if frame % 500 == 499:
                assert buffer.flush(60)
        starts = [segment.first_seq for segment in segments(buffer._store)]
        assert len(starts) > 3
        with BufferReader(path) as reader:
            assert reader.first_seq() == 1
            acknowledged = starts[2] + 5  # in the middle of the third
            wait_until(lambda: reader.first_seq() == starts[2])
            acknowledged = buffer.durable_seq
            wait_until(lambda: reader.first_seq() >= starts[-1])
            assert reader.durable_seq() == 5000
        assert asked == {buffer.epoch}
        assert buffer.close(60)

    def test_numbers_are_never_used_again(self, tmp_path: Path) -> None:
        path = tmp_path / "buffer.db"
        store = BufferStore(path, max_bytes=1 << 20)
        store.write([NewChunk("p", 10, 0, b"x", {})])
        rotate(store)
        store.drop_up_to(10)
        store.close()
        again = BufferStore(path, max_bytes=1 << 20)
        assert again.next_seq == 11
        again.close()
        with BufferReader(path) as reader:
            assert (reader.first_seq(), reader.durable_seq(), reader.chunks(0, limit=5)) == (11, 10, [])


class TestFull:
    def test_the_oldest_goes_and_leaves_its_count(self, tmp_path: Path) -> None:
        path = tmp_path / "buffer.db"
        limit = 1 << 20
        buffer = make(path, max_bytes=limit, flush_interval_s=3600)
        made = 0
        for _ in range(60):
            for _ in range(2000):
                # Noise, so that it does not compress.
                score = (made * 7919 % 65521) / 65521
                item = Item(made * 104729 % 1000, score, (score, score**2, score**3, score**4))
                buffer.append("p", Result(Kind.DETECTION, 10**18 + made * made, made, made % 977, made % 1009, (item,)))
                made += 1
            assert buffer.flush(60)
            assert path.stat().st_size <= limit
        with BufferReader(path) as reader:
            chunks = reader.chunks(0, limit=ALL)
            counts = reader.audit_counts()
            assert reader.first_seq() == 1
        assert assert_contiguous(chunks) == made == counts["durable"]
        tombstones = [chunk for chunk in chunks if chunk.codec == TOMBSTONE]
        assert len(tombstones) == 1, "the next one joins it"
        assert chunks[: len(tombstones)] == tombstones, "the oldest ones"
        assert sum(chunk.n for chunk in tombstones) == counts["evicted"] > 0
        for chunk in tombstones:
            assert chunk.pipeline == "_evicted"
            assert json.loads(chunk.body) == {"reason": "full", "n": chunk.n, "t0_ns": chunk.t0_ns}
        kept = frames_of(chunks, "p")
        assert kept == list(range(counts["evicted"], made))
        wal = path.with_name("buffer.db-wal")
        assert wal.stat().st_size < 8 << 20, "SQLite checkpoints every 1000 pages"
        assert buffer.close(60)

    def test_acknowledged_tombstones_go_too(self, tmp_path: Path) -> None:
        path = tmp_path / "buffer.db"
        store = BufferStore(path, max_bytes=1 << 20)
        store.write([NewChunk("p", 10, 5, b"x" * 100, {})])
        rotate(store)
        evict_oldest(store)
        store.write([NewChunk("p", 10, 6, b"y" * 100, {})])
        with BufferReader(path) as reader:
            assert [(c.first_seq, c.n, c.t0_ns, c.codec) for c in reader.chunks(0, limit=9)] == [
                (1, 10, 5, 0),
                (11, 10, 6, PACKED),
            ]
            store.drop_up_to(9)
            assert reader.first_seq() == 1
            store.drop_up_to(10)
            assert reader.first_seq() == 11
            assert reader.audit_counts()["evicted"] == 10
        store.close()

    def test_what_was_delivered_is_dropped_and_not_counted_as_evicted(self, tmp_path: Path) -> None:
        path = tmp_path / "buffer.db"
        store = BufferStore(path, max_bytes=1 << 20)

        def write(count: int) -> None:
            for _ in range(count):
                store.write([NewChunk("p", 10, 0, os.urandom(50_000), {})])

        write(10)
        store.acknowledged = 95  # in the middle of a chunk, and of a segment
        write(60)
        with BufferReader(path) as reader:
            counts, chunks = reader.audit_counts(), reader.chunks(0, limit=ALL)
        store.close()
        assert assert_contiguous(chunks, first=96) == 700
        assert chunks[0].codec == TOMBSTONE
        assert counts["evicted"] == chunks[0].n

    def test_all_of_it_delivered_nothing_is_evicted(self, tmp_path: Path) -> None:
        store = BufferStore(tmp_path / "buffer.db", max_bytes=1 << 20)
        for _ in range(100):
            store.write([NewChunk("p", 10, 0, os.urandom(50_000), {})])
            store.acknowledged = store.next_seq - 1
        store.close()
        with BufferReader(tmp_path / "buffer.db") as reader:
            assert reader.audit_counts() == {"made": 1000, "durable": 1000, "evicted": 0}

    def test_neighbouring_tombstones_become_one_up_to_what_the_wire_can_count(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edgeinfer.runtime.buffer_file.tombstones._LARGEST_TOMBSTONE", 35)
        path = tmp_path / "buffer.db"
        store = BufferStore(path, max_bytes=1 << 20)
        for _ in range(5):
            store.write([NewChunk("p", 10, 5, b"x", {})])
            rotate(store)
            evict_oldest(store)
        store.close()
        with BufferReader(path) as reader:
            assert [(c.first_seq, c.n) for c in reader.chunks(0, limit=ALL)] == [(1, 30), (31, 20)]
            assert [(c.first_seq, c.n) for c in reader.chunks(29, limit=1)] == [(1, 30)]
            assert [(c.first_seq, c.n) for c in reader.chunks(30, limit=1)] == [(31, 20)]
            assert reader.chunks(50, limit=1) == []
            assert reader.audit_counts()["evicted"] == 50

    def test_more_than_the_cap_at_once_is_written_in_parts(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After a stall of the disk, all that waited is there at once."""
        monkeypatch.setattr("edgeinfer.runtime.buffer._MAX_PENDING", 1_000_000)
        path = tmp_path / "buffer.db"
        buffer = make(path, max_bytes=1 << 20, flush_interval_s=0.05)
        write, stalled = buffer._store.write, threading.Event()

        def stall(chunks: Sequence[NewChunk]) -> None:
            if not stalled.is_set():
                raise BufferStorageError("the disk stalls")
            write(chunks)

        buffer._store.write = stall  # type: ignore[method-assign]  # a disk that stalls
        buffer.append("p", noise(0))
        wait_until(lambda: bool(buffer.error))
        for number in range(1, 1500):
            buffer.append("p", noise(number))
        stalled.set()
        assert buffer.flush(60)
        assert buffer.durable_seq == 1500
        assert buffer.close(60)
        chunks = read(path)
        assert assert_contiguous(chunks) == 1500
        kept = frames_of(chunks, "p")
        assert kept == list(range(1500 - len(kept), 1500))

    def test_a_chunk_that_would_be_too_large_becomes_several(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edgeinfer.runtime.buffer.MAX_BODY_BYTES", 4000)
        path = tmp_path / "buffer.db"
        buffer = make(path, flush_interval_s=3600)
        for number in range(100):
            buffer.append("p", noise(number))
        assert buffer.flush(60)
        assert buffer.close(60)
        chunks = read(path)
        assert max(len(chunk.body) for chunk in chunks) <= 4000
        assert assert_contiguous(chunks) == 100
        assert frames_of(chunks, "p") == list(range(100))

    def test_a_result_larger_than_any_chunk_costs_only_itself(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edgeinfer.runtime.buffer.MAX_BODY_BYTES", 400)
        buffer = make(tmp_path / "buffer.db", flush_interval_s=3600)
        for frame in range(3):
            buffer.append("p", noise(frame) if frame == 1 else result(frame))
        assert buffer.flush(60)
        assert (buffer.durable_seq, buffer.pending) == (2, 0)
        assert buffer.close(60)


class TestNumbersAreUnique:
    """The medium may lose commits that it called durable; the console may know them."""

    @staticmethod
    def filled(path: Path) -> int:
        """Chunks of 10 in several segments, numbers 1 to 100; the epoch."""
        store = BufferStore(path, max_bytes=1 << 20)
        for number in range(10):
            store.write([NewChunk("p", 10, number, b"%d" % number, {})])
            if number % 3 == 2:
                rotate(store)
        epoch = store.epoch
        store.close()
        return epoch

    @pytest.mark.parametrize("seen", [100, 101, 5000])
    def test_numbers_that_were_acknowledged_are_not_given_out_again(self, tmp_path: Path, seen: int) -> None:
        path = tmp_path / "buffer.db"
        epoch = self.filled(path)
        buffer = make(path, acknowledged=lambda asked: seen if asked == epoch else 0)
        assert (buffer.epoch != epoch) == (seen > 100)
        buffer.append("p", result(7))
        assert buffer.close(60)
        chunks = read(path)
        last = assert_contiguous(chunks, first=1 if seen > 100 else chunks[0].first_seq)
        assert last == (1 if seen > 100 else 101)
        assert frames_of(chunks[-1:], "p") == [7]

    @pytest.mark.parametrize("acknowledged", [0, 10, 50, 95])
    def test_what_was_sent_and_not_acknowledged_is_kept_under_new_numbers(
        self, tmp_path: Path, acknowledged: int
    ) -> None:
        path = tmp_path / "buffer.db"
        epoch = self.filled(path)
        buffer = Buffer(
            BufferConfig(path=str(path)),
            acknowledged=lambda asked: acknowledged if asked == epoch else 0,
            seen=lambda _: 120,
        )
        assert buffer.epoch != epoch
        buffer.append("p", result(7))
        assert buffer.close(60)
        chunks = read(path)
        kept = list(range(acknowledged // 10, 10))
        assert assert_contiguous(chunks) == 10 * len(kept) + 1
        assert [chunk.body for chunk in chunks[:-1]] == [b"%d" % number for number in kept]
        again = make(path)
        assert again.durable_seq == 10 * len(kept) + 1
        assert again.close()

    def test_tombstones_are_kept_and_counted_in_the_new_epoch(self, tmp_path: Path) -> None:
        path = tmp_path / "buffer.db"
        self.filled(path)
        store = BufferStore(path, max_bytes=1 << 20)
        evict_oldest(store)
        store.acknowledged = 20
        store.begin_epoch()
        store.close()
        with BufferReader(path) as reader:
            assert assert_contiguous(reader.chunks(0, limit=ALL)) == 100
            assert reader.audit_counts() == {"made": 100, "durable": 100, "evicted": 30}

    def test_commits_that_are_gone_when_the_file_is_opened_again(self, tmp_path: Path) -> None:
        path = tmp_path / "buffer.db"
        store = BufferStore(path, max_bytes=1 << 20)
        store.write([NewChunk("p", 3, 0, b"abc", {})])
        epoch = store.epoch
        before = pack_state(BufferState(epoch, 2, 0))
        store._file.db.execute("UPDATE meta SET value = ? WHERE key = 'state'", (before,))
        store._file.db.execute("DELETE FROM seg_1")
        store._failed(io_error())
        store.write([NewChunk("p", 3, 0, b"def", {})])
        assert store.epoch != epoch
        store.close()

    def test_a_reader_that_stays_sees_the_new_epoch(self, tmp_path: Path) -> None:
        path = tmp_path / "buffer.db"
        self.filled(path)
        store = BufferStore(path, max_bytes=1 << 20)
        with BufferReader(path) as reader:
            store.begin_epoch()
            assert reader.epoch == store.epoch
        store.close()


class TestTheEnd:
    """A disk that is stuck must not keep the daemon from ending, nor a pipeline from being replaced."""

    @pytest.fixture
    def stuck(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Buffer:
        """Its memory is full, and it will not get rid of anything."""
        monkeypatch.setattr("edgeinfer.runtime.buffer._MAX_PENDING", 100)
        buffer = make(tmp_path / "buffer.db", flush_interval_s=0.02)

        def refuse(_: object) -> None:
            raise BufferStorageError("the disk is stuck")

        monkeypatch.setattr(buffer._store, "write", refuse)
        for frame in range(50):
            buffer.append("p", result(frame))
        return buffer

    def test_counts_of_frames_never_wait(self, stuck: Buffer) -> None:
        thread = threading.Thread(target=stuck.append, args=("p", Result(Kind.FRAMES, 1, extra={"stale": 1})))
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
        assert stuck.pending == 51
        assert not stuck.close(timeout_s=0.1)

    def test_who_must_not_wait_is_refused_at_once(self, stuck: Buffer) -> None:
        for frame in range(50, 100):  # as much as there is room for
            if not stuck._is_full():
                stuck.append("p", result(frame), wait=False)
        pending = stuck.pending
        with pytest.raises(BufferStorageError, match="the disk is stuck"):
            stuck.append("p", Result(Kind.ENGINE, 1, extra={"what": "terminated"}), wait=False)
        stuck.append("p", Result(Kind.FRAMES, 1, extra={"stale": 1}), wait=False)
        assert stuck.pending == pending + 1
        assert not stuck.close(timeout_s=0.1)

    def test_whoever_waits_is_sent_away_before_the_end(self, stuck: Buffer) -> None:
        refused = threading.Event()

        def fill() -> None:
            with pytest.raises(BufferStorageError, match="stuck"):
                stuck.append("p", result(50))
            refused.set()

        thread = threading.Thread(target=fill)
        thread.start()
        stuck.stop_waiting()
        assert refused.wait(60)
        thread.join()
        with pytest.raises(BufferStorageError, match="stuck"):
            stuck.append("p", result(51))
        stuck.append("p", Result(Kind.FRAMES, 1, extra={"stale": 1}))
        assert not stuck.close(timeout_s=0.1)

    def test_the_results_that_are_lost_are_counted_in_the_log(
        self, stuck: Buffer, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert not stuck.close(timeout_s=0.1)
        assert "event=buffer_lost results=50 error=the disk is stuck" in caplog.text
        wait_until(lambda: not stuck.alive, what="its thread to end")

    @pytest.mark.filterwarnings("error")
    def test_a_writer_that_crashes_is_seen_and_keeps_nobody_waiting(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        buffer = make(tmp_path / "buffer.db", flush_interval_s=0.02)

        def crash(_: object) -> None:
            raise RuntimeError("a mistake")

        assert buffer.alive
        monkeypatch.setattr(buffer._store, "write", crash)
        buffer.append("p", result(0))
        wait_until(lambda: not buffer.alive)
        assert "a mistake" in buffer.error
        assert "event=buffer_writer_crashed" in caplog.text
        with pytest.raises(BufferStorageError):
            buffer.append("p", result(1))
        assert not buffer.flush(5)
        assert not buffer.close(timeout_s=0.1)


class TestDamaged:
    def test_only_the_newest_damaged_file_is_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "buffer.db"
        for number in range(3):
            path.write_bytes(b"rubbish %d" % number * 500)
            assert make(path).close()
        (aside,) = tmp_path.glob("buffer.db.damaged-*")
        assert aside.read_bytes().startswith(b"rubbish 2")

    @pytest.mark.parametrize(
        "content", [b"no database at all" * 500, b"SQLite format 3\0" + b"\xff" * 9000], ids=["text", "header"]
    )
    def test_a_file_that_is_none_is_set_aside(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "buffer.db"
        path.write_bytes(content)
        buffer = make(path)
        buffer.append("p", result(0))
        assert buffer.close(60)
        assert buffer.durable_seq == 1
        (aside,) = tmp_path.glob("buffer.db.damaged-*")
        assert aside.read_bytes() == content
        assert assert_contiguous(read(path)) == 1

    def test_a_database_of_something_else_is_set_aside(self, tmp_path: Path) -> None:
        path = tmp_path / "buffer.db"
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER)")
            db.execute("INSERT INTO meta VALUES ('epoch', 3)")
        db.close()
        buffer = make(path)
        assert buffer.epoch != 3
        assert buffer.close(60)
        assert len(list(tmp_path.glob("buffer.db.damaged-????????"))) == 1

    def test_a_newer_schema_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "buffer.db"
        assert make(path).close()
        with sqlite3.connect(path) as db:
            db.execute("UPDATE meta SET value = 3 WHERE key = 'schema'")
        db.close()
        content = path.read_bytes()
        with pytest.raises(BufferStorageError, match=r"schema version 2 or older, found 3 \(a newer edgeinfer"):
            make(path)
        with pytest.raises(BufferStorageError, match="schema version 2, found 3"):
            BufferReader(path)
        assert path.read_bytes() == content
        assert not list(tmp_path.glob("*damaged*"))

    @pytest.mark.parametrize("damage", ["clock_ns = -clock_ns - 1", "clock_ns = 1 << 62", "n = -n", "n = 1 << 40"])
    def test_an_impossible_number_in_the_newest_chunk_is_damage(self, tmp_path: Path, damage: str) -> None:
        path = killed_after_three(tmp_path, damage)
        buffer = make(path)
        buffer.append("p", result(3))
        assert buffer.flush(60)
        wait_until(lambda: not buffer._store.is_salvaging)
        assert buffer.close(60)
        assert buffer.alive is False
        assert not buffer.error
        assert len(list(tmp_path.glob("buffer.db.damaged-????????"))) == 1
        assert 3 in frames_of(read(path), "p")

    @pytest.mark.parametrize("frames", ["x'81a4ee6e667203'", "x'81a16acfffffffffffffffff'", "x'81a16aff'", "x'ff'"])
    def test_damaged_counts_of_frames_are_left_out(self, tmp_path: Path, frames: str) -> None:
        path = killed_after_three(tmp_path, f"frames = {frames}")
        with BufferReader(path) as reader:
            assert reader.frames() == {"p": {"inferred": 2}}
        buffer = make(path)
        assert buffer.durable_seq == 3
        buffer.append("p", result(3))
        assert buffer.close(60)
        assert not list(tmp_path.glob("*damaged*"))
        assert frames_of(read(path), "p") == [0, 1, 2, 3]

    def test_damage_while_writing_is_survived_under_the_same_numbering(self, tmp_path: Path) -> None:
        path = tmp_path / "buffer.db"
        buffer = make(path, flush_interval_s=3600)
        for frame in range(100):
            buffer.append("p", result(frame))
        assert buffer.flush(60)
        epoch = buffer.epoch

        def damage(_: int) -> int:
            """Called by the writer's thread before it writes, so that nobody pulls a connection away from under it."""
            buffer._acknowledged = lambda _: 0
            assert checkpointed(path)
            content = bytearray(path.read_bytes())
            content[1024:] = b"\xaa" * (len(content) - 1024)
            path.write_bytes(content)
            buffer._store._file.db.execute("PRAGMA shrink_memory").fetchone()  # its page cache would hide the damage
            return 0

        buffer._acknowledged = damage
        for frame in range(100, 130):
            buffer.append("p", result(frame))
        assert buffer.flush(60)
        assert (buffer.epoch, buffer.durable_seq) == (epoch, 130)
        wait_until(lambda: not buffer._store.is_salvaging)
        assert buffer.close(60)
        chunks = read(path)
        assert sizes(chunks) == [(1, -100), (101, 30)]
        assert json.loads(chunks[0].body)["reason"] == "damaged"
        assert frames_of(chunks, "p") == list(range(100, 130))
        assert len(list(tmp_path.glob("buffer.db.damaged-????????"))) == 1


def killed_after_three(folder: Path, damage: str) -> Path:
    """A buffer as a process leaves it that is killed after two commits, of two results and one, with a change in the
    row of the second one: the first one has saved the state."""
    source, path = folder / "source" / "buffer.db", folder / "buffer.db"
    buffer = make(source, flush_interval_s=3600)
    for frames in ((0, 1), (2,)):
        for frame in frames:
            buffer.append("p", result(frame))
        assert buffer.flush(60)
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{source}{suffix}", f"{path}{suffix}")
    assert buffer.close(60)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(f"UPDATE seg_1 SET {damage} WHERE first_seq = 3")  # noqa: S608 - of this file
    return path


def checkpointed(path: Path) -> bool:
    """Move all of the WAL into the database; False while its writer is in the middle of something."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy


def test_a_commit_that_was_reported_as_failed_is_not_written_twice(tmp_path: Path) -> None:
    path = tmp_path / "buffer.db"
    store = BufferStore(path, max_bytes=1 << 20)
    chunks = [NewChunk("p", 3, 0, b"abc", {"inferred": 3})]
    commit_unnoticed(store, chunks)
    store._failed(io_error())
    store.write(chunks)
    assert store.next_seq == 4
    store.write(chunks)
    store.close()
    with BufferReader(path) as reader:
        assert [(chunk.first_seq, chunk.n) for chunk in reader.chunks(0, limit=9)] == [(1, 3), (4, 3)]
        assert reader.frames() == {"p": {"inferred": 6}}


def test_an_open_that_fails_halfway_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit that did take place is still recognized by the open after that."""
    path = tmp_path / "buffer.db"
    store = BufferStore(path, max_bytes=1 << 20)
    chunks = [NewChunk("p", 3, 0, b"abc", {})]
    commit_unnoticed(store, chunks)
    store._failed(io_error())

    def fail(_db: object) -> list[Segment]:
        raise io_error()

    with monkeypatch.context() as patch:
        patch.setattr("edgeinfer.runtime.buffer_file.file.read_segments", fail)
        with pytest.raises(BufferStorageError):
            store.write(chunks)
    store.write(chunks)
    store.close()
    assert sizes(read(path)) == [(1, 3)]


def commit_unnoticed(store: BufferStore, chunks: list[NewChunk]) -> None:
    """The commit takes place, but an error comes back."""
    file = open_file(store._path, store._limits)
    file.append(chunks)
    file.close()


def io_error() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR
    return error
