"""Console and agent, both real, over a real broker: what the device's buffer made durable arrives once."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
import pytest

from agents import DEVICE, agent_process, append, fill, write_config
from brokers import Mosquitto
from consoles import RunningConsole, console_toml, made_package
from edgeinfer.console.commands import deploy, device_audit, device_log, fleet_rollouts
from edgeinfer.runtime.handoff import RuntimeDb, SyncDb, UpdateRow
from edgeinfer.runtime.package import sha256_file
from edgeinfer.runtime.results import Kind, Result
from edgeinfer.runtime.trust import open_envelope
from edgeinfer.sync import messages
from edgeinfer.sync.mqtt import BrokerConfig, MqttLink
from stored import stored_results
from waiting import wait_until


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as started:
        yield started


@pytest.fixture
def console(tmp_path: Path, broker: Mosquitto) -> Iterator[RunningConsole]:
    with RunningConsole(console_toml(tmp_path, broker.port)) as started:
        yield started


def _stored(folder: Path) -> list[tuple[int, int]]:
    return [(result.seq, result.frame) for result in stored_results(folder / "data" / "console.db", DEVICE)]


def test_every_side_killed_while_results_go_up(tmp_path: Path, broker: Mosquitto, console: RunningConsole) -> None:
    buffer = fill(tmp_path, 3000)
    config = write_config(tmp_path, broker)

    def stored() -> int:
        return int(console.audit(DEVICE)["stored"])

    with agent_process(config):
        wait_until(lambda: stored() > 0, what="the first results")
    console.kill()
    append(buffer, 3000, 1000)
    with agent_process(config):
        console.start()
        wait_until(lambda: stored() >= 3500, what="more results")
        broker.kill()
        append(buffer, 4000, 1000)
        broker.start()
        wait_until(lambda: stored() >= 5000, what="all results")
        with SyncDb(tmp_path / "sync" / "sync.db", read_only=True) as db:
            wait_until(lambda: db.acknowledged(buffer.epoch) == 5000, what="the agent to have heard of it")
    buffer.close()
    assert _stored(tmp_path) == [(n, n - 1) for n in range(1, 5001)]
    audit = console.audit(DEVICE)
    assert (audit["gaps"], audit["missing"], audit["evicted"], audit["complete"]) == (0, 0, 0, True)
    # The agent was killed: the broker tells its last will.
    wait_until(lambda: console.get("/api/devices")["devices"][0]["online"] is False, what="the device to go offline")


def test_a_package_goes_down_and_its_job_is_followed(
    tmp_path: Path, broker: Mosquitto, console: RunningConsole
) -> None:
    """The daemon's part, the update machine, is played by the test: it writes the rows that the agent follows."""
    buffer = fill(tmp_path, 10)
    package = made_package(tmp_path / "p.edgepkg", content=bytes(range(256)) * 3000)
    with RuntimeDb(tmp_path / "runtime" / "runtime.db") as runtime, agent_process(write_config(tmp_path, broker)):
        wait_until(lambda: bool(console.get("/api/devices")["devices"]), what="the device to be known")
        deploy(package, to=f"device:{DEVICE}", console_url=console.url)
        assignment = _assigned(tmp_path, console)
        row = UpdateRow(
            state="DOWNLOADING",
            desired_version=1,
            job=assignment.job,
            model=assignment.model,
            version=assignment.version,
            digest=assignment.digest,
            blob_sha256=assignment.blob_sha256,
            blob_bytes=assignment.blob_bytes,
        )
        runtime.set_update(row)
        blob = tmp_path / "runtime" / "models" / "incoming" / f"{assignment.blob_sha256}.edgepkg"
        wait_until(blob.exists, what="the package to arrive")
        assert sha256_file(blob) == sha256_file(package)
        for state in ("GATE", "COMMITTED"):
            runtime.set_update(UpdateRow(state=state, desired_version=1, job=assignment.job, swap_ms=1.5))
            wait_until(lambda wanted=state: _state(console) == wanted, what=state)  # type: ignore[misc]  # no default is inferred
    assert fleet_rollouts(console_url=console.url)[0]["state"] == "FINISHED"
    buffer.close()


def test_a_job_that_ends_while_the_console_is_away_is_heard_when_it_is_back(
    tmp_path: Path, broker: Mosquitto, console: RunningConsole
) -> None:
    def told() -> bool:
        with SyncDb(tmp_path / "sync" / "sync.db", read_only=True) as db:
            return db.counter(f"job:{assignment.job}") == 1

    fill(tmp_path, 10).close()
    with RuntimeDb(tmp_path / "runtime" / "runtime.db") as runtime, agent_process(write_config(tmp_path, broker)):
        wait_until(lambda: bool(console.get("/api/devices")["devices"]), what="the device to be known")
        deploy(made_package(tmp_path / "p.edgepkg"), to=f"device:{DEVICE}", console_url=console.url)
        assignment = _assigned(tmp_path, console)
        row = UpdateRow(state="TRIAL", desired_version=1, job=assignment.job, model=assignment.model)
        runtime.set_update(row)
        wait_until(lambda: _state(console) == "TRIAL", what="the trial")
        console.kill()
        with _witness(broker, "ei/v1/+/d/+/up/job/#") as witness:
            runtime.set_update(msgspec.structs.replace(row, state="COMMITTED", finished={row.job: "COMMITTED"}))
            wait_until(lambda: witness.receive(0.1) is not None, what="the end to be said to nobody")
        assert not told()
        console.start()
        wait_until(lambda: _state(console) == "COMMITTED", what="the end to be said again")
        wait_until(told, what="the daemon to be told")
    assert fleet_rollouts(console_url=console.url)[0]["state"] == "FINISHED"


def test_a_picture_and_the_log_come_up_and_the_chain_is_unbroken(
    tmp_path: Path, broker: Mosquitto, console: RunningConsole
) -> None:
    buffer = fill(tmp_path, 2000)
    name = "000000001-1700000000000000000-door-7.jpg"
    picture = b"\xff\xd8\xff" + bytes(range(256)) * 3000
    snapshots = tmp_path / "runtime" / "snapshots"
    snapshots.mkdir()
    (snapshots / name).write_bytes(picture)
    buffer.append("door", Result(Kind.EVENT, 1_700_000_000_000_000_000, extra={"rule": "intruder", "snapshot": name}))
    assert buffer.flush(60.0)
    config = write_config(tmp_path, broker)
    public = console.get("/api/v1/keys")["console"]["public"]
    config.write_text(f'{config.read_text()}[trust]\nconsole_keys = ["{public}"]\n[blobs]\nsnapshots = true\n')
    with agent_process(config):
        wait_until(lambda: console.audit(DEVICE)["stored"] == 2001, what="all results")
        wait_until(lambda: bool(console.get(f"/api/v1/devices/{DEVICE}/blobs")["blobs"]), what="the picture")
        (blob,) = console.get(f"/api/v1/devices/{DEVICE}/blobs")["blobs"]
        assert httpx.get(console.url + blob["path"], timeout=60).content == picture
        assert "<b>intruder</b>" in httpx.get(f"{console.url}/devices/{DEVICE}", timeout=60).text
        log = device_log(DEVICE, lines=5, console_url=console.url)
        assert log["complete"]
        assert 1 <= len(log["lines"]) <= 5
    buffer.close()
    audit = device_audit(DEVICE, console_url=console.url)
    assert (audit["verdict"], audit["made"], audit["stored"], audit["gaps"]) == ("good", 2001, 2001, 0)
    assert audit["chain"]["unbroken"]
    assert audit["chain"]["verified"] == audit["chain"]["chunks"] > 0


@contextmanager
def _witness(broker: Mosquitto, topics: str) -> Iterator[MqttLink]:
    """Somebody who listens and answers nothing."""
    link = MqttLink(BrokerConfig(port=broker.port), client_id="witness", will=None, subscriptions=[(topics, 1)])
    link.start()
    try:
        wait_until(lambda: link.connected, what="the witness")
        yield link
    finally:
        link.stop()


def _assigned(folder: Path, console: RunningConsole) -> messages.Assignment:
    """What the agent stored for the daemon, its signature checked as the daemon would."""
    with SyncDb(folder / "sync" / "sync.db", read_only=True) as db:
        wait_until(lambda: db.desired() is not None, what="the assignment to be stored")
        desired = db.desired()
    assert desired is not None
    public = bytes.fromhex(console.get("/api/keys")["console"]["public"])
    state = messages.decode(open_envelope(desired.envelope, [public]), messages.DesiredState)
    assert (state.device, state.version) == (DEVICE, desired.version)
    return state.assignments[0]


def _state(console: RunningConsole) -> str:
    return str(fleet_rollouts(console_url=console.url)[0]["deployments"][0]["state"])
