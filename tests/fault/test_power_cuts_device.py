"""Power cuts under a whole installation, simulated sector by sector: daemon, agent and console write one log, and at
each moment of it the device, the console or both lose power.

Every result that was durable is then on one of the two; nothing is gone from the device that the console does not
have; a package that a slot names is whole; and who starts all that again has every result once.
"""

import random
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from disk_log import DiskLog
from edgeinfer.console.commands import deploy
from edgeinfer.runtime.buffer import Buffer, BufferConfig
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.handoff import RuntimeDb, SyncDb
from edgeinfer.runtime.store import Store
from fault_report import FaultReport
from loops import DEVICE, Installation, free_of_tracebacks
from power_cuts import Cut, Medium, cuts_at_random
from stored import integrity, stored_results
from waiting import wait_until

pytestmark = pytest.mark.timeout(1200)

MACHINES = ("device", "agent", "console")


class Promise(msgspec.Struct, frozen=True):
    """What somebody has seen, at that moment of the log."""

    durable: int = 0
    active: str = ""


class Left(msgspec.Struct, frozen=True):
    """What a power cut leaves: result numbers on the device as (first, last), up to where the device believes that
    the console has them, and up to where it has."""

    first: int
    last: int
    acknowledged: int
    stored: int


@contextmanager
def watching(loop: Installation, log: DiskLog) -> Iterator[None]:
    """Note in the log what may be relied on, again and again."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            with suppress(BufferStorageError), RuntimeDb(loop.folder / "device" / "runtime.db", read_only=True) as db:
                log.note(msgspec.json.encode(Promise(loop.durable(), db.slots("m").get("active", ""))) + b"\n")

    thread = threading.Thread(target=watch, name="watching")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def work(loop: Installation) -> None:
    """A day of a device: results go up, and a new version comes down."""
    wait_until(lambda: loop.acknowledged() > 200, what="acknowledgements")
    deploy(loop.package("2.0.0"), to="all", console_url=loop.console.url)
    wait_until(lambda: "COMMITTED" in loop.update_row().finished.values(), what="the update")
    enough = loop.durable() + 1000
    wait_until(lambda: loop.acknowledged() > enough, what="more acknowledgements")


def left_on_device(left: Path, promise: Promise) -> tuple[int, int, int]:
    """(first, last, acknowledged) after the databases were opened as daemon and agent do."""
    if not (left / "device" / "buffer.db").exists():
        assert not promise.durable, "the buffer is gone"
        return 1, 0, 0
    buffer = Buffer(BufferConfig(path=str(left / "device" / "buffer.db")), acknowledged=lambda _: 0)
    epoch = buffer.epoch
    assert buffer.close()
    with SyncDb(left / "agent" / "sync.db") as sync:
        acknowledged = sync.acknowledged(epoch)
    with RuntimeDb(left / "device" / "runtime.db") as db:
        slots = db.slots("m")
    damaged = [*left.glob("*/*.damaged-*")]
    assert not damaged, damaged
    assert bool(slots.get("active")) or not promise.active, "the active slot is empty"
    for slot, digest in slots.items():
        assert Store(left / "device").holds(digest), f"the package of slot {slot} is not whole"
    with BufferReader(left / "device" / "buffer.db") as reader:
        return reader.first_seq(), reader.durable_seq(), acknowledged


def left_at_console(left: Path) -> int:
    """Up to where the console has every result."""
    database = left / "console" / "console.db"
    if not database.exists():
        return 0
    numbers = [row.seq for row in stored_results(database, DEVICE)]
    assert integrity(database) == ["ok"]
    assert numbers == list(range(1, len(numbers) + 1))
    return len(numbers)


def check(left: Left, promise: Promise) -> None:
    assert left.last >= promise.durable, f"durable were {promise.durable}, found {left.last}"
    assert left.first <= left.acknowledged + 1, f"{left.first - 1} are gone, the agent knows of {left.acknowledged}"
    assert left.first <= left.stored + 1, f"the device has them from {left.first}, the console up to {left.stored}"
    assert left.acknowledged <= left.stored, f"acknowledged {left.acknowledged}, stored {left.stored}"


def test_a_whole_installation_loses_power(
    tmp_path: Path, disk_log_library: Path, faults: FaultReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(faults.seed)
    cuts, restarts = faults.size(ci=16, full=100), faults.size(ci=1, full=10)
    loop = Installation(tmp_path)
    loop.make_package("2.0.0", seed=2)
    for name in MACHINES:
        (tmp_path / name).mkdir(exist_ok=True)
    log = DiskLog(tmp_path.with_name(f"{tmp_path.name}.log"), watched=tmp_path)
    medium = Medium(tmp_path, seed=faults.seed)
    for name, value in log.environment(disk_log_library).items():
        monkeypatch.setenv(name, value)
    with loop, watching(loop, log):
        work(loop)
    for name in log.environment(disk_log_library):
        monkeypatch.delenv(name)

    begun_again = sorted(chance.sample(range(cuts), restarts))
    durable = stored = 0
    for number, cut in enumerate(cuts_at_random(log, medium, times=cuts, chance=chance)):
        promise = msgspec.json.decode((medium.notes or [b"{}"])[-1], type=Promise)
        device_cut, console_cut = chance.choice([(cut, cut), (cut, Cut.nothing_lost()), (Cut.nothing_lost(), cut)])
        print(f"device: {device_cut} console: {console_cut}")  # shown where what follows fails
        left = tmp_path / "left"
        medium.after_cut(left, device_cut, only=("device", "agent"))
        medium.after_cut(left, console_cut, only=("console",))
        if number in begun_again:
            begin_again(loop, left, promise)
        else:
            found = Left(*left_on_device(left, promise), stored=left_at_console(left))
            check(found, promise)
            durable, stored = durable + promise.durable, stored + found.stored
        shutil.rmtree(left)
    faults.add("power cut, installation", times=cuts, lost=0, promised=durable, checked=stored, begun_again=restarts)
    log.path.unlink()


def begin_again(loop: Installation, left: Path, promise: Promise) -> None:
    """All services on what is left; in the end the console has each durable result once."""
    for name in MACHINES:
        shutil.rmtree(loop.folder / name)
        (left / name).rename(loop.folder / name)
    with loop:
        before = loop.durable()
        assert before >= promise.durable
        wait_until(lambda: loop.durable() > before + 100, what="new results")
        assert loop.daemon.terminate() == 0
        made = loop.durable()
        wait_until(lambda: loop.acknowledged() == made, what="the last acknowledgement")
        assert loop.console.terminate() == 0
    rows = stored_results(loop.folder / "console" / "console.db", DEVICE)
    assert [row.seq for row in rows] == list(range(1, made + 1))
    assert len({row.epoch for row in rows}) == 1
    assert free_of_tracebacks(loop.folder)
