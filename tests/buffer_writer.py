"""Writes to a buffer without end, as a process of its own, and promises what must outlive any power cut.

    python buffer_writer.py FOLDER SEED [--results N] [--synchronous NORMAL]

Results are those of `made`, so that whoever reads them can tell what they have to be. After each flush a line goes to
FOLDER/buffer.promise: what is durable, and up to where each series is.
"""

import argparse
import functools
import os
import random
import sqlite3
from pathlib import Path
from typing import Any

import msgspec

from edgeinfer.runtime.buffer import Buffer, BufferConfig
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.results import Item, Kind, Result

__all__ = ["EVENT_FRAMES", "SERIES", "Promise", "made", "read_promises"]

# Every so many frames of a series is an event: they may go by a lane of their own.
EVENT_FRAMES = 41
SERIES = ("door", "yard", "press")
START_NS = 1_700_000_000_000_000_000


class Promise(msgspec.Struct, frozen=True):
    """`made` are frames by series that were handed over and flushed; `acknowledged` is what the writer was told."""

    epoch: int
    durable: int
    acknowledged: int
    made: dict[str, int]


@functools.cache
def made(series: str, frame: int) -> Result:
    """Result number `frame` of a series: always the same."""
    chance = random.Random(f"{series} {frame}")
    if frame % EVENT_FRAMES == 0:
        return Result(Kind.EVENT, START_NS + frame, frame, extra={"rule": "r", "value": chance.random()})
    items = tuple(Item(chance.getrandbits(40), chance.random()) for _ in range(chance.randrange(1, 16)))
    return Result(Kind.CLASSIFICATION, START_NS + frame, frame, chance.getrandbits(12), 1500, items)


def read_promises(notes: list[bytes]) -> list[Promise]:
    """Every promise in what was written to the file, oldest first."""
    lines = b"".join(notes).splitlines()
    return [msgspec.json.decode(line, type=Promise) for line in lines]


class _Weak(sqlite3.Connection):
    """A connection that is less careful than it is told to be."""

    synchronous = "FULL"

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        return super().execute(sql.replace("synchronous=FULL", f"synchronous={self.synchronous}"), parameters)


def _weaken(synchronous: str) -> None:
    connect = sqlite3.connect
    _Weak.synchronous = synchronous
    sqlite3.connect = lambda *args, **kwargs: connect(*args, factory=_Weak, **kwargs)  # type: ignore[assignment]  # one overload of many


class Writer:
    """Appends bursts of random size; acknowledges some of what is durable; waits out a disk that fails."""

    def __init__(self, folder: Path, seed: int, *, acknowledged: int) -> None:
        self._chance = random.Random(seed)
        self._acknowledged = acknowledged
        config = BufferConfig(path=str(folder / "buffer.db"), max_bytes=1 << 20, flush_interval_s=0.01)
        self._buffer = Buffer(config, acknowledged=lambda _epoch: self._acknowledged)
        self._file = os.open(folder / "buffer.promise", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        # A run begins where no other run has been.
        self._next = dict.fromkeys(SERIES, seed * 10_000_000)

    def run(self, results: int) -> None:
        while results > 0:
            burst = min(results, self._chance.choice((1, 7, 60, 400, 1500)))
            results -= burst
            self._append(burst)
            # A failing disk may take many tries; what was not flushed is not promised.
            if self._buffer.flush(60.0):
                self._promise()
            if self._chance.random() < 0.2:
                known = self._chance.randint(self._acknowledged, self._buffer.durable_seq)
                self._promise(known)
                self._acknowledged = known
        self._buffer.close()

    def _append(self, burst: int) -> None:
        for _ in range(burst):
            series = self._chance.choice(SERIES)
            try:
                self._buffer.append(series, made(series, self._next[series]))
            except BufferStorageError:
                return
            self._next[series] += 1

    def _promise(self, acknowledged: int | None = None) -> None:
        known = self._acknowledged if acknowledged is None else acknowledged
        promise = Promise(self._buffer.epoch, self._buffer.durable_seq, known, self._next)
        os.write(self._file, msgspec.json.encode(promise) + b"\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("seed", type=int)
    parser.add_argument("--results", type=int, default=20_000)
    parser.add_argument("--acknowledged", type=int, default=0)
    parser.add_argument("--synchronous", default="FULL")
    arguments = parser.parse_args()
    _weaken(arguments.synchronous)
    Writer(arguments.folder, arguments.seed, acknowledged=arguments.acknowledged).run(arguments.results)


if __name__ == "__main__":
    main()
