"""The updater over a real store, real databases and real packages: what commits, and what is refused and why."""

import errno
import hashlib
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edgeinfer.runtime.errors import BufferStorageError, GateError, ModelError
from edgeinfer.runtime.handoff import Download, UpdateRow
from edgeinfer.runtime.learn.settings import ShadowConfig
from edgeinfer.runtime.manifest import SCHEMA_VERSION, ClassifyPost, Manifest, TensorPre, Variant
from edgeinfer.runtime.package import encode_manifest, write_package
from edgeinfer.runtime.settings import GateConfig
from edgeinfer.runtime.trust import SigningKey
from edgeinfer.runtime.update import MAX_ATTEMPTS
from edgeinfer.runtime.verify import PackageRequest
from update_device import RELEASE, UpdateDevice, answer_here
from waiting import wait_until


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[UpdateDevice]:
    """Its checks are asked for in this process: quicker, and the same code."""
    monkeypatch.setattr("edgeinfer.runtime.updater.ask", answer_here)
    made = UpdateDevice(tmp_path)
    yield made
    made.close()


def assert_old_one_runs(device: UpdateDevice) -> None:
    old = device.digest(device.first)
    assert device.active() == old
    assert device.running.digest == old
    assert "candidate" not in device.slots.of("m")
    assert device.store.holds(old)
    assert not list(device.store.incoming.iterdir()), "a bad blob is not found again"


@pytest.mark.parametrize("how", ["here", "subprocess"])
def test_a_good_update_is_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    if how == "here":
        monkeypatch.setattr("edgeinfer.runtime.updater.ask", answer_here)
    device = UpdateDevice(tmp_path)
    path = device.package("2.0.0")
    job = device.wish(path, number=5)
    seen = []
    while not device.updater.row.finished:
        device.updater.tick()
        seen.append(device.updater.row.state)
    assert seen == [
        "METADATA_OK",
        "DOWNLOADED",
        "STAGED",
        "GATE",
        "SHADOW",
        "TRIAL",
        "COMMITTED",
    ]
    row = device.updater.row
    assert row.finished == {job: "COMMITTED"}
    assert (row.desired_version, row.version, row.swap_ms, row.reason) == (5, "2.0.0", 12.5, "")
    new = device.digest(path)
    slots = device.slots.of("m")
    assert (slots["active"], slots["previous"]) == (new, device.digest(device.first))
    assert device.running.swaps[1:] == [new]
    assert not list(device.store.incoming.iterdir())
    device.updater.tick()
    assert device.updater.row.state == "COMMITTED", "until the agent has told the console"
    device.sync.set_counter(f"job:{job}", 1)
    device.run_until("REPORTED")
    device.run_until("IDLE")
    device.updater.tick()
    assert device.updater.row.state == "IDLE", "the job is done once"
    # A restart of the daemon stays with the deployed version although the configuration names the first one.
    assert device.slots.from_config(device.first).digest == new
    device.close()


def test_a_blob_is_waited_for(device: UpdateDevice) -> None:
    path = device.package("2.0.0")
    device.wish(path, number=1, deliver=False)
    row = device.run_until("DOWNLOADING")
    for _ in range(5):
        device.updater.tick()
    assert device.updater.row.state == "DOWNLOADING"
    (device.store.incoming / f"{row.blob_sha256}.edgepkg").write_bytes(path.read_bytes())
    device.run_until("COMMITTED")


def test_a_download_that_cannot_be_had_fails(device: UpdateDevice) -> None:
    device.wish(device.package("2.0.0"), number=1, deliver=False)
    row = device.run_until("DOWNLOADING")
    device.sync.set_download(Download(row.blob_sha256, row.blob_bytes, 0, done=False, error="console has no such blob"))
    assert "no such blob" in device.run_until("FAILED").reason
    assert_old_one_runs(device)


def test_a_newer_wish_replaces_one_that_is_downloading(device: UpdateDevice) -> None:
    device.wish(device.package("2.0.0"), number=1, deliver=False)
    device.run_until("DOWNLOADING")
    device.wish(device.package("3.0.0"), number=2)
    assert device.run_until("COMMITTED").version == "3.0.0"


@pytest.mark.parametrize(
    ("falsify", "log"),
    [
        ({"key": SigningKey(b"x" * 32)}, "none of the 1 trusted keys"),
        ({"device": "dev-2"}, "found one for 'dev-2'"),
        ({"digest": "zz"}, "cannot be read"),
    ],
    ids=["signature", "device", "content"],
)
def test_an_assignment_that_is_not_for_us_is_left_alone(
    device: UpdateDevice, caplog: pytest.LogCaptureFixture, falsify: dict[str, object], log: str
) -> None:
    device.wish(device.package("2.0.0"), number=1, **falsify)  # type: ignore[arg-type]  # differs by case
    for _ in range(5):
        device.updater.tick()
    assert device.updater.row.state == "IDLE"
    assert len([record for record in caplog.records if log in record.getMessage()]) == 1, "said once"
    device.wish(device.package("2.0.0"), number=2)
    device.run_until("COMMITTED")


def test_an_older_assignment_is_refused(device: UpdateDevice, caplog: pytest.LogCaptureFixture) -> None:
    """Replayed, with the agent claiming a newer version for it: what counts is what was signed."""
    device.wish(device.package("2.0.0"), number=7)
    device.run_until("COMMITTED")
    device.wish(device.package("3.0.0"), number=6)
    desired = device.sync.desired()
    assert desired is not None
    device.sync.set_desired(msgspec.structs.replace(desired, version=8))
    device.restart()
    for _ in range(5):
        device.updater.tick()
    assert device.active() == device.digest(device.package("2.0.0"))
    assert "version 7 or newer, found 6" in caplog.text


@pytest.mark.parametrize(
    ("options", "changes", "reason"),
    [
        ({"key": SigningKey(b"x" * 32)}, {}, "none of the 1 trusted keys"),
        ({"key": None}, {}, "found none"),
        ({}, {"digest": "0" * 64}, "expected the assigned package"),
        ({}, {"version": "2.0.1"}, "expected package m 2.0.1"),
        ({"golden_offset": 0.1}, {}, "golden outputs differ"),
        ({"name": "other"}, {"model": "m"}, "expected package m 2.0.0"),
        ({"name": "other"}, {}, "no pipeline of this device"),
    ],
    ids=["signature", "unsigned", "digest", "version", "golden", "model", "unknown model"],
)
def test_a_package_that_is_not_right_is_refused(
    device: UpdateDevice, options: dict[str, object], changes: dict[str, object], reason: str
) -> None:
    path = device.package("2.0.0", **options)
    job = device.wish(path, number=1, deliver="no pipeline" not in reason, **changes)  # type: ignore[arg-type]  # differs by case
    row = device.run_until("FAILED", "COMMITTED")
    assert row.state == "FAILED"
    assert reason in row.reason
    assert row.finished == {job: "FAILED"}
    assert_old_one_runs(device)
    for _ in range(3):
        device.updater.tick()
    assert device.updater.row == row, "a job that failed is not begun again"
    device.wish(device.package("3.0.0"), number=2)
    assert device.run_until("COMMITTED").version == "3.0.0"


def test_a_blob_that_was_changed_is_refused(device: UpdateDevice) -> None:
    path = device.package("2.0.0")
    device.wish(path, number=1)
    (blob,) = device.store.incoming.iterdir()
    content = bytearray(blob.read_bytes())
    content[content.index(b"MatMul")] ^= 1
    blob.write_bytes(content)
    assert "m" in device.run_until("FAILED").reason
    assert_old_one_runs(device)


def test_a_model_that_this_device_cannot_load_is_refused(device: UpdateDevice) -> None:
    """The files fit the manifest, but the model is no model."""
    path = device.folder / "2.0.0.edgepkg"
    broken = b"no model"
    variant = Variant("onnx-fp32", "onnx", "m.onnx", hashlib.sha256(broken).hexdigest(), len(broken), "fp32", (), ())
    manifest = encode_manifest(
        Manifest(SCHEMA_VERSION, "m", "2.0.0", "classification", TensorPre(), ClassifyPost(), (variant,))
    )
    write_package(path, manifest, {"m.onnx": broken}, [RELEASE.sign(manifest)])
    device.wish(path, number=1)
    assert "cannot load it" in device.run_until("FAILED").reason
    assert_old_one_runs(device)


def test_a_trial_that_fails_is_rolled_back(device: UpdateDevice) -> None:
    device.wish(device.package("2.0.0"), number=1)
    device.running.failing = 3
    row = device.run_until("ROLLED_BACK")
    assert "3 inferences in a row failed" in row.reason
    assert list(row.finished.values()) == ["ROLLED_BACK"]
    assert device.running.swaps == [
        device.digest(device.first),
        device.digest(device.package("2.0.0")),
        device.active(),
    ]
    assert_old_one_runs(device)


def test_a_trial_that_cannot_begin_is_rolled_back(device: UpdateDevice) -> None:
    device.wish(device.package("2.0.0"), number=1)
    device.running.refuses = ModelError("out of memory")
    assert device.run_until("ROLLED_BACK").reason == "out of memory"
    assert_old_one_runs(device)


def in_shadow(device: UpdateDevice, *, min_agreement: float) -> UpdateRow:
    """Walk an update until the new version runs in shadow, with the configuration asking for it."""
    shadow = ShadowConfig(frames=10, min_agreement=min_agreement)
    device.updater.config = device.config = msgspec.structs.replace(device.config, shadow=shadow)
    device.running.agreement = None
    device.wish(device.package("2.0.0"), number=1)
    device.run_until("SHADOW")
    for _ in range(20):
        device.updater.tick()
    assert device.updater.row.state == "SHADOW", "no frame has come yet"
    assert device.running.digest == device.active(), "the active version goes on"
    return device.updater.row


def test_in_shadow_a_version_that_agrees_goes_on_to_its_trial(device: UpdateDevice) -> None:
    row = in_shadow(device, min_agreement=0.9)
    assert device.running.shadows == [row.digest], "begun once"
    device.running.agreement = 0.95
    assert device.run_until("COMMITTED", "FAILED").state == "COMMITTED"
    assert not device.running.shadowed


def test_in_shadow_a_version_that_disagrees_is_refused(device: UpdateDevice) -> None:
    in_shadow(device, min_agreement=0.9)
    device.running.agreement = 0.5
    row = device.run_until("COMMITTED", "FAILED")
    assert row.state == "FAILED"
    assert "50.0%" in row.reason
    assert "90.0%" in row.reason
    assert_old_one_runs(device)
    assert not device.running.shadowed


def test_in_shadow_a_version_that_hangs_is_refused_whatever_the_bound(device: UpdateDevice) -> None:
    in_shadow(device, min_agreement=0.0)
    device.running.agreement, device.running.shadow_failed = 0.0, "a call of the candidate took longer than 30 s"
    row = device.run_until("COMMITTED", "FAILED")
    assert (row.state, row.reason) == ("FAILED", "in shadow it failed: a call of the candidate took longer than 30 s")
    assert_old_one_runs(device)
    assert not device.running.shadowed


@pytest.mark.parametrize("gone", [True, False], ids=["no pipeline is left", "no shadow is asked for"])
def test_a_shadow_that_a_reload_has_left_over_is_ended(device: UpdateDevice, gone: bool) -> None:
    in_shadow(device, min_agreement=0.9)
    if gone:
        device.running.gone = True
    else:
        device.updater.config = msgspec.structs.replace(device.updater.config, shadow=ShadowConfig())
    device.updater.tick()
    assert device.updater.row.state != "SHADOW"
    assert not device.running.shadowed


def test_a_version_that_cannot_be_loaded_beside_the_active_one_is_refused(device: UpdateDevice) -> None:
    device.running.shadow_refuses = ModelError("no memory for it")
    shadow = ShadowConfig(frames=10)
    device.updater.config = msgspec.structs.replace(device.config, shadow=shadow)
    device.wish(device.package("2.0.0"), number=1)
    assert "no memory for it" in device.run_until("FAILED").reason
    assert_old_one_runs(device)


def test_a_reload_makes_the_shadow_begin_again(device: UpdateDevice) -> None:
    row = in_shadow(device, min_agreement=0.9)
    device.running.shadowed = ""  # pipelines were made anew
    device.updater.tick()
    assert device.running.shadows == [row.digest] * 2


def test_a_newer_wish_ends_the_shadow(device: UpdateDevice) -> None:
    in_shadow(device, min_agreement=0.9)
    device.running.agreement = 1.0
    device.wish(device.package("3.0.0"), number=2)
    assert device.run_until("COMMITTED").version == "3.0.0"
    assert len(set(device.running.shadows)) == 2
    assert not device.running.shadowed


@pytest.mark.parametrize(
    ("bounds", "part"),
    [(GateConfig(max_latency_ms=0.0001), "takes"), (GateConfig(max_memory_mb=1), "bytes of memory")],
    ids=["latency", "memory"],
)
def test_the_gate_holds_a_version_to_the_device_s_bounds(
    device: UpdateDevice, monkeypatch: pytest.MonkeyPatch, bounds: GateConfig, part: str
) -> None:
    peaks = iter([0, 8 << 20])
    monkeypatch.setattr("edgeinfer.runtime.gate.peak_bytes", lambda: next(peaks))
    device.updater.config = msgspec.structs.replace(device.config, gate=bounds)
    device.wish(device.package("2.0.0"), number=1)
    assert part in device.run_until("FAILED").reason
    assert_old_one_runs(device)


def test_without_frames_a_trial_goes_on_and_with_ended_sources_it_fails(device: UpdateDevice) -> None:
    device.wish(device.package("2.0.0"), number=1)
    device.run_until("TRIAL")
    device.running.failing = 1  # none is inferred any more
    for _ in range(10):
        device.updater.tick()
    assert device.updater.row.state == "TRIAL"
    device.running.ended = True
    assert "every source has ended" in device.run_until("ROLLED_BACK").reason
    assert_old_one_runs(device)


def test_a_source_that_ends_after_the_new_version_has_inferred_is_no_failure(device: UpdateDevice) -> None:
    device.wish(device.package("2.0.0"), number=1)
    device.run_until("TRIAL")
    device.running.inferred("m")
    device.running.ended = True
    device.run_until("COMMITTED")


def test_a_trial_whose_pipelines_are_gone_fails(device: UpdateDevice) -> None:
    device.wish(device.package("2.0.0"), number=1)
    device.run_until("TRIAL")
    device.running.gone = True
    assert "runs model 'm' any more" in device.run_until("ROLLED_BACK").reason
    assert device.active() == device.digest(device.first)


def test_a_newer_wish_replaces_a_trial_that_gets_no_frames(device: UpdateDevice) -> None:
    first = device.wish(device.package("2.0.0"), number=1)
    device.run_until("TRIAL")
    device.running.failing = 1
    device.updater.tick()
    second = device.wish(device.package("3.0.0"), number=2)
    row = device.run_until("ROLLED_BACK")
    assert "newer assignment" in row.reason
    assert device.running.digest == device.active()
    device.running.failing = 0
    row = device.run_until("COMMITTED")
    assert (row.version, row.finished) == ("3.0.0", {first: "ROLLED_BACK", second: "COMMITTED"})


def test_no_swap_is_made_under_the_lock_of_the_slots(device: UpdateDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload takes that lock while it holds the pipelines': each would wait for the other."""
    swap = device.running.swap
    free: list[bool] = []

    def try_lock() -> None:
        free.append(device.slots.lock.acquire(blocking=False))
        if free[-1]:
            device.slots.lock.release()

    def swap_and_look(model: str, digest: str) -> None:
        thread = threading.Thread(target=try_lock)
        thread.start()
        thread.join()
        swap(model, digest)

    monkeypatch.setattr(device.running, "swap", swap_and_look)
    device.wish(device.package("2.0.0"), number=1)
    device.running.failing = 3
    device.run_until("ROLLED_BACK")
    assert free == [True, True]


def test_a_check_that_was_killed_is_no_word_about_the_assignment(
    device: UpdateDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: object) -> bytes:
        raise GateError("the check ended with status -9")

    device.wish(device.package("2.0.0"), number=1)
    with monkeypatch.context() as patch:
        patch.setattr("edgeinfer.runtime.updater.ask", killed)
        device.updater.tick()
        assert device.updater.row.state == "IDLE"
    run_in_time(device, "COMMITTED")


class Cut(BaseException):
    """The power goes."""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_power_cut_at_the_commit_leaves_row_and_slots_in_step(device: UpdateDevice, when: str) -> None:
    old, new = device.active(), device.digest(device.package("2.0.0"))
    device.wish(device.package("2.0.0"), number=1)
    device.run_until("TRIAL")
    commit = device.db.commit

    def cut(row: UpdateRow, model: str, slots: dict[str, str]) -> None:
        if when == "after":
            commit(row, model, slots)
        raise Cut

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device.db, "commit", cut)
        patch.setattr(device.db, "set_slots", cut)
        with pytest.raises(Cut):
            device.run_until("COMMITTED")
    row = device.db.update()
    assert (row.state, device.active()) == (("COMMITTED", new) if when == "after" else ("TRIAL", old))
    device.restart()
    device.run_until("COMMITTED")
    assert (device.active(), device.slots.of("m")["previous"]) == (new, old)


def test_slots_that_a_cut_commit_of_an_earlier_release_left_are_put_right(device: UpdateDevice) -> None:
    """It wrote the slots first: the version on trial is called active already."""
    old, new = device.active(), device.digest(device.package("2.0.0"))
    device.wish(device.package("2.0.0"), number=1)
    device.run_until("TRIAL")
    slots = {"active": new, "previous": old, "configured": old}
    device.slots.replace("m", slots)
    device.running.failing = 3
    device.run_until("ROLLED_BACK")
    assert (device.active(), device.running.digest) == (old, old)

    device.running.failing = 0
    device.wish(device.package("2.0.0"), number=2)
    device.run_until("TRIAL")
    device.slots.replace("m", slots)
    device.run_until("COMMITTED")
    assert device.slots.of("m") == slots


def test_the_row_goes_on_only_once_it_is_durable(device: UpdateDevice) -> None:
    device.wish(device.package("2.0.0"), number=1)
    device.run_until("SHADOW")
    with pytest.MonkeyPatch.context() as patch:

        def full(_: UpdateRow) -> None:
            raise BufferStorageError("disk is full")

        patch.setattr(device.db, "set_update", full)
        device.updater.tick()
        assert device.updater.row.state == device.db.update().state == "SHADOW"
        assert len(device.running.swaps) == 1, "the candidate has not been swapped in"
        with pytest.raises(BufferStorageError):
            device.restart()
    run_in_time(device, "COMMITTED")


def run_in_time(device: UpdateDevice, state: str) -> None:
    """As run_until, where the updater waits before it tries again."""

    def reached() -> bool:
        device.updater.tick()
        return device.updater.row.state == state

    wait_until(reached, what=state)


def test_a_rollback_goes_past_versions_that_are_damaged(device: UpdateDevice) -> None:
    first = device.active()
    device.wish(device.package("2.0.0"), number=1)
    device.run_until("COMMITTED")
    device.running.failing = 3
    device.running.unusable = {device.active()}
    device.wish(device.package("3.0.0"), number=2)
    device.run_until("ROLLED_BACK")
    assert device.running.digest == device.active() == first
    assert device.store.holds(first)


def test_a_rollback_with_nothing_to_go_back_to_fails(device: UpdateDevice) -> None:
    device.running.failing = 3
    device.running.unusable = {device.active()}
    device.wish(device.package("2.0.0"), number=1)
    row = device.run_until("FAILED")
    assert "no version before it can be run" in row.reason
    assert "3 inferences in a row failed" in row.reason


def test_what_the_agent_writes_cannot_stop_the_updater(device: UpdateDevice, caplog: pytest.LogCaptureFixture) -> None:
    device.wish(device.package("2.0.0"), number=1)
    device.run_until("TRIAL")
    device.sync._db.execute("UPDATE desired SET body = x'ff00'")
    for _ in range(200):
        device.updater.tick()
    assert device.updater.row.state == "COMMITTED", "a trial ends without the agent"
    assert len([one for one in caplog.records if "update_waits" in one.getMessage()]) <= 3, "and the log is kept short"


def test_a_mistake_in_a_step_is_logged_and_waited_out(device: UpdateDevice, caplog: pytest.LogCaptureFixture) -> None:
    device.wish(device.package("2.0.0"), number=1)
    device.run_until("GATE")
    with pytest.MonkeyPatch.context() as patch:

        def mistaken(_: str) -> int:
            raise KeyError("a mistake")

        patch.setattr(device.running, "threads", mistaken)
        for _ in range(200):
            device.updater.tick()
    assert 1 <= caplog.text.count("event=update_crashed") <= 3
    run_in_time(device, "COMMITTED")


def test_a_state_of_another_release_is_begun_anew(device: UpdateDevice) -> None:
    device.db.set_update(UpdateRow(state="QUANTUM", desired_version=4, finished={"a": "FAILED"}))
    row = device.restart().row
    assert (row.state, row.desired_version, row.finished) == ("IDLE", 4, {"a": "FAILED"})


def test_an_old_assignment_stays_refused_after_the_database_was_lost(
    device: UpdateDevice, caplog: pytest.LogCaptureFixture
) -> None:
    device.wish(device.package("2.0.0"), number=7)
    device.run_until("COMMITTED")
    device.db.set_update(UpdateRow())
    device.restart()
    device.wish(device.package("3.0.0"), number=6)
    for _ in range(5):
        device.updater.tick()
    assert device.updater.row.state == "IDLE"
    assert "version 7 or newer, found 6" in caplog.text


@pytest.mark.parametrize("place", ["fifo", "link", "longer", "other content", "gone"])
def test_a_blob_that_is_replaced_under_the_check_is_refused(device: UpdateDevice, place: str) -> None:
    path = device.package("2.0.0")
    device.wish(path, number=1)
    device.run_until("DOWNLOADED")
    (blob,) = device.store.incoming.iterdir()
    content = blob.read_bytes()
    blob.unlink()
    if place == "fifo":
        os.mkfifo(blob)
    elif place == "link":
        blob.symlink_to(path)
    elif place != "gone":
        blob.write_bytes(content + b"x" if place == "longer" else content[:-1] + b"x")
    reason = device.run_until("FAILED").reason
    assert "expected" in reason
    assert_old_one_runs(device)


def test_what_is_installed_is_what_was_checked(device: UpdateDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hijacked agent changes the blob after the check of its signature."""
    other = device.package("3.0.0", key=SigningKey(b"x" * 32))

    def answer_and_replace(request: object) -> bytes:
        answer = answer_here(request)
        if isinstance(request, PackageRequest):
            assert stat.S_IMODE(Path(request.path).parent.stat().st_mode) == 0o700
            for blob in device.store.incoming.iterdir():
                blob.write_bytes(other.read_bytes())
        return answer

    monkeypatch.setattr("edgeinfer.runtime.updater.ask", answer_and_replace)
    device.wish(device.package("2.0.0"), number=1)
    device.run_until("COMMITTED")
    assert device.active() == device.digest(device.package("2.0.0"))
    assert not device.store.holds(device.digest(other))
    assert not list((device.folder / "state" / "models" / "staging").iterdir())


def test_a_full_disk_is_waited_out(device: UpdateDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = device.package("3.0.0")
    device.wish(device.package("2.0.0"), number=1)
    device.run_until("DOWNLOADED")
    with monkeypatch.context() as patch:

        def full(_: Path) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr("edgeinfer.runtime.package.sync_folder", full)
        device.updater.tick()
        assert device.updater.row.state == "DOWNLOADED"
        assert len(list(device.store.incoming.iterdir())) == 1, "the blob stays"
        assert {one.name for one in (device.folder / "state/models/packages").iterdir()} == {device.active()}
        # A newer wish need not wait for room for the old one.
        device.wish(newer, number=2)
        device.updater.tick()
        assert device.updater.row.version == "3.0.0"
    run_in_time(device, "COMMITTED")


def test_blobs_that_no_open_job_needs_are_removed_at_the_end(device: UpdateDevice) -> None:
    stale = device.store.blob("a" * 64)
    stale.write_bytes(b"of a job of last year")
    (device.store.incoming / "b.part").write_bytes(b"the agent's")
    device.wish(device.package("2.0.0", golden_offset=0.1), number=1)
    device.run_until("FAILED")
    assert [path.name for path in device.store.incoming.iterdir()] == ["b.part"]


def test_a_reload_during_a_trial_tries_the_candidate_again(device: UpdateDevice) -> None:
    device.wish(device.package("2.0.0"), number=1)
    device.run_until("TRIAL")
    device.running.swap("m", device.active())  # what a reload's new pipeline starts on
    device.run_until("COMMITTED")
    assert device.running.digest == device.active() == device.digest(device.package("2.0.0"))


def test_the_package_that_is_active_already_is_not_fetched(device: UpdateDevice) -> None:
    job = device.wish(device.first, number=1, deliver=False)
    row = device.run_until("COMMITTED")
    assert "already active" in row.reason
    assert row.finished == {job: "COMMITTED"}
    assert len(device.running.swaps) == 1


def test_a_device_without_trusted_keys_accepts_nothing(device: UpdateDevice) -> None:
    trust = msgspec.structs.replace(device.config.trust, release_keys=())
    device.config = msgspec.structs.replace(device.config, trust=trust)
    device.restart()
    device.wish(device.package("2.0.0"), number=1)
    assert "none of the 0 trusted" in device.run_until("FAILED").reason


def run_program(folder: Path, kill_at: str = "") -> "subprocess.CompletedProcess[str]":
    tests = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, str(tests / "update_device.py"), str(folder), kill_at],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**os.environ, "PYTHONPATH": str(tests)},
    )


@pytest.mark.parametrize(
    "state", ["ASSIGNED", "METADATA_OK", "DOWNLOADED", "STAGED", "GATE", "SHADOW", "TRIAL", "COMMITTED"]
)
def test_kill_9_in_any_state_and_a_restart_end_well(tmp_path: Path, state: str) -> None:
    device = UpdateDevice(tmp_path)
    new = device.digest(device.package("2.0.0"))
    old = device.active()
    device.wish(device.package("2.0.0"), number=1)
    device.close()
    killed = run_program(tmp_path, state)
    assert killed.returncode == -9, killed.stderr
    ended = run_program(tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == ["COMMITTED", new, new]
    assert old != new


def test_kill_9_in_every_trial_rolls_back(tmp_path: Path) -> None:
    device = UpdateDevice(tmp_path)
    old = device.active()
    device.wish(device.package("2.0.0"), number=1)
    device.close()
    for _ in range(MAX_ATTEMPTS):
        assert run_program(tmp_path, "TRIAL").returncode == -9
    ended = run_program(tmp_path)
    assert ended.stdout.split() == ["ROLLED_BACK", old, old], ended.stderr


def test_kill_9_while_rolling_back_still_rolls_back(tmp_path: Path) -> None:
    device = UpdateDevice(tmp_path)
    old = device.active()
    device.wish(device.package("2.0.0"), number=1)
    device.close()
    for _ in range(MAX_ATTEMPTS):
        run_program(tmp_path, "TRIAL")
    assert run_program(tmp_path, "ROLLING_BACK").returncode == -9
    assert run_program(tmp_path).stdout.split() == ["ROLLED_BACK", old, old]


def test_what_was_installed_before_a_power_cut_is_not_downloaded_again(tmp_path: Path) -> None:
    device = UpdateDevice(tmp_path)
    device.wish(device.package("2.0.0"), number=1)
    device.close()
    assert run_program(tmp_path, "GATE").returncode == -9
    assert not list((tmp_path / "state" / "models" / "incoming").iterdir()), "the blob is gone, the network may be too"
    assert run_program(tmp_path).stdout.startswith("COMMITTED")
