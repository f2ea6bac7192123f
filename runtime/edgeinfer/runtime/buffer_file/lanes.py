"""Which segments a buffer holds, and which of them goes first. Values only: no database, no clock.

A lane is what one pipeline has of one class: its events, or all its other results. Segments are runs of chunks of one
lane, kept and dropped whole. When room is needed, results go before events; among the lanes of a class the one that is
furthest over its share (bytes held / weight of its pipeline) gives its oldest segment.
"""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from edgeinfer.runtime.buffer_file.schema import LAYOUT, table_name
from edgeinfer.runtime.chunk import EVENTS

__all__ = ["MAX_CHUNKS", "Lanes", "Segment", "segment_limit"]

# What a dropped segment leaves behind are at most as many tombstones as it had chunks: one drop stays short.
MAX_CHUNKS = 2048
_LARGE_SEGMENT = 4 << 20
_SMALLEST_SEGMENT = 16 << 10
# A buffer of any size has at most some 500 tables of chunks, and those that are open.
_MOST_SEGMENTS = 512
# A pipeline's share of the buffer is this many segments, so that giving up one of them is no landslide.
_SEGMENTS_A_SHARE = 8

Key = tuple[str, int]


class Segment(msgspec.Struct, frozen=True):
    """A table of chunks of one lane. `chunks` and `bytes` count what it holds; `is_dense`: its numbers are one run.
    A segment of layout 1 holds whatever there was before there were lanes."""

    id: int
    pipeline: str
    lane: int
    first_seq: int
    last_seq: int
    chunks: int
    bytes: int
    is_open: bool
    is_dense: bool
    layout: int = LAYOUT

    @property
    def key(self) -> Key:
        return self.pipeline, self.lane

    @property
    def table(self) -> str:
        return table_name(self.id)

    def grown(self, first_seq: int, last_seq: int, size: int) -> "Segment":
        """With one more chunk at its end."""
        return msgspec.structs.replace(
            self,
            last_seq=last_seq,
            chunks=self.chunks + 1,
            bytes=self.bytes + size,
            is_dense=self.is_dense and (self.chunks == 0 or first_seq == self.last_seq + 1),
        )

    def closed(self) -> "Segment":
        return msgspec.structs.replace(self, is_open=False)


class Lanes:
    """The segments that the buffer holds, by lane."""

    def __init__(self, segments: Iterable[Segment] = (), *, weights: Mapping[str, float] | None = None) -> None:
        self._segments = {segment.id: segment for segment in segments}
        self._weights = dict(weights or {})
        self._next_id = max(self._segments, default=0) + 1

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._segments.values())

    def __len__(self) -> int:
        return len(self._segments)

    def __contains__(self, segment: Segment) -> bool:
        return segment.id in self._segments

    def new_id(self) -> int:
        """Never one that was given before."""
        self._next_id += 1
        return self._next_id - 1

    def put(self, segment: Segment) -> None:
        """Add a segment, or replace the one of the same id."""
        self._segments[segment.id] = segment

    def remove(self, segment: Segment) -> None:
        del self._segments[segment.id]

    def pipelines(self) -> int:
        """How many pipelines share the buffer; at least one."""
        return len({segment.pipeline for segment in self}) or 1

    def acknowledged(self, seq: int, *, limit: int, also_open: bool = False) -> list[Segment]:
        """The segments that hold nothing beyond `seq`, oldest first: closed ones and full ones (a full one is closed
        by the next chunk of its lane, which may be long in coming), and with `also_open` the others too."""
        found = [
            segment for segment in self if segment.last_seq <= seq and (also_open or not _is_growing(segment, limit))
        ]
        return sorted(found, key=_age)

    def older_than(self, seq: int) -> list[Segment]:
        """The segments of which every number is below `seq`, oldest first."""
        return sorted((segment for segment in self if segment.last_seq < seq), key=_age)

    def victim(self) -> Segment | None:
        """What is given up next; None where there is nothing."""
        held: dict[Key, int] = {}
        for segment in self:
            held[segment.key] = held.get(segment.key, 0) + segment.bytes
        if not held:
            return None
        chosen = max(held, key=lambda key: (key[1] != EVENTS, held[key] / self._weights.get(key[0], 1.0), key[0]))
        return min((segment for segment in self if segment.key == chosen), key=_age)


def segment_limit(max_bytes: int, pipelines: int) -> int:
    """At how many bytes a segment is full, for a buffer of `max_bytes` that so many pipelines share."""
    share = max(_SMALLEST_SEGMENT, max_bytes // (_SEGMENTS_A_SHARE * pipelines))
    return min(share, max(_LARGE_SEGMENT, max_bytes // _MOST_SEGMENTS))


def _is_growing(segment: Segment, limit: int) -> bool:
    return segment.is_open and segment.bytes < limit and segment.chunks < MAX_CHUNKS


def _age(segment: Segment) -> int:
    return segment.first_seq
