"""A chunk in parts, for where it is too large as a whole. Values only.

A part is a chunk like any other, but for the hash chain: that has one link a stored chunk, so the last part carries it
and the others none. A single result that is too large for any message becomes a tombstone, which keeps the numbers
without a hole.
"""

import zlib
from collections.abc import Callable

import msgspec

from edgeinfer.runtime.chunk import NO_LINK, TOMBSTONE, StoredChunk, tombstone
from edgeinfer.runtime.errors import CodecError

__all__ = ["parts"]

TOO_LARGE = "too large"


def parts(
    chunk: StoredChunk, *, allowed: Callable[[StoredChunk], bool], forbidden: Callable[[StoredChunk], bool]
) -> list[StoredChunk]:
    """`chunk` in as few halves of halves as make each `allowed`, in order. A single result is not split: it stays as
    it is unless it is `forbidden`, and then a tombstone stands for it, as for what cannot be decoded to split it."""
    if allowed(chunk):
        return [chunk]
    if chunk.codec == TOMBSTONE:
        return [chunk]
    halves = _halves(chunk)
    if halves is None:
        return [_given_up(chunk)] if forbidden(chunk) else [chunk]
    return [part for half in halves for part in parts(half, allowed=allowed, forbidden=forbidden)]


def _halves(chunk: StoredChunk) -> tuple[StoredChunk, StoredChunk] | None:
    """None for what cannot be split."""
    if chunk.n == 1:
        return None
    from edgeinfer.runtime.codec import split  # numpy and zstd, which an agent seldom needs

    at = chunk.n // 2
    try:
        first, second = split(chunk.codec, chunk.body, n=chunk.n, at=at)
    except CodecError:
        return None
    return (
        msgspec.structs.replace(chunk, n=at, body=first, crc=zlib.crc32(first), link=NO_LINK),
        msgspec.structs.replace(
            chunk, first_seq=chunk.first_seq + at, n=chunk.n - at, body=second, crc=zlib.crc32(second)
        ),
    )


def _given_up(chunk: StoredChunk) -> StoredChunk:
    return tombstone(chunk.first_seq, chunk.n, t0_ns=chunk.t0_ns, reason=TOO_LARGE, link=chunk.link)
