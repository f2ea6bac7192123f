"""Whether chunks follow each other without a hole, and whether their hash chain holds. Values only.

check = Continuity(first_seq=1, link=genesis(epoch))
for pipeline, chunk in chunks:
    check.follow(pipeline, chunk)       # raises MessageError at the first that does not fit
"""

from edgeinfer.runtime.chain import next_link
from edgeinfer.runtime.chunk import NO_LINK, TOMBSTONE
from edgeinfer.runtime.errors import MessageError
from edgeinfer.sync.messages import ChunkMessage

__all__ = ["Continuity"]


class Continuity:
    """`next_seq` and `link` are those after the last chunk. Of `chunks`, `checked` were held against the chain; the
    others are tombstones, or the chain is not known there."""

    def __init__(self, *, first_seq: int, link: bytes = NO_LINK) -> None:
        self.next_seq = first_seq
        self.link = link
        self.chunks = self.checked = self.evicted = 0

    def follow(self, pipeline: str, chunk: ChunkMessage) -> None:
        """Raises MessageError: a hole, a chunk twice, a broken chain."""
        if chunk.first_seq != self.next_seq:
            raise MessageError(f"expected number {self.next_seq} next, found a chunk from {chunk.first_seq} on")
        if chunk.codec == TOMBSTONE:
            self.evicted += chunk.n
        elif self.link != NO_LINK and chunk.link != NO_LINK:
            self._check(pipeline, chunk)
        self.link = chunk.link
        self.next_seq = chunk.first_seq + chunk.n
        self.chunks += 1

    def _check(self, pipeline: str, chunk: ChunkMessage) -> None:
        expected = next_link(
            self.link, first_seq=chunk.first_seq, n=chunk.n, codec=chunk.codec, pipeline=pipeline, body=chunk.body
        )
        if expected != chunk.link:
            raise MessageError(
                f"the hash chain is broken at number {chunk.first_seq}: something was changed, exchanged or taken out"
            )
        self.checked += 1
