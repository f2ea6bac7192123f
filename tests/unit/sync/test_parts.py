"""The small parts of the agent: reopening, log limits, vitals, wishes, job states, the inbox."""

import os
import threading
from pathlib import Path

import pytest

from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.handoff import Desired, SyncDb, UpdateRow
from edgeinfer.runtime.watched import Watched
from edgeinfer.sync.inbox import Inbox
from edgeinfer.sync.jobs import FINAL_STATES, job_status
from edgeinfer.sync.loglimit import LogLimit
from edgeinfer.sync.updates import is_wanted
from edgeinfer.sync.vitals import Vitals, read_vitals


def reader(path: Path) -> SyncDb:
    return SyncDb(path, read_only=True)


def test_a_database_is_waited_for_and_followed(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "sync.db", reader)
    assert watched.current() is None
    with SyncDb(tmp_path / "sync.db") as writer:
        first = watched.current()
        assert first is not None
        writer.set_counter("a", 1)
        assert watched.current() is first
        assert first.counter("a") == 1
    watched.close()


def test_a_reader_of_a_resting_database_sees_its_next_writer(tmp_path: Path) -> None:
    SyncDb(tmp_path / "sync.db").close()
    watched = Watched(tmp_path / "sync.db", reader)
    resting = watched.current()
    assert resting is not None
    with SyncDb(tmp_path / "sync.db") as writer:
        writer.set_counter("a", 1)
        awake = watched.current()
        assert awake is not None
        assert awake.counter("a") == 1
    watched.close()


def test_a_replaced_database_is_opened_anew(tmp_path: Path) -> None:
    with SyncDb(tmp_path / "sync.db") as writer:
        writer.set_counter("a", 1)
    watched = Watched(tmp_path / "sync.db", reader)
    assert watched.current() is not None
    for file in tmp_path.glob("sync.db*"):
        file.unlink()
    assert watched.current() is None
    with SyncDb(tmp_path / "sync.db") as writer:
        writer.set_counter("a", 2)
        fresh = watched.current()
        assert fresh is not None
        assert fresh.counter("a") == 2
    watched.close()


def test_an_unreadable_database_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "sync.db").write_bytes(b"no database" * 100)
    watched = Watched(tmp_path / "sync.db", reader)
    for _ in range(5):
        assert watched.current() is None
        watched.failed(BufferStorageError("again"))
    assert len(caplog.records) <= 10
    assert "event=database_unreadable" in caplog.text


def test_a_database_that_opens_and_cannot_be_asked_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched(tmp_path / "sync.db", reader)
    with SyncDb(tmp_path / "sync.db"):
        for _ in range(5):
            assert watched.current() is not None
            watched.failed(BufferStorageError("no such column"))
    assert len(caplog.records) == 1


def test_the_log_limit_counts_what_it_holds_back() -> None:
    limit = LogLimit(60.0, max_keys=2)
    assert limit.admit("a", 0.0) == 0
    assert [limit.admit("a", float(now_s)) for now_s in (1, 2, 59)] == [None, None, None]
    assert limit.admit("a", 60.0) == 3
    assert limit.admit("b", 60.0) == 0
    assert limit.admit("c", 60.0) == 0  # counted as others from here on
    assert limit.admit("d", 60.0) is None


def test_vitals_are_read_from_a_root(tmp_path: Path) -> None:
    for name, text in (
        ("proc/stat", "cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1 2 3\n"),
        ("proc/meminfo", "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:  250 kB\n"),
        ("proc/self/statm", "1000 20 5 1 0 10 0\n"),
        ("sys/class/thermal/thermal_zone0/temp", "41500\n"),
        ("sys/class/thermal/thermal_zone1/temp", "broken\n"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert read_vitals(tmp_path) == Vitals((150, 1000), 75.0, 41.5, 20 * os.sysconf("SC_PAGE_SIZE"))
    assert read_vitals(tmp_path / "nowhere") == Vitals()
    assert Vitals((150, 1000)).cpu_percent(Vitals((100, 900))) == 50.0
    assert Vitals().cpu_percent(Vitals()) == 0.0
    assert read_vitals().rss_bytes > 1 << 20


@pytest.mark.parametrize(
    ("version", "stored", "accepted", "wanted"),
    [
        (1, None, None, True),
        (5, 4, None, True),
        (4, 4, None, False),
        (3, 4, None, False),
        (5, 4, 4, True),
        (4, 4, 4, False),
        (3, 4, 4, False),
        (5, 9, 4, True),  # 9 was never accepted: forged, or not looked at yet
        (4, 9, 4, False),
        (3, 9, 4, False),
    ],
)
def test_a_wish_replaces_an_older_or_a_refused_one(
    version: int, stored: int | None, accepted: int | None, *, wanted: bool
) -> None:
    held = None if stored is None else Desired(stored, b"")
    row = None if accepted is None else UpdateRow(desired_version=accepted)
    assert is_wanted(version, stored=held, row=row) is wanted


def test_a_job_that_has_ended_is_told_as_it_ended() -> None:
    row = UpdateRow(state="IDLE", job="j1", desired_version=3, finished={"j1": "COMMITTED"})
    status = job_status(row, offset=7)
    assert status is not None
    assert (status.state, status.offset) == ("COMMITTED", 0)
    assert job_status(UpdateRow(), offset=0) is None
    assert job_status(UpdateRow(state="TRIAL", job="a/b"), offset=0) is None
    long = job_status(UpdateRow(state="FAILED", job="j", reason="x" * 2_000), offset=0)
    assert long is not None
    assert len(long.reason) == 512
    assert "IDLE" not in FINAL_STATES


def test_the_inbox_says_when_it_is_full() -> None:
    inbox = Inbox(max_messages=3, max_bytes=100)
    full = []
    for _ in range(3):
        full.append(inbox.full)
        inbox.put("t", b"x")
    full.append(inbox.full)
    assert inbox.get(0.0) == ("t", b"x")
    full.append(inbox.full)
    inbox.put("t", bytes(100))
    full.append(inbox.full)
    assert full == [False, False, False, True, False, True]
    assert [inbox.get(0.0) is None for _ in range(4)] == [False, False, False, True]


def test_waiting_on_the_inbox_ends_with_a_message_or_a_wake() -> None:
    inbox = Inbox(max_messages=1, max_bytes=100)
    found: list[tuple[str, bytes] | None] = []
    thread = threading.Thread(target=lambda: found.extend([inbox.get(20.0), inbox.get(20.0)]))
    thread.start()
    inbox.put("t", b"1")
    while thread.is_alive():
        inbox.wake()
        thread.join(0.01)
    assert found[0] == ("t", b"1") or found[1] == ("t", b"1")
