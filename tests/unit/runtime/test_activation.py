"""What a person at the device may do with its models, over a real store, real databases and real packages."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeinfer.runtime.activation import Activation, Engaged
from edgeinfer.runtime.errors import EdgeInferError, GateError, ModelError, PackageError, RefusedError, UsageError
from edgeinfer.runtime.not_running import NotRunning
from edgeinfer.runtime.orders import handlers
from edgeinfer.runtime.rows import UpdateRow
from edgeinfer.runtime.slots import Slots
from edgeinfer.runtime.trust import SigningKey
from packages import linear_model, make_package
from update_device import MODEL, RELEASE, UpdateDevice, answer_here

NO_DIGEST = "0" * 64


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[UpdateDevice]:
    """Its checks are asked for in this process: quicker, and the same code."""
    monkeypatch.setattr("edgeinfer.runtime.updater.ask", answer_here)
    monkeypatch.setattr("edgeinfer.runtime.activation.ask", answer_here)
    made = UpdateDevice(tmp_path)
    made.slots.release_keys = made.config.trust.release_keys
    yield made
    made.close()


@pytest.fixture
def activation(device: UpdateDevice) -> Activation:
    return Activation(device.slots, device.store, device.running, db=device.db, state_dir=Path(device.config.state_dir))


def bring(activation: Activation, path: Path, model: str = MODEL) -> Engaged:
    with path.open("rb") as file:
        return activation.activate_file(model, file.fileno())


def assert_untouched(device: UpdateDevice) -> None:
    """The first version runs, is active, and nothing else is installed."""
    first = device.digest(device.first)
    assert device.slots.of(MODEL) == {"active": first, "configured": first}
    assert device.running.digest == first
    assert [folder.name for folder in (device.folder / "state" / "models" / "packages").iterdir()] == [first]
    assert not list((device.folder / "state" / "models").glob("staging/*"))


class TestFile:
    def test_takes_over_and_can_be_gone_back_from(self, device: UpdateDevice, activation: Activation) -> None:
        first, second = device.digest(device.first), device.digest(device.package("2.0.0"))
        done = bring(activation, device.package("2.0.0"))
        assert (done.version, done.digest, done.before) == ("2.0.0", second, first)
        assert (done.running, done.changed, done.swap_ms) == (True, True, 12.5)
        assert done.gate["variant"] == "onnx-fp32"
        assert device.running.digest == second
        assert device.slots.of(MODEL) == {"active": second, "previous": first, "configured": first}
        back = activation.rollback(MODEL)
        assert (back.version, device.running.digest) == ("1.0.0", first)
        assert device.slots.of(MODEL) == {"active": first, "previous": second, "configured": first}
        assert activation.rollback(MODEL).version == "2.0.0"

    def test_that_is_active_already_changes_nothing(self, device: UpdateDevice, activation: Activation) -> None:
        assert not bring(activation, device.first).changed
        assert_untouched(device)

    def test_what_was_before_the_previous_one_goes(self, device: UpdateDevice, activation: Activation) -> None:
        versions = ("2.0.0", "3.0.0", "4.0.0")
        for version in versions:
            bring(activation, device.package(version))
        held = [device.store.holds(device.digest(device.package(version))) for version in ("1.0.0", *versions)]
        assert held == [True, False, True, True], "the configured one stays"

    def test_without_a_trusted_signature_is_refused(self, device: UpdateDevice, activation: Activation) -> None:
        for version, key in (("2.0.0", None), ("2.1.0", SigningKey(b"x" * 32))):
            with pytest.raises(RefusedError, match=r"expected a signature|none of the 1 trusted keys"):
                bring(activation, device.package(version, key=key))
            assert_untouched(device)

    def test_needs_no_signature_where_no_key_is_trusted(self, device: UpdateDevice, activation: Activation) -> None:
        device.slots.release_keys = ()
        assert bring(activation, device.package("2.0.0", key=None)).version == "2.0.0"

    def test_that_fails_the_gate_is_refused(self, device: UpdateDevice, activation: Activation) -> None:
        with pytest.raises(RefusedError, match="golden outputs differ"):
            bring(activation, device.package("2.0.0", golden_offset=0.5))
        assert_untouched(device)

    def test_of_another_model_is_a_mistake(self, device: UpdateDevice, activation: Activation) -> None:
        other = device.folder / "other.edgepkg"
        make_package(other, linear_model(device.folder / "other.onnx"), name="other", key=RELEASE)
        with pytest.raises(UsageError, match="expected a package of model 'm', found one of 'other'"):
            bring(activation, other)
        assert_untouched(device)

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"x" * 100_000])
    def test_that_is_no_package_is_refused(self, device: UpdateDevice, activation: Activation, content: bytes) -> None:
        (device.folder / "bad.edgepkg").write_bytes(content)
        with pytest.raises(PackageError):
            bring(activation, device.folder / "bad.edgepkg")
        assert_untouched(device)

    def test_that_is_no_file_is_refused(self, device: UpdateDevice, activation: Activation) -> None:
        with Path("/dev/zero").open("rb") as endless, pytest.raises(UsageError, match="expected a plain file"):
            activation.activate_file(MODEL, endless.fileno())
        assert_untouched(device)


class TestInstalled:
    def test_by_version_or_by_the_first_digits(self, device: UpdateDevice, activation: Activation) -> None:
        second = device.digest(device.package("2.0.0"))
        bring(activation, device.package("2.0.0"))
        assert activation.activate(MODEL, "1.0.0").version == "1.0.0"
        assert activation.activate(MODEL, second[:12].upper()).version == "2.0.0"

    def test_two_packages_of_one_version_are_told_apart(self, device: UpdateDevice, activation: Activation) -> None:
        twin = device.folder / "twin.edgepkg"
        make_package(
            twin, device.folder / "model.onnx", name=MODEL, version="1.0.0", labels=["a", "b", "c"], key=RELEASE
        )
        bring(activation, twin)
        with pytest.raises(UsageError, match="more than one package") as refused:
            activation.activate(MODEL, "1.0.0")
        assert device.digest(twin)[:12] in refused.value.hint
        assert activation.activate(MODEL, device.digest(device.first)[:8]).changed

    @pytest.mark.parametrize("what", ["9.9.9", "", "ffffffffffff", "2"])
    def test_what_is_not_there_is_a_mistake(self, activation: Activation, what: str) -> None:
        with pytest.raises(UsageError, match="has no installed version") as refused:
            activation.activate(MODEL, what)
        assert "installed: 1.0.0" in refused.value.hint

    def test_of_a_model_that_is_not_there(self, activation: Activation) -> None:
        for call in (activation.pin, activation.unpin, activation.rollback, lambda m: activation.activate(m, "1.0.0")):
            with pytest.raises(UsageError, match="no package of model 'gate' is installed here"):
                call("gate")

    def test_no_version_before_is_said(self, device: UpdateDevice, activation: Activation) -> None:
        with pytest.raises(UsageError, match="no version of model 'm' before"):
            activation.rollback(MODEL)
        assert_untouched(device)

    def test_that_was_damaged_since_is_refused(self, device: UpdateDevice, activation: Activation) -> None:
        first = device.digest(device.first)
        bring(activation, device.package("2.0.0"))
        (device.folder / "state" / "models" / "packages" / first / "model.onnx").write_bytes(b"rust")
        with pytest.raises(PackageError, match="changed on disk"):
            activation.rollback(MODEL)
        assert device.active() == device.digest(device.package("2.0.0"))
        assert activation.models()[0]["version"], "the list does not hash"


class TestLive:
    def test_a_version_that_fails_on_live_frames_goes_back(self, device: UpdateDevice, activation: Activation) -> None:
        device.running.failing = 3
        with pytest.raises(GateError, match="3 inferences in a row failed") as refused:
            bring(activation, device.package("2.0.0"))
        assert "the version before it runs again" in str(refused.value)
        assert_untouched(device)

    def test_one_that_cannot_be_loaded_changes_nothing(self, device: UpdateDevice, activation: Activation) -> None:
        device.running.refuses = ModelError("no memory")
        with pytest.raises(ModelError, match="no memory"):
            bring(activation, device.package("2.0.0"))
        assert_untouched(device)

    def test_one_that_was_reloaded_meanwhile_is_swapped_again(
        self, device: UpdateDevice, activation: Activation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A reload of the configuration makes pipelines anew, on what was active until then."""
        replace = device.slots.replace

        def reload_first(model: str, slots: dict[str, str], *, drop: str = "") -> None:
            device.running.digest = device.digest(device.first)
            replace(model, slots, drop=drop)

        monkeypatch.setattr(device.slots, "replace", reload_first)
        second = device.digest(device.package("2.0.0"))
        bring(activation, device.package("2.0.0"))
        assert device.running.swaps[1:] == [second, second]
        assert (device.running.digest, device.active()) == (second, second)

    def test_the_end_of_the_daemon_ends_the_watching(self, device: UpdateDevice) -> None:
        activation = Activation(
            device.slots, device.store, device.running, db=device.db, state_dir=Path(device.config.state_dir),
            trial_s=lambda: 60.0,
        )  # fmt: skip
        activation._stop.set()
        with pytest.raises(EdgeInferError, match="the daemon ends"):
            bring(activation, device.package("2.0.0"))
        assert device.active() == device.digest(device.first)

    def test_without_a_daemon_the_slots_are_all(self, device: UpdateDevice) -> None:
        activation = Activation(
            device.slots,
            device.store,
            NotRunning({MODEL: ("", 2)}),
            db=device.db,
            state_dir=Path(device.config.state_dir),
        )
        done = bring(activation, device.package("2.0.0"))
        assert (done.running, done.changed, device.active()) == (False, True, done.digest)
        assert len(device.running.swaps) == 1, "the first one, by the device itself"
        with pytest.raises(RefusedError, match="no variant 'none'"):
            Activation(
                device.slots, device.store, NotRunning({MODEL: ("none", 1)}), db=device.db,
                state_dir=Path(device.config.state_dir),
            ).rollback(MODEL)  # fmt: skip


class TestUpdates:
    @pytest.mark.parametrize("state", ["ASSIGNED", "DOWNLOADING", "GATE", "TRIAL", "ROLLING_BACK"])
    def test_under_way_keep_a_person_waiting(self, device: UpdateDevice, activation: Activation, state: str) -> None:
        device.db.set_update(UpdateRow(state=state, job="job-7", model=MODEL, version="3.0.0", digest=NO_DIGEST))
        with pytest.raises(EdgeInferError, match=f"an update is under way: m 3.0.0 is {state} \\(job job-7\\)"):
            bring(activation, device.package("2.0.0"))
        assert device.active() == device.digest(device.first)

    @pytest.mark.parametrize("state", ["IDLE", "COMMITTED", "REPORTED", "ROLLED_BACK", "FAILED"])
    def test_that_are_over_do_not(self, device: UpdateDevice, activation: Activation, state: str) -> None:
        device.db.set_update(UpdateRow(state=state, job="job-7", model=MODEL))
        assert bring(activation, device.package("2.0.0")).changed

    def test_wait_for_a_person(self, device: UpdateDevice) -> None:
        device.wish(device.package("2.0.0"), number=1)
        with device.slots.changing:
            device.updater.tick()
            assert device.updater.row.state == "IDLE"
        device.run_until("COMMITTED")

    def test_go_on_after_an_activation(self, device: UpdateDevice, activation: Activation) -> None:
        bring(activation, device.package("2.0.0"))
        device.wish(device.package("3.0.0"), number=1)
        device.run_until("COMMITTED")
        slots = device.slots.of(MODEL)
        assert (slots["active"], slots["previous"]) == tuple(
            device.digest(device.package(v)) for v in ("3.0.0", "2.0.0")
        )


class TestPin:
    def test_assignments_are_refused_with_the_reason_until_unpinned(
        self, device: UpdateDevice, activation: Activation
    ) -> None:
        activation.pin(MODEL)
        device.wish(device.package("2.0.0"), number=1)
        row = device.run_until("FAILED")
        assert (row.reason, row.finished) == ("pinned at the device", {"job-1": "FAILED"})
        assert device.active() == device.digest(device.first)
        activation.unpin(MODEL)
        device.wish(device.package("2.0.0"), number=2)
        device.run_until("COMMITTED")

    def test_survives_a_restart(self, device: UpdateDevice, activation: Activation) -> None:
        activation.pin(MODEL)
        device.slots = Slots(device.db, device.store)
        device.restart()
        device.wish(device.package("2.0.0"), number=1)
        assert device.run_until("FAILED").reason == "pinned at the device"

    def test_an_update_that_waits_for_its_download_ends_so(self, device: UpdateDevice, activation: Activation) -> None:
        device.wish(device.package("2.0.0"), number=1, deliver=False)
        device.run_until("DOWNLOADING")
        activation.pin(MODEL)
        assert device.run_until("FAILED").reason == "pinned at the device"

    def test_the_version_that_runs_may_be_assigned(self, device: UpdateDevice, activation: Activation) -> None:
        activation.pin(MODEL)
        device.wish(device.first, number=1)
        assert device.run_until("COMMITTED", "FAILED").reason == "this package is already active"

    def test_not_during_a_trial(self, device: UpdateDevice, activation: Activation) -> None:
        device.db.set_update(UpdateRow(state="TRIAL", model=MODEL, version="2.0.0", digest=NO_DIGEST))
        with pytest.raises(EdgeInferError, match=r"version 2.0.0 of model 'm' is on trial \(TRIAL\)"):
            activation.pin(MODEL)

    def test_goes_along_with_what_a_person_activates(self, device: UpdateDevice, activation: Activation) -> None:
        activation.pin(MODEL)
        bring(activation, device.package("2.0.0"))
        assert [(row["version"], row["pinned"]) for row in activation.models()] == [("2.0.0", True), ("1.0.0", False)]
        assert activation.unpin(MODEL)["digest"] == device.digest(device.package("2.0.0"))
        assert activation.unpin(MODEL)["digest"] == "", "twice is no mistake"


def test_the_list_says_what_each_package_is(device: UpdateDevice, activation: Activation) -> None:
    first, second = device.digest(device.first), device.digest(device.package("2.0.0"))
    bring(activation, device.package("2.0.0"))
    (device.folder / "state" / "models" / "packages" / first / "manifest.json").write_bytes(b"{}")
    active, damaged = activation.models()
    assert (active["model"], active["version"], active["digest"], active["slots"]) == (
        MODEL,
        "2.0.0",
        second,
        ["active"],
    )
    assert active["variants"] == ["onnx-fp32"]
    assert active["file_bytes"] > 0
    assert (damaged["slots"], damaged["version"]) == (["configured", "previous"], "")
    assert "schema version" in damaged["error"]


def test_orders_are_checked(activation: Activation) -> None:
    change = handlers(activation)
    for request in ({"do": "pin"}, {"do": "pin", "model": 3}, {"do": "pin", "model": MODEL, "forever": True}):
        with pytest.raises(UsageError, match="expected a model"):
            change["pin"](request, -1)
    assert change["pin"]({"do": "pin", "model": MODEL}, -1)["done"]["model"] == MODEL
    assert [row["version"] for row in change["models"]({}, -1)["models"]] == ["1.0.0"]
