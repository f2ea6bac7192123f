"""A damaged buffer: the start is not held up, what can be read is kept under its numbers, what is lost is counted."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from buffer_files import assert_chained, assert_contiguous, evict_oldest, new, read, sizes
from edgeinfer.runtime.buffer import Buffer, BufferConfig
from edgeinfer.runtime.buffer_file import aside
from edgeinfer.runtime.buffer_file.salvage_report import reports
from edgeinfer.runtime.buffer_file.schema import PAGE_BYTES as PAGE
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.buffer_store import BufferStore
from edgeinfer.runtime.chunk import EVENTS, RESULTS, TOMBSTONE, StoredChunk
from edgeinfer.runtime.results import Kind, Result
from waiting import wait_until

CHUNKS = 400
ACKNOWLEDGED = 700


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a power cut leaves it: a buffer with its log, segments dropped and evicted, and what it holds."""
    folder = tmp_path_factory.mktemp("image")
    rng = random.Random(5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeinfer.runtime.buffer_file.segments.segment_limit", lambda *_: 20_000)
        store = BufferStore(folder / "buffer.db", max_bytes=1 << 30)
        for number in range(CHUNKS):
            lane = EVENTS if rng.random() < 0.3 else RESULTS
            body = rng.randbytes(rng.choice((30, 200, 900, 2500, 9000)))
            store.write([new(body, n=rng.randrange(1, 20), pipeline=rng.choice("ab"), lane=lane, t0_ns=number)])
        store.drop_up_to(ACKNOWLEDGED)
        for _ in range(3):
            evict_oldest(store)
        store._file.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        for number in range(30):
            store.write([new(rng.randbytes(500), t0_ns=number)])
        saved = folder / "saved"
        saved.mkdir()
        for part in ("buffer.db", "buffer.db-wal"):
            shutil.copy(folder / part, saved / part)
        epoch = store.epoch
        store.close()
    (saved / "epoch").write_text(str(epoch))
    return saved


def copied(image: Path, folder: Path) -> Path:
    for part in ("buffer.db", "buffer.db-wal"):
        shutil.copy(image / part, folder / part)
    return folder / "buffer.db"


def original(image: Path, folder: Path) -> dict[int, StoredChunk]:
    """What was in the undamaged buffer, by first number."""
    (folder / "original").mkdir()
    path = copied(image, folder / "original")
    store = BufferStore(path, max_bytes=1 << 30)
    chunks = read(path)
    store.close()
    return {chunk.first_seq: chunk for chunk in chunks}


def salvaged(path: Path, *, acknowledged: int = ACKNOWLEDGED) -> BufferStore:
    store = BufferStore(path, max_bytes=1 << 30)
    store.acknowledged = acknowledged
    for _ in range(100_000):
        if not store.is_salvaging:
            return store
        store.salvage_step()
    raise AssertionError("the salvage does not come to an end")


def compare(path: Path, before: dict[int, StoredChunk], *, acknowledged: int = ACKNOWLEDGED) -> tuple[int, int]:
    """Every number beyond what is acknowledged is there once, as it was or as a tombstone. Chunks that are kept, and
    results that are lost."""
    kept = lost = 0
    chunks = [chunk for chunk in read(path) if chunk.last_seq > acknowledged]
    assert_contiguous(chunks, first=chunks[0].first_seq)
    assert chunks[0].first_seq <= acknowledged + 1
    for chunk in chunks:
        if chunk.codec != TOMBSTONE:
            # Neither is covered by the chunk's checksum. A link that fits no neighbour is kept as it was found.
            same = msgspec.structs.replace(before[chunk.first_seq], link=chunk.link, t0_ns=chunk.t0_ns)
            assert chunk == same
            kept += 1
        elif json.loads(chunk.body)["reason"] == "damaged":
            lost += chunk.n
    return kept, lost


def test_without_any_damage_all_of_it_comes_back(image: Path, tmp_path: Path) -> None:
    path = copied(image, tmp_path)
    before = original(image, tmp_path)
    aside.set_aside(path)
    store = salvaged(path)
    assert store.epoch == int((image / "epoch").read_text())
    beyond = [chunk for chunk in before.values() if chunk.last_seq > ACKNOWLEDGED]
    assert compare(path, before) == (sum(chunk.codec != TOMBSTONE for chunk in beyond), 0)
    assert [c for c in read(path) if c.codec == TOMBSTONE] == [c for c in beyond if c.codec == TOMBSTONE]
    assert assert_chained(read(path), store.epoch) > 100
    store.write([new()])
    with BufferReader(path) as reader, BufferReader(tmp_path / "original" / "buffer.db") as undamaged:
        assert reader.marks()[:-1] == undamaged.marks(), "and one at the start"
    store.close()
    assert assert_chained(read(path), store.epoch) > 100
    (report,) = reports(path)
    assert (report.lost, report.renumbered, report.numbering_goes_on, report.counters_kept) == (0, 0, True, True)
    assert report.salvaged == sum(chunk.n for chunk in beyond if chunk.codec != TOMBSTONE)
    with BufferReader(path) as reader:
        assert reader.evicted_counts() == {"full": sum(c.n for c in beyond if c.codec == TOMBSTONE)}


@pytest.mark.parametrize("seed", range(30))
def test_flipped_bytes_cost_no_more_than_what_they_hit(image: Path, tmp_path: Path, seed: int) -> None:
    path = copied(image, tmp_path)
    before = original(image, tmp_path)
    rng = random.Random(seed)
    for part in (path, path.with_name("buffer.db-wal")):
        content = bytearray(part.read_bytes())
        for _ in range(rng.randrange(1, 12)):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        part.write_bytes(content)
    aside.set_aside(path)
    store = salvaged(path)
    assert store.epoch == int((image / "epoch").read_text())
    all_kept = sum(chunk.codec != TOMBSTONE and chunk.last_seq > ACKNOWLEDGED for chunk in before.values())
    kept, lost = compare(path, before)
    store.close()
    assert kept >= all_kept - 60
    assert assert_chained(read(path), store.epoch) > 100, "no two neighbours contradict each other"
    with BufferReader(path) as reader:
        assert reader.evicted_counts().get("damaged", 0) == lost


def zero_pages(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(20):
        at = rng.randrange(len(content) // PAGE) * PAGE
        content[at : at + PAGE] = bytes(PAGE)
    path.write_bytes(content)


def destroy_first_page(path: Path, _: random.Random) -> None:
    """SQLite cannot read a single row of such a file."""
    for part, size in ((path, PAGE), (path.with_name("buffer.db-wal"), 24)):
        content = bytearray(part.read_bytes())
        content[:size] = b"\x55" * size
        part.write_bytes(content)


def truncate(path: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size // 2, path.stat().st_size))


def truncate_log(path: Path, _: random.Random) -> None:
    log = path.with_name("buffer.db-wal")
    os.truncate(log, log.stat().st_size - 5000)


def lose_log(path: Path, _: random.Random) -> None:
    path.with_name("buffer.db-wal").unlink()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("damage", [zero_pages, destroy_first_page, truncate, truncate_log, lose_log])
def test_other_damage(image: Path, tmp_path: Path, damage: Callable[[Path, random.Random], None], seed: int) -> None:
    path = copied(image, tmp_path)
    before = original(image, tmp_path)
    damage(path, random.Random(seed))
    aside.set_aside(path)
    store = salvaged(path)
    assert store.epoch == int((image / "epoch").read_text())
    kept, lost = compare(path, before)
    print(damage.__name__, kept, lost)
    following = store.next_seq
    store.write([new(b"after")])
    store.close()
    assert read(path)[-1].first_seq == following
    assert kept > 40


def test_numbers_that_others_have_seen_are_not_given_out_again(image: Path, tmp_path: Path) -> None:
    """The log is lost, and with it the newest commits: the agent has sent results that nobody finds any more."""
    path = copied(image, tmp_path)
    before = original(image, tmp_path)
    highest = max(chunk.last_seq for chunk in before.values())
    lose_log(path, random.Random(0))
    aside.set_aside(path)
    store = BufferStore(path, max_bytes=1 << 30)
    assert store.next_seq <= highest
    store.keep_numbers_unique(highest + 5)
    assert store.next_seq == highest + 6
    store.close()
    store = salvaged(path)
    store.write([new()])
    store.close()
    compare(path, {**before, highest + 6: read(path)[-1]})
    assert (
        assert_contiguous([c for c in read(path) if c.last_seq > ACKNOWLEDGED], first=read(path)[0].first_seq)
        == highest + 15
    )


def test_without_a_state_the_rest_is_numbered_anew(image: Path, tmp_path: Path) -> None:
    """Nothing tells where the numbering stood: a new epoch, in which what was not delivered comes once more."""
    path = copied(image, tmp_path)
    before = original(image, tmp_path)
    epoch = int((image / "epoch").read_text())
    lose_log(path, random.Random(0))
    path.write_bytes(path.read_bytes().replace(b"EIstate2", b"EIstate0"))
    aside.set_aside(path)
    asked: list[int] = []

    def acknowledged(of: int) -> int:
        asked.append(of)
        return ACKNOWLEDGED if of == epoch else 0

    buffer = Buffer(BufferConfig(path=str(path), flush_interval_s=0.05), acknowledged=acknowledged)
    assert buffer.epoch != epoch
    assert epoch in asked
    buffer.append("p", Result(Kind.ANOMALY, 1, 1))
    assert buffer.flush(60.0)
    wait_until(lambda: not buffer._store.is_salvaging)
    assert buffer.close()
    chunks = read(path)
    assert_contiguous(chunks)
    assert assert_chained(chunks, buffer.epoch) == len(chunks)
    wanted = [c.body for c in before.values() if c.codec != TOMBSTONE and c.last_seq > ACKNOWLEDGED][:-30]
    found = [chunk.body for chunk in chunks]
    # What had been given up and still lies in free pages is salvaged too: nothing says that it was.
    assert [body for body in found if body in set(wanted)] == wanted
    (report,) = reports(path)
    assert (report.numbering_goes_on, report.lost, report.renumbered) == (False, None, report.salvaged)


@pytest.mark.parametrize("content", [b"", b"rubbish" * 5000, b"SQLite format 3\0" + b"\xff" * 50_000])
def test_a_file_of_which_nothing_is_left(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "buffer.db"
    path.write_bytes(content)
    aside.set_aside(path)
    store = salvaged(path)
    store.write([new()])
    store.close()
    assert sizes(read(path)) == [(1, 10)]
    (report,) = reports(path)
    assert (report.salvaged, report.lost) == (0, None)


def test_readers_do_not_run_past_what_is_not_settled(image: Path, tmp_path: Path) -> None:
    path = copied(image, tmp_path)
    before = original(image, tmp_path)
    aside.set_aside(path)
    store = BufferStore(path, max_bytes=1 << 30)
    store.acknowledged = ACKNOWLEDGED
    first_new = store.next_seq
    store.write([new(b"new", lane=EVENTS)])
    looks = 0
    with BufferReader(path) as reader:
        assert reader.durable_seq() == first_new + 9
        assert (reader.chunks(ACKNOWLEDGED, limit=9), reader.events(0, limit=9), reader.settled_seq()) == ([], [], 0)
        assert reader.first_seq() == 1
        while store.is_salvaging:
            store.salvage_step()
            visible = reader.chunks(ACKNOWLEDGED, limit=10_000)
            if visible:
                looks += 1
                assert visible[0].first_seq <= ACKNOWLEDGED + 1
                assert_contiguous(visible, first=visible[0].first_seq)
        assert reader.settled_seq() == reader.durable_seq()
        assert reader.events(first_new - 1, limit=9)[0].body == b"new"
    store.close()
    assert looks > 2
    compare(path, {**before, first_new: read(path)[-1]})


def test_it_goes_on_where_a_kill_left_it(image: Path, tmp_path: Path) -> None:
    path = copied(image, tmp_path)
    before = original(image, tmp_path)
    zero_pages(path, random.Random(3))
    aside.set_aside(path)
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom edgeinfer.runtime.buffer_file import salvage\n"
        "from edgeinfer.runtime.buffer_store import BufferStore\nsalvage._STEP_NS = 1\nsalvage._CHUNKS_A_BATCH = 7\n"
        "store = BufferStore(Path(sys.argv[1]), max_bytes=1 << 30)\nstore.acknowledged = int(sys.argv[2])\n"
        "for _ in range(int(sys.argv[3])):\n    store.salvage_step()\n    print(store.is_salvaging, flush=True)\n"
        "sys.stdin.readline()\n"
    )
    kills, going_on = 0, True
    while going_on:
        command = [sys.executable, "-c", script, str(path), str(ACKNOWLEDGED), "25"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(25):
                going_on = process.stdout.readline() == "True\n"
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        assert kills < 100
    assert kills > 2
    kept, lost = compare(path, before)
    (report,) = reports(path)
    assert report.lost == lost > 0
    assert report.salvaged == sum(chunk.n for chunk in read(path) if chunk.codec != TOMBSTONE)
    assert kept > 100


def test_a_power_cut_while_it_is_set_aside(image: Path, tmp_path: Path) -> None:
    """Between the renaming of the database and that of its log, and before a new one is made."""
    path = copied(image, tmp_path)
    before = original(image, tmp_path)
    path.rename(tmp_path / "buffer.db.damaged-0123abcd")
    store = salvaged(path)
    assert compare(path, before)[1] == 0
    assert (tmp_path / "buffer.db.damaged-0123abcd-wal").exists()
    store.close()


def test_the_source_is_taken_away(image: Path, tmp_path: Path) -> None:
    path = copied(image, tmp_path)
    before = original(image, tmp_path)
    aside.set_aside(path)
    BufferStore(path, max_bytes=1 << 30).close()
    for part in tmp_path.glob("buffer.db.damaged-*"):
        part.unlink()
    store = salvaged(path)
    kept, lost = compare(path, before)
    assert (kept, lost) == (0, store.next_seq - 1 - ACKNOWLEDGED)
    store.close()


@pytest.mark.parametrize("which", ["segment", "meta", "leaf"])
def test_what_stops_a_reader_is_found_by_the_writer(tmp_path: Path, which: str) -> None:
    """Flipped bytes in a page that nobody has read since: the patrol meets them, or the next start does."""
    path = tmp_path / "buffer.db"
    store = BufferStore(path, max_bytes=1 << 24)
    for number in range(50):
        store.write([new(os.urandom(700), t0_ns=number)])
    epoch = store.epoch
    root = {"segment": "segment", "meta": "meta", "leaf": "seg_1"}[which]
    (page,) = store._file.db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (root,)).fetchone()
    store.close()
    content = bytearray(path.read_bytes())
    if which == "leaf":  # one of its children
        page = int.from_bytes(content[(page - 1) * PAGE + 8 : page * PAGE][:4], "big")
    content[(page - 1) * PAGE : (page - 1) * PAGE + 8] = b"\xff" * 8
    path.write_bytes(content)
    store = BufferStore(path, max_bytes=1 << 24)
    for _ in range(20):
        if store.is_salvaging:
            break
        store._patrol._looked_ns = store._tend_ns = -(1 << 62)
        try:
            store.drop_up_to(0)
        except Exception:
            store.write([new(b"next")])
    while store.is_salvaging:
        store.salvage_step()
    assert reports(path)
    assert (store.epoch == epoch) == (which != "meta") or store.epoch == epoch
    assert_contiguous(read(path))
    assert sum(chunk.codec != TOMBSTONE for chunk in read(path)) >= 45
    store.close()


class TestTheLog:
    """The write-ahead log of a buffer that was killed, damaged before the next start."""

    @pytest.fixture
    def killed(self, tmp_path: Path) -> Path:
        """All that was ever written is in the log: 100 chunks of 10."""
        store = BufferStore(tmp_path / "alive.db", max_bytes=1 << 24)
        for number in range(100):
            store.write([new(b"%d" % number * 50, t0_ns=number)])
        for suffix in ("", "-wal"):
            shutil.copy(tmp_path / f"alive.db{suffix}", tmp_path / f"buffer.db{suffix}")
        store.close()
        return tmp_path / "buffer.db"

    def test_one_that_is_whole_is_read_as_it_is(self, killed: Path) -> None:
        store = BufferStore(killed, max_bytes=1 << 24)
        assert (store.is_salvaging, store.next_seq) == (False, 1001)
        store.close()
        assert not list(killed.parent.glob("*kept*"))

    def test_a_last_commit_that_was_torn_is_no_damage(self, killed: Path) -> None:
        log = killed.with_name("buffer.db-wal")
        content = bytearray(log.read_bytes())
        content[-100] ^= 1
        log.write_bytes(content)
        store = BufferStore(killed, max_bytes=1 << 24)
        assert (store.is_salvaging, store.next_seq) == (False, 991)
        store.close()

    @pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
    def test_commits_behind_a_damaged_frame_are_not_lost(self, killed: Path, place: float) -> None:
        """SQLite would silently go back to the last commit before it."""
        log = killed.with_name("buffer.db-wal")
        content = bytearray(log.read_bytes())
        content[int(place * len(content))] ^= 1
        log.write_bytes(content)
        store = salvaged(killed, acknowledged=0)
        assert store.next_seq == 1001
        store.close()
        chunks = read(killed)
        assert assert_contiguous(chunks) == 1000
        assert sum(chunk.n for chunk in chunks if chunk.codec == TOMBSTONE) <= 30
        (report,) = reports(killed)
        assert report.why == "its log is damaged: commits are missing"

    @pytest.mark.parametrize("also_the_file", [False, True])
    def test_a_header_that_is_damaged_costs_nothing(self, killed: Path, also_the_file: bool) -> None:
        """SQLite would take the log for empty, and delete it."""
        for part in (killed.with_name("buffer.db-wal"), *([killed] if also_the_file else [])):
            content = bytearray(part.read_bytes())
            content[:32] = b"\x11" * 32
            part.write_bytes(content)
        store = salvaged(killed, acknowledged=0)
        store.close()
        assert sizes(read(killed)) == [(1 + 10 * number, 10) for number in range(100)]
        assert not list(killed.parent.glob("*kept*"))
