"""What a chunk is called: its codec numbers and how it lies in the buffer. Imports nothing heavy."""

import zlib

import msgspec

__all__ = [
    "COLUMNS",
    "EVENTS",
    "EVICTED_PIPELINE",
    "JSON",
    "LINK_BYTES",
    "MAX_BODY_BYTES",
    "NO_LINK",
    "PACKED",
    "RESULTS",
    "TOMBSTONE",
    "StoredChunk",
    "tombstone",
]

# Codec numbers are stored and sent: never reuse one.
TOMBSTONE = 0
COLUMNS = 1
JSON = 2
PACKED = 3

# The lanes of the buffer: events are sent and kept before results. The numbers are stored.
RESULTS = 0
EVENTS = 1

# A link of the hash chain (see `edgeinfer.runtime.chain`), and what stands for one that is not known.
LINK_BYTES = 16
NO_LINK = b""

# The pipeline that a tombstone is sent under.
EVICTED_PIPELINE = "_evicted"

# A chunk is sent whole: this and its header make 4 MiB, which is what the console takes.
MAX_BODY_BYTES = (4 << 20) - 64


class StoredChunk(msgspec.Struct, frozen=True):
    """`n` consecutive results from `first_seq` on. Codec 0 is a tombstone: the results were evicted. `link` is that
    of the hash chain after the last of them."""

    first_seq: int
    n: int
    t0_ns: int
    pipeline: str
    codec: int
    crc: int
    body: bytes
    link: bytes = NO_LINK

    @property
    def last_seq(self) -> int:
        return self.first_seq + self.n - 1


def tombstone(first_seq: int, n: int, *, t0_ns: int, reason: str, link: bytes = NO_LINK) -> StoredChunk:
    """What is sent in the place of results that will never come."""
    body = msgspec.json.encode({"reason": reason, "n": n, "t0_ns": t0_ns})
    return StoredChunk(first_seq, n, t0_ns, EVICTED_PIPELINE, TOMBSTONE, zlib.crc32(body), body, link)
