"""Logs what a process does to its files, in order: `disk_log.c`, built and loaded by LD_PRELOAD.

    log = DiskLog(tmp_path / "disk.log", watched=tmp_path / "state")
    subprocess.run(command, env={**os.environ, **log.environment(library)})
    log.note(b"from here on somebody relies on it")
    for record in log.records(): ...

`power_cuts.py` makes of it what a power cut at any moment may leave.
"""

import enum
import fcntl
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

__all__ = ["DiskLog", "Operation", "Record", "build"]

_HEAD = struct.Struct("<IBQQH")
_SOURCE = Path(__file__).with_name("disk_log.c")


class Operation(enum.IntEnum):
    """The numbers are those of `disk_log.c`."""

    OPEN = 1
    CREATE = 2
    WRITE = 3
    TRUNCATE = 4
    SYNC = 5
    SYNC_FAILED = 6
    SYNC_FOLDER = 7
    UNLINK = 8
    RENAME = 9
    MKDIR = 10
    RMDIR = 11
    LINK = 12
    NOTE = 13  # nothing on the disk: what somebody was told


class Record(NamedTuple):
    operation: Operation
    inode: int
    offset: int
    path: str
    data: bytes


def build(folder: Path) -> Path:
    """Compile the library. Skips the test where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler for the library that logs writes: apt-get install gcc libc6-dev")
    library = folder / "disk_log.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(_SOURCE), "-ldl", "-lpthread"]
    subprocess.run(command, check=True, capture_output=True)
    return library


class DiskLog:
    """The log in `path` of what is done below `watched`."""

    def __init__(self, path: Path, *, watched: Path) -> None:
        self.path = path
        self.watched = watched.resolve()
        path.touch()

    def environment(self, library: Path, *, fail_every: int = 0) -> dict[str, str]:
        """What a process needs in its environment; with `fail_every`, one of so many syncs fails with EIO."""
        variables = {"LD_PRELOAD": str(library), "DISK_LOG": str(self.path), "DISK_LOG_ROOT": str(self.watched)}
        return variables | ({"DISK_LOG_FAIL": str(fail_every)} if fail_every else {})

    def note(self, data: bytes) -> None:
        """Mark this moment: what comes later in the log happened after it was known."""
        with self.path.open("ab") as log:
            fcntl.lockf(log, fcntl.LOCK_EX)
            log.write(_HEAD.pack(_HEAD.size + len(data), Operation.NOTE, 0, 0, 0) + data)
            log.flush()

    def records(self) -> Iterator[Record]:
        raw = memoryview(self.path.read_bytes())
        at = 0
        while at + _HEAD.size <= len(raw):
            length, operation, inode, offset, path_length = _HEAD.unpack_from(raw, at)
            if at + length > len(raw):  # the writer was killed within it
                return
            middle = at + _HEAD.size + path_length
            path = bytes(raw[at + _HEAD.size : middle]).decode()
            yield Record(Operation(operation), inode, offset, path, bytes(raw[middle : at + length]))
            at += length
