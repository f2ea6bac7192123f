"""File systems that are small, and full when a test wants them so.

with small_disk(folder, mebibytes=24):
    with filled(folder):
        ...
"""

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["filled", "small_disk"]

_PAGE = 4096
_POLL_S = 0.005


@contextmanager
def small_disk(folder: Path, *, mebibytes: int) -> Iterator[None]:
    """Mounted at `folder`, which must not exist yet. Skips the test where mounting is not allowed."""
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    folder.mkdir()
    command = [mount, "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting a small tmpfs is refused here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Within, the disk is full, and whatever room somebody gives back is taken too."""
    ended, file = threading.Event(), folder / "others"

    def fill() -> None:
        with file.open("wb", buffering=0) as target:
            while not ended.wait(_POLL_S):
                with contextlib.suppress(OSError):
                    while not ended.is_set():
                        target.write(bytes(_PAGE))

    thread = threading.Thread(target=fill, name="others")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        file.unlink()
