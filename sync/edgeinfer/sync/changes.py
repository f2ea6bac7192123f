"""Whether another process has written to its database, by a look at two files: cheaper than to ask the database."""

import os
import time
from pathlib import Path

__all__ = ["Changes"]

# File times move in ticks of the kernel's clock: what is younger than this may have been written to again since.
_FRESH_NS = 50_000_000


class Changes:
    """`look()` is True when the database, or its WAL, is not what it was at the last look."""

    def __init__(self, database: Path) -> None:
        self._files = (f"{database}-wal", str(database))
        self._seen: tuple[tuple[int, int, int], ...] | None = None

    def look(self) -> bool:
        now = tuple(_state(file) for file in self._files)
        is_fresh = abs(time.time_ns() - max(state[1] for state in now)) < _FRESH_NS
        is_changed = now != self._seen
        self._seen = None if is_fresh else now
        return is_changed


def _state(file: str) -> tuple[int, int, int]:
    """Inode, time and size; zeros where there is none."""
    try:
        stat = os.stat(file)  # noqa: PTH116 - several times a second, for years: half the price of a Path
    except OSError:
        return (0, 0, 0)
    return (stat.st_ino, stat.st_mtime_ns, stat.st_size)
