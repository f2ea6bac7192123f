"""The daemon against what comes and goes: the agent's database, and updates through it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from daemon_process import Daemon, configuration, results_of
from edgeinfer.runtime.agent_view import AgentView
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.handoff import RuntimeDb, SyncDb
from edgeinfer.runtime.results import Kind
from packages import linear_model, make_package
from update_device import CONSOLE, RELEASE, UpdateDevice
from waiting import wait_until


def test_an_agent_that_comes_after_the_daemon_is_heard(tmp_path: Path) -> None:
    """Its database was closed cleanly before: opened then, it would be a frozen file for ever."""
    path = tmp_path / "sync.db"
    view = AgentView(path)
    assert view.db() is None
    assert view.acknowledged(1) == 0
    for seq in (5, 9):
        with SyncDb(path) as agent:
            agent.set_acknowledged(1, seq)
            assert view.acknowledged(1) == seq
            agent.set_acknowledged(1, seq + 1)
            assert view.acknowledged(1) == seq + 1
        assert view.acknowledged(1) == seq + 1
    path.unlink()
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    assert view.acknowledged(1) == 0
    path.write_bytes(b"rubbish" * 1000)
    assert view.acknowledged(1) == 0


@pytest.fixture
def device(tmp_path: Path) -> Iterator[tuple[UpdateDevice, Path]]:
    """A device that is not running, and its configuration."""
    made = UpdateDevice(tmp_path)
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32))
    config = configuration(
        tmp_path,
        f'name = "p"\npackage = "{made.first}"\n[pipeline.source]\nkind = "tensors"\npath = "{tmp_path}/x.npz"\n'
        "repeat = true",
        extra=(
            f'trial_s = 0.2\n[sync]\nstate_dir = "{tmp_path}/sync"\n[buffer]\nflush_interval_s = 0.1\n'
            f'[trust]\nrelease_keys = ["{RELEASE.public.hex()}"]\nconsole_keys = ["{CONSOLE.public.hex()}"]'
        ),
    )
    made.db.close()
    yield made, config
    made.sync.close()


def state(folder: Path) -> str:
    with RuntimeDb(folder / "state" / "runtime.db", read_only=True) as db:
        return db.update().state


def test_a_running_daemon_swaps_and_loses_no_frame(device: tuple[UpdateDevice, Path]) -> None:
    made, config = device
    with Daemon(made.folder, config) as daemon:
        wait_until(lambda: daemon.pipeline("p").get("results", 0) > 100)
        made.wish(made.package("2.0.0"), number=1)
        wait_until(lambda: state(made.folder) == "COMMITTED")
        made.sync.set_counter("job:job-1", 1)
        wait_until(lambda: state(made.folder) == "IDLE")
        bad = made.package("3.0.0", golden_offset=0.5)
        made.wish(bad, number=2)
        wait_until(lambda: state(made.folder) == "FAILED")
        wait_until(lambda: daemon.status()["models"]["m"]["version"] == "2.0.0")
        made.sync.set_acknowledged(daemon.status()["buffer"]["epoch"], 1)
        daemon.end()
        assert not any("Traceback" in line for line in daemon.log), daemon.log
        found = daemon.pipeline("p")
    assert found["captured"] == sum(found["frames"].values())
    assert found["frames"]["failed"] == 0
    rows = results_of(made.folder, "p")
    swaps = [row.extra for row in rows if row.kind is Kind.SWAP]
    assert [(swap["from"], swap["to"]) for swap in swaps if swap] == [("1.0.0", "2.0.0")]
    frames = [row.frame for row in rows if row.kind is Kind.CLASSIFICATION]
    assert frames == list(range(found["frames"]["inferred"])), "no frame is missing around the swap"
    with RuntimeDb(made.folder / "state" / "runtime.db") as db:
        row = db.update()
    assert row.finished == {"job-1": "COMMITTED", "job-2": "FAILED"}
    assert "golden outputs differ" in row.reason


def test_a_new_version_runs_in_shadow_before_its_trial(device: tuple[UpdateDevice, Path]) -> None:
    """One that agrees is tried and committed; one that finds other classes is refused, and never makes a result."""
    made, config = device
    config.write_text(
        config.read_text().replace("trial_s = 0.2", "trial_s = 0.2\nshadow = {frames = 40, min_agreement = 0.9}")
    )
    with Daemon(made.folder, config) as daemon:
        wait_until(lambda: daemon.pipeline("p").get("results", 0) > 100)
        made.wish(made.package("2.0.0"), number=1)
        wait_until(lambda: state(made.folder) == "COMMITTED")
        made.sync.set_counter("job:job-1", 1)
        wait_until(lambda: state(made.folder) == "IDLE")
        other = linear_model(made.folder / "other.onnx", seed=5)
        make_package(made.folder / "3.0.0.edgepkg", other, name="m", version="3.0.0", golden=2, key=RELEASE)
        made.wish(made.folder / "3.0.0.edgepkg", number=2)
        wait_until(lambda: state(made.folder) == "FAILED")
        assert daemon.status()["models"]["m"]["version"] == "2.0.0"
        daemon.end()
        assert not any("Traceback" in line for line in daemon.log), daemon.log
        found = daemon.pipeline("p")
    assert found["captured"] == sum(found["frames"].values())
    rows = results_of(made.folder, "p")
    shadows = [row.extra for row in rows if row.kind is Kind.SHADOW and row.extra]
    assert [shadow["frames"] for shadow in shadows] == [40, 40]
    assert shadows[0]["agreement"] == 1.0, "the same model under another version"
    assert float(shadows[1]["agreement"]) < 0.9
    assert [(row.extra or {})["to"] for row in rows if row.kind is Kind.SWAP] == ["2.0.0"]
    with RuntimeDb(made.folder / "state" / "runtime.db") as db:
        assert "in shadow it agreed" in db.update().reason


def test_a_daemon_killed_in_an_update_goes_on_after_its_restart(device: tuple[UpdateDevice, Path]) -> None:
    made, config = device
    made.wish(made.package("2.0.0"), number=1)
    for _ in range(2):
        with Daemon(made.folder, config) as daemon:
            daemon.wait_for("event=update state=")
            daemon.process.kill()
    with Daemon(made.folder, config) as daemon:
        wait_until(lambda: state(made.folder) == "COMMITTED")
        wait_until(lambda: daemon.status()["models"]["m"]["version"] == "2.0.0")
        daemon.end()
    with Daemon(made.folder, config) as daemon:
        wait_until(lambda: daemon.status().get("models", {}).get("m", {}).get("version") == "2.0.0")
        daemon.end()


def test_only_what_the_console_has_is_dropped(tmp_path: Path) -> None:
    linear_model(tmp_path / "m.onnx")
    make_package(tmp_path / "m.edgepkg", tmp_path / "m.onnx", name="m")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "x.npz", x=rng.normal(size=(200, 8)).astype(np.float32))
    config = configuration(
        tmp_path,
        f'name = "p"\npackage = "{tmp_path}/m.edgepkg"\n[pipeline.source]\nkind = "tensors"\n'
        f'path = "{tmp_path}/x.npz"\nrepeat = true',
        extra=f'[sync]\nstate_dir = "{tmp_path}/sync"\n[buffer]\nmax_bytes = 1048576\nflush_interval_s = 0.1',
    )
    with Daemon(tmp_path, config) as daemon, SyncDb(tmp_path / "sync" / "sync.db") as agent:
        # An eighth of the buffer is one segment.
        wait_until(lambda: daemon.durable_seq() > 30_000)
        with BufferReader(tmp_path / "state" / "buffer.db") as reader:
            held = reader.first_seq()
            agent.set_acknowledged(reader.epoch, held + 100)
            agent.set_acknowledged(reader.epoch + 1, 1 << 40)
            chunks = reader.chunks(0, limit=1_000_000)
            assert chunks[0].first_seq == held == 1
            agent.set_acknowledged(reader.epoch, chunks[-1].last_seq)
            wait_until(lambda: reader.first_seq() > 1)
            assert reader.first_seq() <= chunks[-1].last_seq + 1
        daemon.end()
