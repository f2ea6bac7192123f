"""A folder of small files within a number of bytes, written by a thread of its own: pictures and windows to look at.

    folder = QuotaFolder(state_dir / "examples" / "door", max_bytes=64 << 20, thread_name="examples-door")
    name = folder.put("night", lambda: {".jpg": encode(picture), ".json": about})   # "" where too many wait
    for written in folder.take_written(): ...
    folder.close()

An entry is one or more files of one name; its last file is renamed into place last, so whoever finds that one finds
the others. Names begin with a number that only grows: the oldest entry is told by it, and by no clock. The folder is
looked at anew before each write, so files may be taken out of it by anyone at any time.
"""

import logging
import os
import queue
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

__all__ = ["QuotaFolder", "Written"]

logger = logging.getLogger(__name__)

_NUMBERED = re.compile(r"^(\d{9})-")
_MAX_NUMBER = 999_999_999
_TEMPORARY = ".tmp"

Make = Callable[[], Mapping[str, bytes]]


class Written(NamedTuple):
    """An entry that is durable: its name, its files in the order of their writing, and their bytes together."""

    name: str
    files: tuple[str, ...]
    size: int


class QuotaFolder:
    """`put`, `take_written` and `close` may be called from any thread, and never wait for the disk (`close` up to its
    deadline). What cannot be written is logged and given up: these files are never worth a frame."""

    def __init__(self, folder: Path, *, max_bytes: int, thread_name: str, max_waiting: int = 8) -> None:
        self.folder = folder
        self.error = ""
        self._max_bytes = max_bytes
        self._thread_name = thread_name
        self._waiting: queue.Queue[tuple[str, Make] | None] = queue.Queue(max_waiting)
        self._written: deque[Written] = deque(maxlen=1024)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._next = _highest_number(folder) + 1
        self._closed = False

    def put(self, stem: str, make: Make) -> str:
        """Have an entry written; its name, or "" where the folder is closed or the writer is too far behind.

        `make` gives file ending to content. It is called in the writer's thread, so encoding costs the caller nothing.
        """
        with self._lock:
            if self._closed:
                return ""
            name = f"{self._next:09d}-{stem}"
            try:
                self._waiting.put_nowait((name, make))
            except queue.Full:
                return ""
            self._next = min(self._next + 1, _MAX_NUMBER)
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_all, name=self._thread_name, daemon=True)
                self._thread.start()
        return name

    def take_written(self) -> list[Written]:
        """The entries that became durable since the last call; cheap where there are none."""
        taken = []
        while self._written:
            taken.append(self._written.popleft())
        return taken

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what waits, then end. May be called twice."""
        with self._lock:
            closed, self._closed = self._closed, True
        if self._thread is None or closed:
            return
        try:
            self._waiting.put(None, timeout=timeout_s)
        except queue.Full:
            logger.warning("event=writer_stuck folder=%s", self.folder)
            return
        self._thread.join(timeout_s)

    def _write_all(self) -> None:
        while (entry := self._waiting.get()) is not None:
            name, make = entry
            try:
                written = self._write(name, make())
            except OSError as error:
                self._note(f"{self.folder}: cannot be written: {error.strerror or error}")
            except Exception:
                logger.exception("event=entry_crashed folder=%s name=%s", self.folder, name)
            else:
                if written is not None:
                    self.error = ""
                    self._written.append(written)

    def _write(self, name: str, files: Mapping[str, bytes]) -> Written | None:
        size = sum(len(content) for content in files.values())
        if size > self._max_bytes:
            self._note(f"{self.folder}: an entry of {size} bytes is larger than the quota of {self._max_bytes}")
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        self._make_room(size)
        names = tuple(name + ending for ending in files)
        temporaries = [self.folder / f".{file}{_TEMPORARY}" for file in names]
        try:
            for temporary, content in zip(temporaries, files.values(), strict=True):
                _write_synced(temporary, content)
            for temporary, file in zip(temporaries, names, strict=True):
                temporary.replace(self.folder / file)
        finally:
            with suppress(OSError):
                for temporary in temporaries:
                    temporary.unlink(missing_ok=True)
        _sync_folder(self.folder)
        return Written(name, names, size)

    def _make_room(self, size: int) -> None:
        """Remove the oldest entries until `size` more bytes fit, and what a crash left half written."""
        entries: dict[str, list[tuple[Path, int]]] = {}
        for path in list(self.folder.iterdir()):
            if path.name.endswith(_TEMPORARY):
                path.unlink(missing_ok=True)
            elif _NUMBERED.match(path.name):
                with suppress(FileNotFoundError):  # somebody has just taken it
                    entries.setdefault(path.stem, []).append((path, path.stat().st_size))
        held = sum(length for files in entries.values() for _, length in files)
        for name in sorted(entries):
            if held + size <= self._max_bytes:
                break
            for path, length in entries[name]:
                path.unlink(missing_ok=True)
                held -= length

    def _note(self, error: str) -> None:
        if error != self.error:
            logger.warning("event=entry_given_up error=%s", error)
        self.error = error


def _highest_number(folder: Path) -> int:
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:  # not there yet, or not readable: writing says so
        return 0
    return max((int(match[1]) for match in map(_NUMBERED.match, names) if match), default=0)


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
