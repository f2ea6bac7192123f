"""Brings a `buffer.db` of an older version up to date: forward only, and all of it or nothing.

Imported only when a file needs it: sqlite-utils takes 10 MB and a quarter of a second. Chunks stay in the tables in
which they lie, whatever their number: a migration takes as long as there are segments, not results.
"""

import sqlite3
from collections.abc import Callable

from sqlite_utils import Database, Migrations

from edgeinfer.runtime.buffer_file.schema import (
    EVICTED,
    LAYOUT_V1,
    STATE,
    TABLES,
    BufferState,
    frames_key,
    pack_state,
    table_name,
)
from edgeinfer.runtime.chunk import RESULTS

__all__ = ["migrate"]


def migrate(db: sqlite3.Connection, *, version: int) -> None:
    """From `version` to the newest, in one transaction. Raises sqlite3.Error."""
    migrations = Migrations("edgeinfer-buffer")
    for target, step in _STEPS.items():
        if version < target:
            migrations(name=f"version {target}")(step)
    database = Database(db, execute_plugins=False)
    with database.atomic():
        migrations.apply(database)


def _to_version_2(database: Database) -> None:
    """Lanes, the hash chain, marks. What version 1 wrote stays as it is, in a lane of its own: its chunks mix events
    with results, and segments mix pipelines. It has no links and no marks."""
    db = database.conn
    meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
    if not {"epoch", "next_seq", "evicted"} <= meta.keys():
        raise sqlite3.DatabaseError("its meta rows are missing")
    segments = db.execute("SELECT id, first_seq FROM segment ORDER BY id").fetchall()
    tombstones = db.execute("SELECT first_seq, n, t0_ns, reason FROM tombstone").fetchall()
    frames = db.execute("SELECT state, pipeline, n FROM frames").fetchall()
    for table in ("meta", "segment", "tombstone", "frames"):
        db.execute(f"DROP TABLE {table}")
    for statement in TABLES:
        db.execute(statement)
    state = BufferState(epoch=meta["epoch"], next_seq=meta["next_seq"], clock_ns=0)
    rows = [("schema", 2), (STATE, pack_state(state)), (f"{EVICTED}full", meta["evicted"])]
    rows += [(frames_key(name, pipeline), n) for name, pipeline, n in frames]
    db.executemany("INSERT INTO meta VALUES (?, ?)", rows)
    db.executemany("INSERT INTO tombstone VALUES (?, ?, ?, ?, x'')", tombstones)
    _adopt_segments(db, segments, next_seq=state.next_seq)


def _adopt_segments(db: sqlite3.Connection, segments: list[tuple[int, int]], *, next_seq: int) -> None:
    """All of them are closed: what comes goes into new ones. Their bytes are not counted but shared out."""
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    (page_bytes,) = db.execute("PRAGMA page_size").fetchone()
    size = pages * page_bytes // max(1, len(segments))
    ends = [first_seq - 1 for _, first_seq in segments[1:]] + [next_seq - 1]
    for (number, first_seq), last_seq in zip(segments, ends, strict=True):
        if last_seq < first_seq:  # the open one, while it was empty
            db.execute(f"DROP TABLE {table_name(number)}")
        else:
            row = (number, "", RESULTS, first_seq, last_seq, size, True, LAYOUT_V1)
            db.execute("INSERT INTO segment VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)


_STEPS: dict[int, Callable[[Database], None]] = {2: _to_version_2}
