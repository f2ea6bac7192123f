"""Chunks as they came, and the results in them, in SQLite."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from edgeinfer.console.kept import results_of
from edgeinfer.console.repository.base import ChunkHead, KeptChunk, Span, StoredResult, kind_bit
from edgeinfer.console.repository.connection import Row
from edgeinfer.console.repository.sqlite_counts import SqliteCounts
from edgeinfer.runtime.chunk import NO_LINK
from edgeinfer.runtime.errors import CodecError

__all__ = ["SqliteChunks"]

_log = logging.getLogger(__name__)

_HEAD = "c.epoch, c.first_seq, c.n, p.name, c.codec, c.t_min_ns, c.t_max_ns, c.kinds, c.link, c.whole"
_FROM = "FROM chunk c JOIN pipeline p ON p.id = c.pipeline"
# Bodies are read a few at a time: each may have megabytes.
_PAGE = 8
_LAST = (1 << 63) - 1


class SqliteChunks(SqliteCounts):
    """Part of SqliteRepository."""

    def add_chunks(self, chunks: Sequence[KeptChunk]) -> None:
        with self.transaction():
            self.write_many(
                "INSERT INTO chunk VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [self._values(chunk) for chunk in chunks],
            )

    def _values(self, chunk: KeptChunk) -> Row:
        device = self.device_id(chunk.device)
        self.know_epoch(device, chunk.epoch)
        return (
            device, chunk.epoch, chunk.first_seq, chunk.n, chunk.t_min_ns, chunk.t_max_ns,
            self.pipeline_id(device, chunk.pipeline), chunk.kinds, chunk.codec, chunk.whole, chunk.link, chunk.crc,
            chunk.body,
        )  # fmt: skip

    def results(
        self,
        device: str,
        *,
        pipeline: str | None = None,
        kinds: int = 0,
        after: tuple[int, int] | None = None,
        limit: int,
    ) -> list[StoredResult]:
        found: list[StoredResult] = []
        # Epoch by epoch: each is a stretch of the primary key, where ordering them in a join would sort everything.
        for epoch, after_seq in self._epochs_from(device, after):
            for chunk in self._chunks(device, epoch, pipeline, kinds, None if after is None else after_seq):
                found += _wanted(chunk, kinds, None if after is None else after_seq)
                if len(found) >= limit:
                    return found[:limit]
        return found

    def _chunks(
        self, device: str, epoch: int, pipeline: str | None, kinds: int, after: int | None
    ) -> Iterator[KeptChunk]:
        """Those that reach beyond `after`, in order; without `after`, from the last to the first."""
        number = self._number(device)
        where = "c.device = ?1 AND c.epoch = ?2"
        if pipeline is not None:
            row = self.row("SELECT id FROM pipeline WHERE device = ? AND name = ?", (number, pipeline))
            if row is None:
                return
            where += f" AND c.pipeline = {int(row[0])}"
        if kinds:  # as it is written in the partial index, so that this is used
            where += f" AND c.kinds & {int(kinds)}"
        at = self._first_beyond(number, epoch, after) if after is not None else _LAST
        compared, direction = ("<=", "DESC") if after is None else (">=", "ASC")
        while True:
            rows = self.rows(
                f"SELECT {_HEAD}, c.crc, c.body {_FROM} WHERE {where} AND c.first_seq {compared} ?3"
                f" ORDER BY c.first_seq {direction} LIMIT {_PAGE}",
                (number, epoch, at),
            )
            yield from (_kept(device, row) for row in rows)
            if len(rows) < _PAGE:
                return
            at = rows[-1][1] + (-1 if after is None else 1)

    def _first_beyond(self, device: int | None, epoch: int, seq: int) -> int:
        """Where the chunk begins that holds result `seq`, which may go on beyond it."""
        row = self.row(
            "SELECT max(first_seq) FROM chunk WHERE device = ? AND epoch = ? AND first_seq <= ?", (device, epoch, seq)
        )
        return 0 if row is None or row[0] is None else int(row[0])

    def _number(self, device: str) -> int | None:
        row = self.row("SELECT id FROM device WHERE name = ?", (device,))
        return None if row is None else int(row[0])

    def _epochs_from(self, device: str, after: tuple[int, int] | None) -> list[tuple[int, int]]:
        """The epochs to read, in order, each with the number to begin after."""
        number = self._number(device)
        if after is None:
            return self.rows("SELECT epoch, 0 FROM epoch WHERE device = ? ORDER BY ordinal DESC", (number,))
        epoch, seq = after
        return self.rows(
            "SELECT epoch, CASE epoch WHEN ?2 THEN ?3 ELSE 0 END FROM epoch WHERE device = ?1 AND ordinal >="
            " coalesce((SELECT ordinal FROM epoch WHERE device = ?1 AND epoch = ?2), 0) ORDER BY ordinal",
            (number, epoch, seq),
        )

    def results_at(self, device: str, t_ns: int, *, kinds: int, limit: int) -> list[StoredResult]:
        rows = self.rows(
            f"SELECT {_HEAD}, c.crc, c.body {_FROM} WHERE c.device = ? AND c.t_max_ns >= ? AND c.t_min_ns <= ?"
            " AND c.kinds & ? ORDER BY c.t_max_ns LIMIT ?",
            (self._number(device), t_ns, t_ns, kinds, limit),
        )
        chunks = (_kept(device, row) for row in rows)
        return [result for chunk in chunks for result in _wanted(chunk, kinds, after=-1) if result.t_ns == t_ns]

    def link_at(self, device: str, epoch: int, seq: int) -> bytes:
        number = self._number(device)
        row = self.row(
            "SELECT first_seq + n - 1, link FROM chunk WHERE device = ? AND epoch = ? AND first_seq <= ?"
            " ORDER BY first_seq DESC LIMIT 1",
            (number, epoch, seq),
        )
        if row is None or row[0] != seq:
            row = self.row(
                "SELECT last, link FROM absent WHERE device = ? AND epoch = ? AND last = ?", (number, epoch, seq)
            )
        if row is None:  # absent ranges that follow each other are one, and only the last link of it is known there
            row = self.row(
                "SELECT first_seq + n - 1, link FROM unread WHERE device = ? AND epoch = ? AND first_seq <= ?"
                " ORDER BY first_seq DESC LIMIT 1",
                (number, epoch, seq),
            )
        return NO_LINK if row is None or row[0] != seq else bytes(row[1])

    def chunk_at(self, device: str, epoch: int, first_seq: int) -> KeptChunk | None:
        row = self.row(
            f"SELECT {_HEAD}, c.crc, c.body {_FROM} WHERE c.device = ? AND c.epoch = ? AND c.first_seq = ?",
            (self._number(device), epoch, first_seq),
        )
        return None if row is None else _kept(device, row)

    def heads(self, device: str, epoch: int, *, after: int, last: int, limit: int) -> list[ChunkHead]:
        rows = self.rows(
            f"SELECT {_HEAD} {_FROM} WHERE c.device = ? AND c.epoch = ? AND c.first_seq > ? AND c.first_seq <= ?"
            " ORDER BY c.first_seq LIMIT ?",
            (self._number(device), epoch, after, last, limit),
        )
        return [_head(device, row) for row in rows]

    def neighbours(self, device: str, epoch: int, seq: int) -> tuple[ChunkHead | None, ChunkHead | None]:
        number = self._number(device)
        found = [
            self.row(
                f"SELECT {_HEAD} {_FROM} WHERE c.device = ? AND c.epoch = ? AND c.first_seq {compared} ?"
                f" ORDER BY c.first_seq {direction} LIMIT 1",
                (number, epoch, seq),
            )
            for compared, direction in (("<=", "DESC"), (">", "ASC"))
        ]
        before, behind = (None if row is None else _head(device, row) for row in found)
        return before, behind

    def spans(self, device: str, *, since_ns: int, until_ns: int) -> list[Span]:
        rows = self.rows(
            "SELECT s.* FROM (SELECT epoch, min(first_seq), max(first_seq + n - 1), sum(n) FROM chunk"
            " WHERE device = ?1 AND t_max_ns >= ?2 AND t_min_ns <= ?3 GROUP BY epoch) s"
            " JOIN epoch e ON e.device = ?1 AND e.epoch = s.epoch ORDER BY e.ordinal",
            (self._number(device), since_ns, until_ns - 1),  # up to the last number that fits
        )
        return [Span(*row) for row in rows]


def _wanted(chunk: KeptChunk, kinds: int, after: int | None) -> list[StoredResult]:
    """Its results that are asked for: beyond `after` in order, or all from the last to the first."""
    try:
        results = results_of(chunk)
    except CodecError as error:  # what came in was read once: since then it was altered on the disk
        _log.error(
            "event=chunk_unreadable device=%s epoch=%d first_seq=%d error=%r",
            chunk.device, chunk.epoch, chunk.first_seq, error.message,
        )  # fmt: skip
        return []
    if kinds:
        results = [result for result in results if kind_bit(result.kind) & kinds]
    if after is None:
        return results[::-1]
    return [result for result in results if result.seq > after]


def _head(device: str, row: Row) -> ChunkHead:
    return ChunkHead(**_fields(device, row))


def _kept(device: str, row: Row) -> KeptChunk:
    *head, crc, body = row
    return KeptChunk(**_fields(device, head), crc=crc, body=body)


def _fields(device: str, row: Sequence[Any]) -> dict[str, Any]:
    epoch, first_seq, n, pipeline, codec, t_min_ns, t_max_ns, kinds, link, whole = row
    return {
        "device": device,
        "epoch": epoch,
        "first_seq": first_seq,
        "n": n,
        "pipeline": pipeline,
        "codec": codec,
        "t_min_ns": t_min_ns,
        "t_max_ns": t_max_ns,
        "kinds": kinds,
        "link": link,
        "whole": bool(whole),
    }
