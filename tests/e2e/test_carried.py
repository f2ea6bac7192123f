"""Results on a stick, with the real command at both ends: exported, imported, and the receipt brought back."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents import DEVICE, PATIENT, agent_process, append, fill, write_config
from brokers import Mosquitto, free_port
from consoles import RunningConsole, console_toml
from edgeinfer.runtime.buffer import Buffer
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.handoff import SyncDb
from waiting import wait_until

Run = tuple[int, dict[str, Any], str]


def edgeinfer(*arguments: object) -> Run:
    """Status, the document that was printed, and what a person reads."""
    command = [sys.executable, "-m", "edgeinfer", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    return done.returncode, json.loads(done.stdout) if done.stdout.startswith("{") else {}, done.stdout + done.stderr


@pytest.fixture
def buffer(tmp_path: Path) -> Iterator[Buffer]:
    (tmp_path / "runtime").mkdir()
    made = fill(tmp_path, 3000)
    yield made
    made.close()


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    folder = tmp_path / "stick"
    folder.mkdir()
    return folder


def device_toml(folder: Path, *keys: str) -> Path:
    path = folder / "edgeinfer.toml"
    path.write_text(
        f'device = "{DEVICE}"\nstate_dir = "{folder}/runtime"\n[sync]\nstate_dir = "{folder}/sync"\n'
        f"[trust]\nconsole_keys = {json.dumps(keys)}\n"
    )
    return path


def console_key(folder: Path) -> str:
    return (folder / "data" / "keys" / "console.pub").read_text().strip()


def acknowledged(folder: Path, epoch: int) -> int:
    try:
        with SyncDb(folder / "sync" / "sync.db", read_only=True) as db:
            return db.acknowledged(epoch)
    except BufferStorageError:  # just being made
        return 0


def test_to_a_running_console_and_back(tmp_path: Path, buffer: Buffer, stick: Path) -> None:
    status, exported, text = edgeinfer("export", stick, "--config", device_toml(tmp_path), "--json")
    assert status == 0, text
    assert (exported["first_seq"], exported["last_seq"], exported["complete"]) == (1, 3000, True)
    with RunningConsole(console_toml(tmp_path, free_port())) as console:
        status, imported, text = edgeinfer("console", "import", stick, "--console", console.url, "--json")
        assert status == 0, text
        (epoch,) = imported["epochs"]
        assert (epoch["stored"], epoch["duplicates"], epoch["gaps"], epoch["acknowledged"]) == (3000, 0, [], 3000)
        assert epoch["linked"] == epoch["chunks"] > 1
        audit = console.audit(DEVICE)
        assert (audit["stored"], audit["gaps"], audit["duplicates"], audit["complete"]) == (3000, 0, 0, True)
        status, imported, _ = edgeinfer("console", "import", stick, "--console", console.url, "--json")
        assert (status, imported["epochs"][0]["stored"], imported["epochs"][0]["duplicates"]) == (0, 0, 3000)
    config = device_toml(tmp_path, console_key(tmp_path))
    status, taken, text = edgeinfer("export", stick, "--config", config, "--receipt", "--json")
    assert (status, taken) == (0, {"epoch": buffer.epoch, "seq": 3000, "recorded": True}), text
    assert acknowledged(tmp_path, buffer.epoch) == 3000
    append(buffer, 3000, 100)
    status, exported, text = edgeinfer("export", stick, "--config", config, "--json")
    assert (status, exported["first_seq"], exported["last_seq"]) == (0, 3001, 3100), text
    status, audit_document, text = edgeinfer("audit", "--config", config, "--json")
    assert (status, audit_document["acknowledged"], audit_document["gaps"]) == (0, 3000, []), text


def test_to_a_stopped_console(tmp_path: Path, buffer: Buffer, stick: Path) -> None:
    config = console_toml(tmp_path, free_port())
    edgeinfer("export", stick, "--config", device_toml(tmp_path))
    status, imported, text = edgeinfer("console", "import", stick, "--config", config, "--json")
    assert (status, imported["epochs"][0]["acknowledged"]) == (0, buffer.durable_seq), text
    with RunningConsole(config) as console:
        assert console.audit(DEVICE)["stored"] == 3000
        status, _, text = edgeinfer("console", "import", stick, "--config", config)
        assert status == 1
        assert "another process is writing it" in text


def test_with_tokens(tmp_path: Path, buffer: Buffer, stick: Path) -> None:
    del buffer
    (tmp_path / "token").write_text("a-token-of-the-console\n")
    edgeinfer("export", stick, "--config", device_toml(tmp_path))
    web = 'token_file = "token"\ntoken_for_reading = true'
    with RunningConsole(console_toml(tmp_path, free_port(), web=web)) as console:
        status, _, text = edgeinfer("console", "import", stick, "--console", console.url)
        assert (status, "token" in text) == (1, True), text
        arguments = ("--console", console.url, "--token-file", tmp_path / "token")
        status, _, text = edgeinfer("console", "import", stick, *arguments)
        assert status == 0, text
        assert "unbroken" in text


def test_a_damaged_stick_is_said_and_refused(tmp_path: Path, buffer: Buffer, stick: Path) -> None:
    del buffer
    edgeinfer("export", stick, "--config", device_toml(tmp_path))
    (file,) = stick.glob("*.chunks")
    raw = file.read_bytes()
    file.write_bytes(raw[:1000] + b"?" + raw[1001:])
    with RunningConsole(console_toml(tmp_path, free_port())) as console:
        status, _, text = edgeinfer("console", "import", stick, "--console", console.url)
        assert status == 3
        assert f"REFUSED    {file.name}" in text
        assert console.get("/api/devices")["devices"] == []


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as started:
        yield started


def test_a_running_agent_takes_the_receipt_and_goes_on_from_there(
    tmp_path: Path, buffer: Buffer, stick: Path, broker: Mosquitto
) -> None:
    """The device has a broker again, and a console that knows what came by stick."""
    config = console_toml(tmp_path, broker.port)
    edgeinfer("export", stick, "--config", device_toml(tmp_path))
    status, _, text = edgeinfer("console", "import", stick, "--config", config)
    assert status == 0, text
    with agent_process(write_config(tmp_path, broker, ack_timeout_s=PATIENT.ack_timeout_s)):
        wait_until((tmp_path / "sync" / "sync.db").exists, what="the agent")
        device = device_toml(tmp_path, console_key(tmp_path))
        status, taken, text = edgeinfer("export", stick, "--config", device, "--receipt", "--json")
        assert (status, taken.get("recorded")) == (0, False), text
        wait_until(lambda: acknowledged(tmp_path, buffer.epoch) == 3000, what="the agent to record it")
        with RunningConsole(config) as console:
            wait_until(lambda: bool(console.get("/api/status")["broker"]["connected"]), what="the console's connection")
            append(buffer, 3000, 200)
            wait_until(lambda: console.audit(DEVICE)["stored"] == 3200, what="the rest over the broker")
            assert console.audit(DEVICE)["duplicates"] == 0
