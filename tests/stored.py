"""What lies in a console's database, read when no console runs on it."""

import sqlite3
from pathlib import Path

from edgeinfer.console.repository import SqliteRepository
from edgeinfer.console.repository.base import StoredResult

__all__ = ["doubled", "integrity", "stored_results"]


def stored_results(database: Path, device: str) -> list[StoredResult]:
    """Every result of a device, by epoch and number."""
    repository = SqliteRepository(database)
    try:
        found: list[StoredResult] = []
        while page := repository.results(
            device, after=(found[-1].epoch, found[-1].seq) if found else (0, 0), limit=2000
        ):
            found += page
        return found
    finally:
        repository.close()


def doubled(rows: list[StoredResult]) -> int:
    """How many of them have the number of another."""
    return len(rows) - len({(row.epoch, row.seq) for row in rows})


def integrity(database: Path) -> list[str]:
    """What SQLite finds wrong with a file; `["ok"]` for nothing."""
    db = sqlite3.connect(database)
    try:
        return [str(line) for (line,) in db.execute("PRAGMA integrity_check")]
    finally:
        db.close()
