"""Sets a damaged buffer aside.

What has been set aside is called `buffer.db.damaged-XXXXXXXX`, with its log beside it under the same name. Once it is
salvaged there is a report beside it. Only the newest one is kept, and none when the disk is full.
"""

import re
from contextlib import suppress
from pathlib import Path

from edgeinfer.runtime.buffer_file.log import KEPT
from edgeinfer.runtime.durable import sync_folder
from edgeinfer.runtime.hashing import random_hex

__all__ = ["forget_all", "forget_quietly", "report_of", "set_aside", "unsalvaged"]

_NAME = re.compile(r"\.damaged-[0-9a-f]{8}$")
_REPORT = ".report.json"


def set_aside(path: Path) -> None:
    """Rename the file, then its log. Those of earlier times are deleted. Raises OSError."""
    if path.exists():
        forget_all(path)
        path.rename(path.with_name(f"{path.name}.damaged-{random_hex(4)}"))
    _rename_log(path)
    sync_folder(path.parent)


def unsalvaged(path: Path) -> Path | None:
    """What was set aside and has no report yet: a new file owes its salvage. Finishes a renaming that was cut off.
    Raises OSError."""
    if not path.exists():
        _rename_log(path)
    found = _newest(path)
    return None if found is None or report_of(found).exists() else found


def forget_all(path: Path) -> None:
    """Delete whatever was set aside. Raises OSError."""
    for part in _set_aside(path):
        part.unlink(missing_ok=True)


def forget_quietly(path: Path) -> None:
    """The same on a full disk, where what was salvaged already is worth less than what is to come."""
    with suppress(OSError):
        forget_all(path)


def _rename_log(path: Path) -> None:
    """What was kept of the log goes with the file, also where SQLite has deleted it."""
    damaged = _newest(path)
    for suffix, then in (("-shm", "-shm"), ("-wal", "-wal"), (KEPT, "-wal")) if damaged is not None else ():
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(f"{damaged}{then}")


def _newest(path: Path) -> Path | None:
    """The database that was set aside; there is one at most."""
    return next((part for part in _set_aside(path) if _NAME.search(part.name)), None)


def _set_aside(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.damaged-*"))


def report_of(damaged: Path) -> Path:
    """Where the report of what was set aside is, once it is salvaged."""
    return damaged.with_name(damaged.name + _REPORT)
