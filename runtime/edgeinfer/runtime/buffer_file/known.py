"""What a damaged buffer still tells of itself, so that the one that takes its place can go on where it ended."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import msgspec

from edgeinfer.runtime.buffer_file.connection import SqliteErrors
from edgeinfer.runtime.buffer_file.schema import EVICTED, FRAMES, STATE, BufferState, frames_key, unpack_state
from edgeinfer.runtime.buffer_file.wreckage import CarvedChunk, Wreckage, read_state

__all__ = ["Known", "what_is_known"]

# Pages that are looked into, evenly over the file, to find out of which epoch it was.
_SAMPLE = 2000


class Known(msgspec.Struct, frozen=True):
    """`state` is None where there is none to be found; `counters` is None where they cannot be read, and else counts
    everything below `counted_seq`; `epoch` is that of the chunks (0: unknown)."""

    state: BufferState | None
    counters: dict[str, int] | None
    counted_seq: int
    epoch: int


class _Meta(msgspec.Struct, frozen=True):
    state: BufferState | None
    counters: dict[str, int]


def what_is_known(damaged: Path) -> Known:
    """Look for what is to go on. Raises OSError."""
    meta = _read_meta(damaged)
    with Wreckage(damaged) as wreckage:
        state = _newest([read_state(damaged), meta.state if meta is not None else None, _of_chunk(wreckage.newest())])
        epoch = state.epoch if state is not None else _sampled_epoch(wreckage)
    if meta is None or meta.state is None:
        return Known(state, None, 1, epoch)
    return Known(state, meta.counters, meta.state.next_seq, epoch)


def _read_meta(damaged: Path) -> _Meta | None:
    """What SQLite can still read of it: the state, and the counters that belong to it."""
    try:
        with closing(sqlite3.connect(f"{damaged.resolve().as_uri()}?mode=ro", uri=True)) as db:
            rows = dict(db.execute("SELECT key, value FROM meta").fetchall())
            meta = {str(key): value for key, value in rows.items() if isinstance(value, int)}
            if {"epoch", "next_seq", "evicted"} <= meta.keys():  # version 1
                frames = db.execute("SELECT state, pipeline, n FROM frames").fetchall()
                counters = {frames_key(name, pipeline): n for name, pipeline, n in frames}
                counters[f"{EVICTED}full"] = meta["evicted"]
                return _Meta(BufferState(meta["epoch"], meta["next_seq"], 0), counters)
    except SqliteErrors:
        return None
    packed = rows.get(STATE)
    counters = {key: value for key, value in meta.items() if key.startswith((FRAMES, EVICTED))}
    return _Meta(unpack_state(packed) if isinstance(packed, bytes) else None, counters)


def _newest(states: Iterable[BufferState | None]) -> BufferState | None:
    """The buffer's own clock never goes back."""
    found = (state for state in states if state is not None)
    return max(found, key=lambda state: (state.clock_ns, state.next_seq), default=None)


def _of_chunk(chunk: CarvedChunk | None) -> BufferState | None:
    """The state after the commit of a chunk."""
    return None if chunk is None else BufferState(chunk.epoch, chunk.last_seq + 1, chunk.clock_ns, chunk.link)


def _sampled_epoch(wreckage: Wreckage) -> int:
    """The epoch of the first whole chunk that is met."""
    for number in range(1, wreckage.pages + 1, max(1, wreckage.pages // _SAMPLE)):
        for _, row in wreckage.rows(number):
            if isinstance(row, CarvedChunk) and row.epoch > 0 and row.is_whole:
                return row.epoch
    return 0
