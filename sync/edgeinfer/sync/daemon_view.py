"""What the agent knows of the daemon: its update row and its status document, read when the daemon has written."""

import logging
from pathlib import Path
from typing import Any

import msgspec

from edgeinfer.runtime.bench_order import BenchAnswer
from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.handoff import RuntimeDb, UpdateRow
from edgeinfer.runtime.watched import Watched
from edgeinfer.sync.changes import Changes

__all__ = ["DaemonStatus", "DaemonView"]

_log = logging.getLogger(__name__)

_POLL_S = 0.5
# Read even where nothing seems to have changed: file systems exist whose times tell nothing.
_ALWAYS_S = 5.0


class DaemonStatus(msgspec.Struct, frozen=True):
    """The daemon's status document, as far as it is passed on. Fields that are not known here are ignored."""

    t_ns: int = 0
    device: str = ""
    models: dict[str, dict[str, str]] = {}
    pipelines: dict[str, dict[str, Any]] = {}
    profile: dict[str, Any] = {}
    engines: dict[str, str] = {}
    rss_bytes: int = 0


class DaemonView:
    """`row` is None until there is a daemon's database; then both values are those of the last `poll`."""

    def __init__(self, runtime_dir: Path) -> None:
        self.row: UpdateRow | None = None
        self.status = DaemonStatus()
        self._db = Watched(runtime_dir / "runtime.db", lambda path: RuntimeDb(path, read_only=True))
        self._changes = Changes(runtime_dir / "runtime.db")
        self._polled_s = self._read_s = float("-inf")
        self._document = b""

    def poll(self, now_s: float, *, at_once: bool = False) -> None:
        """Read again when it is time to. A database that cannot be read leaves the values as they were."""
        if not at_once and now_s - self._polled_s < _POLL_S:
            return
        self._polled_s = now_s
        if not (self._changes.look() or at_once or now_s - self._read_s >= _ALWAYS_S):
            return
        self._read_s = now_s
        db = self._db.current()
        if db is None:
            return
        try:
            self.row = db.update()
            document = db.status()
        except (BufferStorageError, *MALFORMED) as error:
            self._db.failed(BufferStorageError(f"{db.path}: cannot be read: {error}"))
            return
        if document != self._document:
            self._document = document
            self.status = _parse(document)

    def bench(self) -> BenchAnswer | None:
        """What became of the latest order to time a package, read now; None where it cannot be."""
        db = self._db.current()
        if db is None:
            return None
        try:
            return db.bench()
        except BufferStorageError as error:
            self._db.failed(error)
            return None

    def close(self) -> None:
        self._db.close()


def _parse(document: bytes) -> DaemonStatus:
    try:
        return msgspec.json.decode(document, type=DaemonStatus)
    except MALFORMED as error:
        _log.warning("event=daemon_status_unreadable reason=%r", str(error))
        return DaemonStatus()
