"""How chunks of the buffer become what a sink takes. Values only."""

import zlib
from collections.abc import Callable, Iterable, Iterator

from edgeinfer.runtime.chunk import StoredChunk, tombstone
from edgeinfer.sync.messages import MAX_CHUNK_BYTES, ChunkMessage, encode_chunk
from edgeinfer.sync.sinks.base import Chunk
from edgeinfer.sync.splitting import parts

__all__ = ["GivenUp", "fitting", "outgoing", "split"]

# Told of a chunk that cannot be sent, and why; a tombstone goes in its place.
GivenUp = Callable[[StoredChunk, str], None]


def outgoing(stored: StoredChunk, epoch: int, *, given_up: GivenUp) -> Chunk:
    """The chunk as it is sent: unchanged, or a tombstone in the place of one that has rotted or is too large: the
    other side would refuse it for ever, and what comes after it would never be acknowledged."""
    chosen = stored
    if zlib.crc32(stored.body) != stored.crc:
        chosen = _without(stored, "damaged", given_up)
    message = _encoded(chosen, epoch)
    if len(message) > MAX_CHUNK_BYTES:
        chosen = _without(stored, "too large", given_up)
        message = _encoded(chosen, epoch)
    return Chunk(chosen.pipeline, chosen.codec, chosen.first_seq, chosen.n, message)


def split(stored: StoredChunk, limit: int) -> list[StoredChunk]:
    """The chunk in parts whose messages take about `limit` bytes at most, as far as it can be split; 0: as it is.
    Nothing is given up here: how much the other side takes is for its owner to change."""
    if not limit or len(stored.body) <= limit:
        return [stored]
    return parts(stored, allowed=lambda part: len(part.body) <= limit, forbidden=lambda _part: False)


def fitting(chunks: Iterable[Chunk], limit: int) -> Iterator[Chunk]:
    """The first chunks that make `limit` bytes together; one at least, however large."""
    size = 0
    for chunk in chunks:
        if size and size + len(chunk.message) > limit:
            return
        size += len(chunk.message)
        yield chunk


def _without(stored: StoredChunk, reason: str, given_up: GivenUp) -> StoredChunk:
    given_up(stored, reason)
    return tombstone(stored.first_seq, stored.n, t0_ns=stored.t0_ns, reason=reason, link=stored.link)


def _encoded(chunk: StoredChunk, epoch: int) -> bytes:
    return encode_chunk(
        ChunkMessage(chunk.codec, epoch, chunk.first_seq, chunk.n, chunk.crc, chunk.body, link=chunk.link)
    )
