"""A device that has lost a part of its state starts, infers, and can still be updated."""

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from daemon_process import Daemon, configuration
from edgeinfer.runtime import daemon as daemon_module
from edgeinfer.runtime import update_thread
from edgeinfer.runtime.agent_view import AgentView
from edgeinfer.runtime.errors import BufferStorageError, PackageError, StorageError
from edgeinfer.runtime.handoff import RuntimeDb, UpdateRow
from edgeinfer.runtime.settings import RuntimeConfig
from edgeinfer.runtime.store import Store
from update_device import CONSOLE, RELEASE, UpdateDevice
from waiting import wait_until


@pytest.fixture
def device(tmp_path: Path) -> Iterator[tuple[UpdateDevice, Path]]:
    """A device that is not running and has version 2.0.0 deployed over 1.0.0, and its configuration."""
    made = UpdateDevice(tmp_path)
    made.wish(made.package("2.0.0"), number=5)
    made.run_until("COMMITTED")
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32))
    config = configuration(
        tmp_path,
        f'name = "p"\npackage = "{made.first}"\n[pipeline.source]\nkind = "tensors"\npath = "{tmp_path}/x.npz"\n'
        "repeat = true",
        extra=(
            f'trial_s = 0.2\n[sync]\nstate_dir = "{tmp_path}/sync"\n'
            f'[trust]\nrelease_keys = ["{RELEASE.public.hex()}"]\nconsole_keys = ["{CONSOLE.public.hex()}"]'
        ),
    )
    made.db.close()
    yield made, config
    made.sync.close()


def version(daemon: Daemon) -> str:
    found: str = daemon.status().get("models", {}).get("m", {}).get("version", "")
    return found


def test_a_daemon_starts_without_the_configured_file(device: tuple[UpdateDevice, Path]) -> None:
    made, config = device
    made.first.unlink()
    with Daemon(made.folder, config) as daemon:
        wait_until(lambda: version(daemon) == "2.0.0")
        assert any("configured_package_unusable" in line for line in daemon.log)
        daemon.end()


def test_a_daemon_starts_with_a_damaged_database_and_updates_again(device: tuple[UpdateDevice, Path]) -> None:
    made, config = device
    path = made.folder / "state" / "runtime.db"
    path.write_bytes(os.urandom(8192))
    with Daemon(made.folder, config) as daemon:
        # It begins with what is configured; the console's wish, which still holds, brings the deployed one back.
        wait_until(lambda: list(path.parent.glob("runtime.db.damaged-*")) != [])
        daemon.wait_for("event=update state=ASSIGNED")
        made.store.blob("0" * 64).write_bytes(b"")
        with RuntimeDb(path, read_only=True) as db:
            blob = db.update().blob_sha256
        made.store.blob(blob).write_bytes(made.package("2.0.0").read_bytes())
        wait_until(lambda: version(daemon) == "2.0.0")
        daemon.wait_for("event=update state=COMMITTED")
        made.wish(made.package("3.0.0"), number=4)
        daemon.wait_for("found 4")
        daemon.end()
        assert not any("Traceback" in line for line in daemon.log), daemon.log


def test_the_updater_s_thread_does_not_die(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it cannot begin with today, it may begin with tomorrow."""
    begun: list[object] = []

    def broken(*_: object, **__: object) -> object:
        begun.append(object())
        raise BufferStorageError("disk is full") if len(begun) % 2 else KeyError("a mistake")

    monkeypatch.setattr(update_thread, "Updater", broken)
    made, stop = UpdateDevice(tmp_path), threading.Event()
    updating = update_thread.UpdateThread(
        made.config,
        store=made.store,
        db=made.db,
        slots=made.slots,
        running=made.running,
        agent=AgentView(None),
        stop=stop,
    )
    updating.start()
    wait_until(lambda: len(begun) >= 3)
    stop.set()
    updating._thread.join(60.0)
    assert not updating._thread.is_alive()
    made.close()


def test_a_device_without_an_agent_loads_no_updater_unless_it_is_in_the_middle_of_an_update(tmp_path: Path) -> None:
    config = RuntimeConfig(device="d", state_dir=str(tmp_path / "state"))
    for state, expected in (("IDLE", False), ("TRIAL", True)):
        made = daemon_module.Daemon(tmp_path / "x.toml", config)
        made._db.set_update(UpdateRow(state=state))
        made._start_updater()
        assert (made._updater is not None) is expected
        made.stop.set()
        made.buffer.close()


def test_a_full_disk_says_nothing_about_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = UpdateDevice(tmp_path)
    path = device.package("2.0.0")
    store = Store(tmp_path / "other")
    for step in ("fsync", "rename", "mkdir"):
        with monkeypatch.context() as patch:

            def full(*_: object, **__: object) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

            patch.setattr(os if step == "fsync" else Path, step, full)
            with pytest.raises(StorageError, match="No space left"):
                store.install(path)
        assert not list((tmp_path / "other/models/packages").iterdir())
    store.install(path)
    device.close()


def test_a_file_that_cannot_be_read_now_is_not_taken_for_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would be unpacked over, or given up for good."""
    device = UpdateDevice(tmp_path)
    for number, kind in ((errno.EMFILE, StorageError), (errno.EIO, PackageError)):
        with monkeypatch.context() as patch:

            def fail(*_: object, number: int = number, **__: object) -> bytes:
                raise OSError(number, "cannot")

            patch.setattr(Path, "read_bytes", fail)
            with pytest.raises(kind):
                device.store.open(device.active())
    device.close()


def test_another_package_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    device = UpdateDevice(tmp_path)
    before = sorted((tmp_path / "state/models/packages").iterdir())
    with pytest.raises(PackageError, match="expected package 000"):
        device.store.install(device.package("2.0.0"), digest="0" * 64)
    assert sorted((tmp_path / "state/models/packages").iterdir()) == before
    device.close()
