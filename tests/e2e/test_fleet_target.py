"""Candidates are timed on a device of the fleet: real broker, console, agent and daemon."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from edgeinfer.console.bench_client import ConsoleFleet
from edgeinfer.quantize.candidate import Candidate
from edgeinfer.quantize.targets.bundle import write_bundle
from edgeinfer.quantize.targets.fleet import DeviceTarget
from edgeinfer.runtime.bench_order import BenchAnswer
from edgeinfer.runtime.errors import ConsoleError, RemoteError, SignatureError, UsageError
from edgeinfer.runtime.handoff import RuntimeDb
from edgeinfer.runtime.package import PackageFile
from edgeinfer.runtime.trust import SigningKey
from loops import DEVICE, Installation, free_of_tracebacks
from packages import linear_model
from waiting import wait_until

EXAMPLES = Path(__file__).parents[2] / "quantize" / "edgeinfer" / "quantize" / "examples"
SAMPLE = np.ones((1, 8), np.float32)
BENCH = """
import sys
from pathlib import Path
from edgeinfer.cli import _guarded
from edgeinfer.console.bench_client import ConsoleFleet
fleet = ConsoleFleet(sys.argv[1], None)
sys.exit(_guarded(lambda: fleet.bench(sys.argv[2], Path(sys.argv[3]), seconds=600, threads=1, timeout_s=3600)))
"""


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("loop")
    made = Installation(folder, interval_s=0.05)
    with (folder / "sync.toml").open("a") as config:
        config.write(f'[trust]\nconsole_keys = ["{made.console_key.public.hex()}"]\n')
    with (folder / "console.toml").open("a") as config:
        config.write(f'[trust]\nrelease_keys = ["{made.release_key.public.hex()}"]\n')
    made.release_key.save(folder / "release.key")
    with made:
        wait_until(lambda: made.online() and described(made), what="the device to say who it is")
        yield made
    assert free_of_tracebacks(folder)


def described(loop: Installation) -> bool:
    return "onnx" in loop.console.get(f"/api/devices/{DEVICE}")["engines"]


@pytest.fixture
def target(loop: Installation) -> DeviceTarget:
    return DeviceTarget(f"device:{DEVICE}", ConsoleFleet(loop.console.url, None), key=loop.release_key, seconds=0.2)


def candidates(folder: Path) -> list[Candidate]:
    return [
        Candidate(name, "onnx", precision, linear_model(folder / f"{name}.onnx", seed=seed), quantized=seed > 0)
        for seed, (name, precision) in enumerate((("onnx-fp32", "fp32"), ("onnx-u8", "int8")))
    ]


def nothing_left(loop: Installation) -> bool:
    """Neither on the device nor at the console."""
    models = loop.folder / "device" / "models"
    left = [*models.glob("incoming/*bench*"), *models.glob("bench"), *(loop.folder / "console" / "uploads").glob("*")]
    return not left


@pytest.mark.timeout(1200)
def test_quantize_measures_on_a_device_while_it_goes_on(loop: Installation, tmp_path: Path) -> None:
    before = loop.durable()
    done = subprocess.run(
        [
            sys.executable, "-m", "edgeinfer", "quantize", str(EXAMPLES / "digits-2.0.onnx"),
            "--data", str(EXAMPLES / "digits-samples.npz"), "--labels", str(EXAMPLES / "digits-labels.txt"),
            "--task", "classification", "--name", "digits", "--version", "9.0.0", "-o", str(tmp_path / "d.edgepkg"),
            "--target", f"device:{DEVICE}", "--console", loop.console.url, "--time-budget", "20s",
            "--sign-key", str(loop.folder / "release.key"), "--no-page", "--json",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [row["latency_us"] > 0 for row in report["candidates"] if row["variant"] == "onnx-fp32"] == [True]
    with PackageFile(tmp_path / "d.edgepkg") as package:
        assert package.signatures
    assert loop.durable() > before
    assert [one["name"] for one in loop.console.get("/api/packages")["packages"]] == []
    with RuntimeDb(loop.folder / "device" / "runtime.db", read_only=True) as db:
        assert set(db.models()) == {"m"}
    wait_until(lambda: nothing_left(loop), what="the packages to be gone")


def test_a_target_says_what_the_device_is_and_times(loop: Installation, target: DeviceTarget, tmp_path: Path) -> None:
    assert "onnx" in target.engines
    assert target.machine
    found = target.time(candidates(tmp_path), sample=SAMPLE, reference="onnx-fp32")
    assert [one.error for one in found.values()] == ["", ""]
    assert found["onnx-fp32"].ratio == 1.0
    assert found["onnx-u8"].ratio_low <= found["onnx-u8"].ratio <= found["onnx-u8"].ratio_high
    assert not loop.console.log.read_text().count("Traceback")


def bench_answer(loop: Installation) -> BenchAnswer:
    with RuntimeDb(loop.folder / "device" / "runtime.db", read_only=True) as db:
        return db.bench()


def test_an_interrupt_ends_it_on_the_device_too(loop: Installation, tmp_path: Path) -> None:
    """Of the twenty minutes that it would take, few seconds have passed."""
    write_bundle(tmp_path / "c.edgepkg", candidates(tmp_path), SAMPLE, key=loop.release_key)
    begun, before = (
        [sys.executable, "-c", BENCH, loop.console.url, DEVICE, str(tmp_path / "c.edgepkg")],
        bench_answer(loop),
    )
    with subprocess.Popen(begun, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until(lambda: bench_answer(loop).order != before.order, what="the daemon to take it up")
            assert not bench_answer(loop).done
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=120)
        finally:
            process.kill()
    assert (process.returncode, said) == (130, "")
    wait_until(lambda: bench_answer(loop).done, what="the daemon to end it")
    assert "called off" in bench_answer(loop).error
    wait_until(lambda: nothing_left(loop), what="the packages to be gone")
    assert loop.console.get(f"/api/devices/{DEVICE}")["online"]


def test_what_is_not_signed_by_a_release_key_is_refused_by_the_console(loop: Installation, tmp_path: Path) -> None:
    fleet = ConsoleFleet(loop.console.url, None)
    stranger = DeviceTarget(f"device:{DEVICE}", fleet, key=SigningKey.generate(), seconds=0.2)
    with pytest.raises(SignatureError, match="none of the 1 trusted keys"):
        stranger.time(candidates(tmp_path), sample=SAMPLE, reference="onnx-fp32")
    loop.make_package("3.0.0", seed=3, signed=False)
    with pytest.raises(SignatureError, match="expected a signature"):
        fleet.bench(DEVICE, loop.package("3.0.0"), seconds=0.1, threads=1, timeout_s=30)
    wait_until(lambda: nothing_left(loop), what="the packages to be gone")


def test_who_cannot_be_asked(loop: Installation) -> None:
    fleet = ConsoleFleet(loop.console.url, None)
    with pytest.raises(ConsoleError, match="no device 'nobody'"):
        DeviceTarget("device:nobody", fleet, key=loop.release_key)
    with pytest.raises(UsageError, match="device:ID"):
        DeviceTarget("device:", fleet, key=loop.release_key)
    with pytest.raises(UsageError, match="no device"):
        fleet.bench("nobody", loop.package("1.0.0"), seconds=0.1, threads=1, timeout_s=30)
    answer = httpx.get(f"{loop.console.url}/api/v1/commands/none", timeout=60)
    assert answer.status_code == 404
    wait_until(lambda: nothing_left(loop), what="the packages to be gone")


def test_a_device_without_its_daemon_says_so_in_time(loop: Installation) -> None:
    loop.daemon.kill()
    try:
        with pytest.raises(RemoteError, match="the time that it was given is over"):
            ConsoleFleet(loop.console.url, None).bench(
                DEVICE, loop.package("1.0.0"), seconds=0.1, threads=1, timeout_s=8
            )
    finally:
        loop.daemon.start()


def test_a_device_that_went_away_is_told_at_once(loop: Installation, target: DeviceTarget, tmp_path: Path) -> None:
    loop.agent.kill()
    wait_until(lambda: not loop.online(), what="the device to be offline")
    with pytest.raises(ConsoleError, match="not online"):
        target.time(candidates(tmp_path), sample=SAMPLE, reference="onnx-fp32")
    with pytest.raises(RemoteError, match="not online"):
        DeviceTarget(f"device:{DEVICE}", ConsoleFleet(loop.console.url, None), key=loop.release_key)
    loop.agent.start()
    wait_until(loop.online, what="the device to be back")
