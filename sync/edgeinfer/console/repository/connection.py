"""One SQLite file, one connection that writes and one that reads, safe from any thread."""

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeinfer.console.repository.base import OverlapError, StorageError
from edgeinfer.console.repository.schema import STEPS

__all__ = ["SqliteConnection"]

# FULL: what is acknowledged to a device is deleted there, so a commit has to be on the disk.
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000", "secure_delete=OFF", "cache_size=-16000")
Row = tuple[Any, ...]


class SqliteConnection:
    """Transactions and queries; raises StorageError. A thread inside its transaction reads its own writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Re-entrant: a write method inside a transaction joins it.
        self._writing = threading.RLock()
        self._reading = threading.Lock()
        self._writer_thread: int | None = None
        self._closed = False
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._errors("opened"):
            self._writer = self._connect()
            self._migrate()
            self._reader = self._connect()
            self._reader.execute("PRAGMA query_only=ON")

    def close(self) -> None:
        with self._writing, self._reading:
            self._closed = True
            self._reader.close()
            self._writer.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._writing:
            if self._writer_thread is not None:  # this thread's own: the lock lets no other in
                yield
                return
            with self._errors("written"):
                self._writer.execute("BEGIN IMMEDIATE")
            self._writer_thread = threading.get_ident()
            try:
                yield
                with self._errors("written"):
                    self._writer.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise
            finally:
                self._writer_thread = None

    def write(self, query: str, values: Sequence[object] = ()) -> int:
        """Run one statement; returns the number of rows that it changed."""
        with self.transaction(), self._errors("written"):
            return self._writer.execute(query, values).rowcount

    def write_many(self, query: str, rows: Iterable[Sequence[object]]) -> int:
        with self.transaction(), self._errors("written"):
            return self._writer.executemany(query, rows).rowcount

    def insert(self, query: str, values: Sequence[object]) -> int:
        """Run one INSERT; returns the id of its row."""
        with self.transaction(), self._errors("written"):
            return self._writer.execute(query, values).lastrowid or 0

    def rows(self, query: str, values: Sequence[object] = ()) -> list[Row]:
        if self._writer_thread == threading.get_ident():
            with self._errors("read"):
                return self._writer.execute(query, values).fetchall()
        with self._reading, self._errors("read"):
            return self._reader.execute(query, values).fetchall()

    def row(self, query: str, values: Sequence[object] = ()) -> Row | None:
        found = self.rows(query, values)
        return found[0] if found else None

    def rolled_back(self) -> None:
        """Called after a transaction was undone: forget what was remembered of it."""

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}").fetchone()
        return connection

    def _migrate(self) -> None:
        (done,) = self._writer.execute("PRAGMA user_version").fetchone()
        if done > len(STEPS):
            raise StorageError(
                f"{self.path}: expected schema {len(STEPS)} or older, found {done}",
                hint="it was written by a newer edgeinfer: install that one",
            )
        for number, step in enumerate(STEPS[done:], start=done + 1):
            if isinstance(step, str):
                self._writer.executescript(f"BEGIN IMMEDIATE;\n{step}\nPRAGMA user_version = {number};\nCOMMIT;")
            else:
                step(self._writer, number)

    def _roll_back(self) -> None:
        # After a full disk SQLite may have rolled back on its own.
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")
        self.rolled_back()

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError as error:  # not the database's fault
            raise OverlapError(f"{self.path}: cannot be {what}: {error}") from error
        except sqlite3.Error as error:
            reason = "the console has been stopped" if self._closed else str(error)
            raise StorageError(f"{self.path}: cannot be {what}: {reason}") from error
