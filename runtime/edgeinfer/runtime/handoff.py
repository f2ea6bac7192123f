"""The two databases where the daemon and the agent meet. Each is written by one process and read by both.

`runtime.db` is the daemon's: which package is in which slot, and the update machine's one row.
`sync.db` is the agent's: what the console acknowledged, what it wants here, what has been downloaded.
A value that has to survive a power cut is committed with synchronous=FULL before anything relies on it.

A database that is damaged is set aside by its writer and begun anew: neither is worth a device that stands still.
What must not be lost with it, the newest assignment's version, has a file of its own (`edgeinfer.runtime.floor`).

`buffer.db` (the results) has a module of its own, `edgeinfer.runtime.buffer`.
"""

import logging
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from edgeinfer.runtime.bench_order import BenchAnswer
from edgeinfer.runtime.choice import Choice
from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.hashing import random_hex
from edgeinfer.runtime.rows import Desired, Download, UpdateRow, Upload

__all__ = ["Desired", "Download", "RuntimeDb", "SyncDb", "UpdateRow", "Upload", "is_made", "open_read_only"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Small pages: most of what a commit writes is the unchanged rest of its pages.
_PRAGMAS = ("PRAGMA page_size=1024", "PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA busy_timeout=2000")
_SYNC_SCHEMA = """
CREATE TABLE IF NOT EXISTS acknowledged (epoch INTEGER PRIMARY KEY, seq INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS ended (epoch INTEGER PRIMARY KEY, seq INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS desired (id INTEGER PRIMARY KEY CHECK (id = 1), body BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS download (
    sha256 TEXT PRIMARY KEY, bytes INTEGER NOT NULL, offset INTEGER NOT NULL, done INTEGER NOT NULL, error TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS note (name TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS uploaded (
    file TEXT PRIMARY KEY, bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, sha256 TEXT NOT NULL, ended TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS command (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE) STRICT;
"""
_RUNTIME_SCHEMA = """
CREATE TABLE IF NOT EXISTS slot (
    model TEXT NOT NULL, slot TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (model, slot)
) STRICT;
CREATE TABLE IF NOT EXISTS configured (path TEXT PRIMARY KEY, model TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS machine (id INTEGER PRIMARY KEY CHECK (id = 1), body BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS status (id INTEGER PRIMARY KEY CHECK (id = 1), body BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS choice (digest TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS bench (id INTEGER PRIMARY KEY CHECK (id = 1), body BLOB NOT NULL) STRICT;
"""


def open_read_only(path: Path) -> sqlite3.Connection:
    """Open another process's database for reading only, without ever locking its writer out.

    While the writer lives, its WAL is followed. After its clean close the WAL files are gone and only an
    immutable open works for a reader that may not write to the folder. Raises BufferStorageError.
    """
    if not path.is_file():  # SQLite would wait for the other end of a FIFO
        raise BufferStorageError(f"{path}: no such database", hint="has the service that writes it been started?")
    mode = "mode=ro" if path.with_name(path.name + "-wal").exists() else "mode=ro&immutable=1"
    try:
        connection = sqlite3.connect(
            f"file:{path}?{mode}", uri=True, isolation_level=None, check_same_thread=False, timeout=2.0
        )
        connection.execute("SELECT name FROM sqlite_master LIMIT 1").fetchone()
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the second: a damaged text in a message of SQLite's own
        raise BufferStorageError(f"{path}: cannot be read: {error}") from error
    return connection


def is_made(path: Path) -> bool:
    """Whether there is such a database to read; one that its service is just making holds nothing yet."""
    try:
        with closing(open_read_only(path)) as connection:
            return connection.execute("SELECT name FROM sqlite_master LIMIT 1").fetchone() is not None
    except BufferStorageError:
        return path.exists()  # why it cannot be read is said to who reads it


class _Database:
    """A small database of rows that are replaced whole. May be used from several threads."""

    _schema = ""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self.read_only = read_only
        # Held for each use: a connection that is closed while another thread uses it takes the process along.
        self._lock = threading.RLock()
        self._db = open_read_only(path) if read_only else self._open_for_writing(path)

    def _open_for_writing(self, path: Path) -> sqlite3.Connection:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                return self._open_checked(path)
            except sqlite3.OperationalError:  # locked, full, not allowed: the content may be good
                raise
            except sqlite3.DatabaseError as error:
                _set_aside(path, error)
                return self._open_checked(path)
        except (sqlite3.Error, OSError) as error:
            raise BufferStorageError(f"{path}: cannot be opened: {error}") from error

    def _open_checked(self, path: Path) -> sqlite3.Connection:
        """Raises sqlite3.DatabaseError, and no subclass of it, for a database that is damaged."""
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            for pragma in _PRAGMAS:
                connection.execute(pragma).fetchone()
            # A few dozen rows: cheap to look at whole, and damage found later would stop every update.
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError(found)  # noqa: TRY301 - what SQLite itself raises for other damage
            # At once: who reads meanwhile finds all of its tables or none, and a slow disk is waited for once.
            connection.executescript(f"BEGIN;{self._schema}COMMIT;")
        except BaseException:
            connection.close()
            raise
        return connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
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
        with suppress(sqlite3.Error):  # closed by another thread meanwhile
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise BufferStorageError(f"{self.path}: cannot be read: {error}") from error

    def _one(self, query: str, *values: object) -> tuple[object, ...] | None:
        rows = self._rows(query, *values)
        return rows[0] if rows else None

    def _decoded(self, row: tuple[object, ...], type_: type[T]) -> T:
        try:
            return msgspec.msgpack.decode(_blob(row), type=type_)
        except MALFORMED as error:
            raise BufferStorageError(f"{self.path}: holds a row that cannot be read: {error}") from error


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

    def set_upload_progress(
        self, epoch: int, seq: int, *, sent_through: int, sent: int, refused: int = 0, made: int = 0
    ) -> None:
        """How far the upload of `epoch` is, in one commit: acknowledged up to `seq`, sent without a hole up to
        `sent_through`, `sent` the highest number that ever left the device, `refused` of what was sent refused by
        the console as being there already, and `made` the highest number that was seen in the buffer. An epoch that
        ends so is remembered: see `left`."""
        counters = (
            ("sent", sent), ("sent_through", sent_through), ("sent_epoch", epoch), ("refused", refused), ("made", made),
        )  # fmt: skip
        with self._transaction() as db:
            if (before := self._last_epoch())[0] not in {0, epoch}:
                db.execute(
                    "INSERT INTO ended VALUES (?, ?) ON CONFLICT (epoch) DO UPDATE SET seq = max(seq, excluded.seq)",
                    before,
                )
            db.execute(
                "INSERT INTO acknowledged VALUES (?, ?) ON CONFLICT (epoch) DO UPDATE SET seq = max(seq, excluded.seq)",
                (epoch, seq),
            )
            db.executemany("INSERT OR REPLACE INTO counter VALUES (?, ?)", counters)

    def left(self, epoch: int) -> list[tuple[int, int, int]]:
        """What is known to have been made in other epochs than the present one, and was not acknowledged there: epoch,
        first and last number."""
        # Read only, and written by an older agent, it has no such table.
        has_ended = self._one("SELECT name FROM sqlite_master WHERE name = 'ended'") is not None
        ended: dict[int, int] = dict(self._rows("SELECT epoch, seq FROM ended")) if has_ended else {}
        last_epoch, last = self._last_epoch()
        ended[last_epoch] = max(last, ended.get(last_epoch, 0))
        found = [(number, self.acknowledged(number) + 1, seq) for number, seq in ended.items() if number != epoch]
        return [(number, first, seq) for number, first, seq in found if first <= seq]

    def _last_epoch(self) -> tuple[int, int]:
        """The one that was uploaded last, and the highest number that is known of it."""
        return self.counter("sent_epoch"), max(self.counter("sent"), self.counter("made"))

    def desired(self) -> Desired | None:
        """The newest assignment that came from the console; its signature has not been checked yet."""
        row = self._one("SELECT body FROM desired WHERE id = 1")
        return None if row is None else self._decoded(row, Desired)

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

    def note(self, name: str) -> bytes:
        """A small document that a part of the agent keeps; empty where there is none."""
        row = self._one("SELECT body FROM note WHERE name = ?", name)
        return b"" if row is None else _blob(row)

    def set_note(self, name: str, body: bytes) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO note VALUES (?, ?)", (name, body))

    def uploads(self) -> dict[str, Upload]:
        """The files that were looked at, by their path below the daemon's folder."""
        return {row[0]: Upload(*row) for row in self._rows("SELECT file, bytes, mtime_ns, sha256, ended FROM uploaded")}

    def upload(self, file: str) -> Upload | None:
        row = self._one("SELECT file, bytes, mtime_ns, sha256, ended FROM uploaded WHERE file = ?", file)
        return None if row is None else Upload(*row)  # type: ignore[arg-type]  # the table is STRICT

    def set_upload(self, upload: Upload) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO uploaded VALUES (?, ?, ?, ?, ?)", msgspec.structs.astuple(upload))

    def forget_uploads(self, files: Iterable[str]) -> None:
        with self._transaction() as db:
            db.executemany("DELETE FROM uploaded WHERE file = ?", [(file,) for file in files])

    def add_command(self, id_: str, *, keep: int) -> bool:
        """Remember that the command `id_` is carried out; False: it is known already. The latest `keep` are kept."""
        with self._transaction() as db:
            added = db.execute("INSERT OR IGNORE INTO command (id) VALUES (?)", (id_,)).rowcount > 0
            db.execute("DELETE FROM command WHERE number <= (SELECT max(number) FROM command) - ?", (keep,))
        return added


class RuntimeDb(_Database):
    """The daemon's database."""

    _schema = _RUNTIME_SCHEMA

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        super().__init__(path, read_only=read_only)
        if not read_only:
            self._drop_unreadable_row()

    def slots(self, model: str) -> dict[str, str]:
        """Slot name (active, candidate, previous, configured) to package digest."""
        return dict(self._rows("SELECT slot, digest FROM slot WHERE model = ?", model))

    def set_slots(self, model: str, slots: dict[str, str]) -> None:
        """Replace all slots of a model in one transaction."""
        with self._transaction() as db:
            _replace_slots(db, model, slots)

    def commit(self, row: UpdateRow, model: str, slots: dict[str, str]) -> None:
        """The machine's row and the slots of a model at once: after a power cut both have changed, or neither."""
        with self._transaction() as db:
            _replace_row(db, row)
            _replace_slots(db, model, slots)

    def configured_model(self, path: str) -> str:
        """The model that the package file at `path` held when it was last read; empty for a file never seen."""
        row = self._one("SELECT model FROM configured WHERE path = ?", path)
        return "" if row is None else str(row[0])

    def set_configured_model(self, path: str, model: str) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO configured VALUES (?, ?)", (path, model))

    def models(self) -> tuple[str, ...]:
        return tuple(name for (name,) in self._rows("SELECT DISTINCT model FROM slot ORDER BY model"))

    def choice(self, digest: str) -> Choice | None:
        """What was measured of a package's variants here; None where that has not been done."""
        if self._one("SELECT name FROM sqlite_master WHERE name = 'choice'") is None:
            return None  # read only, and written by an older daemon
        row = self._one("SELECT body FROM choice WHERE digest = ?", digest)
        return None if row is None else self._decoded(row, Choice)

    def set_choice(self, digest: str, choice: Choice | None) -> None:
        """None forgets it."""
        with self._transaction() as db:
            if choice is None:
                db.execute("DELETE FROM choice WHERE digest = ?", (digest,))
            else:
                db.execute("INSERT OR REPLACE INTO choice VALUES (?, ?)", (digest, msgspec.msgpack.encode(choice)))

    def keep_choices(self, digests: set[str]) -> None:
        """Forget those of packages that are gone. Writes nothing where there is nothing to forget."""
        known = {digest for (digest,) in self._rows("SELECT digest FROM choice")}
        if known - digests:
            with self._transaction() as db:
                db.executemany("DELETE FROM choice WHERE digest = ?", [(digest,) for digest in known - digests])

    def bench(self) -> BenchAnswer:
        """What became of the latest order to time a package here; an empty one where there was none."""
        if self._one("SELECT name FROM sqlite_master WHERE name = 'bench'") is None:
            return BenchAnswer()  # read only, and written by an older daemon
        row = self._one("SELECT body FROM bench WHERE id = 1")
        return BenchAnswer() if row is None else self._decoded(row, BenchAnswer)

    def set_bench(self, answer: BenchAnswer) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO bench VALUES (1, ?)", (msgspec.msgpack.encode(answer),))

    def update(self) -> UpdateRow:
        row = self._one("SELECT body FROM machine WHERE id = 1")
        return UpdateRow() if row is None else self._decoded(row, UpdateRow)

    def set_update(self, row: UpdateRow) -> None:
        with self._transaction() as db:
            _replace_row(db, row)

    def status(self) -> bytes:
        """The daemon's last status document (JSON), or an empty object."""
        row = self._one("SELECT body FROM status WHERE id = 1")
        return b"{}" if row is None else _blob(row)

    def set_status(self, document: bytes) -> None:
        # Written every other second and worth nothing after a power cut: it must not cost a sync each time.
        self._one("PRAGMA synchronous=NORMAL")
        try:
            with self._transaction() as db:
                db.execute("INSERT OR REPLACE INTO status VALUES (1, ?)", (document,))
        finally:
            self._one("PRAGMA synchronous=FULL")

    def _drop_unreadable_row(self) -> None:
        """A machine that begins anew is assigned again; one that cannot begin would never be."""
        row = self._one("SELECT body FROM machine WHERE id = 1")
        try:
            if row is not None:
                self._decoded(row, UpdateRow)
        except BufferStorageError as error:
            logger.error("event=update_row_dropped error=%s", error)  # noqa: TRY400 - said in full
            with self._transaction() as db:
                db.execute("DELETE FROM machine")


def _replace_row(db: sqlite3.Connection, row: UpdateRow) -> None:
    db.execute("INSERT OR REPLACE INTO machine VALUES (1, ?)", (msgspec.msgpack.encode(row),))


def _replace_slots(db: sqlite3.Connection, model: str, slots: dict[str, str]) -> None:
    db.execute("DELETE FROM slot WHERE model = ?", (model,))
    db.executemany("INSERT INTO slot VALUES (?, ?, ?)", [(model, s, d) for s, d in slots.items()])


def _set_aside(path: Path, error: sqlite3.Error) -> None:
    """Rename a damaged database. Its WAL goes first: beside a new database it would be played into that one."""
    damaged = path.with_name(f"{path.name}.damaged-{random_hex(4)}")
    logger.error("event=database_damaged path=%s error=%s set_aside=%s", path, error, damaged)
    for suffix in ("-wal", "-shm", ""):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(damaged.with_name(damaged.name + suffix))


def _integer(row: tuple[object, ...] | None) -> int:
    return int(str(row[0])) if row is not None and row[0] is not None else 0


def _blob(row: tuple[object, ...]) -> bytes:
    value = row[0]
    return value if isinstance(value, bytes) else b""
