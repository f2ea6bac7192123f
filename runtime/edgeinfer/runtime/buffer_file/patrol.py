"""Looks through what the buffer holds, a little at a time, for damage that stops whoever reads it.

SQLite says that a page is damaged when it is read, and it is the agent that reads: it could never get past such a
page. So the writer's thread reads everything now and then; what it meets has the file set aside and salvaged.
"""

import sqlite3

import msgspec

from edgeinfer.runtime.buffer_file.lanes import Lanes, Segment

__all__ = ["Patrol"]

# At ten seconds a look, 200 MB of results are read through in two hours, for a millisecond of each of these.
_INTERVAL_NS = 10_000_000_000
_CHUNKS = 128
_BYTES = 1 << 20


class Patrol:
    """Goes from segment to segment, and begins again with the oldest."""

    def __init__(self) -> None:
        self._segment = 0
        self._after = 0
        self._looked_ns = 0

    def look(self, db: sqlite3.Connection, lanes: Lanes, *, now_ns: int) -> None:
        """Read the next chunks, where it is time to. Raises sqlite3.Error for what cannot be read."""
        if now_ns - self._looked_ns < _INTERVAL_NS:
            return
        self._looked_ns = now_ns
        segment = min((one for one in lanes if one.id >= self._segment), key=lambda one: one.id, default=None)
        if segment is None:
            self._segment = self._after = 0
            return
        if segment.id != self._segment:
            self._segment, self._after = segment.id, 0
        if not self._read_some(db, segment):
            self._segment += 1

    def _read_some(self, db: sqlite3.Connection, segment: Segment) -> bool:
        """False at the end of the segment."""
        query = f"SELECT first_seq, n, t0_ns, pipeline, codec, crc, body FROM {segment.table}"  # noqa: S608 - our own name
        rows = db.execute(f"{query} WHERE first_seq > ? ORDER BY first_seq LIMIT ?", (self._after, _CHUNKS))
        size = 0
        for count, row in enumerate(rows, start=1):
            try:
                chunk = msgspec.convert(row, _Chunk)
            except msgspec.ValidationError as error:
                raise sqlite3.DatabaseError(f"a row is damaged: {error}") from error
            self._after, size = chunk.first_seq, size + len(chunk.body)
            if count == _CHUNKS or size > _BYTES:
                return True
        return False


class _Chunk(msgspec.Struct, frozen=True, array_like=True):
    """What a reader takes for granted."""

    first_seq: int
    n: int
    t0_ns: int
    pipeline: str
    codec: int
    crc: int
    body: bytes
