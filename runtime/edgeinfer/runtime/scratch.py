"""Temporary folders that are removed even if their process is killed: then by the next one that makes such a folder.

    with scratch_folder("edgeinfer-bench-") as folder: ...

While its process lives, it holds a lock on a file in the folder, which the kernel frees with the process. A folder
whose lock can be taken belongs to nobody. One without a lock is let be: its process may be about to take it, or is of a
version that takes none.
"""

import contextlib
import fcntl
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["scratch_folder"]

logger = logging.getLogger(__name__)

_PREFIX = "edgeinfer-"
# Said in full: a folder of somebody else's may have this program's name, and a lock of its own in it.
_LOCK = ".edgeinfer-scratch"


@contextlib.contextmanager
def scratch_folder(prefix: str, *, within: Path | None = None) -> Iterator[Path]:
    """A folder of this process alone, in `within` or where temporary files lie. `prefix` begins with `edgeinfer-`; what
    dead processes left of any such folder there is removed first. Raises OSError where it cannot be made."""
    _remove_left(within or Path(tempfile.gettempdir()))
    with contextlib.ExitStack() as held, tempfile.TemporaryDirectory(prefix=prefix, dir=within) as name:
        _hold(Path(name), held)
        yield Path(name)


def _hold(folder: Path, held: contextlib.ExitStack) -> None:
    """Lock first, then give the file its name: one with that name is always held. Where a file system knows no locks,
    the folder has none."""
    fresh = folder / f"{_LOCK}.new"
    with contextlib.suppress(OSError):
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        held.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fresh.rename(folder / _LOCK)


def _remove_left(place: Path) -> None:
    """Of this user alone, and whatever another one may have put there instead: no link is followed."""
    try:
        names = [name for name in os.listdir(place) if name.startswith(_PREFIX)]  # noqa: PTH208 - names alone, of many
    except OSError:
        return
    for name in names:
        with contextlib.suppress(OSError):
            _remove_if_dead(place / name)


def _remove_if_dead(folder: Path) -> None:
    """Raises OSError where it is somebody's, or no such folder."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        return
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), (folder / _LOCK).lstat()):  # nobody was faster
            _remove(folder)
            logger.info("event=scratch_removed folder=%s", folder)
    finally:
        os.close(descriptor)


def _remove(folder: Path) -> None:
    """The lock at last: a process that is killed here leaves the rest to the next one. Raises OSError."""
    for entry in list(folder.iterdir()):
        if stat.S_ISDIR(entry.lstat().st_mode):
            shutil.rmtree(entry)
        elif entry.name != _LOCK:
            entry.unlink()
    shutil.rmtree(folder)
