"""What the agent's database holds may be anything: neither the buffer's writer nor the daemon's start waits for it."""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgeinfer.runtime.agent_view import AcknowledgedReader, AgentView
from edgeinfer.runtime.buffer import Buffer, BufferConfig
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.handoff import SyncDb, open_read_only
from edgeinfer.runtime.results import Kind, Result
from waiting import wait_until


@contextmanager
def reading(path: Path | None) -> Iterator[AcknowledgedReader]:
    reader = AcknowledgedReader(path, interval_s=0.02)
    try:
        yield reader
    finally:
        reader.stop()


def test_what_the_agent_wrote_is_known_at_the_start_and_followed(tmp_path: Path) -> None:
    path = tmp_path / "sync.db"
    with SyncDb(path) as agent, reading(path) as reader:
        agent.set_acknowledged(7, 5)
        agent.set_counter("sent", 9)
        agent.set_counter("sent_epoch", 7)
        assert reader.seen(7) == 9
        assert reader.acknowledged(7) == 5
        agent.set_acknowledged(7, 6)
        wait_until(lambda: reader.acknowledged(7) == 6)
        assert reader.acknowledged(8) == 0
        assert reader.seen(8) == 0


def test_without_an_agent_nothing_is_known(tmp_path: Path) -> None:
    for path in (None, tmp_path / "none.db"):
        with reading(path) as reader:
            assert reader.seen(1) == reader.acknowledged(1) == 0


def test_an_answer_stays_when_the_database_goes(tmp_path: Path) -> None:
    path = tmp_path / "sync.db"
    with reading(path) as reader:
        with SyncDb(path) as agent:
            agent.set_acknowledged(7, 5)
            assert reader.seen(7) == 5
        for file in tmp_path.iterdir():
            file.unlink()
        looks = 0
        before = reader._read

        def count(epoch: int) -> None:
            nonlocal looks
            before(epoch)
            looks += 1

        reader._read = count  # type: ignore[method-assign]  # to know that it has looked again
        wait_until(lambda: looks >= 2)
        assert reader.acknowledged(7) == 5


@pytest.mark.parametrize("value", ["'x'", "-1", "x'00'", "1e300", "9223372036854775807"])
def test_rows_of_a_wrong_type_count_as_nothing(tmp_path: Path, value: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "sync.db"
    with sqlite3.connect(path) as db:
        db.executescript(
            "PRAGMA journal_mode=WAL; CREATE TABLE acknowledged (epoch, seq); CREATE TABLE counter (name, value);"
        )
        db.execute(f"INSERT INTO counter VALUES ('sent', {value}), ('sent_epoch', 7)")  # noqa: S608 - our own values
        db.execute(f"INSERT INTO acknowledged VALUES (7, {value})")  # noqa: S608 - our own values
    view = AgentView(path)
    for _ in range(5):
        assert view.acknowledged(7) in {0, 9223372036854775807}
    assert caplog.text.count("event=agent_progress_unreadable") <= 1
    buffer = Buffer(BufferConfig(path=str(tmp_path / "buffer.db")), acknowledged=view.acknowledged)
    db.execute("UPDATE acknowledged SET epoch = ?", (buffer.epoch,))
    db.commit()
    for number in range(10):
        buffer.append("p", Result(Kind.ANOMALY, number))
        assert buffer.flush(60.0)
    assert buffer.alive
    assert buffer.close()
    db.close()


def test_a_pipe_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "sync.db"
    os.mkfifo(path)
    with pytest.raises(BufferStorageError, match="no such database"):
        open_read_only(path)
    with reading(path) as reader:
        assert reader.seen(7) == 0


def test_a_read_that_hangs_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as that of a pipe which took the place of a file just after it was looked at."""
    monkeypatch.setattr("edgeinfer.runtime.agent_view._FIRST_WAIT_S", 0.2)
    release = threading.Event()

    def hang(_path: Path, **_: object) -> SyncDb:
        release.wait()
        raise BufferStorageError("at last")

    monkeypatch.setattr("edgeinfer.runtime.agent_view.SyncDb", hang)
    path = tmp_path / "sync.db"
    path.write_bytes(b"")
    with reading(path) as reader:
        buffer = Buffer(
            BufferConfig(path=str(tmp_path / "buffer.db"), flush_interval_s=0.02),
            acknowledged=reader.acknowledged,
            seen=reader.seen,
        )
        for number in range(10):
            buffer.append("p", Result(Kind.ANOMALY, number))
            assert buffer.flush(60.0)
        assert buffer.close()
        release.set()
