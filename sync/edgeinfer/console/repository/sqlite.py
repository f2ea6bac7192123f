"""The repository in one SQLite file: enough for a fleet that one console serves."""

from edgeinfer.console.repository.sqlite_blobs import SqliteBlobs
from edgeinfer.console.repository.sqlite_chunks import SqliteChunks
from edgeinfer.console.repository.sqlite_fleet import SqliteFleet

__all__ = ["SqliteRepository"]


class SqliteRepository(SqliteChunks, SqliteBlobs, SqliteFleet):
    """Implements `Repository`; the file is made where it is missing and brought to the present schema."""
