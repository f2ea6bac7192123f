"""A damaged buffer that was set aside: its pages, whatever of the file is still there.

The file and its write-ahead log are read as bytes (sqlite.org/fileformat2.html, 1.3 and 4): the newest version of a
page is the last one in the log that was durable (see `log`). No page is trusted to be what it says.
"""

import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Self, TypeVar

import msgspec

from edgeinfer.runtime.buffer_file.log import OWN_PAGE_SIZES, PAGE_SIZES, Log, frame_in, page_in, read_runs
from edgeinfer.runtime.buffer_file.pages import Cell, cell_at, cells, record
from edgeinfer.runtime.buffer_file.schema import BufferState, newest_state
from edgeinfer.runtime.buffer_file.timeline import Mark
from edgeinfer.runtime.chunk import LINK_BYTES

__all__ = ["Carved", "CarvedChunk", "CarvedEvicted", "CarvedTombstone", "Wreckage", "read_state"]

_MAGIC = b"SQLite format 3\0"
_SAMPLE_BYTES = 256 << 10
# Where the newest state is looked for: at the end of the log, and where the first and last tables are made.
_STATE_SEARCH_BYTES = 4 << 20
# Columns of the rows that are looked for, in versions 2 and 1.
_CHUNK, _CHUNK_V1, _TOMBSTONE, _TOMBSTONE_V1, _MARK_OR_EVICTED = 14, 7, 5, 4, 3

# What the hash chain has room for.
_LONGEST_NAME = 255

T = TypeVar("T")
_Number = Annotated[int, msgspec.Meta(ge=1, lt=1 << 62)]
_Count = Annotated[int, msgspec.Meta(ge=1, lt=1 << 32)]


class CarvedChunk(msgspec.Struct, frozen=True, array_like=True):
    """A row that has the shape of a chunk. Version 1 knew no epoch: it is 0 there."""

    first_seq: _Number
    n: _Count
    t0_ns: int
    pipeline: str
    lane: Annotated[int, msgspec.Meta(ge=0, le=1)]
    codec: Annotated[int, msgspec.Meta(ge=1, le=255)]
    crc: int
    epoch: int
    clock_ns: int
    frames: bytes
    link: bytes
    body: bytes

    @property
    def is_whole(self) -> bool:
        """Whether its body is what was written, and the rest could have been."""
        is_possible = len(self.link) in {0, LINK_BYTES} and len(self.pipeline.encode()) <= _LONGEST_NAME
        return is_possible and zlib.crc32(self.body) == self.crc

    @property
    def last_seq(self) -> int:
        return self.first_seq + self.n - 1


class CarvedTombstone(msgspec.Struct, frozen=True, array_like=True):
    """A row that has the shape of a tombstone."""

    first_seq: _Number
    n: _Count
    t0_ns: int
    reason: str
    link: bytes = b""


class CarvedEvicted(msgspec.Struct, frozen=True, array_like=True):
    """A row that has the shape of one of the log of evictions."""

    first_seq: _Number
    n: _Count
    reason: str


Carved = CarvedChunk | CarvedTombstone | CarvedEvicted | Mark


class Wreckage:
    """Reads pages by number, from 1 on. Behind the last one come versions of pages that are damaged themselves, or
    older: what is not found elsewhere may be in them. Raises OSError where the medium cannot be read."""

    def __init__(self, path: Path) -> None:
        log = path.with_name(path.name + "-wal")
        found = read_runs(path, log) if log.exists() else Log(0, [])
        self._file = path.open("rb")
        self._log = log.open("rb") if found.runs else None
        self.page_bytes = found.page_bytes or self._find_page_bytes()
        self._newest = {frame.page: frame.number for run in found.runs for frame in run.frames}
        self._others = [run.head.number for run in found.runs if run.head is not None]
        in_file = -(-os.fstat(self._file.fileno()).st_size // self.page_bytes)
        self._numbered = max([in_file, *self._newest])

    @property
    def pages(self) -> int:
        return self._numbered + len(self._others)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        if self._log is not None:
            self._log.close()

    def page(self, number: int) -> bytes:
        """Fewer bytes, or none, where there is no such page."""
        if not 0 < number <= self.pages:
            return b""
        in_log = self._newest.get(number, 0)
        if number > self._numbered:
            in_log = self._others[number - self._numbered - 1]
        if in_log and self._log is not None:
            return frame_in(self._log, in_log, self.page_bytes)
        return page_in(self._file, number, self.page_bytes)

    def rows(self, number: int) -> Iterator[tuple[int, Carved]]:
        """The chunks, tombstones and other rows in a page, each with its place there."""
        for place, cell in cells(self.page(number), is_first=number == 1):
            row = self._row(cell)
            if row is not None:
                yield place, row

    def row(self, number: int, place: int) -> Carved | None:
        """What `rows` found at a place."""
        cell = cell_at(self.page(number), place, is_first=number == 1)
        return None if cell is None else self._row(cell)

    def newest(self) -> CarvedChunk | None:
        """The newest chunk in the log whose epoch and clock can be; None where there is none."""
        rows = (row for number in self._newest for _, row in self.rows(number))
        chunks = [
            row for row in rows if isinstance(row, CarvedChunk) and row.epoch > 0 and row.clock_ns >= 0 and row.is_whole
        ]
        return max(chunks, key=lambda row: (row.clock_ns, row.first_seq), default=None)

    def _row(self, cell: Cell) -> Carved | None:
        values = record(cell, self.page)
        # The number of a row is its first column, which is empty in the record.
        if not values or values[0] is not None:
            return None
        numbered = [cell.rowid, *values[1:]]
        if len(values) in {_TOMBSTONE, _TOMBSTONE_V1}:
            return _typed(numbered, CarvedTombstone)
        if len(values) == _MARK_OR_EVICTED:
            return _typed(numbered, Mark) or _typed(numbered, CarvedEvicted)
        if len(values) == _CHUNK:
            return _typed([*numbered[:8], *numbered[10:]], CarvedChunk)
        if len(values) == _CHUNK_V1:
            return _typed([*numbered[:4], 0, *numbered[4:6], 0, 0, b"", b"", numbered[6]], CarvedChunk)
        return None

    def _find_page_bytes(self) -> int:
        """As the file says; where it does not, the size by which more rows are found."""
        sample = self._file.read(_SAMPLE_BYTES)
        size = int.from_bytes(sample[16:18], "big")
        if sample[:16] == _MAGIC and size in PAGE_SIZES:
            return size
        return max(OWN_PAGE_SIZES, key=lambda size: _rows_in(sample, size))


def read_state(path: Path) -> BufferState | None:
    """The newest state in a damaged file, from its bytes alone; None where none is found. Raises OSError."""
    parts = [part for part in (path.with_name(path.name + "-wal"), path) if part.exists()]
    found = [newest_state(data) for part in parts for data in _ends(part)]
    return max((state for state in found if state is not None), key=lambda state: state.clock_ns, default=None)


def _ends(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield file.read(_STATE_SEARCH_BYTES)
        file.seek(max(file.tell(), file.seek(0, os.SEEK_END) - _STATE_SEARCH_BYTES))
        yield file.read()


def _typed(values: Sequence[object], type_: type[T]) -> T | None:
    """The values as a struct, where each is of its type and within its bounds."""
    try:
        return msgspec.convert(values, type_)
    except msgspec.ValidationError:
        return None


def _rows_in(sample: bytes, size: int) -> int:
    starts = range(0, len(sample) - size + 1, size)
    return sum(1 for start in starts for _ in cells(sample[start : start + size]))
