"""An agent that is killed over and over does not get a new data budget each time."""

from pathlib import Path

import msgspec

from agents import DEVICE, agent_process, fill, write_config
from brokers import Mosquitto
from edgeinfer.runtime.handoff import SyncDb
from edgeinfer.sync.mqtt import BrokerConfig
from tiny_console import TinyConsole
from waiting import wait_until

_BUDGET = 60_000
_KILLS = 8


def test_kills_do_not_refill_the_day(tmp_path: Path) -> None:
    fill(tmp_path, 6000, chunk_results=10).close()  # many chunks, far more than the budget
    with Mosquitto(tmp_path) as broker, TinyConsole(BrokerConfig(port=broker.port), device=DEVICE) as console:
        file = write_config(tmp_path, broker)
        with file.open("a") as config:
            config.write(
                f'[[network]]\nkind = "any"\nbytes_per_day = {_BUDGET}\nevents_reserve = 0\nresults_reserve = 0\n'
            )
        for life in range(1, _KILLS + 1):
            _live_once(file, life, console)
        carried, results = sum(len(body) for body in console.stored.values()), len(console.results)
    print(f"budget={_BUDGET} kills={_KILLS} carried={carried} results={results}")
    assert 0 < results < 6000
    assert carried <= _BUDGET


def _live_once(file: Path, life: int, console: TinyConsole) -> None:
    """Until it got further, or has nothing left to spend; then it is killed."""
    log, before = file.parent / "agent.log", len(console.results)
    with agent_process(file):
        wait_until(lambda: log.read_text().count("event=broker_connected") >= life, what=f"life {life}")
        wait_until(lambda: len(console.results) > before or _is_spent(file.parent), what="results, or the limit")


def _is_spent(folder: Path) -> bool:
    """Whether the record says that nothing is left."""
    with SyncDb(folder / "sync" / "sync.db", read_only=True) as db:
        note = db.note("ledger")
    return bool(note) and msgspec.msgpack.decode(note)["granted"].get("any", 0) >= _BUDGET
