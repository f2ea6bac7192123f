"""What a chunk is called: its codec numbers and how it lies in the buffer. Imports nothing heavy."""

import zlib

import msgspec

__all__ = ["COLUMNS", "EVICTED_PIPELINE", "JSON", "MAX_BODY_BYTES", "TOMBSTONE", "StoredChunk", "tombstone"]

# Codec numbers are stored and sent: never reuse one.
TOMBSTONE = 0
COLUMNS = 1
JSON = 2

# The pipeline that a tombstone is sent under.
EVICTED_PIPELINE = "_evicted"

# A chunk is sent whole: this and its header make 4 MiB, which is what the console takes.
MAX_BODY_BYTES = (4 << 20) - 64


class StoredChunk(msgspec.Struct, frozen=True):
    """`n` consecutive results from `first_seq` on. Codec 0 is a tombstone: the results were evicted."""

    first_seq: int
    n: int
    t0_ns: int
    pipeline: str
    codec: int
    crc: int
    body: bytes

    @property
    def last_seq(self) -> int:
        return self.first_seq + self.n - 1


def tombstone(first_seq: int, n: int, *, t0_ns: int, reason: str) -> StoredChunk:
    """What is sent in the place of results that will never come."""
    body = msgspec.json.encode({"reason": reason, "n": n})
    return StoredChunk(first_seq, n, t0_ns, EVICTED_PIPELINE, TOMBSTONE, zlib.crc32(body), body)
