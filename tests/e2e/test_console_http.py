"""An agent that posts its results to a console over HTTP: both real, and killed in the middle."""

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import DEVICE, agent_process, append, fill
from brokers import free_port
from consoles import RunningConsole, console_toml
from edgeinfer.runtime.buffer import Buffer
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.handoff import SyncDb
from waiting import wait_until

TOKEN = "the-token-of-this-device"


@pytest.fixture
def buffer(tmp_path: Path) -> Iterator[Buffer]:
    (tmp_path / "runtime").mkdir()
    made = fill(tmp_path, 2000)
    yield made
    made.close()


def write_config(folder: Path, url: str, *, token: str = "") -> Path:
    file = folder / "sync.toml"
    file.write_text(
        f'device = "{DEVICE}"\nstate_dir = "{folder}/sync"\nruntime_dir = "{folder}/runtime"\n'
        "[broker]\nport = 9\n[upload]\npersist_interval_s = 0.05\n"
        f'[sink]\nkind = "http"\nurl = "{url}/api/v1/ingest/{DEVICE}"\nbatch_bytes = 4000\nretry_max_s = 0.2\n'
        "refused_wait_s = 0.2\n"
    )
    if token:
        (folder / "token").write_text(token)
        file.write_text(file.read_text() + f'token_file = "{folder}/token"\n')
    return file


def acknowledged(folder: Path, epoch: int) -> int:
    try:
        with SyncDb(folder / "sync" / "sync.db", read_only=True) as db:
            return db.acknowledged(epoch)
    except BufferStorageError:  # just being made
        return 0


def test_killed_on_both_sides_everything_is_stored_once(tmp_path: Path, buffer: Buffer) -> None:
    port, rng = free_port(), random.Random(5)
    toml = tmp_path / "console.toml"
    toml.write_text(f'data_dir = "data"\n[broker]\nport = 9\n[web]\nport = {port}\n')
    config = write_config(tmp_path, f"http://127.0.0.1:{port}")
    for round_ in range(3):
        with RunningConsole(toml) as console, agent_process(config) as agent:
            before = console.audit(DEVICE)["stored"]
            append(buffer, 2000 + 5000 * round_, 5000)
            wait_until(lambda before=before: console.audit(DEVICE)["stored"] > before, what="some results")  # type: ignore[misc]  # a default is bound to the loop's value
            threading.Event().wait(rng.random() * 0.2)
            if rng.random() < 0.5:
                agent.kill()
            console.kill()
    append(buffer, 17_000, 500)
    with RunningConsole(toml) as console, agent_process(config):
        wait_until(lambda: acknowledged(tmp_path, buffer.epoch) == 17_500, what="everything")
        audit = console.audit(DEVICE)
        assert (audit["stored"], audit["gaps"], audit["missing"], audit["complete"]) == (17_500, 0, 0, True)
        (device,) = console.get("/api/devices")["devices"]
        assert device["id"] == DEVICE


def test_a_device_with_a_token_of_its_own(tmp_path: Path, buffer: Buffer) -> None:
    toml = console_toml(tmp_path, free_port(), web='token_file = "console.token"')
    (tmp_path / "console.token").write_text("the-token-of-the-console")
    (tmp_path / "data" / "devices").mkdir(parents=True)
    secret = tmp_path / "data" / "devices" / f"{DEVICE}.token"
    secret.write_text("another-token-altogether")
    with RunningConsole(toml) as console, agent_process(write_config(tmp_path, console.url, token=TOKEN)):
        log = tmp_path / "agent.log"
        wait_until(lambda: "SinkRefusedError" in log.read_text(), what="the refusal to be said")
        assert console.get("/api/devices")["devices"] == []
        secret.write_text(TOKEN)  # given while both run
        wait_until(lambda: acknowledged(tmp_path, buffer.epoch) == 2000, what="everything")
        assert TOKEN not in log.read_text()
