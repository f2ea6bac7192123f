"""The daemon on a disk that takes nothing any more: it can be ended and reloaded, and says what is lost."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from daemon_process import Daemon, configuration
from edgeinfer.runtime.buffer import Buffer, BufferConfig
from edgeinfer.runtime.manifest import AnomalyPost, WindowPre
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
        wait_until(lambda: daemon.durable_seq() > 0, timeout_s=20)
        stick(folder, "stuck")
        daemon.wait_for("event=buffer_write_failed")
        seen = daemon.pipeline("host")["results"]
        wait_until(lambda: daemon.pipeline("host")["results"] > seen + 1, timeout_s=20)  # and then memory is full
        assert daemon.end() < 2.5
        daemon._threads[1].join(5)
        assert daemon.process.returncode == 1
        assert any("event=buffer_lost results=" in line for line in daemon.log)
        assert any("results could not be made durable" in line for line in daemon.log)


def test_a_reload_goes_through(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with start(folder, monkeypatch) as daemon:
        daemon.wait_for("event=started")
        wait_until(lambda: daemon.durable_seq() > 0, timeout_s=20)
        stick(folder, "stuck")
        daemon.wait_for("event=buffer_write_failed")
        configuration(folder, pipeline(folder, 0.03), extra="[buffer]\nflush_interval_s = 0.05")
        daemon.send(signal.SIGHUP)
        daemon.wait_for("event=reloaded")
        stick(folder, "well")
        daemon.wait_for("event=buffer_write_recovered")
        assert daemon.end() < 2.5
        assert daemon.process.returncode == 0


def test_a_writer_that_has_crashed_leaves_the_watchdog_unfed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with start(folder, monkeypatch, watchdog_s=0.4) as daemon:
        wait_until(lambda: daemon.messages.count("WATCHDOG=1") >= 2, timeout_s=20)
        stick(folder, "crash")
        daemon.wait_for("event=buffer_writer_crashed")
        fed = daemon.messages.count("WATCHDOG=1")
        wait_until(lambda: "internal error" in daemon.status()["buffer"]["error"], timeout_s=20)
        assert daemon.messages.count("WATCHDOG=1") <= fed + 1
        assert daemon.end() < 2.5


def test_the_buffer_says_whether_it_lives(tmp_path: Path) -> None:
    buffer = Buffer(BufferConfig(path=str(tmp_path / "b.db")), acknowledged=lambda _: 0)
    assert buffer.alive
    assert buffer.close()
    assert not buffer.alive
