"""Files that are whole after a power cut: written beside their place, synced, renamed, and the folder synced."""

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["make_folder", "sync_folder", "write_durably", "write_synced"]


def make_folder(path: Path) -> None:
    """Make `path` and what it lies in, where they are not there yet; their names are durable then. Raises OSError."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


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
    """A file whose content is on the medium when this returns; its name may not be. Raises OSError, also where a link
    lies in its place: a prepared stick must not lead elsewhere."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    with os.fdopen(descriptor, "wb") as file:
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
