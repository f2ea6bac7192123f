"""Another process's database, opened again whenever it becomes another file or its writer comes or goes.

A reader opened while no writer lived sees a frozen file (immutable), and one opened on a file that was replaced
since reads a ghost. Both show in the inodes of the database and its WAL, which cost two `stat` calls to look at.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from edgeinfer.runtime.errors import BufferStorageError

__all__ = ["Closable", "Watched"]

_log = logging.getLogger(__name__)


class Closable(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=Closable)

# A database that opens and cannot be asked (one of another version) is tried again several times a second.
_SAY_AGAIN_S = 60.0


class Watched(Generic[T]):
    """Holds what `open_` makes of `path`, for as long as it is the same database.

    `current()` is None while there is no such database or it cannot be read; both are waited out.
    """

    def __init__(self, path: Path, open_: Callable[[Path], T]) -> None:
        self._path = path
        self._open = open_
        self._held: T | None = None
        self._identity: tuple[int, ...] = ()
        self._reason = ""
        self._said_s = float("-inf")

    def current(self) -> T | None:
        identity = self._look()
        if self._held is not None and identity == self._identity:
            return self._held
        self.close()
        if not identity:
            return None
        try:
            self._held = self._open(self._path)
        except BufferStorageError as error:
            self._report(str(error))
            return None
        self._identity = identity
        return self._held

    def failed(self, error: BufferStorageError) -> None:
        """Reading went wrong: forget the connection, so that the next `current()` opens anew."""
        self._report(str(error))
        self.close()

    def close(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.close()

    def _look(self) -> tuple[int, ...]:
        """Device and inode of the database and of its WAL; empty when there is no database."""
        try:
            main = self._path.stat()
        except OSError:
            return ()
        try:
            wal = self._path.with_name(self._path.name + "-wal").stat().st_ino
        except OSError:
            # No writer: the file can only have been written to since by one that came and went.
            return (main.st_dev, main.st_ino, -1, main.st_mtime_ns, main.st_size)
        return (main.st_dev, main.st_ino, wal)

    def _report(self, reason: str) -> None:
        """Once, and again now and then."""
        now_s = time.monotonic()
        if reason != self._reason or now_s - self._said_s >= _SAY_AGAIN_S:
            _log.warning("event=database_unreadable reason=%r", reason)
            self._reason, self._said_s = reason, now_s
