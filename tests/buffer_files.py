"""What the tests of the buffer's file share: small segments at will, results that do not compress, whole numberings."""

import random
import zlib
from collections.abc import Sequence
from pathlib import Path

from edgeinfer.runtime.buffer_file.connection import transaction
from edgeinfer.runtime.buffer_file.lanes import Segment
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.buffer_store import BufferStore, NewChunk
from edgeinfer.runtime.chain import genesis, link_after
from edgeinfer.runtime.chunk import NO_LINK, RESULTS, TOMBSTONE, StoredChunk
from edgeinfer.runtime.results import Item, Kind, Result

__all__ = [
    "ALL",
    "assert_chained",
    "assert_contiguous",
    "evict_oldest",
    "new",
    "noise",
    "read",
    "rotate",
    "segments",
    "sizes",
]

ALL = 1_000_000


def new(body: bytes = b"x", *, n: int = 10, pipeline: str = "p", lane: int = RESULTS, t0_ns: int = 0) -> NewChunk:
    return NewChunk(pipeline, n, t0_ns, body, {}, lane)


def noise(number: int, *, items: int = 60) -> Result:
    """A result of some eight bytes an item that do not compress."""
    rng = random.Random(number)
    found = tuple(Item(rng.getrandbits(50), rng.random(), (0.0, 0.1, rng.random(), rng.random())) for _ in range(items))
    return Result(Kind.DETECTION, rng.getrandbits(60), number, items=found)


def rotate(store: BufferStore) -> None:
    """Close every open segment: the next chunk of each lane opens a new one."""
    file = store._file
    with transaction(file.db) as db:
        closed = [file.segments.close(db, segment) for segment in file.tails.values()]
    file.segments.keep(closed, file.tails)


def segments(store: BufferStore) -> list[Segment]:
    return sorted(store._file.lanes, key=lambda segment: segment.first_seq)


def evict_oldest(store: BufferStore, reason: str = "full") -> int:
    return store._file.evict(segments(store)[0], store.acknowledged, reason=reason)


def read(path: Path) -> list[StoredChunk]:
    with BufferReader(path) as reader:
        return reader.chunks(0, limit=ALL)


def sizes(chunks: Sequence[StoredChunk]) -> list[tuple[int, int]]:
    """First number and count of each; the count of a tombstone is negative."""
    return [(chunk.first_seq, -chunk.n if chunk.codec == TOMBSTONE else chunk.n) for chunk in chunks]


def assert_contiguous(chunks: Sequence[StoredChunk], *, first: int = 1) -> int:
    """Every number once, in order; the last one is returned."""
    for chunk in chunks:
        assert chunk.first_seq == first
        assert chunk.crc == zlib.crc32(chunk.body)
        first = chunk.last_seq + 1
    return first - 1


def assert_chained(chunks: Sequence[StoredChunk], epoch: int) -> int:
    """Every link fits the one before, where that is known; how many could be checked is returned."""
    before, checked = genesis(epoch) if chunks and chunks[0].first_seq == 1 else NO_LINK, 0
    for chunk in chunks:
        expected = link_after(before, chunk)
        if expected != NO_LINK:
            assert chunk.link == expected, chunk.first_seq
            checked += 1
        before = chunk.link
    return checked
