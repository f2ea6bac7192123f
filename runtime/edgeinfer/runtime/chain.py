"""The hash chain over a buffer's chunks: whoever has two neighbours can tell that nothing was changed, exchanged or
taken out between them.

    genesis(epoch) = SHA-256("edgeinfer chain 1" || epoch)[:16]
    link(k)        = SHA-256(link(k-1) || first_seq || n || codec || length of pipeline || pipeline || body)[:16]

Numbers are big-endian: epoch and first_seq of 8 bytes, n of 4, codec and length of 1; the pipeline is UTF-8. Where the
content of a chunk is gone (a tombstone), its link is the one that the last chunk under it had: the chain goes on from
there, on the device's word. No link at all (`NO_LINK`) is known of what was written before there was a chain, and of
the last chunk that was lost with a damaged file; what follows it cannot be checked against it.

Half a SHA-256 is enough: finding a second chunk for a link takes 2^128 tries.
"""

import struct

from edgeinfer.runtime.chunk import LINK_BYTES, NO_LINK, TOMBSTONE, StoredChunk
from edgeinfer.runtime.hashing import sha256

__all__ = ["genesis", "link_after", "next_link"]

_DOMAIN = b"edgeinfer chain 1"
_EPOCH = struct.Struct(">Q")
_FIELDS = struct.Struct(">QIBB")


def genesis(epoch: int) -> bytes:
    """The link before the first chunk of an epoch, 16 bytes."""
    return _shortened(_DOMAIN + _EPOCH.pack(epoch))


def next_link(before: bytes, *, first_seq: int, n: int, codec: int, pipeline: str, body: bytes) -> bytes:
    """The link of a chunk that follows the link `before`, 16 bytes."""
    name = pipeline.encode()
    return _shortened(before + _FIELDS.pack(first_seq, n, codec, len(name)) + name + body)


def link_after(before: bytes, chunk: StoredChunk) -> bytes:
    """The link that `chunk` has to have; `NO_LINK` where that cannot be known."""
    if chunk.codec == TOMBSTONE or before == NO_LINK:
        return NO_LINK
    return next_link(
        before,
        first_seq=chunk.first_seq,
        n=chunk.n,
        codec=chunk.codec,
        pipeline=chunk.pipeline,
        body=chunk.body,
    )


def _shortened(data: bytes) -> bytes:
    return sha256(data).digest()[:LINK_BYTES]
