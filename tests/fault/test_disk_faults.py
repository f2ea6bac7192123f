"""The real daemon on a disk that fails, is full or has become read-only: it lives, says so, and goes on when that ends.

What fails are the daemon's own system calls (strace injects the error), or the file system is small and full.
"""

import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon_process import Daemon, configuration
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.chunk import TOMBSTONE
from edgeinfer.runtime.codec import decode
from edgeinfer.runtime.control import call
from edgeinfer.runtime.results import OF_A_FRAME
from fault_report import FaultReport
from packages import linear_model, make_package
from small_disks import filled, small_disk
from waiting import wait_until

FEATURES = 8
SYNCS = "fdatasync,fsync"
CHANGES = f"pwrite64,ftruncate,unlink,rename,{SYNCS}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a package, and a series that lasts as long as any test."""
    model = linear_model(tmp_path / "m.onnx", features=FEATURES, seed=1)
    make_package(tmp_path / "m.edgepkg", model, name="m")
    rows = "\n".join(",".join(f"{(i * 31 + c * 17) % 101}" for c in range(FEATURES)) for i in range(200_000))
    header = ",".join(f"c{c}" for c in range(FEATURES))
    (tmp_path / "series.csv").write_text(f"{header}\n{rows}\n")
    return tmp_path


@contextmanager
def daemon_in(folder: Path) -> Iterator[Daemon]:
    config = configuration(
        folder,
        f'name = "door"\npackage = "{folder}/m.edgepkg"\n'
        f'[pipeline.source]\nkind = "csv"\npath = "{folder}/series.csv"\nwindow = 1\ninterval_s = 0.005',
        extra="[buffer]\nflush_interval_s = 0.05",
    )
    with Daemon(folder, config) as daemon:
        wait_until(lambda: daemon.durable_seq() > 0, what="the first durable results")
        yield daemon


@contextmanager
def failing(daemon: Daemon, calls: str, error: str) -> Iterator[None]:
    """Within, these system calls of the daemon fail."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("there is no strace: apt-get install strace")
    command = [
        strace,
        "-f",
        "-p",
        str(daemon.process.pid),
        "-e",
        f"trace={calls}",
        "-e",
        f"inject={calls}:error={error}",
    ]
    with subprocess.Popen([*command, "-o", "/dev/null"], stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        said = tracer.stderr.readline()
        if "attached" not in said:
            pytest.skip(f"strace may not attach here: {said.strip()}")
        threading.Thread(target=tracer.stderr.read, daemon=True).start()
        try:
            yield
        finally:
            tracer.send_signal(signal.SIGTERM)
            tracer.wait(30)


def trouble(daemon: Daemon) -> str:
    """What the daemon says of its buffer when it is asked: the status on the disk is as old as the trouble."""
    answer = call(daemon.folder / "state", {"do": "status"})
    return str(answer["status"]["buffer"]["error"])


def said_so(daemon: Daemon, *, times: int) -> None:
    """The log and the daemon's answer name the trouble, and the daemon lives."""
    daemon.wait_for("event=buffer_write_failed", times=times)
    wait_until(lambda: "cannot be written" in trouble(daemon), what="the daemon to name its trouble")
    assert daemon.process.poll() is None


def recovered(daemon: Daemon, *, times: int) -> None:
    daemon.wait_for("event=buffer_write_recovered", times=times)
    wait_until(lambda: not trouble(daemon), what="the daemon to be well again")


def counts(folder: Path) -> dict[str, int]:
    """Of a buffer whose daemon has ended: every number is there, and every frame of the series once."""
    with BufferReader(folder / "state" / "buffer.db") as reader:
        made, states = reader.durable_seq(), reader.frames()["door"]
        chunks = reader.chunks(0, limit=1_000_000)
        counted = reader.audit_counts()
    frames: list[int] = []
    following, evicted = 1, 0
    for chunk in chunks:
        assert chunk.first_seq == following
        following = chunk.last_seq + 1
        if chunk.codec == TOMBSTONE:
            evicted += chunk.n
        else:
            results = decode(chunk.codec, chunk.body, n=chunk.n)
            frames += [result.frame for result in results if result.kind in OF_A_FRAME]
    assert following == made + 1
    assert (counted["made"], counted["durable"], counted["evicted"]) == (made, made, evicted)
    assert all(early < late for early, late in itertools.pairwise(frames)), "doubled, or out of order"
    if not evicted:
        assert len(frames) == states["inferred"], "every frame that was counted as inferred has its result"
        assert sum(states.values()) >= frames[-1] + 1, "every frame that was captured is counted"
    return {"made": made, "durable": made, "evicted": evicted, "lost": 0, "doubled": 0}


def ended(daemon: Daemon) -> None:
    daemon.end()
    assert daemon.process.returncode == 0, "\n".join(daemon.log[-20:])
    assert not [line for line in daemon.log if "Traceback" in line]


@pytest.mark.parametrize(
    ("fault", "calls", "error"),
    [
        ("fdatasync says EIO", SYNCS, "EIO"),
        ("every write says EIO", CHANGES, "EIO"),
        ("read-only", CHANGES, "EROFS"),
        ("disk quota", "pwrite64,ftruncate", "EDQUOT"),
    ],
)
def test_a_disk_that_fails_for_a_while(folder: Path, faults: FaultReport, fault: str, calls: str, error: str) -> None:
    chance = random.Random(faults.seed)
    bouts = faults.size(ci=2, full=20)
    with daemon_in(folder) as daemon:
        for bout in range(1, bouts + 1):
            with failing(daemon, calls, error):
                said_so(daemon, times=bout)
                threading.Event().wait(chance.random())  # any moment of its tries
            recovered(daemon, times=bout)
        ended(daemon)
    faults.add(fault, times=bouts, **counts(folder))


def test_a_start_on_a_disk_that_refuses_is_refused_with_its_reason(folder: Path) -> None:
    """And the next start, on a disk that is well, goes on with what was there."""
    with small_disk(folder / "state", mebibytes=16):
        with daemon_in(folder) as daemon:
            ended(daemon)
        before = counts(folder)["made"]
        subprocess.run(["mount", "-o", "remount,ro", str(folder / "state")], check=True)
        with Daemon(folder, folder / "edgeinfer.toml") as refused:
            refused.process.wait(60)
            refused._threads[1].join()
            assert refused.process.returncode == 1
            assert any("cannot be opened" in line for line in refused.log), refused.log
        subprocess.run(["mount", "-o", "remount,rw", str(folder / "state")], check=True)
        with daemon_in(folder) as daemon:
            wait_until(lambda: daemon.durable_seq() > before + 20)
            ended(daemon)


def doctor(folder: Path) -> str:
    """What `edgeinfer doctor` finds wrong."""
    command = [sys.executable, "-m", "edgeinfer", "doctor", "--config", str(folder / "edgeinfer.toml"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    return " ".join(finding["mend"] for finding in json.loads(done.stdout) if not finding["ok"])


def test_a_disk_that_is_full_for_a_while(folder: Path, faults: FaultReport) -> None:
    bouts = faults.size(ci=2, full=20)
    with small_disk(folder / "state", mebibytes=24), daemon_in(folder) as daemon:
        for bout in range(1, bouts + 1):
            with filled(folder / "state"):
                said_so(daemon, times=bout)
                assert "disk is full" in doctor(folder)
            recovered(daemon, times=bout)
        ended(daemon)
        faults.add("disk full", times=bouts, **counts(folder))
