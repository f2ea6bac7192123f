"""The books with their clocks and their place on disk."""

from pathlib import Path

import pytest

from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.handoff import SyncDb
from edgeinfer.sync.allowance import Priority
from edgeinfer.sync.budget import NetworkConfig
from edgeinfer.sync.metering import Meter

LIMITED = (NetworkConfig(kind="other", bytes_per_day=1_000_000, events_reserve=0, results_reserve=0),)
HOUR = 3600


class Clocks:
    """A wall clock and a steady one that go on together, and a wall clock that may be set."""

    def __init__(self) -> None:
        self.steady_s = 0.0
        self.wall_s = 1_800_000_000.0

    def pass_(self, seconds: float) -> None:
        self.steady_s += seconds
        self.wall_s += seconds

    def meter(self, db: SyncDb) -> Meter:
        made = Meter(LIMITED, db, steady_s=lambda: self.steady_s, wall_ns=lambda: int(self.wall_s * 1e9))
        made.follow("127.0.0.1", self.steady_s)
        return made


def spend_all(meter: Meter, clocks: Clocks) -> int:
    sent = 0
    while meter.room(Priority.RESULTS, clocks.steady_s) > 0:
        meter.spent(Priority.RESULTS, 100_000 - 256, clocks.steady_s)
        sent += 100_000
    return sent


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    monkeypatch.setenv("TZ", "UTC")
    return Clocks()


def test_each_day_has_its_bytes_over_restarts_too(tmp_path: Path, clocks: Clocks) -> None:
    with SyncDb(tmp_path / "sync.db") as db:
        meter = clocks.meter(db)
        assert meter.network == "other"
        assert spend_all(meter, clocks) == 1_000_000
        assert meter.closed(Priority.RESULTS, clocks.steady_s)
        meter.close()
        meter = clocks.meter(db)
        assert spend_all(meter, clocks) == 0
        days = 0
        for _ in range(10 * 24):
            clocks.pass_(HOUR)
            sent = spend_all(meter, clocks)
            assert sent in {0, 1_000_000}
            days += sent > 0
        assert 9 <= days <= 12


def test_a_clock_that_is_set_forth_and_back_gains_nothing(tmp_path: Path, clocks: Clocks) -> None:
    with SyncDb(tmp_path / "sync.db") as db:
        meter = clocks.meter(db)
        spend_all(meter, clocks)
        clocks.pass_(2 * HOUR)
        spend_all(meter, clocks)
        for _ in range(20):
            clocks.wall_s += 5 * 86_400
            clocks.pass_(60)
            assert spend_all(meter, clocks) == 0
            clocks.wall_s -= 5 * 86_400
            clocks.pass_(60)
            assert spend_all(meter, clocks) == 0


def test_what_cannot_be_put_on_record_is_not_spent(
    tmp_path: Path, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_db: SyncDb, _name: str, _body: bytes) -> None:
        raise BufferStorageError("disk full")

    with SyncDb(tmp_path / "sync.db") as db:
        meter = clocks.meter(db)
        assert meter.room(Priority.RESULTS, 0.0) > 0
        with monkeypatch.context() as patch:
            patch.setattr(SyncDb, "set_note", full)
            assert spend_all(meter, clocks) <= 200_000  # a slice, and the message that goes beyond it
            assert meter.room(Priority.CONTROL, 0.0) > 0
        assert meter.room(Priority.RESULTS, 0.0) > 0


def test_a_record_that_cannot_be_read_begins_anew(tmp_path: Path, clocks: Clocks) -> None:
    with SyncDb(tmp_path / "sync.db") as db:
        db.set_note("ledger", b"\xc1 no msgpack")
        assert clocks.meter(db).room(Priority.RESULTS, 0.0) > 0
