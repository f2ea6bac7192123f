"""The step from a row a result to chunks: rows become chunks, a few thousand at a time, and are deleted.

Each turn is a transaction of its own, so a large database does not need its size again as a journal, and what was
interrupted goes on where it was. A result keeps its epoch, its number and what it said; its scores are those that
were stored. Chunks made here have no link: the device's chain begins with the first chunk that comes after.
"""

import logging
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any

import msgspec

from edgeinfer.console.repository.base import kind_bit
from edgeinfer.runtime.chunk import COLUMNS, JSON, NO_LINK
from edgeinfer.runtime.codec import decode, encode
from edgeinfer.runtime.errors import CodecError
from edgeinfer.runtime.results import Item, Kind, Result

__all__ = ["rows_into_chunks"]

_log = logging.getLogger(__name__)

_TURN = 10_000
_CHUNK = 1000
_ITEMS = 50_000
_ROWS = (
    "SELECT device, epoch, seq, pipeline, kind, t_ns, frame, latency_us, age_us, items, extra FROM result"
    " ORDER BY device, epoch, seq LIMIT ?"
)
_items = msgspec.msgpack.Decoder(tuple[Item, ...])

Row = tuple[Any, ...]


def rows_into_chunks(connection: sqlite3.Connection, number: int) -> None:
    """Convert the table `result`, drop it, and set the schema's `number`. Raises sqlite3.Error."""
    done = 0
    while rows := connection.execute(_ROWS, (_TURN,)).fetchall():
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO chunk VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", _chunks(rows))
        connection.execute("DELETE FROM result WHERE (device, epoch, seq) <= (?, ?, ?)", rows[-1][:3])
        connection.execute("COMMIT")
        done += len(rows)
        _log.info("event=converting results=%d", done)
    connection.executescript(f"BEGIN IMMEDIATE;\nDROP TABLE result;\nPRAGMA user_version = {number};\nCOMMIT;")


def _chunks(rows: Sequence[Row]) -> Iterator[Row]:
    # The same difference between number and place: the numbers follow each other.
    runs = groupby(enumerate(rows), key=lambda pair: (*pair[1][:2], pair[1][3], pair[1][2] - pair[0]))
    for (device, epoch, pipeline, _), run in runs:
        found = [row for _, row in run]
        for start in range(0, len(found), _CHUNK):
            part = found[start : start + _CHUNK]
            for first_seq, results in _fitting(part[0][2], [_result(row) for row in part]):
                codec, body = _encoded(results)
                times = [result.t_ns for result in results]
                kinds = 0
                for result in results:
                    kinds |= kind_bit(result.kind)
                head = (device, epoch, first_seq, len(results), min(times), max(times), pipeline, kinds, codec, 1)
                yield (*head, NO_LINK, zlib.crc32(body), body)


def _fitting(first_seq: int, results: list[Result]) -> Iterator[tuple[int, list[Result]]]:
    """Halved until it fits a chunk: results may hold thousands of values each."""
    if len(results) > 1 and sum(len(result.items) for result in results) > _ITEMS:
        half = len(results) // 2
        yield from _fitting(first_seq, results[:half])
        yield from _fitting(first_seq + half, results[half:])
    else:
        yield first_seq, results


def _encoded(results: list[Result]) -> tuple[int, bytes]:
    """Codec and body. Columns where they say exactly the same, as they do of what came in columns; else JSON, which
    cannot say that a score is no number."""
    columns = encode(results, COLUMNS)
    if decode(COLUMNS, columns, n=len(results)) == results:
        return COLUMNS, columns
    with suppress(CodecError):
        body = encode(results, JSON)
        if decode(JSON, body, n=len(results)) == results:
            return JSON, body
    return COLUMNS, columns


def _result(row: Row) -> Result:
    *_, kind, t_ns, frame, latency_us, age_us, items, extra = row
    return Result(
        kind=Kind(kind),
        t_ns=t_ns,
        frame=frame,
        latency_us=latency_us,
        age_us=age_us,
        items=_items.decode(items) if items else (),
        extra=msgspec.msgpack.decode(extra) if extra else None,
    )
