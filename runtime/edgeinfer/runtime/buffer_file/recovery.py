"""Opens the buffer's file, whatever state it is in: as it is, or a new one in the place of one that is damaged."""

import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgeinfer.runtime.buffer_file import aside, log
from edgeinfer.runtime.buffer_file.connection import SqliteErrors, is_damage
from edgeinfer.runtime.buffer_file.file import BufferFile, Limits, open_file
from edgeinfer.runtime.buffer_file.salvage_job import Job, begin_job, load_job
from edgeinfer.runtime.buffer_file.schema import BufferState
from edgeinfer.runtime.chunk import NO_LINK
from edgeinfer.runtime.errors import BufferStorageError

if TYPE_CHECKING:
    from edgeinfer.runtime.buffer_file.salvage import Salvage

__all__ = ["Opened", "open_or_replace", "set_aside"]

logger = logging.getLogger(__name__)

# An open file, and the salvage that it owes.
Opened = tuple[BufferFile, "Salvage | None"]

_CUT_OFF = "it was set aside, and then the power went"


def open_or_replace(
    path: Path, limits: Limits, *, state: BufferState | None, why: str = _CUT_OFF, make_room: Callable[[], bool]
) -> Opened:
    """Open `path`. A damaged file is set aside, and a new one opened in its place, as where one was set aside before;
    `state` is what is known of it, and `why` it was. `make_room` is called where the file cannot be opened, and tells
    whether to try again: a full disk has no room for the files that opening makes. Raises BufferStorageError."""
    try:
        return _open(path, limits, why=why, state=state)
    except SqliteErrors as error:
        if is_damage(error):
            set_aside(path, why=str(error))
            why = str(error)
        elif not make_room():
            raise _cannot_be_opened(path, error) from error
    try:
        return _open(path, limits, why=why, state=state)
    except SqliteErrors as error:
        raise _cannot_be_opened(path, error) from error


def set_aside(path: Path, *, why: str) -> None:
    """Set a damaged file aside. Raises BufferStorageError; to be called again then."""
    logger.error("event=buffer_damaged path=%s error=%r", path, why)
    try:
        aside.set_aside(path)
    except OSError as error:
        raise BufferStorageError(f"{path}: is damaged and cannot be set aside: {error}") from error


def _open(path: Path, limits: Limits, *, why: str, state: BufferState | None) -> Opened:
    """The file, and the salvage that was cut off or is to begin. Raises sqlite3.Error, BufferStorageError."""
    try:
        damaged = aside.unsalvaged(path)
        log.keep(path)
        file = open_file(
            path, limits, fill=None if damaged is None else lambda db: _go_on_from(db, damaged, why=why, state=state)
        )
    except OSError as error:
        raise _cannot_be_opened(path, error) from error
    log.forget_kept(path)
    try:
        job = load_job(file.db)
    except BaseException:
        file.db.close()
        raise
    if job is None:
        return file, None
    logger.warning(
        "event=buffer_salvage source=%s epoch=%d start=%d page=%d", job.source, job.epoch, job.start, job.page
    )
    from edgeinfer.runtime.buffer_file.salvage import Salvage

    return file, Salvage(job, path.parent)


def _go_on_from(db: sqlite3.Connection, damaged: Path, *, why: str, state: BufferState | None) -> None:
    """Make a new file the one that takes the place of `damaged`, as far as that is known. Raises OSError."""
    from edgeinfer.runtime.buffer_file.known import what_is_known

    known = what_is_known(damaged)
    state = state or known.state
    job = Job(
        source=damaged.name,
        why=why,
        epoch=known.epoch if state is None else state.epoch,
        start=0 if state is None else state.next_seq,
        has_counters=known.counters is not None,
        counted_seq=known.counted_seq,
        beyond=1 if state is None else state.next_seq,
        beyond_link=NO_LINK if state is None else state.link,
    )
    begin_job(db, job, state=state, counters=known.counters or {})


def _cannot_be_opened(path: Path, error: Exception) -> BufferStorageError:
    return BufferStorageError(f"{path}: cannot be opened: {error}")
