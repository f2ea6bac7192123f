"""The body of a packed chunk: MessagePack of a head, compressed where that is worth it, and two streams of bits."""

import msgspec

from edgeinfer.runtime.codec.dictionary import DICTIONARIES, NEWEST
from edgeinfer.runtime.codec.limits import MAX_HEAD_BYTES
from edgeinfer.runtime.codec.zstd import Zstd
from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.errors import CodecError

__all__ = ["Body", "joined", "parted"]

# How the head is kept: as it is, else the number of the dictionary that it is compressed with.
_AS_IT_IS = 0
# Heads are short: more finds no more, and takes thrice the time.
_ZSTD_LEVEL = 4
# Every zstd frame begins with these; they are left out.
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class Body(msgspec.Struct, frozen=True, array_like=True, gc=False):
    kept: int
    head: bytes
    unary: bytes
    low: bytes


_zstd = {number: Zstd(_ZSTD_LEVEL, text) for number, text in DICTIONARIES.items()}
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Body)


def joined(head: bytes, unary: bytes, low: bytes) -> bytes:
    frame = _zstd[NEWEST].compress(head).removeprefix(_ZSTD_MAGIC)
    if len(frame) < len(head):
        return _encoder.encode((NEWEST, frame, unary, low))
    return _encoder.encode((_AS_IT_IS, head, unary, low))


def parted(body: bytes) -> Body:
    """The parts, with the head as it was. Raises CodecError for what is none, and for a head that is too large."""
    try:
        parts = _decoder.decode(body)
    except MALFORMED as error:
        raise CodecError(f"the chunk is no packed one: {error}") from error
    if parts.kept == _AS_IT_IS:
        if len(parts.head) > MAX_HEAD_BYTES:
            raise CodecError(f"expected a head of at most {MAX_HEAD_BYTES} bytes, found {len(parts.head)}")
        return parts
    if parts.kept not in _zstd:
        raise CodecError(f"the chunk is compressed with a dictionary that is not known here: {parts.kept}")
    head = _zstd[parts.kept].decompress(_ZSTD_MAGIC + parts.head, max_bytes=MAX_HEAD_BYTES)
    return Body(_AS_IT_IS, head, parts.unary, parts.low)
