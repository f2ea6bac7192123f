"""Power cuts under a real console, simulated sector by sector: what it acknowledged to a device is in its database."""

import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from brokers import Mosquitto
from consoles import RunningConsole, WireDevice, console_toml, made_results
from disk_log import DiskLog
from edgeinfer.console.repository import SqliteRepository
from edgeinfer.console.repository.base import StorageError
from fault_report import FaultReport
from power_cuts import Medium, cuts_at_random
from stored import integrity, stored_results
from waiting import wait_until

pytestmark = pytest.mark.timeout(1200)

DEVICE = "dev-1"
CHUNK = 20
CHUNKS = 120
WINDOW = 10 * CHUNK
TEETH = 20


def upload(log: DiskLog, broker_port: int) -> None:
    """Send chunks; each acknowledgement is noted in the log once it is here."""
    with WireDevice(DEVICE, broker_port) as device:
        device.come_online()
        told = 0

        def more_is_acknowledged() -> bool:
            nonlocal told
            if device.acked() > told:
                told = device.acked()
                log.note(b"%d\n" % told)
            return device.next_seq - told <= WINDOW

        for _ in range(CHUNKS):
            device.send("door", made_results(CHUNK, first_frame=device.next_seq))
            wait_until(more_is_acknowledged, what="acknowledgements")
        wait_until(lambda: more_is_acknowledged() and told == device.next_seq - 1, what="the last acknowledgement")


def check(left: Path, acknowledged: int) -> int:
    """How many results the database holds, all of them in order and each what was sent."""
    database = left / "console.db"
    if not database.exists():
        assert not acknowledged, f"no database at all, acknowledged were {acknowledged}"
        return 0
    rows = stored_results(database, DEVICE)
    assert integrity(database) == ["ok"]
    numbers = [row.seq for row in rows]
    assert numbers == list(range(1, len(numbers) + 1)), "a hole"
    assert len(numbers) >= acknowledged, f"{acknowledged} were acknowledged, {len(numbers)} are there"
    assert [row.frame for row in rows] == numbers
    repository = SqliteRepository(database)
    try:
        ledgers = repository.ledgers(DEVICE)
        assert [ledger.contiguous for ledger in ledgers.values() if ledger.contiguous] == [len(numbers)] * bool(numbers)
    finally:
        repository.close()
    return len(numbers)


def test_what_was_acknowledged_survives_power_cuts_of_the_console(
    tmp_path: Path, disk_log_library: Path, faults: FaultReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(faults.seed)
    cuts = faults.size(ci=20, full=100)
    data = tmp_path / "data"
    data.mkdir()
    log = DiskLog(tmp_path / "disk.log", watched=data)
    media = [Medium(data, seed=faults.seed), Medium(data, seed=faults.seed, lies=True)]
    with Mosquitto(tmp_path) as broker:
        config = console_toml(tmp_path, broker.port)
        for name, value in log.environment(disk_log_library).items():
            monkeypatch.setenv(name, value)
        with RunningConsole(config) as console:
            upload(log, broker.port)
            console.kill()

    acknowledged = stored = found = 0
    for cut in cuts_at_random(log, media[0], times=cuts, chance=chance):
        left, promised = tmp_path / "left", int((media[0].notes or [b"0"])[-1])
        media[0].after_cut(left, cut)
        print(cut)  # shown where what follows fails
        stored += check(left, promised)
        acknowledged += promised
        shutil.rmtree(left)
    faults.add("power cut, console", times=cuts, lost=0, doubled=0, promised=acknowledged, checked=stored)

    for cut in cuts_at_random(log, media[1], times=TEETH, chance=chance):
        left, promised = tmp_path / "left", int((media[1].notes or [b"0"])[-1])
        media[1].after_cut(left, cut)
        try:
            check(left, promised)
        except (AssertionError, StorageError, sqlite3.Error):
            found += 1
        shutil.rmtree(left)
    assert found >= 2, "the simulated power cuts have lost their teeth"
    faults.add("teeth: a console's medium that lies", times=TEETH, found=found)
