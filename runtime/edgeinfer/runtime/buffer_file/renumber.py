"""Numbers everything that is kept anew, in its order and without a gap, for a new epoch."""

import heapq
import sqlite3
from collections.abc import Iterator

import msgspec

from edgeinfer.runtime.buffer_file import marks
from edgeinfer.runtime.buffer_file.lanes import Segment
from edgeinfer.runtime.buffer_file.schema import EVICTED, LAYOUT_V1
from edgeinfer.runtime.buffer_file.segments import Segments
from edgeinfer.runtime.buffer_file.tombstones import forget_log
from edgeinfer.runtime.chain import genesis, next_link
from edgeinfer.runtime.chunk import NO_LINK

__all__ = ["Renumbered", "renumber"]

_PAGE = 256


class Renumbered(msgspec.Struct, frozen=True):
    """How the buffer lies afterwards."""

    next_seq: int
    link: bytes
    segments: list[Segment]


class _Place(msgspec.Struct, frozen=True, order=True):
    """Something that has a number: a chunk of a segment, or a tombstone (no segment)."""

    first_seq: int
    n: int
    segment: int


def renumber(db: sqlite3.Connection, segments: Segments, *, epoch: int, acknowledged: int) -> Renumbered:
    """Take away what is acknowledged, and number the rest from 1, within a transaction. The chain begins anew, with
    the links of all chunks recomputed; behind what has none (a tombstone's neighbours in time, chunks of version 1)
    it begins behind that."""
    kept = {segment.id: segment for segment in _kept(db, segments, acknowledged)}
    db.execute("DELETE FROM tombstone WHERE first_seq + n - 1 <= ?", (acknowledged,))
    first, last = dict.fromkeys(kept, 0), dict.fromkeys(kept, 0)
    seq, link, old = 1, genesis(epoch), 1
    for place in heapq.merge(_tombstones(db), *(_chunks(db, segment) for segment in kept.values())):
        old = place.first_seq if seq == 1 else old
        if place.segment:
            link = _move_chunk(db, kept[place.segment], place, to=seq, before=link, epoch=epoch)
            first[place.segment] = first[place.segment] or seq
            last[place.segment] = seq + place.n - 1
        else:
            link = NO_LINK
            db.execute(
                "UPDATE tombstone SET first_seq = ?, link = ? WHERE first_seq = ?", (seq, NO_LINK, place.first_seq)
            )
        seq += place.n
    moved = [_moved(db, segment, first[number], last[number]) for number, segment in kept.items()]
    _move_the_rest(db, shift=old - 1)
    return Renumbered(seq, link, moved)


def _kept(db: sqlite3.Connection, segments: Segments, acknowledged: int) -> Iterator[Segment]:
    for segment in list(segments.lanes):
        if segment.last_seq <= acknowledged:
            segments.drop(db, segment)
        else:
            db.execute(
                f"DELETE FROM {segment.table} WHERE first_seq <= ?1 AND first_seq + n - 1 <= ?1",  # noqa: S608 - our own name
                (acknowledged,),
            )
            yield segment


def _chunks(db: sqlite3.Connection, segment: Segment) -> Iterator[_Place]:
    """In pages, because the rows are moved meanwhile: always downwards, so none comes twice."""
    query = f"SELECT first_seq, n FROM {segment.table} WHERE first_seq > ? ORDER BY first_seq LIMIT ?"  # noqa: S608 - our own name
    after = 0
    while rows := db.execute(query, (after, _PAGE)).fetchall():
        for first_seq, n in rows:
            yield _Place(first_seq, n, segment.id)
        after = rows[-1][0]


def _tombstones(db: sqlite3.Connection) -> Iterator[_Place]:
    after = 0
    query = "SELECT first_seq, n FROM tombstone WHERE first_seq > ? ORDER BY first_seq LIMIT ?"
    while rows := db.execute(query, (after, _PAGE)).fetchall():
        for first_seq, n in rows:
            yield _Place(first_seq, n, 0)
        after = rows[-1][0]


def _move_chunk(
    db: sqlite3.Connection, segment: Segment, place: _Place, *, to: int, before: bytes, epoch: int
) -> bytes:
    """The link after the chunk in its new place."""
    table = segment.table
    if segment.layout == LAYOUT_V1:
        db.execute(f"UPDATE {table} SET first_seq = ? WHERE first_seq = ?", (to, place.first_seq))  # noqa: S608 - our own name
        return NO_LINK
    codec, pipeline, body = db.execute(
        f"SELECT codec, pipeline, body FROM {table} WHERE first_seq = ?",  # noqa: S608 - our own name
        (place.first_seq,),
    ).fetchone()
    link = next_link(before, first_seq=to, n=place.n, codec=codec, pipeline=pipeline, body=body)
    db.execute(
        f"UPDATE {table} SET first_seq = ?, epoch = ?, link = ? WHERE first_seq = ?",  # noqa: S608 - our own name
        (to, epoch, link, place.first_seq),
    )
    return link


def _moved(db: sqlite3.Connection, segment: Segment, first_seq: int, last_seq: int) -> Segment:
    db.execute(
        "UPDATE segment SET first_seq = ?2, last_seq = CASE last_seq WHEN 0 THEN 0 ELSE ?3 END WHERE id = ?1",
        (segment.id, first_seq, last_seq),
    )
    return msgspec.structs.replace(segment, first_seq=first_seq, last_seq=last_seq)


def _move_the_rest(db: sqlite3.Connection, *, shift: int) -> None:
    marks.shift(db, shift)
    forget_log(db)
    db.execute("DELETE FROM meta WHERE key LIKE ?", (EVICTED + "%",))
    db.execute("INSERT INTO meta SELECT ? || reason, sum(n) FROM tombstone GROUP BY reason", (EVICTED,))
