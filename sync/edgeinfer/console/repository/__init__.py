"""Where the console keeps what it knows: one interface, and its implementations."""

from edgeinfer.console.repository.interface import Repository
from edgeinfer.console.repository.sqlite import SqliteRepository

__all__ = ["Repository", "SqliteRepository"]
