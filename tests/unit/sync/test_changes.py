"""Noticing that another process wrote, without asking its database."""

import os
import sqlite3
from pathlib import Path

import pytest

from edgeinfer.runtime.handoff import RuntimeDb, UpdateRow
from edgeinfer.sync.changes import Changes
from edgeinfer.sync.daemon_view import DaemonView


def settled(database: Path) -> None:
    """As if the last write were a while ago: what has just been written may be written to again within a tick."""
    for file in (database, database.with_name(database.name + "-wal")):
        if file.exists():
            stat = file.stat()
            os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns - 10**9))


def test_a_commit_is_seen_and_rest_is_rest(tmp_path: Path) -> None:
    database = tmp_path / "a.db"
    changes = Changes(database)
    assert changes.look()
    assert not changes.look()
    writer = sqlite3.connect(database, isolation_level=None)
    writer.execute("PRAGMA journal_mode=WAL").fetchone()
    writer.execute("CREATE TABLE t (x)")
    settled(database)
    assert changes.look()
    assert not changes.look()
    for _ in range(3):  # the WAL begins anew after a checkpoint, with the same size
        writer.execute("INSERT INTO t VALUES (1)")
        settled(database)
        os.utime(database, ns=(1, 1))
        assert changes.look()
        assert not changes.look()
        writer.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        changes.look()
    writer.close()
    assert changes.look()


def test_what_was_written_just_now_is_looked_at_twice(tmp_path: Path) -> None:
    database = tmp_path / "a.db"
    database.write_bytes(b"1")
    changes = Changes(database)
    assert changes.look()
    assert changes.look()
    settled(database)
    assert changes.look()
    assert not changes.look()


def test_a_daemon_that_rests_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    update = RuntimeDb.update

    def counted(db: RuntimeDb) -> UpdateRow:
        reads.append(db)
        return update(db)

    monkeypatch.setattr(RuntimeDb, "update", counted)
    view = DaemonView(tmp_path)
    with RuntimeDb(tmp_path / "runtime.db") as daemon:
        daemon.set_status(b'{"device": "a"}')
        settled(daemon.path)
        view.poll(100.0)
        assert (view.status.device, len(reads)) == ("a", 1)
        for turn in range(20):
            view.poll(100.0 + 0.2 * turn)
        assert len(reads) == 1
        daemon.set_status(b'{"device": "b"}')
        view.poll(104.5)
        assert (view.status.device, len(reads)) == ("b", 2)
        settled(daemon.path)
        view.poll(200.0)  # now and then it is asked in any case
        assert len(reads) == 3
    view.close()
