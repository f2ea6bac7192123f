"""The files of the daemon that may go up: pictures and windows of events, hard examples. Looks, and changes nothing."""

import os
import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import msgspec

from edgeinfer.runtime.handoff import Upload
from edgeinfer.sync.messages import BlobLabel

__all__ = ["EXAMPLES", "SNAPSHOTS", "BlobFolder", "LocalFile", "changed", "pending"]

# Where `edgeinfer.runtime.snapshots` and `edgeinfer.runtime.learn.examples` write, below the daemon's state_dir.
SNAPSHOTS = "snapshots"
EXAMPLES = "examples"
# number, wall clock at capture in ns, pipeline, frame
_SNAPSHOT = re.compile(r"^\d{9}-(\d{1,19})-(.+)-\d+\.[a-z0-9]+$")
_NUMBERED = re.compile(r"^\d{9}-")
_LAST_WRITTEN = ".json"  # the file of an example that is there last: where it is, the others are
_MAX_NAME = 200


class LocalFile(msgspec.Struct, frozen=True):
    """`path` is below the daemon's state_dir."""

    path: str
    bytes: int
    mtime_ns: int
    label: BlobLabel


class BlobFolder(msgspec.Struct, frozen=True):
    """A folder that was found, and its time, which changes when files come or go."""

    path: str
    mtime_ns: int


def changed(root: Path, *, snapshots: bool, examples: bool) -> tuple[BlobFolder, ...]:
    """The folders as they are now: compare with an earlier answer before anything is listed."""
    names = [SNAPSHOTS] if snapshots else []
    if examples:
        names += [
            f"{EXAMPLES}/{entry.name}" for entry in _entries(root / EXAMPLES) if entry.is_dir(follow_symlinks=False)
        ]
    found = []
    for name in names:
        try:
            found.append(BlobFolder(name, (root / name).stat().st_mtime_ns))
        except OSError:
            continue
    return tuple(found)


def pending(root: Path, folders: tuple[BlobFolder, ...], known: dict[str, Upload]) -> tuple[list[LocalFile], set[str]]:
    """The files that have not ended, in the order in which they go; and the paths of all that are there."""
    there: set[str] = set()
    waiting: dict[str, list[LocalFile]] = {SNAPSHOTS: [], EXAMPLES: []}
    for folder in folders:
        kind = folder.path.partition("/")[0]
        for file in _files(root, folder.path):
            there.add(file.path)
            row = known.get(file.path)
            if row is None or not row.ended or (row.bytes, row.mtime_ns) != (file.bytes, file.mtime_ns):
                waiting[kind].append(file)
    for files in waiting.values():
        files.sort(key=lambda file: (-file.mtime_ns, file.path))
    return _in_turn(waiting[SNAPSHOTS], waiting[EXAMPLES]), there


def _files(root: Path, folder: str) -> Iterator[LocalFile]:
    entries = {entry.name: entry for entry in _entries(root / folder) if _NUMBERED.match(entry.name)}
    for name, entry in entries.items():
        if folder != SNAPSHOTS and name.rpartition(".")[0] + _LAST_WRITTEN not in entries:
            continue  # not whole yet, or about to go
        try:
            stat = entry.stat(follow_symlinks=False)
        except OSError:  # it has just gone
            continue
        if not entry.is_file(follow_symlinks=False) or stat.st_size == 0 or len(name) > _MAX_NAME:
            continue
        label = _label(folder, name, stat.st_mtime_ns)
        yield LocalFile(f"{folder}/{name}", stat.st_size, stat.st_mtime_ns, label)


def _label(folder: str, name: str, mtime_ns: int) -> BlobLabel:
    if folder != SNAPSHOTS:
        return BlobLabel(kind="example", name=name, pipeline=folder.rpartition("/")[2], t_ns=mtime_ns)
    match = _SNAPSHOT.match(name)
    if match is None:
        return BlobLabel(kind="snapshot", name=name, t_ns=mtime_ns)
    return BlobLabel(kind="snapshot", name=name, pipeline=match[2], t_ns=int(match[1]))


def _in_turn(first: list[LocalFile], second: list[LocalFile]) -> list[LocalFile]:
    """One of each in turn, so that neither kind waits for the end of the other."""
    return [file for pair in zip_longest(first, second) for file in pair if file is not None]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return [entry for entry in found if not entry.name.startswith(".")]
    except OSError:  # not there, or not for us
        return []
