"""The sha256 of a file, a slice at a time: whoever computes it has a watchdog to feed and a signal to obey."""

import hashlib
from pathlib import Path
from typing import BinaryIO

__all__ = ["SLICE_BYTES", "FileHash"]

# A tenth of a second on a small board: 64 MiB of a slow card and a slow hash take a second and a half.
SLICE_BYTES = 4 << 20
_READ_BYTES = 1 << 20


class FileHash:
    """`hashed` counts the bytes so far. `file` may be given open; it is closed with this object. Raises OSError."""

    def __init__(self, path: Path, file: BinaryIO | None = None) -> None:
        self.path = path
        self.hashed = 0
        self._file: BinaryIO = file or path.open("rb")
        self._digest = hashlib.sha256()

    def step(self, n_bytes: int) -> str:
        """Hash the next `n_bytes`; the digest once the end of the file was reached, else nothing."""
        end = self.hashed + n_bytes
        while self.hashed < end:
            block = self._file.read(_READ_BYTES)
            if not block:
                return self._digest.hexdigest()
            self._digest.update(block)
            self.hashed += len(block)
        return ""

    def close(self) -> None:
        self._file.close()
