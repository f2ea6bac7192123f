"""The daemon on a disk that takes nothing any more: it can be ended and reloaded, and says what is lost."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from daemon_process import Daemon, configuration
from edgeinfer.runtime.buffer import Buffer, BufferConfig
from edgeinfer.runtime.buffer_store import NewChunk
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.manifest import AnomalyPost, WindowPre
from edgeinfer.runtime.results import Kind, Result
from packages import identity_model, make_package
from waiting import wait_until

# `edgeinfer run`, whose buffer takes ten results in memory and none on disk once the file "stuck" is there.
STUCK = """
import sys
from pathlib import Path
from edgeinfer.runtime import buffer, buffer_store
from edgeinfer.runtime.errors import BufferStorageError
buffer._MAX_PENDING = 10
write = buffer_store.BufferStore.write
def refuse(self, chunks):
    kind = Path(sys.argv[1]).read_text()
    if kind == "stuck":
        raise BufferStorageError("the disk is stuck")
    if kind == "crash":
        raise RuntimeError("a mistake")
    write(self, chunks)
buffer_store.BufferStore.write = refuse
from edgeinfer.cli import main
sys.exit(main(["run", "--config", sys.argv[2]]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_package(
        tmp_path / "vitals.edgepkg",
        identity_model(tmp_path / "vitals.onnx", features=20),
        name="vitals",
        pre=WindowPre(4),
        post=AnomalyPost(0.5),
    )
    (tmp_path / "disk").write_text("well")
    return tmp_path


def pipeline(folder: Path, interval_s: float) -> str:
    return (
        f'name = "host"\npackage = "{folder}/vitals.edgepkg"\n'
        f'[pipeline.source]\nkind = "host"\ninterval_s = {interval_s}\nwindow = 4'
    )


def start(folder: Path, monkeypatch: pytest.MonkeyPatch, *, watchdog_s: float = 0.0) -> Daemon:
    config = configuration(folder, pipeline(folder, 0.02), extra="[buffer]\nflush_interval_s = 0.05")
    popen = subprocess.Popen

    def with_a_stuck_disk(_command: list[str], **options: object) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", STUCK, str(folder / "disk"), str(config)]
        return popen(command, **options)  # type: ignore[call-overload,no-any-return]  # passed through

    monkeypatch.setattr(subprocess, "Popen", with_a_stuck_disk)
    return Daemon(folder, config, watchdog_s=watchdog_s)


def stick(folder: Path, how: str) -> None:
    """At once: the daemon must not read half of it."""
    (folder / "new").write_text(how)
    os.replace(folder / "new", folder / "disk")  # noqa: PTH105 - atomic, and said so


def test_it_ends_in_time_and_says_how_many_results_are_lost(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with start(folder, monkeypatch) as daemon:
        daemon.wait_for("event=started")
        wait_until(lambda: daemon.durable_seq() > 0)
        stick(folder, "stuck")
        daemon.wait_for("event=buffer_write_failed")
        seen = daemon.pipeline("host")["results"]
        wait_until(lambda: daemon.pipeline("host")["results"] > seen + 1)  # and then memory is full
        daemon.end()
        daemon._threads[1].join()
        assert daemon.process.returncode == 1
        assert any("event=buffer_lost results=" in line for line in daemon.log)
        assert any("results could not be made durable" in line for line in daemon.log)


def test_a_reload_goes_through(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with start(folder, monkeypatch) as daemon:
        daemon.wait_for("event=started")
        wait_until(lambda: daemon.durable_seq() > 0)
        stick(folder, "stuck")
        daemon.wait_for("event=buffer_write_failed")
        configuration(folder, pipeline(folder, 0.03), extra="[buffer]\nflush_interval_s = 0.05")
        daemon.send(signal.SIGHUP)
        daemon.wait_for("event=reloaded")
        stick(folder, "well")
        daemon.wait_for("event=buffer_write_recovered")
        daemon.end()
        assert daemon.process.returncode == 0


def test_a_writer_that_has_crashed_leaves_the_watchdog_unfed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with start(folder, monkeypatch, watchdog_s=0.4) as daemon:
        wait_until(lambda: daemon.messages.count("WATCHDOG=1") >= 2)
        stick(folder, "crash")
        daemon.wait_for("event=buffer_writer_crashed")
        wait_until(lambda: "internal error" in daemon.status()["buffer"]["error"])
        wait_for_a_turn(daemon)
        fed = daemon.messages.count("WATCHDOG=1")
        wait_for_a_turn(daemon)
        assert daemon.messages.count("WATCHDOG=1") == fed
        daemon.end()


def wait_for_a_turn(daemon: Daemon) -> None:
    """Until the daemon has told its status again: each second, five times as long as it waits to feed the watchdog."""
    told_ns = daemon.status()["t_ns"]
    wait_until(lambda: bool(daemon.status()["t_ns"] != told_ns), what="another status")


@pytest.mark.parametrize("refuses", [False, True])
def test_a_disk_that_is_only_slow_gets_more_time_than_one_that_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: bool
) -> None:
    buffer = Buffer(BufferConfig(path=str(tmp_path / "b.db"), flush_interval_s=3600), acknowledged=lambda _: 0)
    write, written = buffer._store.write, threading.Event()

    def slow(chunks: Sequence[NewChunk]) -> None:
        if refuses:
            raise BufferStorageError("the disk is stuck")
        threading.Event().wait(1.0)  # what a disk takes
        write(chunks)
        written.set()

    monkeypatch.setattr(buffer._store, "write", slow)
    buffer.append("p", Result(Kind.ANOMALY, 1))
    if refuses:
        assert not buffer.flush(0.0)
        wait_until(lambda: buffer.error != "")
    assert buffer.close(timeout_s=0.05, slow_s=300.0) is not refuses
    assert written.is_set() is not refuses


def test_the_buffer_says_whether_it_lives(tmp_path: Path) -> None:
    buffer = Buffer(BufferConfig(path=str(tmp_path / "b.db")), acknowledged=lambda _: 0)
    assert buffer.alive
    assert buffer.close()
    assert not buffer.alive
