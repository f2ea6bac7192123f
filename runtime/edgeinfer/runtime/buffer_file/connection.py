"""The writer's connection to `buffer.db`, and what is said about SQLite in one place."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from edgeinfer.runtime.buffer_file.schema import PAGE_BYTES

__all__ = [
    "SqliteErrors",
    "checkpoint_quietly",
    "connect",
    "file_bytes",
    "is_damage",
    "page_bytes",
    "primary_code",
    "rows_as",
    "transaction",
    "used_bytes",
]

T = TypeVar("T")

# What the functions of sqlite3 raise. A damaged text in a message of SQLite's own comes as the second.
SqliteErrors = (sqlite3.Error, UnicodeDecodeError)

# The low byte of an extended result code.
_PRIMARY_CODE = 0xFF
# What may be otherwise at the next try. Everything else that SQLite says of statements which are right means that the
# file is not what was written: "no such table", a row that is there twice, a text that is none.
_PASSING = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_AUTH,
}
# Rows are appended and segments dropped: a larger cache of pages (SQLite's default is 2 MB) would hold nothing of use.
_CACHE_KIB = 256
_FEWEST_PAGES = 64
_CHECKPOINT_BYTES = 4 << 20
# A reader that sits in a transaction must not keep the writer from its next try.
_CHECKPOINT_WAIT_MS = 200
_BUSY_MS = 5000


def connect(path: Path, *, max_bytes: int, log_bytes: int) -> sqlite3.Connection:
    """Open the file for writing, capped at `max_bytes`; its log is worked off when it has `log_bytes`.

    Raises sqlite3.Error: OperationalError where the file cannot be opened just now, DatabaseError where it is damaged.
    """
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        for pragma in (
            f"page_size={PAGE_BYTES}",  # of a new file; an old one keeps its own
            "journal_mode=WAL",
            "synchronous=FULL",
            "secure_delete=OFF",
            f"cache_size=-{_CACHE_KIB}",
            f"journal_size_limit={log_bytes}",
        ):
            db.execute(f"PRAGMA {pragma}").fetchone()
        (page_bytes,) = db.execute("PRAGMA page_size").fetchone()
        # The log of a small buffer stays small too.
        log_pages = min(_CHECKPOINT_BYTES, 2 * log_bytes) // page_bytes
        db.execute(f"PRAGMA wal_autocheckpoint={log_pages}").fetchone()
        db.execute(f"PRAGMA max_page_count={max(_FEWEST_PAGES, max_bytes // page_bytes)}").fetchone()
    except BaseException:
        db.close()
        raise
    return db


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All of it or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
        db.execute("COMMIT")
    except BaseException:
        # SQLITE_FULL and I/O errors may have rolled back already.
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def used_bytes(db: sqlite3.Connection) -> int:
    """Bytes of the pages that hold something."""
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    (free,) = db.execute("PRAGMA freelist_count").fetchone()
    return (int(pages) - int(free)) * page_bytes(db)


def file_bytes(db: sqlite3.Connection) -> int:
    """Bytes of all pages of the database, free ones too."""
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    return int(pages) * page_bytes(db)


def page_bytes(db: sqlite3.Connection) -> int:
    (size,) = db.execute("PRAGMA page_size").fetchone()
    return int(size)


def checkpoint_quietly(db: sqlite3.Connection) -> None:
    """Let the log begin anew in the room that it has. Not cut down: others might take what it gave back."""
    with suppress(sqlite3.OperationalError):
        db.execute(f"PRAGMA busy_timeout={_CHECKPOINT_WAIT_MS}").fetchone()
        db.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
    db.execute(f"PRAGMA busy_timeout={_BUSY_MS}").fetchone()


def primary_code(error: Exception) -> int:
    """SQLite's result code, without what extends it; 0 where there is none."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & _PRIMARY_CODE


def is_damage(error: Exception) -> bool:
    """Whether the error says that the file is no good database any more."""
    is_misuse = isinstance(error, sqlite3.ProgrammingError | sqlite3.InterfaceError)  # such as of a closed connection
    return not is_misuse and primary_code(error) not in _PASSING


def rows_as(db: sqlite3.Connection, type_: type[T], query: str, *values: object) -> list[T]:
    """The rows of a query, each as a struct that is `array_like`. Raises sqlite3.DatabaseError also where a row is not
    of the types that were written: a flipped bit can make a number a text."""
    try:
        return msgspec.convert(db.execute(query, values).fetchall(), list[type_])  # type: ignore[valid-type]  # a variable, and meant so
    except msgspec.ValidationError as error:
        raise sqlite3.DatabaseError(f"a row is damaged: {error}") from error
