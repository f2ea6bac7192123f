"""`edgeinfer demo`: the whole loop in one command, and nothing of it left running."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from waiting import wait_until

COMMAND = [sys.executable, "-m", "edgeinfer", "demo", "--no-browser"]


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        return subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, "TMPDIR": str(folder)},
        )


def processes_of(folder: Path) -> list[str]:
    """Command lines of processes that mention the demo's folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if f"{folder}/edgeinfer-demo" in line:
            found.append(line)
    return found


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_whole_loop_loses_nothing(tmp_path: Path) -> None:
    demo = start(tmp_path, "--seconds", "12", "--json")
    status = demo.wait(timeout=900)

    stderr = (tmp_path / "err").read_text()
    assert status == 0, stderr
    document = json.loads((tmp_path / "out").read_text())
    results = document["results"]
    assert results["durable"] == results["stored"] == results["acknowledged"] > 0
    assert results["gaps"] == 0
    assert sum(document["frames"].values()) > 0
    assert document["frames"]["failed"] == 0
    assert document["swap"]["from"] == "1.0.0"
    assert document["swap"]["to"] == "2.0.0"
    assert document["swap"]["gap_ms"] > 0
    assert document["offline"]["buffered"] > 0
    assert document["page"].startswith("http://127.0.0.1:")
    assert "Traceback" not in stderr
    assert processes_of(tmp_path) == []
    assert list(tmp_path.glob("edgeinfer-demo-*")) == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_every_process(tmp_path: Path, how: signal.Signals) -> None:
    demo = start(tmp_path, "--seconds", "60")
    wait_until(lambda: "results arrive" in (tmp_path / "err").read_text(), timeout_s=600, what="the first results")
    assert len(processes_of(tmp_path)) >= 3

    demo.send_signal(how)
    status = demo.wait(timeout=240)

    assert status == 130
    assert "Traceback" not in (tmp_path / "err").read_text()
    wait_until(lambda: not processes_of(tmp_path), what="the end of every process")


def test_a_camera_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    if Path("/dev/video0").exists():
        pytest.skip("this machine has a camera")
    demo = start(tmp_path, "--camera")
    assert demo.wait(timeout=240) == 2
    assert "/dev/video0: no such camera" in (tmp_path / "err").read_text()
