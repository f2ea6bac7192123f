"""Reads the results buffer from any process, and never blocks its writer. Imports nothing heavy."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from edgeinfer.runtime.chunk import TOMBSTONE, StoredChunk, tombstone
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.handoff import open_read_only

__all__ = ["BufferReader"]


class BufferReader:
    """Reads the buffer from any process without ever blocking its writer. Raises BufferStorageError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = open_read_only(path)
        self._meta("epoch")  # refuses what is no buffer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    @property
    def epoch(self) -> int:
        """Names the numbering; read anew, because the writer may begin another one in the same file."""
        return self._meta("epoch")

    def durable_seq(self) -> int:
        """The highest sequence number on disk; 0 for none."""
        return self._meta("next_seq") - 1

    def first_seq(self) -> int:
        """The lowest sequence number that is still held, as a result or as a tombstone."""
        with self._snapshot():
            tombstone = self._value("SELECT min(first_seq) FROM tombstone")
            for table in self._tables():
                first = self._value(f"SELECT min(first_seq) FROM {table}")  # noqa: S608 - our own name
                if first is not None:
                    return min(first, tombstone) if tombstone is not None else first
            return tombstone if tombstone is not None else self._meta("next_seq")

    def chunks(self, after_seq: int, *, limit: int) -> list[StoredChunk]:
        """Up to `limit` chunks in order, beginning with the one that holds the first number beyond `after_seq`."""
        with self._snapshot():
            found = [chunk for chunk in self._tombstones(after_seq, limit) if chunk.last_seq > after_seq]
            for table in self._tables():
                if sum(1 for chunk in found if chunk.codec != TOMBSTONE) >= limit:
                    break
                found += self._segment_chunks(table, after_seq, limit)
        return sorted(found, key=lambda chunk: chunk.first_seq)[:limit]

    def audit_counts(self) -> dict[str, int]:
        """`made` and `durable`: results numbered so far; `evicted`: given up because the buffer was full."""
        durable = self.durable_seq()
        return {"made": durable, "durable": durable, "evicted": self._meta("evicted")}

    def frames(self) -> dict[str, dict[str, int]]:
        """Per pipeline, how many frames ended in each state, over the life of this buffer."""
        totals: dict[str, dict[str, int]] = {}
        for pipeline, state, count in self._rows("SELECT pipeline, state, n FROM frames ORDER BY pipeline, state"):
            totals.setdefault(str(pipeline), {})[str(state)] = int(str(count))
        return totals

    def bytes(self) -> int:
        """Bytes of the database and its WAL on disk."""
        parts = (self._path, self._path.with_name(self._path.name + "-wal"))
        return sum(part.stat().st_size for part in parts if part.exists())

    def _segment_chunks(self, table: str, after_seq: int, limit: int) -> list[StoredChunk]:
        rows = self._rows(
            f"""SELECT first_seq, n, t0_ns, pipeline, codec, crc, body FROM {table}
            WHERE first_seq >= coalesce((SELECT max(first_seq) FROM {table} WHERE first_seq <= ?1), 0)
            ORDER BY first_seq LIMIT ?2""",  # noqa: S608 - our own name
            after_seq + 1,
            limit + 1,
        )
        chunks = [StoredChunk(*row) for row in rows]  # type: ignore[arg-type]  # the table is STRICT
        return [chunk for chunk in chunks if chunk.last_seq > after_seq]

    def _tombstones(self, after_seq: int, limit: int) -> list[StoredChunk]:
        rows = self._rows(
            """SELECT first_seq, n, t0_ns, reason FROM tombstone
            WHERE first_seq >= coalesce((SELECT max(first_seq) FROM tombstone WHERE first_seq <= ?1), 0)
            ORDER BY first_seq LIMIT ?2""",
            after_seq + 1,
            limit + 1,
        )
        return [
            tombstone(int(str(first_seq)), int(str(n)), t0_ns=int(str(t0_ns)), reason=str(reason))
            for first_seq, n, t0_ns, reason in rows
        ]

    def _tables(self) -> list[str]:
        return [f"seg_{number}" for (number,) in self._rows("SELECT id FROM segment ORDER BY id")]

    def _meta(self, key: str) -> int:
        value = self._value("SELECT value FROM meta WHERE key = ?", key)
        if value is None:
            raise BufferStorageError(f"{self._path}: is no results buffer: its meta table lacks {key!r}")
        return value

    def _value(self, query: str, *values: object) -> int | None:
        rows = self._rows(query, *values)
        return None if not rows or rows[0][0] is None else int(str(rows[0][0]))

    def _rows(self, query: str, *values: object) -> list[tuple[object, ...]]:
        try:
            rows: list[tuple[object, ...]] = self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise BufferStorageError(f"{self._path}: cannot be read: {error}") from error
        return rows

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """One view of the file for several queries: a segment may be dropped between them."""
        self._rows("BEGIN")
        try:
            yield
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
