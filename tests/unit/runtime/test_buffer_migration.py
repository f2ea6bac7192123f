"""A buffer of schema version 1 is brought up to date: all of it or nothing, whatever it holds."""

import os
import signal
import sqlite3
import subprocess
import sys
import zlib
from contextlib import closing
from pathlib import Path

import pytest

from buffer_files import ALL, assert_contiguous, new, read, segments, sizes
from edgeinfer.runtime.buffer import Buffer, BufferConfig
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.buffer_store import BufferStore
from edgeinfer.runtime.chunk import COLUMNS, NO_LINK, TOMBSTONE
from edgeinfer.runtime.codec import decode, encode
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.results import Item, Kind, Result

pytestmark = pytest.mark.timeout(1200)  # hundreds of transactions: minutes on a slow disk

EPOCH = 4_444_444_444_444_444_445
EVICTED = 300

# What the code of version 1 wrote.
SCHEMA_V1 = """
PRAGMA page_size=4096;
PRAGMA journal_mode=WAL;
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE segment (id INTEGER PRIMARY KEY, first_seq INTEGER NOT NULL) STRICT;
CREATE TABLE tombstone (
    first_seq INTEGER PRIMARY KEY, n INTEGER NOT NULL, t0_ns INTEGER NOT NULL, reason TEXT NOT NULL
) STRICT;
CREATE TABLE frames (
    pipeline TEXT NOT NULL, state TEXT NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (pipeline, state)
) STRICT, WITHOUT ROWID;
"""
SEGMENT_V1 = """CREATE TABLE {table} (
    first_seq INTEGER PRIMARY KEY, n INTEGER NOT NULL, t0_ns INTEGER NOT NULL, pipeline TEXT NOT NULL,
    codec INTEGER NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL
) STRICT"""


def result(frame: int) -> Result:
    if frame % 10 == 0:
        return Result(Kind.EVENT, 10**18 + frame, frame, extra={"rule": "entered"})
    return Result(Kind.CLASSIFICATION, 10**18 + frame, frame, 5, 9, (Item(frame % 7, 0.5),))


def version_1(path: Path, *, chunks: int = 30, is_open_empty: bool = False) -> None:
    """A buffer of version 1: 300 results evicted, then chunks of 20 of two pipelines, ten in a segment."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(SCHEMA_V1)
        seq = EVICTED + 1
        db.execute("INSERT INTO tombstone VALUES (1, ?, 77, 'full')", (EVICTED,))
        for number in range(chunks):
            if number % 10 == 0:
                db.execute("INSERT INTO segment VALUES (?, ?)", (4 + number // 10, seq))
                db.execute(SEGMENT_V1.format(table=f"seg_{4 + number // 10}"))
            body = encode([result(frame) for frame in range(seq, seq + 20)], COLUMNS)
            row = (seq, 20, 10**18 + seq, "ab"[number % 2], COLUMNS, zlib.crc32(body), body)
            db.execute(f"INSERT INTO seg_{4 + number // 10} VALUES (?, ?, ?, ?, ?, ?, ?)", row)  # noqa: S608 - our own name
            seq += 20
        if is_open_empty:
            db.execute("INSERT INTO segment VALUES (99, ?)", (seq,))
            db.execute(SEGMENT_V1.format(table="seg_99"))
        meta = {"schema": 1, "epoch": EPOCH, "next_seq": seq, "evicted": EVICTED}
        db.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        db.executemany("INSERT INTO frames VALUES (?, ?, ?)", [("a", "inferred", 500), ("b/c", "stale", 3)])


@pytest.mark.parametrize("is_open_empty", [False, True])
def test_everything_is_still_there(tmp_path: Path, is_open_empty: bool) -> None:
    path = tmp_path / "buffer.db"
    version_1(path, is_open_empty=is_open_empty)
    buffer = Buffer(BufferConfig(path=str(path)), acknowledged=lambda _: 0)
    assert (buffer.epoch, buffer.durable_seq) == (EPOCH, 900)
    buffer.append("a", result(901))
    assert buffer.close(60)
    chunks = read(path)
    assert assert_contiguous(chunks) == 901
    assert (sizes(chunks)[0], chunks[0].t0_ns) == ((1, -300), 77)
    frames = [row.frame for c in chunks if c.codec != TOMBSTONE for row in decode(c.codec, c.body, n=c.n)]
    assert frames == list(range(301, 902))
    assert [chunk.link == NO_LINK for chunk in chunks] == [True] * 31 + [False]
    with BufferReader(path) as reader:
        assert reader.audit_counts() == {"made": 901, "durable": 901, "evicted": 300}
        assert reader.frames() == {"a": {"inferred": 501}, "b/c": {"stale": 3}}
        assert reader.first_seq() == 1
        assert reader.events(0, limit=ALL) == [], "they are in chunks with results"
        assert sizes(reader.chunks(310, limit=2)) == [(301, 20), (321, 20)]


def test_what_it_holds_is_dropped_evicted_and_renumbered_like_anything_else(tmp_path: Path) -> None:
    path = tmp_path / "buffer.db"
    version_1(path)
    store = BufferStore(path, max_bytes=1 << 22)
    assert [(one.first_seq, one.last_seq, one.is_open) for one in segments(store)] == [
        (301, 500, False), (501, 700, False), (701, 900, False),
    ]  # fmt: skip
    store.drop_up_to(520)
    assert store._file.evict(segments(store)[0], 520, reason="full") == 180
    store.write([new(n=5)])
    assert sizes(read(path))[0] == (521, -180)
    store.acknowledged = 710
    store.begin_epoch()
    store.close()
    chunks = read(path)
    assert sizes(chunks) == [
        (1, 20),
        (21, 20),
        (41, 20),
        (61, 20),
        (81, 20),
        (101, 20),
        (121, 20),
        (141, 20),
        (161, 20),
        (181, 20),
        (201, 5),
    ]
    assert {chunk.link for chunk in chunks[:-1]} == {NO_LINK}
    assert chunks[-1].link != NO_LINK


def test_a_reader_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "buffer.db"
    version_1(path)
    with pytest.raises(BufferStorageError, match=r"schema version 2, found 1 \(start the daemon once"):
        BufferReader(path)


def test_it_is_done_once_and_costs_nothing_otherwise(tmp_path: Path) -> None:
    """The library for it is loaded only where a file needs it."""
    path = tmp_path / "buffer.db"
    version_1(path)
    script = (
        "import sys\nfrom pathlib import Path\nfrom edgeinfer.runtime.buffer_store import BufferStore\n"
        "BufferStore(Path(sys.argv[1]), max_bytes=1 << 22).close()\nprint('sqlite_utils' in sys.modules)\n"
    )
    run = [sys.executable, "-c", script, str(path)]
    assert [subprocess.check_output(run, text=True) for _ in range(2)] == ["True\n", "False\n"]


def test_a_kill_in_the_middle_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    """Killed at each statement in turn."""
    script = (
        "import os, signal, sqlite3, sys\nfrom pathlib import Path\n"
        "from edgeinfer.runtime.buffer_file import migration\n"
        "left = int(sys.argv[2])\n"
        "def count(_statement):\n    global left\n    left -= 1\n"
        "    if left < 0:\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\ndb.set_trace_callback(count)\n"
        "migration.migrate(db, version=1)\n"
    )
    path = tmp_path / "buffer.db"
    version_1(path, chunks=12)
    versions = []
    for statements in (0, 3, 9, 14, 18, 22, 26, 30, 33, 36, 40, 50, 80):
        done = subprocess.run([sys.executable, "-c", script, str(path), str(statements)], check=False)
        with closing(sqlite3.connect(path)) as db:
            (version,) = db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
            assert db.execute("PRAGMA quick_check").fetchone() == ("ok",)
        versions.append(version)
        if version == 2:
            break
        assert done.returncode == -signal.SIGKILL
    assert versions[-1] == 2
    assert len(versions) > 4
    store = BufferStore(path, max_bytes=1 << 22)
    assert (store.epoch, store.next_seq) == (EPOCH, 541)
    store.close()
    assert assert_contiguous(read(path)) == 540


def test_a_damaged_old_one_is_salvaged(tmp_path: Path) -> None:
    path = tmp_path / "buffer.db"
    version_1(path)
    content = bytearray(path.read_bytes())
    with closing(sqlite3.connect(path)) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'segment'").fetchone()
    content[(page - 1) * 4096 : (page - 1) * 4096 + 8] = b"\xff" * 8
    path.write_bytes(content)
    store = BufferStore(path, max_bytes=1 << 22)
    assert (store.epoch, store.next_seq) == (EPOCH, 901)
    while store.is_salvaging:
        store.salvage_step()
    store.close()
    chunks = read(path)
    assert assert_contiguous(chunks) == 900
    assert sizes(chunks)[0] == (1, -300)
    assert len(chunks) == 31
    with BufferReader(path) as reader:
        assert reader.frames() == {"a": {"inferred": 500}, "b/c": {"stale": 3}}
        assert reader.evicted_counts() == {"full": 300}


def test_what_is_no_whole_version_1_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "buffer.db"
    version_1(path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM meta WHERE key = 'epoch'")
    store = BufferStore(path, max_bytes=1 << 22)
    store.write([new()])
    store.close()
    assert store.epoch != EPOCH
    assert sizes(read(path)) == [(1, 10)]
    assert os.listdir(tmp_path).count("buffer.db") == 1  # noqa: PTH208 - names are all that is looked at
