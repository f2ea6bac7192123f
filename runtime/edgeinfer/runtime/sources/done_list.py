"""What a watched folder's pictures have been read: a file that only grows, eight bytes a picture.

A picture is told by its name, size and time of change, as a 64-bit digest of them: the same name with new content is
another picture. A million pictures are 8 MB here and 60 MB of memory. What the last seconds before a power cut wrote
may be lost, and those pictures are then read once more; a torn last entry is cut off.
"""

import fcntl
import hashlib
import logging
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from edgeinfer.runtime.durable import write_durably
from edgeinfer.runtime.errors import SourceError

__all__ = ["DoneList", "fingerprint"]

logger = logging.getLogger(__name__)

_ENTRY_BYTES = 8
_SPARE = 1000


def fingerprint(name: bytes, stat: os.stat_result) -> int:
    """Of one version of one file, in 64 bits."""
    text = b"%d %d %s" % (stat.st_size, stat.st_mtime_ns, name)
    return int.from_bytes(hashlib.blake2b(text, digest_size=_ENTRY_BYTES).digest(), "big")


class DoneList:
    """The file is made when the first picture is added. One source a list: a second one is refused."""

    def __init__(self, path: Path) -> None:
        """Raises SourceError for a list that cannot be read, or that another source uses."""
        self._path = path
        self._descriptor = -1
        self._done: set[int] = set()
        self._is_written = True
        self._open(create=False)

    def __contains__(self, picture: int) -> bool:
        return picture in self._done

    def add(self, picture: int) -> None:
        """Raises SourceError where there can be no list. A disk that is full only costs what it does not take."""
        if self._descriptor < 0:
            self._open(create=True)
        self._done.add(picture)
        entry = picture.to_bytes(_ENTRY_BYTES, "big")
        try:
            if os.write(self._descriptor, entry) == _ENTRY_BYTES:
                self._is_written = True
                return
            self._cut_torn_entry()
            reason = "no room"
        except OSError as error:
            reason = str(error.strerror)
        if self._is_written:
            logger.warning("event=done_list_incomplete path=%s error=%s", self._path, reason)
        self._is_written = False

    def keep_only(self, present: Collection[int]) -> None:
        """Forget the pictures that are not there any more, once they are the larger part."""
        if self._descriptor < 0 or len(self._done) <= 2 * len(present) + _SPARE:
            return
        self._done.intersection_update(present)
        content = b"".join(picture.to_bytes(_ENTRY_BYTES, "big") for picture in self._done)
        try:
            write_durably(self._path, content)
        except OSError as error:
            logger.warning("event=done_list_not_shortened path=%s error=%s", self._path, error.strerror)
            return
        self.close()
        self._open(create=True)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self, *, create: bool) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        try:
            self._descriptor = os.open(self._path, flags, 0o640)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._done.update(self._read())
        except FileNotFoundError as error:
            if create:
                raise self._refused(error) from error
        except BlockingIOError as error:
            self.close()
            raise SourceError(
                f"{self._path}: another pipeline uses it", hint="name a `done_list` of its own in each of them"
            ) from error
        except OSError as error:
            self.close()
            raise self._refused(error) from error

    def _read(self) -> Iterator[int]:
        self._cut_torn_entry()
        with open(self._descriptor, "rb", closefd=False) as file:
            file.seek(0)
            while entry := file.read(_ENTRY_BYTES):
                yield int.from_bytes(entry, "big")

    def _cut_torn_entry(self) -> None:
        size = os.fstat(self._descriptor).st_size
        if size % _ENTRY_BYTES:
            os.ftruncate(self._descriptor, size - size % _ENTRY_BYTES)

    def _refused(self, error: OSError) -> SourceError:
        return SourceError(
            f"{self._path}: cannot remember which pictures have been read: {error.strerror}",
            hint="name a `done_list` where this user may write, or let `after` delete or move the pictures",
        )
