"""The buffer's file: tables, segments, tombstones. Used by one thread; `edgeinfer.runtime.buffer` is it.

meta(key, value)            epoch, next_seq, next_segment, evicted
segment(id, first_seq)      the segments, oldest first; the last one is open
seg_<id>(first_seq, ...)    the chunks of a segment
tombstone(first_seq, ...)   what was evicted before it could be sent
frames(pipeline, state, n)  every captured frame, by the state that it ended in
"""

import contextlib
import logging
import os
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from edgeinfer.runtime.ballast import Ballast
from edgeinfer.runtime.chunk import COLUMNS
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.hashing import random_hex
from edgeinfer.runtime.locking import lock, unlock

__all__ = ["BufferStore", "NewChunk"]

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
_PAGE_BYTES = 4096
_SEGMENT_BYTES = 4 << 20
# Rows are appended and segments dropped: a larger cache of pages (SQLite's default is 2 MB) would hold nothing of use.
_CACHE_KIB = 256
# Evict before the cap: the commit itself and the tables need some room.
_FULL_SHARE = 0.85
# SQLite's result codes for a file that is no database any more; the low byte of an extended code.
_PRIMARY_CODE = 0xFF
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_CHECKPOINT_PAGES = 1000
# A reader that sits in a transaction must not keep the writer from its next try.
_CHECKPOINT_WAIT_MS = 200
_BUSY_MS = 5000
# The count of a chunk has 32 bits on the wire.
_LARGEST_TOMBSTONE = 1 << 31

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS segment (id INTEGER PRIMARY KEY, first_seq INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS tombstone (
    first_seq INTEGER PRIMARY KEY, n INTEGER NOT NULL, t0_ns INTEGER NOT NULL, reason TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS frames (
    pipeline TEXT NOT NULL, state TEXT NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (pipeline, state)
) STRICT, WITHOUT ROWID;
"""
_SEGMENT_SCHEMA = """CREATE TABLE {table} (
    first_seq INTEGER PRIMARY KEY, n INTEGER NOT NULL, t0_ns INTEGER NOT NULL, pipeline TEXT NOT NULL,
    codec INTEGER NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL
) STRICT"""


class NewChunk(msgspec.Struct, frozen=True):
    """A chunk that has no sequence number yet. `frames` are counts by state to add to the totals."""

    pipeline: str
    n: int
    t0_ns: int
    body: bytes
    frames: dict[str, int]


class BufferStore:
    """The writer's connection. Raises BufferStorageError.

    Attributes: `epoch`; `next_seq`; `acknowledged`, to be set by the owner: nothing up to it is needed any more.
    """

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._segment_limit = min(_SEGMENT_BYTES, max_bytes // 8)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BufferStorageError(f"{path.parent}: cannot be made: {error.strerror}") from error
        self.epoch = 0
        self.next_seq = 1
        self.acknowledged = 0
        self._table = ""
        self._lock_file = lock(path, hint="is edgeinfer already running with this state_dir?")
        self._segment_bytes = 0
        self._out_of_room = False
        # The size that the file had when the disk was full; above all sizes while there is room.
        self._disk_limit = 1 << 62
        # Enough for the log that has to be copied into the file before either can be used again.
        self._ballast = Ballast(path.with_name(path.name + ".ballast"), size=2 * self._segment_limit)
        try:
            self._db = self._open_or_set_aside()
        except BaseException:
            unlock(self._lock_file)
            raise
        self._ballast.hold()

    @property
    def commit_bytes(self) -> int:
        """What one `write` may hold, in bytes of chunks: more might never fit."""
        return self._segment_limit

    def close(self) -> None:
        self._db.close()
        unlock(self._lock_file)

    def write(self, chunks: Sequence[NewChunk]) -> None:
        """Make the chunks durable in one commit, or raise BufferStorageError with nothing changed."""
        try:
            if self._db_is_lost() and self._reopen_finds(chunks):
                return
            if self._out_of_room:
                self._relieve()
            self._make_room(sum(len(chunk.body) for chunk in chunks))
            next_seq = self._insert(chunks)
        except sqlite3.Error as error:
            raise self._failed(error) from error
        self.next_seq = next_seq
        self._out_of_room = False
        if self._segment_bytes >= self._segment_limit:
            self._rotate_quietly()

    def drop_up_to(self, acknowledged_seq: int) -> None:
        """Drop the closed segments and tombstones that hold nothing beyond `acknowledged_seq`."""
        self.acknowledged = acknowledged_seq
        if self._db_is_lost() or self._out_of_room:
            return
        try:
            while self._drop_oldest_acknowledged():
                pass
            with _transaction(self._db):
                self._db.execute("DELETE FROM tombstone WHERE first_seq + n - 1 <= ?", (acknowledged_seq,))
        except sqlite3.Error as error:
            raise self._failed(error) from error
        if self._ballast.hold():
            self._disk_limit = 1 << 62

    def begin_epoch(self) -> None:
        """Number anew: the medium has lost commits, and numbers that others know would be given out again.

        What is acknowledged goes; the rest is kept, numbered from 1 in the new epoch.
        """
        old, kept_from = self.epoch, self.acknowledged + 1
        try:
            if self.next_seq <= kept_from:
                self._rotate()
            while self._drop_oldest_acknowledged():
                pass
            epoch = _new_epoch()
            with _transaction(self._db) as db:
                shift = self._renumber(db)
                meta = {"epoch": epoch, "next_seq": self.next_seq - shift, "evicted": self._tombstones(db)}
                db.executemany("UPDATE meta SET value = ?2 WHERE key = ?1", meta.items())
        except sqlite3.Error as error:
            raise self._failed(error) from error
        self.epoch, self.next_seq, self.acknowledged = epoch, self.next_seq - shift, 0
        logger.error("event=buffer_epoch_begun old=%d new=%d kept=%d", old, epoch, self.next_seq - 1)

    def _renumber(self, db: sqlite3.Connection) -> int:
        """Take away what is acknowledged and move the rest down to 1; by how much."""
        tables = [f"seg_{number}" for (number,) in db.execute("SELECT id FROM segment")] + ["tombstone"]
        lowest = self.next_seq
        for table in tables:
            db.execute(f"DELETE FROM {table} WHERE first_seq + n - 1 <= ?", (self.acknowledged,))  # noqa: S608 - our own name
            (first,) = db.execute(f"SELECT min(first_seq) FROM {table}").fetchone()  # noqa: S608 - our own name
            lowest = min(lowest, first if first is not None else lowest)
        shift = lowest - 1
        for table in tables:
            # By way of negative numbers, so that no row meets one that has not moved yet.
            db.execute(f"UPDATE {table} SET first_seq = ? - first_seq", (shift,))  # noqa: S608 - our own name
            db.execute(f"UPDATE {table} SET first_seq = -first_seq")  # noqa: S608 - our own name
        db.execute("UPDATE segment SET first_seq = max(1, first_seq - ?)", (shift,))
        return shift

    @staticmethod
    def _tombstones(db: sqlite3.Connection) -> int:
        (count,) = db.execute("SELECT coalesce(sum(n), 0) FROM tombstone").fetchone()
        return int(count)

    def _insert(self, chunks: Sequence[NewChunk]) -> int:
        seq = self.next_seq
        rows = []
        for chunk in chunks:
            rows.append((seq, chunk.n, chunk.t0_ns, chunk.pipeline, COLUMNS, zlib.crc32(chunk.body), chunk.body))
            seq += chunk.n
        with _transaction(self._db) as db:
            db.executemany(f"INSERT INTO {self._table} VALUES (?, ?, ?, ?, ?, ?, ?)", rows)  # noqa: S608 - our own name
            db.execute("UPDATE meta SET value = ? WHERE key = 'next_seq'", (seq,))
            for chunk in chunks:
                for state, count in chunk.frames.items():
                    db.execute(
                        "INSERT INTO frames VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n",
                        (chunk.pipeline, state, count),
                    )
        self._segment_bytes += sum(len(chunk.body) for chunk in chunks)
        return seq

    def _open_or_set_aside(self) -> sqlite3.Connection:
        try:
            return self._open()
        except sqlite3.OperationalError as error:
            if not self._ballast.release():  # a full disk has no room for the files that opening makes
                raise BufferStorageError(f"{self._path}: cannot be opened: {error}") from error
        except sqlite3.DatabaseError as error:
            self._set_aside(error)
        try:
            return self._open()
        except sqlite3.Error as error:
            raise BufferStorageError(f"{self._path}: cannot be opened: {error}") from error

    def _set_aside(self, error: sqlite3.Error) -> None:
        """Rename a damaged file: a new one, with a new epoch, takes its place. Only the newest one is kept."""
        damaged = self._path.with_name(f"{self._path.name}.damaged-{random_hex(4)}")
        logger.error("event=buffer_damaged error=%s set_aside=%s", error, damaged)
        try:
            for old in self._path.parent.glob(f"{self._path.name}.damaged-*"):
                old.unlink()
            for suffix in ("", "-wal", "-shm"):
                part = self._path.with_name(self._path.name + suffix)
                if part.exists():
                    part.rename(damaged.with_name(damaged.name + suffix))
        except OSError as refused:
            raise BufferStorageError(f"{self._path}: is damaged and cannot be set aside: {refused}") from refused

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(db)
        except BaseException:
            db.close()
            raise
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        """Set the connection up and read where the numbering stands."""
        for pragma in (
            f"page_size={_PAGE_BYTES}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "secure_delete=OFF",
            f"cache_size=-{_CACHE_KIB}",
            f"max_page_count={max(64, self._max_bytes // _PAGE_BYTES)}",
            f"journal_size_limit={self._segment_limit}",
            # The log of a small buffer stays small too.
            f"wal_autocheckpoint={min(_CHECKPOINT_PAGES, 2 * self._segment_limit // _PAGE_BYTES)}",
        ):
            db.execute(f"PRAGMA {pragma}").fetchone()
        with _transaction(db):
            for statement in filter(str.strip, _SCHEMA.split(";")):
                db.execute(statement)
            if db.execute("SELECT 1 FROM meta WHERE key = 'epoch'").fetchone() is None:
                self._initialize(db)
        meta: dict[str, int] = dict(db.execute("SELECT key, value FROM meta").fetchall())
        (segment,) = db.execute("SELECT max(id) FROM segment").fetchone()
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        if not {"schema", "epoch", "next_seq", "evicted"} <= meta.keys() or f"seg_{segment}" not in tables:
            raise sqlite3.DatabaseError("its meta rows or its open segment are missing")
        if meta["schema"] != SCHEMA_VERSION:
            raise BufferStorageError(
                f"{self._path}: expected a buffer of schema version {SCHEMA_VERSION}, found {meta['schema']}"
            )
        segment_bytes = self._bytes_of(db, f"seg_{segment}")
        # Last, and all at once: where anything above fails, the old state is what the next try compares with.
        self.epoch, self.next_seq = meta["epoch"], meta["next_seq"]
        self._table, self._segment_bytes = f"seg_{segment}", segment_bytes

    def _initialize(self, db: sqlite3.Connection) -> None:
        meta = {"schema": SCHEMA_VERSION, "epoch": _new_epoch(), "next_seq": 1, "evicted": 0}
        db.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        db.execute("INSERT INTO segment VALUES (1, 1)")
        db.execute(_SEGMENT_SCHEMA.format(table="seg_1"))

    @staticmethod
    def _bytes_of(db: sqlite3.Connection, table: str) -> int:
        query = f"SELECT coalesce(sum(length(body)), 0) FROM {table}"  # noqa: S608 - our own name
        (size,) = db.execute(query).fetchone()
        return int(size)

    def _closed_segments(self) -> list[tuple[str, int]]:
        """Name and last sequence number of every segment but the open one, oldest first."""
        rows = self._db.execute("SELECT id, first_seq FROM segment ORDER BY id").fetchall()
        return [(f"seg_{rows[i][0]}", rows[i + 1][1] - 1) for i in range(len(rows) - 1)]

    def _rotate_quietly(self) -> None:
        """A segment that cannot be closed now is closed after a later write."""
        try:
            self._rotate()
        except sqlite3.Error as error:
            logger.warning("event=buffer_rotate_failed error=%s", error)

    def _rotate(self) -> None:
        with _transaction(self._db) as db:
            number = int(self._table.removeprefix("seg_")) + 1
            db.execute("INSERT INTO segment VALUES (?, ?)", (number, self.next_seq))
            db.execute(_SEGMENT_SCHEMA.format(table=f"seg_{number}"))
        self._table = f"seg_{number}"
        self._segment_bytes = 0

    def _drop_segment(self, table: str) -> None:
        with _transaction(self._db) as db:
            db.execute(f"DROP TABLE {table}")
            db.execute("DELETE FROM segment WHERE id = ?", (int(table.removeprefix("seg_")),))

    def _drop_oldest_acknowledged(self) -> bool:
        """False where the oldest closed segment holds something that is not acknowledged."""
        closed = self._closed_segments()
        if not closed or closed[0][1] > self.acknowledged:
            return False
        self._drop_segment(closed[0][0])
        return True

    def _relieve(self) -> None:
        """The disk is full: give back the ballast and what is acknowledged, and from now on make do with the room
        that the file has."""
        self._ballast.release()
        self._checkpoint_quietly()
        (pages,) = self._db.execute("PRAGMA page_count").fetchone()
        self._disk_limit = min(self._disk_limit, max(int(pages) * _PAGE_BYTES, 3 * self._segment_limit))
        if self._segment_bytes and self.acknowledged >= self.next_seq - 1:
            self._rotate()
        while self._drop_oldest_acknowledged():
            pass
        self._checkpoint_quietly()

    def _checkpoint_quietly(self) -> None:
        """Let the log begin anew in the room that it has. Not cut down: others might take what it gave back."""
        with contextlib.suppress(sqlite3.OperationalError):
            self._db.execute(f"PRAGMA busy_timeout={_CHECKPOINT_WAIT_MS}").fetchone()
            self._db.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        self._db.execute(f"PRAGMA busy_timeout={_BUSY_MS}").fetchone()

    def _make_room(self, incoming_bytes: int) -> None:
        limit = min(_FULL_SHARE * self._max_bytes, self._disk_limit - self._segment_limit // 2) - incoming_bytes
        while self._used_bytes() > limit:
            if self._drop_oldest_acknowledged():
                continue
            if not self._closed_segments():
                if self._segment_bytes == 0:
                    return
                self._rotate()
            self._evict_oldest()

    def _used_bytes(self) -> int:
        (pages,) = self._db.execute("PRAGMA page_count").fetchone()
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        return (int(pages) - int(free)) * _PAGE_BYTES

    def _evict_oldest(self) -> None:
        """Give up the oldest segment; a tombstone keeps its place and its count."""
        table, last_seq = self._closed_segments()[0]
        first_seq, t0_ns = self._db.execute(
            f"SELECT min(first_seq), min(t0_ns) FROM {table}"  # noqa: S608 - our own name
        ).fetchone()
        first_seq = max(first_seq, self.acknowledged + 1)  # what was delivered is not lost
        count = last_seq - first_seq + 1
        with _transaction(self._db) as db:
            self._entomb(db, first_seq, count, t0_ns)
            db.execute("UPDATE meta SET value = value + ? WHERE key = 'evicted'", (count,))
            db.execute(f"DROP TABLE {table}")
            db.execute("DELETE FROM segment WHERE id = ?", (int(table.removeprefix("seg_")),))
        logger.warning("event=buffer_evicted first_seq=%d n=%d reason=full", first_seq, count)

    @staticmethod
    def _entomb(db: sqlite3.Connection, first_seq: int, count: int, t0_ns: int) -> None:
        """A tombstone; one that ends just before grows instead."""
        grown = db.execute(
            "UPDATE tombstone SET n = n + ?2 WHERE first_seq = (SELECT max(first_seq) FROM tombstone)"
            " AND first_seq + n = ?1 AND n + ?2 < ?3 AND reason = 'full'",
            (first_seq, count, _LARGEST_TOMBSTONE),
        )
        if not grown.rowcount:
            db.execute("INSERT INTO tombstone VALUES (?, ?, ?, 'full')", (first_seq, count, t0_ns))

    def _db_is_lost(self) -> bool:
        try:
            self._db.execute("SELECT 1 FROM meta LIMIT 1").fetchone()
        except sqlite3.Error:
            return True
        return False

    def _reopen_finds(self, chunks: Sequence[NewChunk]) -> bool:
        """Open the file again after an error. True where the commit of `chunks` that was reported as failed
        took place after all: writing them once more would double them."""
        epoch, next_seq = self.epoch, self.next_seq
        self._db.close()
        self._db = self._open_or_set_aside()
        found = (epoch, next_seq + sum(chunk.n for chunk in chunks)) == (self.epoch, self.next_seq)
        if found:
            logger.warning("event=buffer_commit_found next_seq=%d", self.next_seq)
        elif epoch == self.epoch and self.next_seq < next_seq:
            logger.error("event=buffer_commits_lost next_seq=%d was=%d", self.next_seq, next_seq)
            self.begin_epoch()
        return found

    def _failed(self, error: sqlite3.Error) -> BufferStorageError:
        """Forget the connection: after an I/O error its state is not to be trusted. Where only room was lacking,
        nothing happened, and opening would need room too."""
        code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE
        self._out_of_room = code == sqlite3.SQLITE_FULL or self._ballast.disk_is_full()
        if code != sqlite3.SQLITE_FULL:
            self._db.close()
        if code in _DAMAGED:
            self._set_aside(error)
        return BufferStorageError(
            f"{self._path}: cannot be written: {error}", hint="is the disk full, read-only or failing?"
        )


def _new_epoch() -> int:
    """Random, not a time: the clock of a new device may say 1970 twice. Odd, so never 0, and below 2^62."""
    return int.from_bytes(os.urandom(8), "big") >> 2 | 1


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
        db.execute("COMMIT")
    except BaseException:
        # SQLITE_FULL and I/O errors may have rolled back already.
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
