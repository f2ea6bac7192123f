"""How `buffer.db` lies on the disk: schema version 2. Names and layouts only, no I/O.

meta(key, value)            `schema`; `state` (see below); counters: `frames/<state>/<pipeline>`, `evicted/<reason>`
segment(id, pipeline, ...)  one row for each table of chunks; each belongs to one lane of one pipeline
seg_<id>(first_seq, ...)    the chunks of a segment
tombstone(first_seq, ...)   runs of numbers whose results are gone before they were acknowledged
evicted(first_seq, ...)     the same, once they are acknowledged: what `edgeinfer audit` needs of the past
mark(first_seq, ...)        moments: every number from `first_seq` on was given after it

Each chunk's row says all that there is to know of it and of its commit, so that a commit writes no page but that of
the chunk, and a damaged file can be read row by row. `state` is the same for everything, as it was some commits ago
(see `ledger`); it carries a name and a checksum of its own, so that it is found by looking at the bytes alone.

Pages are of 512 bytes: each commit writes whole pages, and with 4 KiB most of what goes to the flash is their
unchanged rest (measured, chunks of 2 kB: 104 bytes a result instead of 199).
"""

import struct
import zlib
from collections.abc import Iterable, Mapping
from typing import Annotated

import msgspec

from edgeinfer.runtime.chunk import LINK_BYTES, NO_LINK
from edgeinfer.runtime.decoding import MALFORMED

__all__ = [
    "CHUNK_COLUMNS",
    "EVICTED",
    "FRAMES",
    "LAYOUT",
    "LAYOUT_V1",
    "LOG_FLOOR",
    "PAGE_BYTES",
    "SALVAGE",
    "SCHEMA_VERSION",
    "STATE",
    "TABLES",
    "BufferState",
    "Newest",
    "add_frames",
    "chunk_table",
    "frames_key",
    "newest_rows",
    "newest_state",
    "pack_frames",
    "pack_state",
    "state_after",
    "table_name",
    "unpack_state",
]

SCHEMA_VERSION = 2
PAGE_BYTES = 512

# Keys of meta.
STATE = "state"
FRAMES = "frames/"
EVICTED = "evicted/"
# The lowest number from which on the log of evictions is whole; without it, all of it is.
LOG_FLOOR = "log_floor"
# While a damaged file is salvaged: every number below this value is where it will be; readers stop before it.
SALVAGE = "salvage"

# Layouts of chunk tables. Version 1 had no lane, epoch and link; its tables are kept as they were written.
LAYOUT_V1 = 1
LAYOUT = 2

TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID",
    # `last_seq` is 0 while the segment is open: its last row tells. `is_dense`: its numbers are one run.
    """CREATE TABLE segment (
        id INTEGER PRIMARY KEY, pipeline TEXT NOT NULL, lane INTEGER NOT NULL, first_seq INTEGER NOT NULL,
        last_seq INTEGER NOT NULL, bytes INTEGER NOT NULL, is_dense INTEGER NOT NULL, layout INTEGER NOT NULL
    ) STRICT""",
    """CREATE TABLE tombstone (
        first_seq INTEGER PRIMARY KEY, n INTEGER NOT NULL, t0_ns INTEGER NOT NULL, reason TEXT NOT NULL,
        link BLOB NOT NULL
    ) STRICT""",
    "CREATE TABLE evicted (first_seq INTEGER PRIMARY KEY, n INTEGER NOT NULL, reason TEXT NOT NULL) STRICT",
    "CREATE TABLE mark (first_seq INTEGER PRIMARY KEY, t_ns INTEGER NOT NULL, clock_ns INTEGER NOT NULL) STRICT",
)

# `ordinal` and `total` are the chunks and bytes of the segment up to and with this one: the last row tells how full it
# is, so that nothing has to be added up when the file is opened. `clock_ns` is the buffer's own clock at its commit,
# `frames` what it adds to the counters of frames (MessagePack, state to count; empty for nothing).
CHUNK_COLUMNS = "first_seq, n, t0_ns, pipeline, lane, codec, crc, epoch, ordinal, total, clock_ns, frames, link, body"
_CHUNK_TABLE = """CREATE TABLE {table} (
    first_seq INTEGER PRIMARY KEY, n INTEGER NOT NULL, t0_ns INTEGER NOT NULL, pipeline TEXT NOT NULL,
    lane INTEGER NOT NULL, codec INTEGER NOT NULL, crc INTEGER NOT NULL, epoch INTEGER NOT NULL,
    ordinal INTEGER NOT NULL, total INTEGER NOT NULL, clock_ns INTEGER NOT NULL, frames BLOB NOT NULL,
    link BLOB NOT NULL, body BLOB NOT NULL
) STRICT"""

# Counts of a chunk: of more the totals might not fit a column any more.
_frames_decoder = msgspec.msgpack.Decoder(dict[str, Annotated[int, msgspec.Meta(ge=0, lt=1 << 40)]])

_MAGIC = b"EIstate2"
# Magic, epoch, next_seq, clock_ns, whether the link is known, the link.
_STATE = struct.Struct(f">8sQQQ?{LINK_BYTES}s")
_CRC = struct.Struct(">I")
_STATE_BYTES = _STATE.size + _CRC.size


class BufferState(msgspec.Struct, frozen=True):
    """Where the numbering stands. `clock_ns` is the buffer's own clock (see `marks`) when the last number was given,
    `link` that of the last chunk."""

    epoch: int
    next_seq: int
    clock_ns: int
    link: bytes = NO_LINK


def pack_state(state: BufferState) -> bytes:
    link = state.link
    packed = _STATE.pack(_MAGIC, state.epoch, state.next_seq, state.clock_ns, link != NO_LINK, link)
    return packed + _CRC.pack(zlib.crc32(packed))


def unpack_state(raw: bytes) -> BufferState | None:
    """None for what no `pack_state` has written."""
    if len(raw) != _STATE_BYTES or _CRC.unpack(raw[_STATE.size :])[0] != zlib.crc32(raw[: _STATE.size]):
        return None
    magic, epoch, next_seq, clock_ns, has_link, link = _STATE.unpack(raw[: _STATE.size])
    return BufferState(epoch, next_seq, clock_ns, link if has_link else NO_LINK) if magic == _MAGIC else None


def newest_state(data: bytes) -> BufferState | None:
    """The newest of all states that lie anywhere in `data`; the buffer's clock never goes back."""
    found: list[BufferState] = []
    at = data.find(_MAGIC)
    while at >= 0:
        state = unpack_state(data[at : at + _STATE_BYTES])
        if state is not None:
            found.append(state)
        at = data.find(_MAGIC, at + 1)
    return max(found, key=lambda state: (state.clock_ns, state.next_seq), default=None)


class Newest(msgspec.Struct, frozen=True, array_like=True):
    """What the row of a chunk tells of its commit. A flipped bit must not make a state that cannot be written."""

    first_seq: Annotated[int, msgspec.Meta(ge=1, lt=1 << 62)]
    n: Annotated[int, msgspec.Meta(ge=1, lt=1 << 32)]
    pipeline: str
    clock_ns: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
    frames: bytes
    link: bytes


def newest_rows(table: str) -> str:
    """The query for the rows of a segment from a number on, as `Newest`."""
    return f"SELECT first_seq, n, pipeline, clock_ns, frames, link FROM {table} WHERE first_seq >= ?"  # noqa: S608 - our own name


def state_after(saved: BufferState, newest: Iterable[Newest]) -> BufferState:
    """The state after the commits of these rows."""
    last = max(newest, key=lambda row: row.first_seq, default=None)
    return saved if last is None else BufferState(saved.epoch, last.first_seq + last.n, last.clock_ns, last.link)


def pack_frames(frames: Mapping[str, int]) -> bytes:
    return msgspec.msgpack.encode(frames) if frames else b""


def add_frames(totals: dict[str, int], pipeline: str, packed: bytes) -> None:
    """Add what a chunk's row says of frames to counters by key; nothing where that is damaged."""
    try:
        frames = _frames_decoder.decode(packed) if packed else {}
    except MALFORMED:
        return
    for state, count in frames.items():
        key = frames_key(state, pipeline)
        totals[key] = totals.get(key, 0) + count


def table_name(segment_id: int) -> str:
    return f"seg_{segment_id}"


def chunk_table(table: str) -> str:
    """The statement that makes a table of chunks."""
    return _CHUNK_TABLE.format(table=table)


def frames_key(state: str, pipeline: str) -> str:
    """The counter of frames of a pipeline that ended in a state; the name of a state has no slash."""
    return f"{FRAMES}{state}/{pipeline}"
