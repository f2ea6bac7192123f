"""What the measuring process and the one that runs the engine say to each other: a JSON document a line."""

import msgspec

__all__ = ["MAX_LINE_BYTES", "Failed", "Message", "Ready", "Timed", "Turn"]

# A block's histogram has some thousand buckets at the most.
MAX_LINE_BYTES = 1 << 20


class Turn(msgspec.Struct, frozen=True):
    """Call the engine for so long, at least once."""

    seconds: float


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The engine is loaded and has been called."""

    version: str
    inputs: str
    call_ns: int
    rss_bytes: int


class Timed(msgspec.Struct, frozen=True, tag="timed"):
    """A block of calls: `counts` is how many took about so many nanoseconds. The `warm_up_calls` before it are in
    none of the figures."""

    calls: int
    warm_up_calls: int
    total_ns: int
    median_ns: float
    min_ns: int
    cpu_ns: int
    rss_bytes: int
    counts: dict[int, int]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The variant cannot be run here."""

    error: str


Message = Ready | Timed | Failed
