"""A folder in which pictures appear at any time: each is read once, whatever happens in between.

A file is looked at until it is complete: its size, time of change and inode have been the same for `quiet_s`. So one
that is renamed into place is taken as well as one that is written slowly. What was read is removed, moved, or
remembered in a list beside the pictures (`done_list`), because times alone would not do: files keep old ones when they
are copied, and clocks jump. A file with a picture's name that is none gives one empty frame, which is counted as
failed; it stays where it is and is remembered.

A picture is put away, or remembered, only once the result of its frame is durable: after a power cut those of the last
moments are read again, and none is lost.
"""

import functools
import logging
import os
import stat
import threading
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple

from edgeinfer.runtime.backing import Backing
from edgeinfer.runtime.errors import SourceError
from edgeinfer.runtime.frame import Frame, FrameState
from edgeinfer.runtime.sources.done_list import DoneList, fingerprint
from edgeinfer.runtime.sources.pictures import ENDINGS, NO_PICTURE, opencv, read_picture, shown_name
from edgeinfer.runtime.sources.settings import WatchedSource

__all__ = ["WatchedFolder"]

logger = logging.getLogger(__name__)

_DONE_FOLDER = "done"
_DONE_LIST = ".edgeinfer-done"
# A file that is overwritten does not change its folder: now and then all of them are looked at anyway.
_ALL_EVERY_S = 5.0
# At the end, for the frames that are still under way, and for their results to become durable.
_LAST_WAIT_S = 0.5


class _Candidate(NamedTuple):
    path: Path
    picture: int
    mtime_ns: int
    inode: int
    since_s: float


class _Read(NamedTuple):
    """A picture that was read, and what its frame came to, once it has ended."""

    seen: _Candidate
    is_picture: bool
    ended_s: float = 0.0
    state: FrameState | None = None


class WatchedFolder:
    """Not `live`: a picture waits until the pipeline takes it, and none is superseded. It has no end."""

    live = False

    def __init__(self, config: WatchedSource, stop: threading.Event) -> None:
        opencv()
        self._config = config
        self._stop = stop
        self._folder = Path(config.path)
        self._identity = self._folder_stat()[:2]
        self._done = DoneList(Path(config.done_list) if config.done_list else self._folder / _DONE_LIST)
        self._growing: dict[str, _Candidate] = {}
        self._complete: deque[_Candidate] = deque()
        self._backing: Backing | None = None
        self._under_way: set[int] = set()  # pictures that were read and are not settled
        self._ended: deque[_Read] = deque()  # put there by whichever thread a frame ends in
        self._folder_mtime_ns = -1
        self._looked_s = float("-inf")
        self._index = 0
        self._unreadable = 0

    def settle_by(self, backing: Backing) -> None:
        self._backing = backing

    def read(self) -> Frame | None:
        while not self._stop.is_set():
            self._settle_durable()
            while self._complete:
                frame = self._take(self._complete.popleft())
                if frame is not None:
                    return frame
            self._look()
            if not self._complete and self._stop.wait(self._config.poll_s):
                break
        return None

    def close(self) -> None:
        self._settle_last()
        self._done.close()
        self._complete.clear()
        self._growing.clear()

    def _folder_stat(self) -> tuple[int, int, int]:
        """Device, inode and time of change. Raises SourceError where there is no folder."""
        try:
            found = self._folder.stat()
        except OSError as error:
            raise SourceError(f"{self._folder}: expected a folder of pictures: {error.strerror}") from error
        if not stat.S_ISDIR(found.st_mode):
            raise SourceError(f"{self._folder}: expected a folder of pictures, found a file")
        return found.st_dev, found.st_ino, found.st_mtime_ns

    def _look(self) -> None:
        """Find what has become complete. Raises SourceError where the folder is not the one that was opened."""
        device, inode, mtime_ns = self._folder_stat()
        if (device, inode) != self._identity:
            raise SourceError(f"{self._folder}: is another folder now, or another disk lies there")
        now_s = time.monotonic()
        if mtime_ns == self._folder_mtime_ns and not self._growing and now_s - self._looked_s < _ALL_EVERY_S:
            return
        self._folder_mtime_ns, self._looked_s = mtime_ns, now_s
        present = self._scan(now_s)
        ripe = [seen for seen in self._growing.values() if now_s - seen.since_s >= self._config.quiet_s]
        for seen in ripe:
            del self._growing[seen.path.name]
        self._complete.extend(sorted(ripe, key=lambda seen: (seen.mtime_ns, seen.path.name)))
        self._done.keep_only(present)

    def _scan(self, now_s: float) -> set[int]:
        """Take up what is new or has changed; the pictures that are there. Raises SourceError."""
        present: set[int] = set()
        growing: dict[str, _Candidate] = {}
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    seen = self._candidate(entry, now_s)
                    if seen is None:
                        continue
                    present.add(seen.picture)
                    if seen.picture not in self._done and seen.picture not in self._under_way:
                        known = self._growing.get(entry.name)
                        same = known is not None and known[:4] == seen[:4]
                        growing[entry.name] = known if same and known is not None else seen
        except OSError as error:
            raise SourceError(f"{self._folder}: cannot be looked through: {error.strerror}") from error
        self._growing = growing
        return present

    def _candidate(self, entry: "os.DirEntry[str]", now_s: float) -> _Candidate | None:
        if entry.name.startswith(".") or os.path.splitext(entry.name)[1].lower() not in ENDINGS:  # noqa: PTH122  # a Path for each of 10,000 names costs more than the rest
            return None
        try:
            found = entry.stat()
        except OSError:  # it has just gone
            return None
        if not stat.S_ISREG(found.st_mode):
            return None
        picture = fingerprint(os.fsencode(entry.name), found)
        return _Candidate(Path(entry.path), picture, found.st_mtime_ns, found.st_ino, now_s)

    def _take(self, seen: _Candidate) -> Frame | None:
        """The frame of a complete file; None for one that has gone or changed since: it will be looked at again."""
        t_ns, mono_ns = time.time_ns(), time.monotonic_ns()
        try:
            if not self._is_still(seen):
                return None
            picture = read_picture(seen.path)
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("event=picture_unreadable path=%r error=%s", str(seen.path), error.strerror)
            picture = NO_PICTURE
        self._index += 1
        self._under_way.add(seen.picture)
        read = _Read(seen, is_picture=bool(picture.size))
        ended = functools.partial(self._frame_ended, read)
        return Frame(picture, t_ns, mono_ns, self._index - 1, on_end=ended, file=shown_name(seen.path))

    def _frame_ended(self, read: _Read, state: FrameState) -> None:
        """Called by any thread."""
        self._ended.append(read._replace(ended_s=time.monotonic(), state=state))

    def _settle_durable(self) -> None:
        """Give up the pictures whose frames have ended and left nothing that a power cut could take."""
        durable_s = time.monotonic() if self._backing is None else self._backing.durable_since_s
        while self._ended and self._ended[0].ended_s < durable_s:
            read = self._ended.popleft()
            if read.state is not FrameState.STALE:  # the pipeline was stopped first: it is for the next start
                self._settle(read)
            self._under_way.discard(read.seen.picture)

    def _settle_last(self) -> None:
        """At the end: a moment for what is still under way. What is not settled then will be read again."""
        deadline_s, pause = time.monotonic() + _LAST_WAIT_S, threading.Event()
        while len(self._ended) < len(self._under_way) and time.monotonic() < deadline_s:
            pause.wait(_LAST_WAIT_S / 50)
        if self._ended and self._backing is not None:
            self._backing.flush(_LAST_WAIT_S)
        self._settle_durable()

    def _is_still(self, seen: _Candidate) -> bool:
        """Whether the file is the one that was looked at. Raises OSError."""
        return fingerprint(os.fsencode(seen.path.name), seen.path.stat()) == seen.picture

    def _settle(self, read: _Read) -> None:
        """See to it that the file is not read again."""
        seen = read.seen
        if not read.is_picture:
            self._note_unreadable(seen.path)
        elif self._config.after != "keep":
            try:
                if self._is_still(seen):
                    self._put_away(seen.path)
            except OSError as error:
                logger.warning("event=picture_stays path=%r error=%s", str(seen.path), error.strerror)
            else:
                return
        self._done.add(seen.picture)

    def _put_away(self, path: Path) -> None:
        if self._config.after == "delete":
            path.unlink()
            return
        folder = self._folder / _DONE_FOLDER
        folder.mkdir(exist_ok=True)
        target, number = folder / path.name, 1
        while target.exists():
            target = folder / f"{path.stem}-{number}{path.suffix}"
            number += 1
        path.rename(target)

    def _note_unreadable(self, path: Path) -> None:
        """The first is worth a warning: there may be thousands, and each is counted as failed."""
        level = logging.DEBUG if self._unreadable else logging.WARNING
        self._unreadable += 1
        logger.log(level, "event=picture_unreadable path=%r", str(path))
