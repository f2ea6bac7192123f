"""How far the salvage of a damaged buffer has come: one row of the file that took its place."""

import sqlite3

import msgspec

from edgeinfer.runtime.buffer_file.schema import SALVAGE, STATE, BufferState, pack_state
from edgeinfer.runtime.chunk import NO_LINK

__all__ = ["FOUND", "Job", "begin_job", "forget_job", "load_job", "save_job"]

_JOB = "salvage_job"
# What the first pass found: where each chunk is in the damaged file.
FOUND = "salvage"
_FOUND_TABLE = f"""CREATE TABLE {FOUND} (
    first_seq INTEGER PRIMARY KEY, n INTEGER NOT NULL, page INTEGER NOT NULL, place INTEGER NOT NULL
) STRICT"""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """`epoch` is the damaged file's (0: unknown, nothing of it can be told from what was delivered). Numbers below
    `start` keep their places; `at` is the next of them to be settled, `link` that of the chunk before it, `is_sure`
    whether that was computed and not only read; `beyond` and `beyond_link` are the same of the others. `cursor` and
    `page` are where the two passes go on. `acknowledged` is what is known to be delivered of the damaged file's epoch
    where that is not the new file's. `has_counters`: those of the old file could be read, and count what is below
    `counted_seq`. The rest counts results."""

    source: str
    why: str
    epoch: int
    start: int
    has_counters: bool = False
    counted_seq: int = 1
    at: int = 1
    link: bytes = NO_LINK
    is_sure: bool = False
    beyond: int = 1
    beyond_link: bytes = NO_LINK
    cursor: int = 0
    page: int = 1
    is_scanned: bool = False
    acknowledged: int = 0
    kept: int = 0
    renumbered: int = 0
    lost: int = 0
    unreadable_chunks: int = 0


def begin_job(db: sqlite3.Connection, job: Job, *, state: BufferState | None, counters: dict[str, int]) -> None:
    """Make a new file the one that takes the place of a damaged one, in the transaction that makes it."""
    if state is not None:
        db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (STATE, pack_state(state)))
    db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", counters.items())
    db.execute(_FOUND_TABLE)
    save_job(db, job)


def load_job(db: sqlite3.Connection) -> Job | None:
    """The salvage that is to go on. Raises sqlite3.DatabaseError where its row is damaged."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (_JOB,)).fetchone()
    if row is None:
        return None
    try:
        return msgspec.msgpack.decode(row[0], type=Job)
    except (msgspec.MsgspecError, TypeError) as error:
        raise sqlite3.DatabaseError(f"the row of the salvage is damaged: {error}") from error


def save_job(db: sqlite3.Connection, job: Job) -> None:
    """Within a transaction. Readers stop before what is not settled."""
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_JOB, msgspec.msgpack.encode(job)))
    if job.start > 1:
        db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (SALVAGE, job.at if job.is_scanned else 1))
    else:
        db.execute("DELETE FROM meta WHERE key = ?", (SALVAGE,))


def forget_job(db: sqlite3.Connection) -> None:
    """All is settled; within a transaction."""
    db.execute(f"DROP TABLE {FOUND}")
    db.execute("DELETE FROM meta WHERE key IN (?, ?)", (_JOB, SALVAGE))
