"""A file that does nothing but hold room on the disk, to be given back when there is none left.

On a full disk even deleting needs room: a DROP writes to the log before it frees a page.
"""

import contextlib
import os
from pathlib import Path

__all__ = ["Ballast"]

# On a small disk the ballast must not be what fills it.
_LARGEST_SHARE = 5


class Ballast:
    """At most `size` bytes beside the buffer. Used by the buffer's one thread; no method raises."""

    def __init__(self, path: Path, *, size: int) -> None:
        self._path = path
        self._size = size
        self._held = path.exists()

    def hold(self) -> bool:
        """Take the room, where there is plenty of it. Whether it is held."""
        if not self._held:
            free, total = self._room()
            size = min(self._size, total // _LARGEST_SHARE)
            self._held = 0 < 2 * size <= free and self._take(size)
        return self._held

    def _take(self, size: int) -> bool:
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                os.posix_fallocate(descriptor, 0, size)
            finally:
                os.close(descriptor)
        except OSError:
            self._remove()
            return False
        return True

    def release(self) -> bool:
        """Give the room back; False where none was held."""
        held, self._held = self._held, False
        return held and self._remove()

    def disk_is_full(self) -> bool:
        """Whether the disk has no room, whatever code an error came with."""
        return self._room()[0] < os.sysconf("SC_PAGE_SIZE") * 16

    def _remove(self) -> bool:
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
            return True
        return False

    def _room(self) -> tuple[int, int]:
        """Bytes that are free, and bytes in all; where that is not known, nothing is to be concluded from it."""
        try:
            found = os.statvfs(self._path.parent)
        except OSError:
            return 1 << 62, 0
        return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
