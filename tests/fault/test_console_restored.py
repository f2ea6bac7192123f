"""A console that is put back to an older copy of its database: what came after that copy and is no longer on the device
is counted as missing; all else arrives, and nothing twice."""

import random
import shutil
from pathlib import Path

import pytest

from agents import DEVICE, agent_process, append, fill, write_config
from brokers import Mosquitto
from consoles import RunningConsole, console_toml
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.handoff import SyncDb
from fault_report import FaultReport
from stored import stored_results
from waiting import wait_until

PATIENCE_S = 90.0


def acknowledged(folder: Path, epoch: int) -> int:
    try:
        with SyncDb(folder / "sync" / "sync.db", read_only=True) as db:
            return db.acknowledged(epoch)
    except BufferStorageError:
        return 0


@pytest.mark.parametrize("agent_lives", [True, False], ids=["devices reconnect", "agent is started anew"])
def test_an_older_copy_of_the_consoles_database(tmp_path: Path, faults: FaultReport, *, agent_lives: bool) -> None:
    chance = random.Random(faults.seed)
    (tmp_path / "runtime").mkdir()
    copied, lost, later = (chance.randrange(100, 900) for _ in range(3))
    with Mosquitto(tmp_path) as broker:
        config, data = console_toml(tmp_path, broker.port), tmp_path / "data"
        buffer = fill(tmp_path, copied)
        agent = write_config(tmp_path, broker)
        with RunningConsole(config) as console:
            with agent_process(agent) as process:
                wait_until(lambda: acknowledged(tmp_path, buffer.epoch) == copied, timeout_s=PATIENCE_S)
                assert console.terminate()[0] == 0
                shutil.copytree(data, tmp_path / "backup")
                console.start()
                append(buffer, copied, lost)
                wait_until(lambda: acknowledged(tmp_path, buffer.epoch) == copied + lost, timeout_s=PATIENCE_S)
                console.kill()
                shutil.rmtree(data)
                (tmp_path / "backup").rename(data)
                if not agent_lives:
                    process.terminate()
                    process.wait(10)
                console.start()
                append(buffer, copied + lost, later)
                made = copied + lost + later
                if agent_lives:
                    # A connection that is new begins with the device saying what it still has.
                    broker.kill()
                    broker.start()
                    wait_until(lambda: acknowledged(tmp_path, buffer.epoch) == made, timeout_s=PATIENCE_S)
            if not agent_lives:
                with agent_process(agent):
                    wait_until(lambda: acknowledged(tmp_path, buffer.epoch) == made, timeout_s=PATIENCE_S)
            audit = console.audit(DEVICE)
            assert console.terminate()[0] == 0
        assert buffer.close()
    rows = stored_results(data / "console.db", DEVICE)
    faults.add(
        "console from an older copy", times=1, made=made, durable=made, stored=len(rows), missing=audit["missing"],
        lost=made - len(rows) - audit["missing"], doubled=len(rows) - len({row.seq for row in rows}),
    )  # fmt: skip
    assert audit["gaps"] == 0
    assert len(rows) + audit["missing"] == made
    assert audit["missing"] <= lost
    assert [row.seq for row in rows][:copied] == list(range(1, copied + 1))
    assert [row.seq for row in rows][-later:] == list(range(made - later + 1, made + 1))
