"""The buffer's file: tables, segments, tombstones. Used by one thread; `edgeinfer.runtime.buffer` is it.

meta(key, value)            epoch, next_seq, next_segment, evicted
segment(id, first_seq)      the segments, oldest first; the last one is open
seg_<id>(first_seq, ...)    the chunks of a segment
tombstone(first_seq, ...)   what was evicted before it could be sent
frames(pipeline, state, n)  every captured frame, by the state that it ended in
"""

import fcntl
import logging
import os
import secrets
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edgeinfer.runtime.chunk import COLUMNS
from edgeinfer.runtime.errors import BufferStorageError

__all__ = ["BufferStore", "NewChunk"]

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
_PAGE_BYTES = 4096
_SEGMENT_BYTES = 4 << 20
# Evict before the cap: the commit itself and the tables need some room.
_FULL_SHARE = 0.85
# SQLite's result codes for a file that is no database any more; the low byte of an extended code.
_PRIMARY_CODE = 0xFF
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

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
    """The writer's connection. Attributes: `epoch`, `next_seq`. Raises BufferStorageError."""

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
        self._table = ""
        self._lock_file = _lock(path)
        self._segment_bytes = 0
        try:
            self._db = self._open_or_set_aside()
        except BaseException:
            os.close(self._lock_file)
            raise

    def close(self) -> None:
        self._db.close()
        os.close(self._lock_file)

    def write(self, chunks: Sequence[NewChunk]) -> None:
        """Make the chunks durable in one commit, or raise BufferStorageError with nothing changed."""
        try:
            if self._db_is_lost() and self._reopen_finds(chunks):
                return
            self._make_room(sum(len(chunk.body) for chunk in chunks))
            next_seq = self._insert(chunks)
        except sqlite3.Error as error:
            raise self._failed(error) from error
        self.next_seq = next_seq
        if self._segment_bytes >= self._segment_limit:
            self._rotate_quietly()

    def drop_up_to(self, acknowledged_seq: int) -> None:
        """Drop the closed segments and tombstones that hold nothing beyond `acknowledged_seq`."""
        if self._db_is_lost():
            return
        try:
            for table, last_seq in self._closed_segments():
                if last_seq > acknowledged_seq:
                    break
                self._drop_segment(table)
            with _transaction(self._db):
                self._db.execute("DELETE FROM tombstone WHERE first_seq + n - 1 <= ?", (acknowledged_seq,))
        except sqlite3.Error as error:
            raise self._failed(error) from error

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
            raise BufferStorageError(f"{self._path}: cannot be opened: {error}") from error
        except sqlite3.DatabaseError as error:
            self._set_aside(error)
        try:
            return self._open()
        except sqlite3.Error as error:
            raise BufferStorageError(f"{self._path}: cannot be opened: {error}") from error

    def _set_aside(self, error: sqlite3.Error) -> None:
        """Rename a damaged file: a new one, with a new epoch, takes its place."""
        damaged = self._path.with_name(f"{self._path.name}.damaged-{secrets.token_hex(4)}")
        logger.error("event=buffer_damaged error=%s set_aside=%s", error, damaged)
        for suffix in ("", "-wal", "-shm"):
            part = self._path.with_name(self._path.name + suffix)
            if part.exists():
                part.rename(damaged.with_name(damaged.name + suffix))

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
            f"max_page_count={max(64, self._max_bytes // _PAGE_BYTES)}",
            f"journal_size_limit={self._segment_limit}",
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
        self.epoch = meta["epoch"]
        self.next_seq = meta["next_seq"]
        self._table = f"seg_{segment}"
        self._segment_bytes = self._open_segment_bytes(db)

    def _initialize(self, db: sqlite3.Connection) -> None:
        # Random, not a time: the clock of a new device may say 1970 twice.
        meta = {"schema": SCHEMA_VERSION, "epoch": secrets.randbits(62) | 1, "next_seq": 1, "evicted": 0}
        db.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        db.execute("INSERT INTO segment VALUES (1, 1)")
        db.execute(_SEGMENT_SCHEMA.format(table="seg_1"))

    def _open_segment_bytes(self, db: sqlite3.Connection) -> int:
        query = f"SELECT coalesce(sum(length(body)), 0) FROM {self._table}"  # noqa: S608 - our own name
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

    def _make_room(self, incoming_bytes: int) -> None:
        limit = _FULL_SHARE * self._max_bytes - incoming_bytes
        while self._used_bytes() > limit:
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
        count = last_seq - first_seq + 1
        with _transaction(self._db) as db:
            db.execute("INSERT INTO tombstone VALUES (?, ?, ?, 'full')", (first_seq, count, t0_ns))
            db.execute("UPDATE meta SET value = value + ? WHERE key = 'evicted'", (count,))
            db.execute(f"DROP TABLE {table}")
            db.execute("DELETE FROM segment WHERE id = ?", (int(table.removeprefix("seg_")),))
        logger.warning("event=buffer_evicted first_seq=%d n=%d reason=full", first_seq, count)

    def _db_is_lost(self) -> bool:
        try:
            self._db.execute("SELECT 1 FROM meta LIMIT 1").fetchone()
        except sqlite3.Error:
            return True
        return False

    def _reopen_finds(self, chunks: Sequence[NewChunk]) -> bool:
        """Open the file again after an error. True where the commit of `chunks` that was reported as failed
        took place after all: writing them once more would double them."""
        before = (self.epoch, self.next_seq + sum(chunk.n for chunk in chunks))
        self._db.close()
        self._db = self._open_or_set_aside()
        found = before == (self.epoch, self.next_seq)
        if found:
            logger.warning("event=buffer_commit_found next_seq=%d", self.next_seq)
        return found

    def _failed(self, error: sqlite3.Error) -> BufferStorageError:
        """Forget the connection: after an I/O error its state is not to be trusted."""
        self._db.close()
        if getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE in _DAMAGED:
            self._set_aside(error)
        return BufferStorageError(
            f"{self._path}: cannot be written: {error}", hint="is the disk full, read-only or failing?"
        )


@contextmanager
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


def _lock(path: Path) -> int:
    """One writer process: an advisory lock beside the file, freed by the kernel when the process dies."""
    name = path.with_name(path.name + ".lock")
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise BufferStorageError(
            f"{name}: cannot be opened: {error.strerror}", hint="may this user write to the state_dir?"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise BufferStorageError(
            f"{path}: another process is writing it", hint="is edgeinfer already running with this state_dir?"
        ) from error
    return descriptor
