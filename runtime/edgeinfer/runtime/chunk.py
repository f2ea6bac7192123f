"""What a chunk is called: its codec numbers and how it lies in the buffer. Imports nothing heavy."""

import msgspec

__all__ = ["COLUMNS", "EVICTED_PIPELINE", "JSON", "TOMBSTONE", "StoredChunk"]

# Codec numbers are stored and sent: never reuse one.
TOMBSTONE = 0
COLUMNS = 1
JSON = 2

# The pipeline that a tombstone is sent under.
EVICTED_PIPELINE = "_evicted"


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
