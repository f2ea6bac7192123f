"""The two databases where the daemon and the agent meet. Each is written by one process and read by both.

`runtime.db` is the daemon's: which package is in which slot, and the update machine's one row.
`sync.db` is the agent's: what the console acknowledged, what it wants here, what has been downloaded.
A value that has to survive a power cut is committed with synchronous=FULL before anything relies on it.

`buffer.db` (the results) has a module of its own, `edgeinfer.runtime.buffer`.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import msgspec

from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.rows import Desired, Download, UpdateRow

__all__ = ["Desired", "Download", "RuntimeDb", "SyncDb", "UpdateRow", "open_read_only"]

_PRAGMAS = ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA busy_timeout=2000")
_SYNC_SCHEMA = """
CREATE TABLE IF NOT EXISTS acknowledged (epoch INTEGER PRIMARY KEY, seq INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS desired (id INTEGER PRIMARY KEY CHECK (id = 1), body BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS download (
    sha256 TEXT PRIMARY KEY, bytes INTEGER NOT NULL, offset INTEGER NOT NULL, done INTEGER NOT NULL, error TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
"""
_RUNTIME_SCHEMA = """
CREATE TABLE IF NOT EXISTS slot (
    model TEXT NOT NULL, slot TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (model, slot)
) STRICT;
CREATE TABLE IF NOT EXISTS machine (id INTEGER PRIMARY KEY CHECK (id = 1), body BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS status (id INTEGER PRIMARY KEY CHECK (id = 1), body BLOB NOT NULL) STRICT;
"""


def open_read_only(path: Path) -> sqlite3.Connection:
    """Open another process's database for reading only, without ever locking its writer out.

    While the writer lives, its WAL is followed. After its clean close the WAL files are gone and only an
    immutable open works for a reader that may not write to the folder. Raises BufferStorageError.
    """
    if not path.exists():
        raise BufferStorageError(f"{path}: no such database", hint="has the service that writes it been started?")
    mode = "mode=ro" if path.with_name(path.name + "-wal").exists() else "mode=ro&immutable=1"
    try:
        connection = sqlite3.connect(
            f"file:{path}?{mode}", uri=True, isolation_level=None, check_same_thread=False, timeout=2.0
        )
        connection.execute("SELECT name FROM sqlite_master LIMIT 1").fetchone()
    except sqlite3.Error as error:
        raise BufferStorageError(f"{path}: cannot be read: {error}") from error
    return connection


class _Database:
    """A small database of rows that are replaced whole. May be used from several threads."""

    _schema = ""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self.read_only = read_only
        self._lock = threading.Lock()
        self._db = open_read_only(path) if read_only else self._open_for_writing(path)

    def _open_for_writing(self, path: Path) -> sqlite3.Connection:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            for pragma in _PRAGMAS:
                connection.execute(pragma).fetchone()
            connection.executescript(self._schema)
        except sqlite3.Error as error:
            raise BufferStorageError(f"{path}: cannot be opened: {error}") from error
        return connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:  # one connection has one transaction at a time
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                self._roll_back()
                raise BufferStorageError(f"{self.path}: cannot be written: {error}") from error
            except BaseException:
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _one(self, query: str, *values: object) -> tuple[object, ...] | None:
        try:
            row: tuple[object, ...] | None = self._db.execute(query, values).fetchone()
        except sqlite3.Error as error:
            raise BufferStorageError(f"{self.path}: cannot be read: {error}") from error
        return row


class SyncDb(_Database):
    """The agent's database."""

    _schema = _SYNC_SCHEMA

    def acknowledged(self, epoch: int) -> int:
        """The highest sequence number up to which the console has stored everything; 0 for nothing."""
        row = self._one("SELECT seq FROM acknowledged WHERE epoch = ?", epoch)
        return _integer(row)

    def set_acknowledged(self, epoch: int, seq: int) -> None:
        """Never goes back: a lower `seq` than what is stored changes nothing."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO acknowledged VALUES (?, ?) ON CONFLICT (epoch) DO UPDATE SET seq = max(seq, excluded.seq)",
                (epoch, seq),
            )

    def desired(self) -> Desired | None:
        """The newest assignment that came from the console; its signature has not been checked yet."""
        row = self._one("SELECT body FROM desired WHERE id = 1")
        return None if row is None else msgspec.msgpack.decode(_blob(row), type=Desired)

    def set_desired(self, desired: Desired) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO desired VALUES (1, ?)", (msgspec.msgpack.encode(desired),))

    def download(self, sha256: str) -> Download | None:
        row = self._one("SELECT bytes, offset, done, error FROM download WHERE sha256 = ?", sha256)
        if row is None:
            return None
        size, offset, done, error = row
        return Download(sha256, int(str(size)), int(str(offset)), bool(done), str(error))

    def set_download(self, download: Download) -> None:
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO download VALUES (?, ?, ?, ?, ?)",
                (download.sha256, download.bytes, download.offset, int(download.done), download.error),
            )

    def forget_downloads(self, *, keep: str = "") -> None:
        with self._transaction() as db:
            db.execute("DELETE FROM download WHERE sha256 <> ?", (keep,))

    def counter(self, name: str) -> int:
        return _integer(self._one("SELECT value FROM counter WHERE name = ?", name))

    def set_counter(self, name: str, value: int) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO counter VALUES (?, ?)", (name, value))


class RuntimeDb(_Database):
    """The daemon's database."""

    _schema = _RUNTIME_SCHEMA

    def slots(self, model: str) -> dict[str, str]:
        """Slot name (active, candidate, previous, configured) to package digest."""
        try:
            rows = self._db.execute("SELECT slot, digest FROM slot WHERE model = ?", (model,)).fetchall()
        except sqlite3.Error as error:
            raise BufferStorageError(f"{self.path}: cannot be read: {error}") from error
        return dict(rows)

    def set_slots(self, model: str, slots: dict[str, str]) -> None:
        """Replace all slots of a model in one transaction."""
        with self._transaction() as db:
            db.execute("DELETE FROM slot WHERE model = ?", (model,))
            db.executemany("INSERT INTO slot VALUES (?, ?, ?)", [(model, s, d) for s, d in slots.items()])

    def models(self) -> tuple[str, ...]:
        try:
            rows = self._db.execute("SELECT DISTINCT model FROM slot ORDER BY model").fetchall()
        except sqlite3.Error as error:
            raise BufferStorageError(f"{self.path}: cannot be read: {error}") from error
        return tuple(name for (name,) in rows)

    def update(self) -> UpdateRow:
        row = self._one("SELECT body FROM machine WHERE id = 1")
        return UpdateRow() if row is None else msgspec.msgpack.decode(_blob(row), type=UpdateRow)

    def set_update(self, row: UpdateRow) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO machine VALUES (1, ?)", (msgspec.msgpack.encode(row),))

    def status(self) -> bytes:
        """The daemon's last status document (JSON), or an empty object."""
        row = self._one("SELECT body FROM status WHERE id = 1")
        return b"{}" if row is None else _blob(row)

    def set_status(self, document: bytes) -> None:
        # Written every other second and worth nothing after a power cut: it must not cost a sync each time.
        self._db.execute("PRAGMA synchronous=NORMAL")
        try:
            with self._transaction() as db:
                db.execute("INSERT OR REPLACE INTO status VALUES (1, ?)", (document,))
        finally:
            self._db.execute("PRAGMA synchronous=FULL")


def _integer(row: tuple[object, ...] | None) -> int:
    return int(str(row[0])) if row is not None and row[0] is not None else 0


def _blob(row: tuple[object, ...]) -> bytes:
    value = row[0]
    return value if isinstance(value, bytes) else b""
