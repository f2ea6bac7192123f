"""Files that are whole after a power cut: written beside their place, synced, renamed, and the folder synced."""

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["sync_folder", "write_durably", "write_synced"]


def write_durably(path: Path, content: bytes) -> None:
    """Put `content` in the place of the file at `path`, or leave that one as it is. Raises OSError."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write_synced(temporary, content)
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_synced(path: Path, content: bytes) -> None:
    """A file whose content is on the medium when this returns; its name may not be. Raises OSError."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names of a folder's files durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
