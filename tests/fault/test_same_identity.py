"""Two that say they are one device: on one machine the second is refused; two machines with copies of one buffer (a
cloned card) are told apart by the hash chain, and never interleave; two with one name and different buffers both
deliver everything."""

import itertools
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from agents import DEVICE, agent_process, write_config
from brokers import Mosquitto
from consoles import RunningConsole, console_toml
from daemon_process import Daemon, configuration
from edgeinfer.runtime.buffer import Buffer, BufferConfig
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.handoff import SyncDb
from edgeinfer.runtime.results import Item, Kind, Result
from fault_report import FaultReport
from packages import linear_model, make_package
from stored import doubled, stored_results
from waiting import wait_until

PATIENCE_S = 120.0
COMMON = 1500


class Machine:
    """A device with its own folder: a buffer that grows when told, and an agent. Its results carry its `label`."""

    def __init__(self, folder: Path, broker: Mosquitto, *, label: int) -> None:
        self.folder = folder
        self.label = label
        (folder / "runtime").mkdir(parents=True, exist_ok=True)
        self.config = write_config(folder, broker)
        path = str(folder / "runtime" / "buffer.db")
        self.buffer = Buffer(BufferConfig(path=path, flush_interval_s=0.05), acknowledged=lambda _: 0)

    def make(self, n: int, *, chance: random.Random, events: bool = False) -> None:
        """In bursts, so that chunks of two machines have different ends; with `events`, one in twenty is one."""
        first = self.buffer.durable_seq
        while n > 0:
            burst = min(n, chance.randrange(1, 170))
            for _ in range(burst):
                kind = Kind.EVENT if events and chance.random() < 0.05 else Kind.CLASSIFICATION
                extra: dict[str, int | float | str] | None = {"rule": "r"} if kind is Kind.EVENT else None
                self.buffer.append("door", Result(kind, first, first, items=(Item(self.label, 0.5),), extra=extra))
                first += 1
            assert self.buffer.flush(60.0)
            n -= burst

    def acknowledged(self) -> int:
        try:
            with SyncDb(self.folder / "sync" / "sync.db", read_only=True) as db:
                return db.acknowledged(self.buffer.epoch)
        except BufferStorageError:  # its agent is just making it
            return 0

    def log(self) -> str:
        return (self.folder / "agent.log").read_text()


@contextmanager
def console_of(folder: Path, broker: Mosquitto) -> Iterator[RunningConsole]:
    with RunningConsole(console_toml(folder, broker.port)) as console:
        yield console


def clone(machine: Machine, broker: Mosquitto, folder: Path, *, label: int) -> Machine:
    """A copy of a machine that is switched off, as a copy of its card would be."""
    shutil.copytree(machine.folder / "runtime", folder / "runtime")
    shutil.copytree(machine.folder / "sync", folder / "sync")
    return Machine(folder, broker, label=label)


def is_settled(console: RunningConsole, machines: list[Machine]) -> bool:
    """The console knows of the fork, and one of the two has brought all that it has, or both are refused."""
    if not console.audit(DEVICE)["conflicts"]:
        return False
    return any(machine.acknowledged() == machine.buffer.durable_seq for machine in machines) or all(
        "event=conflict" in machine.log() for machine in machines
    )


@pytest.mark.parametrize("events", [False, True], ids=["results", "with events"])
def test_a_cloned_card_never_interleaves(tmp_path: Path, faults: FaultReport, events: bool) -> None:
    chance = random.Random(faults.seed)
    rounds = faults.size(ci=2, full=20)
    with Mosquitto(tmp_path) as broker, console_of(tmp_path, broker) as console, ExitStack() as stack:
        first = Machine(tmp_path / "first", broker, label=1)
        stack.callback(first.buffer.close)
        first.make(COMMON, chance=chance)
        with agent_process(first.config):
            wait_until(lambda: first.acknowledged() == COMMON, timeout_s=PATIENCE_S, what="what both have")
        first.buffer.close()
        second = clone(first, broker, tmp_path / "second", label=2)
        stack.callback(second.buffer.close)
        first = Machine(first.folder, broker, label=1)
        assert first.buffer.epoch == second.buffer.epoch

        machines = [first, second]
        for _ in range(rounds):
            chance.shuffle(machines)
            for machine in machines:
                machine.make(chance.randrange(100, 600), chance=chance, events=events)
            with ExitStack() as agents:  # at once: they throw each other out, and each sends what it can
                for machine in machines:
                    agents.enter_context(agent_process(machine.config))
                wait_until(lambda: is_settled(console, machines), timeout_s=PATIENCE_S, what="one to be refused")
        audit = console.audit(DEVICE)
        assert console.terminate() == 0
    rows = stored_results(tmp_path / "data" / "console.db", DEVICE)
    forked = [row.items[0].label for row in rows if row.seq > COMMON]
    changes = sum(1 for early, late in itertools.pairwise(forked) if early != late)
    faults.add(
        f"cloned card{', events' if events else ''}", times=rounds, stored=len(rows),
        refused=audit["conflicts"], doubled=doubled(rows), changes=changes,
    )  # fmt: skip
    # An event may run ahead of what it follows, and be stored before anybody knows of the other machine.
    assert changes <= (rounds if events else 0), "results of two machines under one numbering"
    assert [row.seq for row in rows][:COMMON] == list(range(1, COMMON + 1))
    assert any("event=conflict" in machine.log() for machine in machines)


def test_two_buffers_under_one_name_both_arrive(tmp_path: Path, faults: FaultReport) -> None:
    """A device whose card was exchanged while the old one still runs elsewhere: two epochs, side by side."""
    chance = random.Random(faults.seed)
    rounds = faults.size(ci=2, full=20)
    with Mosquitto(tmp_path) as broker, console_of(tmp_path, broker) as console, ExitStack() as stack:
        machines = [Machine(tmp_path / f"machine-{label}", broker, label=label) for label in (1, 2)]
        for machine in machines:
            stack.callback(machine.buffer.close)
        for _ in range(rounds):
            for machine in machines:
                machine.make(chance.randrange(200, 900), chance=chance, events=True)
            with ExitStack() as agents:
                for machine in machines:
                    agents.enter_context(agent_process(machine.config))
                # Both stay: each time that one is let in, the other is thrown out, and waits longer.
                wait_until(
                    lambda: all(m.acknowledged() for m in machines), timeout_s=PATIENCE_S, what="both to be heard"
                )
        for machine in machines:  # one after the other: what each has left
            with agent_process(machine.config):
                wait_until(
                    lambda machine=machine: machine.acknowledged() == machine.buffer.durable_seq,  # type: ignore[misc]  # bound in the loop
                    timeout_s=PATIENCE_S,
                    what="all that one of them has",
                )
        audit = console.audit(DEVICE)
        assert console.terminate() == 0
    rows = stored_results(tmp_path / "data" / "console.db", DEVICE)
    made = sum(machine.buffer.durable_seq for machine in machines)
    faults.add(
        "one name, two buffers", times=rounds, made=made, durable=made, stored=len(rows), refused=audit["duplicates"],
        lost=made - len(rows), doubled=doubled(rows),
    )  # fmt: skip
    for machine in machines:
        own = [row for row in rows if row.epoch == machine.buffer.epoch]
        assert [row.seq for row in own] == list(range(1, machine.buffer.durable_seq + 1))
        assert {row.items[0].label for row in own} == {machine.label}
    assert audit["conflicts"] == 0


def test_a_second_agent_on_one_machine_is_refused(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker:
        machine = Machine(tmp_path / "machine", broker, label=1)
        with agent_process(machine.config) as agent:
            wait_until((machine.folder / "sync" / "sync.db").exists, timeout_s=PATIENCE_S, what="the first agent")
            wait_until(lambda: "event=broker_connected" in machine.log(), timeout_s=PATIENCE_S, what="its connection")
            with agent_process(machine.config) as second:
                assert second.wait(PATIENCE_S) == 1
            assert "already running with this state_dir" in machine.log()
            assert agent.poll() is None
        machine.buffer.close()


def test_a_second_daemon_on_one_machine_is_refused(tmp_path: Path) -> None:
    model = linear_model(tmp_path / "m.onnx", features=4, seed=1)
    make_package(tmp_path / "m.edgepkg", model, name="m")
    pipeline = f'name = "p"\npackage = "{tmp_path}/m.edgepkg"\n[pipeline.source]\nkind = "csv"\npath = "/dev/stdin"\n'
    config = configuration(tmp_path, pipeline)
    with Daemon(tmp_path, config, stdin=subprocess.PIPE) as daemon:
        daemon.wait_for("event=started")
        (tmp_path / "second").mkdir()
        with Daemon(tmp_path / "second", config, stdin=subprocess.PIPE) as second:
            assert second.process.wait(60) == 1
            second._threads[1].join()
            assert "is edgeinfer already running with this state_dir?" in second.log[-1]
        assert daemon.process.poll() is None
