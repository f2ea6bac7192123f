"""Chunks in their tables: written at the end of their lane, read where a segment is given up, dropped whole."""

import sqlite3
from collections.abc import Mapping, Sequence

import msgspec

from edgeinfer.runtime.buffer_file.connection import rows_as
from edgeinfer.runtime.buffer_file.lanes import MAX_CHUNKS, Key, Lanes, Segment, segment_limit
from edgeinfer.runtime.buffer_file.schema import CHUNK_COLUMNS, LAYOUT_V1, chunk_table, table_name
from edgeinfer.runtime.buffer_file.tombstones import Run
from edgeinfer.runtime.chunk import StoredChunk

__all__ = ["LaneChunk", "Segments", "Tails", "link_column", "read_segments"]

# The segment that takes a lane's next chunk.
Tails = dict[Key, Segment]

_MARKS = ", ".join("?" * len(CHUNK_COLUMNS.split(", ")))
# What a row takes beside its body: its other columns and its cell.
_ROW_BYTES = 90


class LaneChunk(msgspec.Struct, frozen=True):
    """A chunk with its number and its lane, and what its row tells of its commit."""

    chunk: StoredChunk
    lane: int
    clock_ns: int = 0
    frames: bytes = b""

    @property
    def key(self) -> Key:
        return self.chunk.pipeline, self.lane


class Segments:
    """What is in which table. SQL only: the caller has the transaction. What is changed is taken into `lanes` with
    `keep`, once it is committed."""

    def __init__(self, lanes: Lanes, *, max_bytes: int) -> None:
        self.lanes = lanes
        self._max_bytes = max_bytes
        self._limit = 0

    @property
    def limit(self) -> int:
        """Bytes at which a segment is full."""
        self._limit = self._limit or segment_limit(self._max_bytes, self.lanes.pipelines())
        return self._limit

    def forget(self, segment: Segment) -> None:
        """The same for a segment that was dropped."""
        self.lanes.remove(segment)
        self._limit = 0

    def insert(
        self, db: sqlite3.Connection, chunks: Sequence[LaneChunk], tails: Mapping[Key, Segment], *, epoch: int
    ) -> list[Segment]:
        """Write chunks, in the order of their numbers, to the ends of their lanes; the segments that changed."""
        limit = self.limit
        changed: dict[int, Segment] = {}
        ends: Tails = {}
        rows: dict[str, list[tuple[object, ...]]] = {}
        for entry in chunks:
            segment = ends.get(entry.key) or tails.get(entry.key)
            if segment is None or self.is_full(segment, limit):
                if segment is not None:
                    changed[segment.id] = self.close(db, segment)
                segment = self._open(db, entry)
            chunk = entry.chunk
            segment = segment.grown(chunk.first_seq, chunk.last_seq, len(chunk.body) + _ROW_BYTES)
            ends[entry.key] = changed[segment.id] = segment
            rows.setdefault(segment.table, []).append(_row(entry, epoch, segment))
        for table, values in rows.items():
            insert = f"INSERT INTO {table} ({CHUNK_COLUMNS}) VALUES ({_MARKS})"  # noqa: S608 - our own name
            for row in values:
                db.execute(insert, row)
        return list(changed.values())

    def is_full(self, segment: Segment, limit: int) -> bool:
        return segment.bytes >= limit or segment.chunks >= MAX_CHUNKS

    def close(self, db: sqlite3.Connection, segment: Segment) -> Segment:
        """Nothing more comes into the segment."""
        db.execute(
            "UPDATE segment SET last_seq = ?2, bytes = ?3, is_dense = ?4 WHERE id = ?1",
            (segment.id, segment.last_seq, segment.bytes, segment.is_dense),
        )
        return segment.closed()

    def drop(self, db: sqlite3.Connection, segment: Segment) -> None:
        db.execute(f"DROP TABLE {segment.table}")
        db.execute("DELETE FROM segment WHERE id = ?", (segment.id,))

    def keep(self, changed: Sequence[Segment], tails: Tails) -> None:
        """Take over what was committed."""
        for segment in changed:
            if segment not in self.lanes:
                self._limit = 0
            self.lanes.put(segment)
            if segment.is_open:
                tails[segment.key] = segment
            elif tails.get(segment.key, segment).id == segment.id:
                tails.pop(segment.key, None)

    def runs(self, db: sqlite3.Connection, segment: Segment) -> list[Run]:
        """The numbers in the segment, as runs of consecutive ones."""
        link = link_column(segment.layout)
        query = f"SELECT first_seq, n, t0_ns, {link} FROM {segment.table} ORDER BY first_seq"  # noqa: S608 - our own name
        if not segment.is_dense:
            return rows_as(db, Run, query)
        ends = rows_as(db, Run, f"{query} LIMIT 1") + rows_as(db, Run, f"{query} DESC LIMIT 1")
        if not ends:
            return []
        first, last = ends
        return [Run(first.first_seq, last.last_seq - first.first_seq + 1, first.t0_ns, last.link)]

    def _open(self, db: sqlite3.Connection, entry: LaneChunk) -> Segment:
        chunk = entry.chunk
        number = self.lanes.new_id()
        db.execute(
            "INSERT INTO segment VALUES (?, ?, ?, ?, 0, 0, 0, 2)",
            (number, chunk.pipeline, entry.lane, chunk.first_seq),
        )
        db.execute(chunk_table(table_name(number)))
        return Segment(
            number, chunk.pipeline, entry.lane, chunk.first_seq, chunk.first_seq - 1, 0, 0, is_open=True, is_dense=True
        )


def read_segments(db: sqlite3.Connection) -> list[Segment]:
    """Every segment, oldest first. How full an open one is says its last row; only those are looked into."""
    query = "SELECT id, pipeline, lane, first_seq, last_seq, bytes, is_dense, layout FROM segment ORDER BY first_seq"
    return [_segment(db, row) for row in rows_as(db, _Row, query)]


def link_column(layout: int) -> str:
    """What a query reads the link of a chunk from: the tables of version 1 have none."""
    return "x''" if layout == LAYOUT_V1 else "link"


class _Row(msgspec.Struct, frozen=True, array_like=True):
    """A row of the table `segment`."""

    id: int
    pipeline: str
    lane: int
    first_seq: int
    last_seq: int
    bytes: int
    is_dense: int
    layout: int


class _End(msgspec.Struct, frozen=True, array_like=True):
    """What the last chunk of a segment tells."""

    last_seq: int
    chunks: int
    bytes: int


def _segment(db: sqlite3.Connection, row: _Row) -> Segment:
    end, is_open = _End(row.last_seq, MAX_CHUNKS, row.bytes), not row.last_seq
    if is_open:
        query = f"SELECT first_seq + n - 1, ordinal, total FROM {table_name(row.id)} ORDER BY first_seq DESC LIMIT 1"  # noqa: S608 - our own name
        end = next(iter(rows_as(db, _End, query)), _End(row.first_seq - 1, 0, 0))
    return Segment(
        row.id, row.pipeline, row.lane, row.first_seq, end.last_seq, end.chunks, end.bytes,
        is_open=is_open, is_dense=bool(row.is_dense), layout=row.layout,
    )  # fmt: skip


def _row(entry: LaneChunk, epoch: int, segment: Segment) -> tuple[object, ...]:
    chunk = entry.chunk
    return (
        chunk.first_seq, chunk.n, chunk.t0_ns, chunk.pipeline, entry.lane, chunk.codec, chunk.crc, epoch,
        segment.chunks, segment.bytes, entry.clock_ns, entry.frames, chunk.link, chunk.body,
    )  # fmt: skip
