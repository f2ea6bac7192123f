"""Runs the real daemon for a measurement: until its sources end, or for some seconds."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERTZ = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
Command = list[str]


def configure(work: Path, pipelines: str, *, device: str = "") -> Path:
    """`edgeinfer.toml` in `work` with the given [[pipeline]] sections; `device` is put before them."""
    work.mkdir(parents=True, exist_ok=True)
    config = work / "edgeinfer.toml"
    config.write_text(f'device = "bench"\nstate_dir = "{work / "state"}"\nlog_level = "ERROR"\n{device}\n{pipelines}')
    return config


def command(config: Path, *options: str) -> Command:
    return [sys.executable, "-m", "edgeinfer", "run", "--config", str(config), *options]


def run_until_end(config: Path) -> list[dict[str, Any]]:
    """The pipelines of the document that `run --until-end --json` prints. Every frame has to be accounted for."""
    done = subprocess.run(command(config, "--until-end", "--json"), capture_output=True, check=True)
    pipelines: list[dict[str, Any]] = json.loads(done.stdout)["pipelines"]
    for pipeline in pipelines:
        assert sum(pipeline["frames"].values()) == pipeline["captured"], pipeline
    return pipelines


@contextmanager
def running(config: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command(config), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def cpu_s(pid: int) -> float:
    """CPU seconds of the process so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / HERTZ


def threads_and_files(pid: int) -> tuple[int, int]:
    return len(list(Path(f"/proc/{pid}/task").iterdir())), len(list(Path(f"/proc/{pid}/fd").iterdir()))


def wait_for(condition: Any, *, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)
