"""A console that is put back to an older copy of its database: what came after that copy, and was acknowledged, counts
as missing; all else arrives, and nothing twice."""

import random
import shutil
from pathlib import Path

from agents import DEVICE, agent_process, append, fill, write_config
from brokers import Mosquitto
from consoles import RunningConsole, console_toml
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.handoff import SyncDb
from fault_report import FaultReport
from stored import doubled, stored_results
from waiting import wait_until

PATIENCE_S = 120.0


def acknowledged(folder: Path, epoch: int) -> int:
    try:
        with SyncDb(folder / "sync" / "sync.db", read_only=True) as db:
            return db.acknowledged(epoch)
    except BufferStorageError:
        return 0


def wait_acknowledged(folder: Path, epoch: int, seq: int) -> None:
    wait_until(
        lambda: acknowledged(folder, epoch) == seq, timeout_s=PATIENCE_S, what=f"the acknowledgement of result {seq}"
    )


def put_back(console: RunningConsole, copy: Path, data: Path) -> None:
    console.kill()
    shutil.rmtree(data)
    copy.rename(data)
    console.start()
    wait_until(lambda: bool(console.get("/api/status")["broker"]["connected"]), timeout_s=PATIENCE_S)


def test_an_older_copy_of_the_consoles_database(tmp_path: Path, faults: FaultReport) -> None:
    chance = random.Random(faults.seed)
    (tmp_path / "runtime").mkdir()
    copied, lost, later = (chance.randrange(100, 900) for _ in range(3))
    made = copied + lost + later
    data, copy = tmp_path / "data", tmp_path / "copy"
    buffer = fill(tmp_path, copied)
    with Mosquitto(tmp_path) as broker:
        agent = write_config(tmp_path, broker)
        with RunningConsole(console_toml(tmp_path, broker.port)) as console, agent_process(agent):
            wait_acknowledged(tmp_path, buffer.epoch, copied)
            assert console.terminate() == 0
            shutil.copytree(data, copy)
            console.start()
            append(buffer, copied, lost)
            wait_acknowledged(tmp_path, buffer.epoch, copied + lost)
            put_back(console, copy, data)
            append(buffer, copied + lost, later)
            wait_acknowledged(tmp_path, buffer.epoch, made)
            audit = console.audit(DEVICE)
            assert console.terminate() == 0
    assert buffer.close()
    rows = stored_results(data / "console.db", DEVICE)
    faults.add(
        "console from an older copy", times=1, made=made, durable=made, stored=len(rows), missing=audit["missing"],
        lost=made - len(rows) - audit["missing"], doubled=doubled(rows),
    )  # fmt: skip
    assert audit["gaps"] == 0
    assert len(rows) + audit["missing"] == made
    assert audit["missing"] <= lost
    assert [row.seq for row in rows][:copied] == list(range(1, copied + 1))
    assert [row.seq for row in rows][-later:] == list(range(made - later + 1, made + 1))
