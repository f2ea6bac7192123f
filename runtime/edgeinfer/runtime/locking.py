"""One process a file: an advisory lock beside it, freed by the kernel when the process dies."""

import fcntl
import os
from pathlib import Path

from edgeinfer.runtime.errors import BufferStorageError

__all__ = ["lock", "unlock"]


def lock(path: Path, *, hint: str) -> int:
    """Hold `path` with `.lock` appended, without waiting; the descriptor to give back with `unlock`.

    Raises BufferStorageError, with `hint`, where another process holds it.
    """
    name = path.with_name(path.name + ".lock")
    try:
        name.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise BufferStorageError(
            f"{name}: cannot be opened: {error.strerror}", hint="may this user write to the state_dir?"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise BufferStorageError(f"{path}: another process is writing it", hint=hint) from error
    return descriptor


def unlock(descriptor: int) -> None:
    os.close(descriptor)
