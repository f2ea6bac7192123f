"""A write-ahead log as bytes: which of its frames were durable, and whether SQLite will see them all.

Each frame carries a checksum over itself and the one of the frame before (sqlite.org/fileformat2.html, 4.2). SQLite
ends its recovery at the first frame that does not fit, says nothing of what lies behind it, and deletes the log when
the database is closed. After a power cut that is right: the last commit may be torn. But each commit is synced before
the next one begins: where frames that follow from each other hold two whole commits behind the one that does not fit,
the first of these was durable, and the log is damaged. What a torn commit has left there is never more than one.

The checksum is linear modulo 2^32: over a frame of n pairs of words (x, y) it is M^n s + sum M^(n-1-i) B (x, y), with
M = ((1, 1), (1, 2)) and B = ((1, 0), (1, 1)). So all frames of a block are summed up at once.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.buffer_file.schema import PAGE_BYTES

__all__ = [
    "KEPT",
    "OWN_PAGE_SIZES",
    "PAGE_SIZES",
    "Frame",
    "Log",
    "Run",
    "forget_kept",
    "frame_in",
    "is_broken",
    "keep",
    "page_in",
    "read_runs",
]

KEPT = "-wal.kept"
# What SQLite allows, but for the largest, which is written as 1.
PAGE_SIZES = frozenset(1 << power for power in range(9, 16))
# What a buffer is made with: now, and in version 1.
OWN_PAGE_SIZES = (PAGE_BYTES, 4096)
HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24
_LITTLE_ENDIAN_MAGIC, _BIG_ENDIAN_MAGIC = 0x377F0682, 0x377F0683
_FRAMES_A_BLOCK = 2048
_MASK = 0xFFFF_FFFF
# Commits that show that what lies before them is damaged, and no torn end.
_PROOF = 2

Words = npt.NDArray[np.uint64]


class Frame(msgspec.Struct, frozen=True):
    """`number` counts from 1 in the log; `page` is what it is a version of."""

    number: int
    page: int
    is_commit: bool


class Run(msgspec.Struct, frozen=True):
    """Frames that follow from each other, up to the last commit among them. `head` is the frame from which the first
    one follows, itself not known to be whole; None at the beginning of the log."""

    frames: list[Frame]
    head: Frame | None


class Log(msgspec.Struct, frozen=True):
    """What was durable of a log, oldest first; pages have `page_bytes` (0: nothing was found)."""

    page_bytes: int
    runs: list[Run]


def keep(path: Path) -> None:
    """Give the log a second name, so that it is still there should SQLite delete it. A file system without links has
    to do without."""
    kept, log = path.with_name(path.name + KEPT), path.with_name(path.name + "-wal")
    with suppress(OSError):
        if log.exists():
            kept.unlink(missing_ok=True)
            kept.hardlink_to(log)


def forget_kept(path: Path) -> None:
    with suppress(OSError):
        path.with_name(path.name + KEPT).unlink(missing_ok=True)


def is_broken(path: Path, log: Path) -> bool:
    """Whether durable commits lie where SQLite will not look for them: behind a frame that is damaged, and not in the
    database either. Raises OSError."""
    if not (path.exists() and log.exists()):
        return False
    found = read_runs(path, log)
    if all(run.head is None for run in found.runs):
        return False
    newest = {frame.page: frame.number for run in found.runs for frame in run.frames}
    with path.open("rb") as file, log.open("rb") as frames:
        return any(
            page_in(file, page, found.page_bytes) != frame_in(frames, number, found.page_bytes)
            for page, number in newest.items()
        )


def read_runs(path: Path, log: Path) -> Log:
    """What in the log of the database at `path` was durable. Raises OSError."""
    with log.open("rb") as file:
        header = file.read(HEADER_BYTES)
        for page_bytes in _page_sizes(path, header):
            runs = _runs(_Reader(header, page_bytes), file.fileno())
            if runs:
                return Log(page_bytes, runs)
    return Log(0, [])


def page_in(file: BinaryIO, number: int, page_bytes: int) -> bytes:
    return os.pread(file.fileno(), page_bytes, (number - 1) * page_bytes)


def frame_in(log: BinaryIO, number: int, page_bytes: int) -> bytes:
    """The page that a frame carries."""
    at = HEADER_BYTES + (number - 1) * (FRAME_HEADER_BYTES + page_bytes) + FRAME_HEADER_BYTES
    return os.pread(log.fileno(), page_bytes, at)


class _Found(msgspec.Struct, frozen=True):
    """A frame, the salts that tell its round, and whether it follows from the one before."""

    frame: Frame
    salts: tuple[int, int]
    follows: bool


class _Runs:
    """Puts frames together to runs, as they come."""

    def __init__(self, salts: tuple[int, int] | None) -> None:
        self.runs: list[Run] = []
        self._salts = salts
        self._run: list[_Found] = []
        self._head: _Found | None = None
        self._before: _Found | None = None

    def take(self, found: _Found) -> None:
        if not found.follows or (self._run and found.salts != self._run[0].salts):
            self.end()
        elif self._run:
            self._run.append(found)
        else:
            self._head, self._run = self._before, [found]
        self._before = found

    def end(self) -> None:
        """What follows belongs to no run yet. A run counts where it is of the log's present round, and where it does
        not begin the log, where it shows that it was durable."""
        run, self._run = self._run, []
        commits = [index for index, found in enumerate(run) if found.frame.is_commit]
        if not commits or (self._head is not None and len(commits) < _PROOF):
            return
        self._salts = self._salts or run[0].salts
        if run[0].salts == self._salts:
            head = None if self._head is None else self._head.frame
            self.runs.append(Run([found.frame for found in run[: commits[-1] + 1]], head))


def _runs(reader: "_Reader", log: int) -> list[Run]:
    runs = _Runs(reader.salts)
    for found in reader.frames(log):
        runs.take(found)
    runs.end()
    return runs.runs


class _Reader:
    """Reads the frames of a log."""

    def __init__(self, header: bytes, page_bytes: int) -> None:
        self._step = FRAME_HEADER_BYTES + page_bytes
        self._order = ">u4" if int.from_bytes(header[:4], "big") == _BIG_ENDIAN_MAGIC else "<u4"
        self._matrix, self._weights = _coefficients((8 + page_bytes) // 8)
        words = np.frombuffer(header.ljust(HEADER_BYTES, b"\0"), dtype=">u4").astype(np.uint64)
        self._seed = words[6:8]
        _, weights = _coefficients(3)
        own = np.frombuffer(header[:24].ljust(24, b"\0"), dtype=self._order).astype(np.uint64) @ weights
        is_whole = bool((own & np.uint64(_MASK) == self._seed).all())
        # Which frames are of the present round; None where the header does not tell.
        self.salts = (int(words[4]), int(words[5])) if is_whole else None

    def frames(self, log: int) -> Iterator[_Found]:
        number, before = 1, self._seed
        while block := os.pread(log, _FRAMES_A_BLOCK * self._step, HEADER_BYTES + (number - 1) * self._step):
            count = len(block) // self._step
            if not count:
                return
            raw = np.frombuffer(block, dtype=np.uint8, count=count * self._step).reshape(count, self._step)
            heads = raw[:, :FRAME_HEADER_BYTES].copy().view(">u4").astype(np.uint64)
            stored = heads[:, 4:6]
            follows = self._follows(raw, before, stored)
            for index, (page, size, salt, other) in enumerate(heads[:, :4].tolist()):
                yield _Found(Frame(number + index, page, size != 0), (salt, other), bool(follows[index]))
            number, before = number + count, stored[-1]

    def _follows(self, raw: npt.NDArray[np.uint8], before: Words, stored: Words) -> npt.NDArray[np.bool_]:
        covered = np.concatenate((raw[:, :8], raw[:, FRAME_HEADER_BYTES:]), axis=1)
        own = covered.view(self._order).astype(np.uint64) @ self._weights
        previous = np.vstack((before, stored[:-1]))
        computed = (previous @ self._matrix + own) & np.uint64(_MASK)
        return np.asarray((computed == stored).all(axis=1))


def _coefficients(pairs: int) -> tuple[Words, Words]:
    """M^n, and for each word of a frame what it adds to the two sums; both transposed, modulo 2^32."""
    weights = np.zeros((2 * pairs, 2), dtype=np.uint64)
    a, b, c, d = 1, 0, 0, 1  # M^0
    for pair in range(pairs - 1, -1, -1):
        weights[2 * pair] = (a + b) & _MASK, (c + d) & _MASK
        weights[2 * pair + 1] = b, d
        a, b, c, d = (a + b) & _MASK, (a + 2 * b) & _MASK, (c + d) & _MASK, (c + 2 * d) & _MASK
    return np.array(((a, c), (b, d)), dtype=np.uint64), weights


def _page_sizes(path: Path, header: bytes) -> Sequence[int]:
    """As the header of the log says, or that of the file; where neither can be right, what a buffer is made with."""
    magic, found = int.from_bytes(header[:4], "big"), int.from_bytes(header[8:12], "big")
    if magic in {_LITTLE_ENDIAN_MAGIC, _BIG_ENDIAN_MAGIC} and found in PAGE_SIZES:
        return [found]
    with path.open("rb") as file:
        found = int.from_bytes(file.read(18)[16:], "big")
    return [found] if found in PAGE_SIZES else OWN_PAGE_SIZES
