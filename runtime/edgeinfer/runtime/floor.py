"""The highest version of an assignment that this device has ever accepted, in a file of its own.

The update machine's row has it too, but a `runtime.db` that was damaged is begun anew, and an assignment of last
year, signed as it is, must not be taken for a new one then.
"""

import logging
from pathlib import Path

from edgeinfer.runtime.durable import write_durably
from edgeinfer.runtime.errors import StorageError

__all__ = ["VersionFloor"]

logger = logging.getLogger(__name__)

_MAX_DIGITS = 20


class VersionFloor:
    """`<state_dir>/desired_version`: one decimal number, replaced whole."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "desired_version"

    def read(self) -> int:
        """0 where none was ever written, or the file holds no number. Raises StorageError."""
        try:
            with self._path.open("rb") as file:
                raw = file.read(_MAX_DIGITS + 1).strip()
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise StorageError(f"{self._path}: cannot be read: {error.strerror or error}") from error
        if raw.isdigit() and len(raw) <= _MAX_DIGITS:
            return int(raw)
        logger.error("event=desired_version_unreadable path=%s", self._path)
        return 0

    def raise_to(self, version: int) -> None:
        """Never goes back; durable when this returns. Raises StorageError."""
        if version <= self.read():
            return
        try:
            write_durably(self._path, f"{version}\n".encode())
        except OSError as error:
            raise StorageError(f"{self._path}: cannot be written: {error.strerror or error}") from error
