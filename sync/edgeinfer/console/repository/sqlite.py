"""The repository in one SQLite file: enough for a fleet that one console serves."""

from edgeinfer.console.repository.sqlite_fleet import SqliteFleet
from edgeinfer.console.repository.sqlite_results import SqliteResults

__all__ = ["SqliteRepository"]


class SqliteRepository(SqliteResults, SqliteFleet):
    """Implements `Repository`; the file is made where it is missing and brought to the present schema."""
