"""What every commit changes: where the numbering stands, and how many frames ended in which state.

Each chunk's row tells what its commit changed, so a commit writes the page of the chunk and no other. The row `state`
and the counters in `meta` are written now and then, and with everything that changes more than the ends of lanes; what
the rows from its `next_seq` on tell is added to it. They lie in segments that are open: one is only closed or dropped
together with writing `state`.
"""

import sqlite3
from collections.abc import Iterable, Mapping

from edgeinfer.runtime.buffer_file.connection import rows_as
from edgeinfer.runtime.buffer_file.lanes import Segment
from edgeinfer.runtime.buffer_file.schema import (
    STATE,
    BufferState,
    Newest,
    add_frames,
    newest_rows,
    pack_state,
    state_after,
    unpack_state,
)

__all__ = ["Ledger", "count"]

# At most about so many rows are to be read when the file is opened, by readers too.
_UNSAVED_CHUNKS = 64


class Ledger:
    """Attributes: `state`, as the last commit left it."""

    def __init__(self, db: sqlite3.Connection, segments: Iterable[Segment]) -> None:
        """Raises sqlite3.DatabaseError where the state cannot be read."""
        saved = _saved(db)
        tables = [segment.table for segment in segments if segment.is_open]
        newest = [row for table in tables for row in rows_as(db, Newest, newest_rows(table), saved.next_seq)]
        self.state = state_after(saved, newest)
        self._frames: dict[str, int] = {}
        for row in newest:
            add_frames(self._frames, row.pipeline, row.frames)
        self._unsaved = len(newest)

    @property
    def is_saved(self) -> bool:
        """Whether there is nothing that only rows of chunks tell."""
        return not self._unsaved

    def is_due(self, chunks: int) -> bool:
        """Whether a commit of so many chunks should save it."""
        return self._unsaved + chunks >= _UNSAVED_CHUNKS

    def save(self, db: sqlite3.Connection, state: BufferState, frames: Mapping[str, int]) -> None:
        """Write the state and all counts into `meta`, within a transaction."""
        db.execute("UPDATE meta SET value = ? WHERE key = ?", (pack_state(state), STATE))
        count(db, self._frames)
        count(db, frames)

    def committed(self, state: BufferState, frames: Mapping[str, int], *, chunks: int, is_saved: bool) -> None:
        """Take over what was committed: so many chunks, with or without saving."""
        self.state = state
        if is_saved:
            self._frames, self._unsaved = {}, 0
            return
        self._unsaved += chunks
        for key, number in frames.items():
            self._frames[key] = self._frames.get(key, 0) + number


def count(db: sqlite3.Connection, totals: Mapping[str, int]) -> None:
    """Add to counters in `meta`, within a transaction."""
    for total in totals.items():
        db.execute("INSERT INTO meta VALUES (?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value", total)


def _saved(db: sqlite3.Connection) -> BufferState:
    row = db.execute("SELECT value FROM meta WHERE key = ?", (STATE,)).fetchone()
    state = unpack_state(row[0]) if row is not None and isinstance(row[0], bytes) else None
    if state is None:
        raise sqlite3.DatabaseError("its state is missing or damaged")
    return state
