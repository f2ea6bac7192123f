"""A folder of small files within a number of bytes, written by a thread of its own: pictures and windows to look at.

    folder = QuotaFolder(state_dir / "examples" / "door", max_bytes=64 << 20, thread_name="examples-door")
    name = folder.put("night", lambda: {".jpg": encode(picture), ".json": about})   # "" where too many wait
    for written in folder.take_written(): ...
    for name in folder.take_given_up(): ...
    folder.close()

An entry is one or more files of one name; its last file is renamed into place last, so whoever finds that one finds
the others. Names begin with a number that only grows: the oldest entry is told by it, and by no clock. The folder is
looked at anew before each write, so files may be taken out of it by anyone at any time. Where the disk is nearly full,
the oldest go, too, and nothing is written: a result is worth more than a picture.
"""

import logging
import math
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from edgeinfer.runtime.durable import sync_folder, write_synced

__all__ = ["QuotaFolder", "Written"]

logger = logging.getLogger(__name__)

_NUMBERED = re.compile(r"^(\d{9})-")
_MAX_NUMBER = 999_999_999
_TEMPORARY = ".tmp"
# What stays free of the disk, or this part of a small one: it is for results.
_LEFT_FREE_BYTES = 16 << 20
_LEFT_FREE_PART = 20
# An entry that takes longer: the disk hangs, and who closes has waited for it long enough.
_HANGS_S = 2.0
_MAX_TOLD = 1024
_SAY_AGAIN_S = 60.0

T = TypeVar("T")
Make = Callable[[], Mapping[str, bytes]]


class Written(NamedTuple):
    """An entry that is durable: its name, its files in the order of their writing, and their bytes together."""

    name: str
    files: tuple[str, ...]
    size: int


class QuotaFolder:
    """Every method may be called from any thread, and none waits for the disk (`close` a little). What cannot be
    written is logged and given up: these files are never worth a frame."""

    def __init__(self, folder: Path, *, max_bytes: int, thread_name: str, max_waiting: int = 8) -> None:
        self.folder = folder
        self.error = ""
        self._said, self._said_s = "", 0.0
        self._max_bytes = max_bytes
        self._max_waiting = max_waiting
        self._thread_name = thread_name
        self._waiting: deque[tuple[str, Make]] = deque()
        self._written: deque[Written] = deque(maxlen=_MAX_TOLD)
        self._given_up: deque[str] = deque(maxlen=_MAX_TOLD)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._began_s = 0.0  # the entry that is being written; 0 for none
        self._next = _highest_number(folder) + 1
        self._closed = False

    def put(self, stem: str, make: Make) -> str:
        """Have an entry written; its name, or "" where the folder is closed or the writer is too far behind.

        `make` gives file ending to content. It is called in the writer's thread, so encoding costs the caller nothing.
        """
        with self._changed:
            if self._closed or len(self._waiting) >= self._max_waiting:
                return ""
            if self._thread is None:
                thread = threading.Thread(target=self._write_all, name=self._thread_name, daemon=True)
                thread.start()
                self._thread = thread
            name = f"{self._next:09d}-{stem}"
            self._waiting.append((name, make))
            self._next = min(self._next + 1, _MAX_NUMBER)
            self._changed.notify_all()
        return name

    def take_written(self) -> list[Written]:
        """The entries that became durable since the last call; cheap where there are none."""
        return _taken(self._written)

    def take_given_up(self) -> list[str]:
        """The names of those that will never be written."""
        return _taken(self._given_up)

    def close(self, timeout_s: float = 4.0) -> None:
        """Write what waits, then end. May be called twice. Where an entry takes two seconds, the disk hangs: what
        waits is given up, nobody waits, and the thread ends when the disk comes back. Where the entries are only many,
        `timeout_s` is waited for them, and the rest is written afterwards."""
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
            while self._began_s or self._waiting:
                now_s = time.monotonic()
                hangs_s = (self._began_s or now_s) + _HANGS_S
                if now_s >= hangs_s:
                    self._give_up_waiting()
                    return
                if now_s >= deadline_s:
                    return
                self._changed.wait(min(hangs_s, deadline_s) - now_s)
        if self._thread is not None:  # it has nothing left to do
            self._thread.join(_HANGS_S)

    def _give_up_waiting(self) -> None:
        logger.warning("event=writer_stuck folder=%s given_up=%d", self.folder, len(self._waiting))
        self._given_up.extend(name for name, _ in self._waiting)
        self._waiting.clear()

    def _write_all(self) -> None:
        while (entry := self._take()) is not None:
            self._write_or_give_up(*entry)
            del entry  # and the frame with it, until the next comes
            with self._changed:
                self._began_s = 0.0
                self._changed.notify_all()

    def _take(self) -> tuple[str, Make] | None:
        """The next entry, or None once there will be none."""
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return None
                self._changed.wait()
            self._began_s = time.monotonic()
            return self._waiting.popleft()

    def _write_or_give_up(self, name: str, make: Make) -> None:
        written = None
        try:
            written = self._write(name, make())
        except OSError as error:
            self._note(f"{self.folder}: cannot be written: {error.strerror or error}")
        except Exception:
            logger.exception("event=entry_crashed folder=%s name=%s", self.folder, name)
        if written is None:
            self._given_up.append(name)
        else:
            self.error = ""
            self._written.append(written)

    def _write(self, name: str, files: Mapping[str, bytes]) -> Written | None:
        size = sum(len(content) for content in files.values())
        if size > self._max_bytes:
            self._note(f"{self.folder}: an entry of {size} bytes is larger than the quota of {self._max_bytes}")
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._make_room(size):
            self._note(f"{self.folder}: the disk is nearly full, and what is left of it is for results")
            return None
        names = tuple(name + ending for ending in files)
        temporaries = [self.folder / f".{file}{_TEMPORARY}" for file in names]
        try:
            for temporary, content in zip(temporaries, files.values(), strict=True):
                write_synced(temporary, content)
            for temporary, file in zip(temporaries, names, strict=True):
                temporary.replace(self.folder / file)
        finally:
            with suppress(OSError):
                for temporary in temporaries:
                    temporary.unlink(missing_ok=True)
        sync_folder(self.folder)
        return Written(name, names, size)

    def _make_room(self, size: int) -> bool:
        """Remove the oldest entries until `size` more bytes fit, and what a crash left half written. Whether they fit
        on the disk."""
        entries: dict[str, list[tuple[Path, int]]] = {}
        for path in list(self.folder.iterdir()):
            if path.name.endswith(_TEMPORARY):
                path.unlink(missing_ok=True)
            elif _NUMBERED.match(path.name):
                with suppress(FileNotFoundError):  # somebody has just taken it
                    entries.setdefault(path.stem, []).append((path, path.stat().st_size))
        held = sum(length for files in entries.values() for _, length in files)
        lacking = size - _free_bytes(self.folder)
        for name in sorted(entries):
            if held + size <= self._max_bytes and lacking <= 0:
                break
            for path, length in entries[name]:
                path.unlink(missing_ok=True)
                held -= length
                lacking -= length
        return lacking <= 0

    def _note(self, error: str) -> None:
        """On a disk that is nearly full, some entries are written and some not: that is said now and then."""
        now_s = time.monotonic()
        if error != self.error and (error != self._said or now_s - self._said_s > _SAY_AGAIN_S):
            logger.warning("event=entry_given_up error=%s", error)
            self._said, self._said_s = error, now_s
        self.error = error


def _free_bytes(folder: Path) -> float:
    """What these files may take of the disk; below 0 where it holds too much already. Infinite where that is not told:
    a ramfs, a tmpfs without a bound and some of FUSE say that they have no blocks at all."""
    try:
        disk = os.statvfs(folder)
    except OSError:  # if the disk is at fault, writing says so
        return math.inf
    if not disk.f_blocks:
        return math.inf
    total, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
    return free - min(_LEFT_FREE_BYTES, total // _LEFT_FREE_PART)


def _taken(told: deque[T]) -> list[T]:
    taken = []
    while told:
        taken.append(told.popleft())
    return taken


def _highest_number(folder: Path) -> int:
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:  # not there yet, or not readable: writing says so
        return 0
    return max((int(match[1]) for match in map(_NUMBERED.match, names) if match), default=0)
