"""`edgeinfer models` as a person at the device uses it: with a daemon that runs, and with none."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daemon_process import Daemon, configuration, results_of
from edgeinfer.runtime.handoff import RuntimeDb
from edgeinfer.runtime.locking import lock, unlock
from edgeinfer.runtime.package import PackageFile
from edgeinfer.runtime.results import Kind
from edgeinfer.runtime.rows import UpdateRow
from edgeinfer.runtime.slots import Slots
from edgeinfer.runtime.store import Store
from edgeinfer.runtime.trust import SigningKey
from packages import linear_model, make_package
from waiting import wait_until

KEY = SigningKey(b"r" * 32)


class Device:
    """Its folder, its configuration, packages to bring, and the command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        linear_model(folder / "m.onnx")
        rows = "\n".join(
            ",".join(f"{value:.4f}" for value in row) for row in np.random.default_rng(0).random((5000, 8))
        )
        (folder / "x.csv").write_text(",".join(f"c{i}" for i in range(8)) + f"\n{rows}\n")
        pipeline = (
            f'name = "door"\npackage = "{self.package("1.0.0")}"\n'
            f'[pipeline.source]\nkind = "csv"\npath = "{folder}/x.csv"\nwindow = 1\ninterval_s = 0.01'
        )
        extra = f'trial_s = 0.2\n[trust]\nrelease_keys = ["{KEY.public.hex()}"]\n[buffer]\nflush_interval_s = 0.05'
        self.config = configuration(folder, pipeline, extra=extra)

    def package(self, version: str, *, key: SigningKey | None = KEY, offset: float = 0.0) -> Path:
        path = self.folder / f"m-{version}.edgepkg"
        if not path.exists():
            make_package(
                path, self.folder / "m.onnx", name="m", version=version, golden=2, golden_offset=offset, key=key
            )
        return path

    def digest(self, version: str) -> str:
        with PackageFile(self.package(version)) as package:
            return package.digest

    def run(self, *arguments: str, config: bool = True) -> "subprocess.CompletedProcess[str]":
        where = ["--config", str(self.config)] if config else ["--state-dir", str(self.folder / "state")]
        command = [sys.executable, "-m", "edgeinfer", "models", *arguments, *where]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)

    def ok(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def installed(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.ok("list", "--json"))["models"]
        return found

    def slots(self) -> dict[str, list[str]]:
        return {row["version"]: row["slots"] for row in self.installed()}

    def at_rest(self) -> None:
        """As a daemon leaves it that has run the first version and has ended."""
        state = self.folder / "state"
        with RuntimeDb(state / "runtime.db") as db:
            Slots(db, Store(state), release_keys=()).from_config(self.package("1.0.0"))
        (state / "buffer.db").touch()

    def started(self) -> Daemon:
        daemon = Daemon(self.folder, self.config)
        daemon.wait_for("event=started")
        wait_until(lambda: daemon.pipeline("door").get("results", 0) > 0, what="a first result")
        return daemon


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


@pytest.fixture
def daemon(device: Device) -> Iterator[Daemon]:
    with device.started() as running:
        yield running


def test_a_version_is_brought_run_and_gone_back_from(device: Device, daemon: Daemon) -> None:
    (before,) = device.installed()
    assert (before["version"], before["slots"], before["loaded"]) == ("1.0.0", ["active", "configured"], True)
    assert before["variant"] == "onnx-fp32"
    assert before["bytes"] is not None

    # A file that the daemon itself may not open: it is handed over open.
    package = device.package("2.0.0")
    package.chmod(0o600)
    said = device.ok("activate", "m", str(package))
    assert said.startswith(f"m 2.0.0 ({device.digest('2.0.0')[:12]}) runs now; ")
    assert device.slots() == {"2.0.0": ["active"], "1.0.0": ["configured", "previous"]}
    wait_until(lambda: daemon.status()["models"]["m"]["version"] == "2.0.0", what="the status")

    done = json.loads(device.ok("rollback", "m", "--json"))
    assert (done["version"], done["running"], done["changed"]) == ("1.0.0", True, True)
    assert device.ok("activate", "m", device.digest("2.0.0")[:10]).startswith("m 2.0.0")
    assert device.ok("activate", "m", "2.0.0").endswith("is active already\n")
    daemon.wait_for("event=model_activated model=m", times=3)
    daemon.end()

    found = results_of(device.folder, "door")
    swaps = [(result.extra or {})["to"] for result in found if result.kind is Kind.SWAP]
    assert swaps == ["2.0.0", "1.0.0", "2.0.0"]
    frames = [result.frame for result in found if result.kind is Kind.CLASSIFICATION]
    assert frames == sorted(set(frames))
    counted = [result.extra or {} for result in found if result.kind is Kind.FRAMES]
    assert sum(int(counts.get("inferred", 0)) for counts in counted) == len(frames), "no frame was lost between them"
    assert not any("failed" in counts for counts in counted)

    with device.started() as again:
        assert again.status()["models"]["m"]["version"] == "2.0.0", "what a person chose survives a restart"


def test_what_a_check_refuses_has_status_3(device: Device, daemon: Daemon) -> None:
    for package, reason in (
        (device.package("2.1.0", key=None), "expected a signature"),
        (device.package("2.2.0", key=SigningKey(b"x" * 32)), "none of the 1 trusted keys"),
        (device.package("2.3.0", offset=0.5), "golden outputs differ"),
    ):
        done = device.run("activate", "m", str(package))
        assert done.returncode == 3
        assert reason in done.stderr
    for arguments, reason in (
        (("activate", "m", "9.9.9"), "has no installed version '9.9.9'"),
        (("activate", "gate", "1.0.0"), "no package of model 'gate' is installed here"),
        (("activate", "m", str(device.folder / "no.edgepkg")), "no such file"),
        (("rollback", "m"), "no version of model 'm' before"),
    ):
        done = device.run(*arguments)
        assert (done.returncode, reason in done.stderr) == (2, True), done.stderr
    assert device.slots() == {"1.0.0": ["active", "configured"]}
    assert daemon.process.poll() is None


def test_a_pin_is_kept_by_the_daemon(device: Device, daemon: Daemon) -> None:
    assert "is pinned to" in device.ok("pin", "m")
    assert [row["pinned"] for row in device.installed()] == [True]
    daemon.send(signal.SIGKILL)
    daemon.process.wait()
    assert [row["pinned"] for row in device.installed()] == [True]
    with device.started():
        assert "yes" in device.ok("list")
        assert device.ok("unpin", "m") == "m is not pinned any more\n"


def test_without_a_daemon_the_command_does_it(device: Device) -> None:
    done = device.run("list")
    assert (done.returncode, "holds no device" in done.stderr) == (2, True)
    device.at_rest()
    assert device.ok("activate", "m", str(device.package("2.0.0"))).endswith("uses it from its next start on\n")
    assert device.slots() == {"2.0.0": ["active"], "1.0.0": ["configured", "previous"]}
    assert [row["loaded"] for row in device.installed()] == [None, None]
    refused = device.run("activate", "m", str(device.package("2.1.0", key=None)))
    assert (refused.returncode, "expected a signature" in refused.stderr) == (3, True)
    nameless = device.run("activate", "m", str(device.package("2.1.0")), config=False)
    assert (nameless.returncode, "expected --config" in nameless.stderr) == (2, True)
    assert device.run("pin", "m", config=False).returncode == 0
    with device.started() as daemon:
        wait_until(lambda: daemon.status()["models"]["m"]["version"] == "2.0.0", what="the status")
        assert [row["pinned"] for row in device.installed()] == [True, False]


def test_two_never_write(device: Device) -> None:
    """A daemon that holds its lock and cannot be asked: it has just been started, or is another user's."""
    device.at_rest()
    held = lock(device.folder / "state" / "buffer.db", hint="")
    try:
        done = device.run("pin", "m")
        assert done.returncode == 1
        assert "the daemon runs and cannot be asked" in done.stderr
        assert device.run("list").returncode == 0, "to look, no lock is needed"
    finally:
        unlock(held)
    assert device.run("pin", "m").returncode == 0


def test_an_update_that_is_under_way_goes_first(device: Device) -> None:
    device.at_rest()
    with RuntimeDb(device.folder / "state" / "runtime.db") as db:
        db.set_update(UpdateRow(state="DOWNLOADING", job="job-9", model="m", version="3.0.0", digest="0" * 64))
    done = device.run("activate", "m", str(device.package("2.0.0")))
    assert done.returncode == 1
    assert "an update is under way: m 3.0.0 is DOWNLOADING (job job-9)" in done.stderr
    assert "edgeinfer models pin m" in done.stderr
