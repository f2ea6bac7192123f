"""A device measures the variants of a package and uses the best: what it picks, and how long that holds."""

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgeinfer.runtime import choosing
from edgeinfer.runtime.activation import Activation
from edgeinfer.runtime.assembly import Surroundings
from edgeinfer.runtime.choice import Basis, Choice, Tried, decide, runnable
from edgeinfer.runtime.chooser import Chooser
from edgeinfer.runtime.choosing import chosen_variant, is_due
from edgeinfer.runtime.errors import EdgeInferError, ModelError, RefusedError, StorageError, UsageError
from edgeinfer.runtime.handoff import RuntimeDb
from edgeinfer.runtime.manifest import Manifest
from edgeinfer.runtime.not_running import NotRunning
from edgeinfer.runtime.package import PackageFile, parse_manifest
from edgeinfer.runtime.pipelines import PipelineSet
from edgeinfer.runtime.settings import PipelineConfig
from edgeinfer.runtime.sources.settings import TensorsSource
from edgeinfer.runtime.store import InstalledPackage
from edgeinfer.runtime.variants import choose_variant
from edgeinfer.runtime.verify import GateRequest
from packages import linear_model
from update_device import MODEL, RELEASE, UpdateDevice, answer_here
from variant_packages import make_variants, slow_model
from waiting import wait_until

BASIS = Basis("A CPU", ("avx2",), {"onnx": "onnxruntime 1"}, 1)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "BENCH_S", 0.05)


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[UpdateDevice]:
    """Its checks are asked for in this process: quicker, and the same code."""
    monkeypatch.setattr("edgeinfer.runtime.updater.ask", answer_here)
    monkeypatch.setattr("edgeinfer.runtime.activation.ask", answer_here)
    made = UpdateDevice(tmp_path)
    yield made
    made.close()


@pytest.fixture
def activation(device: UpdateDevice) -> Activation:
    return Activation(device.slots, device.store, device.running, db=device.db, state_dir=Path(device.config.state_dir))


def package(device: UpdateDevice, version: str = "2.0.0", **options: Any) -> Path:
    """Its first variant is some hundred times slower than its second."""
    path = device.folder / f"{version}.edgepkg"
    models = {"slow": slow_model(device.folder / "slow.onnx"), "quick": linear_model(device.folder / "quick.onnx")}
    make_variants(path, models, name=MODEL, version=version, key=RELEASE, **options)
    return path


def update(device: UpdateDevice, path: Path, *, number: int = 1) -> str:
    """Bring it as the console does; the state that it ends in."""
    device.wish(path, number=number)
    return device.run_until("COMMITTED", "FAILED").state


def choice_of(device: UpdateDevice, path: Path) -> Choice | None:
    return device.db.choice(device.digest(path))


def manifest_of(path: Path) -> Manifest:
    with PackageFile(path) as opened:
        return opened.manifest


class TestDecision:
    @pytest.mark.parametrize(
        ("tried", "chosen"),
        [
            ([], ""),
            ([Tried("a", 100), Tried("b", 10)], "b"),
            ([Tried("a", 10), Tried("b", 100)], "a"),
            ([Tried("a", 104), Tried("b", 100)], "a"),  # that may be noise: the package's order counts
            ([Tried("a", 100), Tried("b", 10, error="golden outputs differ")], "a"),
            ([Tried("a", error="no"), Tried("b", error="no")], ""),
            ([Tried("a", 0), Tried("b", 0)], "a"),
        ],
    )
    def test_the_fastest_without_an_error(self, tried: list[Tried], chosen: str) -> None:
        assert decide(tried) == chosen

    def test_only_what_has_its_engine_and_what_it_requires(self, tmp_path: Path) -> None:
        models = {name: linear_model(tmp_path / f"{name}.onnx") for name in ("a", "b", "c")}
        make_variants(tmp_path / "p.edgepkg", models, name="m", requires={"a": ("vnni",), "b": ("avx2", "fma")})
        manifest = manifest_of(tmp_path / "p.edgepkg")

        def names(engines: list[str], features: list[str]) -> list[str]:
            return [one.id for one in runnable(manifest, engines=engines, features=features)]

        assert names(["onnx"], []) == ["c"]
        assert names(["onnx"], ["avx2", "fma"]) == ["b", "c"]
        assert names(["onnx"], ["avx2", "fma", "vnni"]) == ["a", "b", "c"]
        assert names(["litert"], ["vnni"]) == []


class TestRequires:
    @pytest.fixture
    def manifest(self, tmp_path: Path) -> Manifest:
        models = {name: linear_model(tmp_path / f"{name}.onnx") for name in ("special", "plain")}
        make_variants(tmp_path / "p.edgepkg", models, name="m", choose="first", requires={"special": ("i8mm",)})
        return manifest_of(tmp_path / "p.edgepkg")

    @pytest.mark.parametrize(("features", "chosen"), [((), "plain"), (("i8mm", "neon"), "special")])
    def test_is_honoured(
        self, monkeypatch: pytest.MonkeyPatch, manifest: Manifest, features: tuple[str, ...], chosen: str
    ) -> None:
        monkeypatch.setattr("edgeinfer.devices.probe.cpu", lambda: ("A CPU", features))
        assert choose_variant(manifest).id == chosen
        assert choose_variant(manifest, wanted="special").id == "special", "who names it has it"

    def test_a_package_with_nothing_for_this_processor_says_so(
        self, monkeypatch: pytest.MonkeyPatch, manifest: Manifest
    ) -> None:
        monkeypatch.setattr("edgeinfer.devices.probe.cpu", lambda: ("A CPU", ()))
        only = msgspec.structs.replace(manifest, variants=manifest.variants[:1])
        with pytest.raises(ModelError, match="special requires i8mm"):
            choose_variant(only)


class TestManifest:
    def test_says_nothing_where_the_first_is_used(self, tmp_path: Path) -> None:
        models = {"a": linear_model(tmp_path / "a.onnx")}
        make_variants(tmp_path / "p.edgepkg", models, name="m", choose="first")
        assert b"choose" not in msgspec.json.encode(manifest_of(tmp_path / "p.edgepkg")), "digests stay as they were"

    def test_a_reader_ignores_fields_that_it_does_not_know(self, tmp_path: Path) -> None:
        make_variants(tmp_path / "p.edgepkg", {"a": linear_model(tmp_path / "a.onnx")}, name="m")
        fields = msgspec.to_builtins(manifest_of(tmp_path / "p.edgepkg"))
        assert fields["choose"] == "measured"
        assert parse_manifest(msgspec.json.encode({**fields, "from_the_future": [1]})).choose == "measured"


class TestArrival:
    def test_the_quick_one_is_used_though_the_slow_one_comes_first(self, device: UpdateDevice) -> None:
        path = package(device)
        assert update(device, path) == "COMMITTED"
        choice = choice_of(device, path)
        assert choice is not None
        assert choice.variant == "quick"
        assert [(one.variant, one.error) for one in choice.tried] == [("slow", ""), ("quick", "")]
        assert choice.tried[0].latency_us > choice.tried[1].latency_us
        assert chosen_variant(device.db, device.store.open(device.digest(path))) == "quick"

    def test_one_that_differs_from_its_golden_outputs_is_passed_over(self, device: UpdateDevice) -> None:
        path = package(device, wrong=("quick",))
        assert update(device, path) == "COMMITTED"
        choice = choice_of(device, path)
        assert choice is not None
        assert choice.variant == "slow"
        assert "golden outputs differ" in choice.tried[1].error

    def test_none_that_passes_is_a_refusal(self, device: UpdateDevice) -> None:
        path = package(device, wrong=("quick", "slow"))
        assert update(device, path) == "FAILED"
        assert "no variant passes here: slow: " in device.updater.row.reason
        assert choice_of(device, path) is None
        assert device.active() == device.digest(device.first)

    def test_no_more_than_so_many_are_measured(self, device: UpdateDevice, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(choosing, "_MOST_TRIED", 1)
        path = package(device)
        assert update(device, path) == "COMMITTED"
        choice = choice_of(device, path)
        assert choice is not None
        assert [one.variant for one in choice.tried] == ["slow"]

    def test_a_package_that_does_not_ask_uses_its_first(self, device: UpdateDevice) -> None:
        path = package(device, choose="first")
        assert update(device, path) == "COMMITTED"
        assert choice_of(device, path) is None
        assert chosen_variant(device.db, device.store.open(device.digest(path))) == ""

    def test_what_the_configuration_names_is_not_measured_against_others(
        self, device: UpdateDevice, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(device.running, "variant", lambda _model: "slow")
        path = package(device)
        assert update(device, path) == "COMMITTED"
        assert choice_of(device, path) is None

    def test_what_cannot_be_checked_now_is_no_word_about_a_variant(
        self, device: UpdateDevice, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = package(device)
        device.wish(path, number=1)
        device.run_until("GATE")

        def no_process(_: GateRequest) -> bytes:
            raise StorageError("no memory")

        monkeypatch.setattr("edgeinfer.runtime.updater.ask", no_process)
        device.updater.tick()
        assert device.updater.row.state == "GATE"
        assert choice_of(device, path) is None

    def test_the_bounds_of_the_gate_hold_for_each(self, device: UpdateDevice) -> None:
        path = package(device)
        device.slots.release_keys = ()
        limited = Activation(
            device.slots,
            device.store,
            device.running,
            db=device.db,
            state_dir=Path(device.config.state_dir),
            gate=lambda: msgspec.structs.replace(device.config.gate, max_latency_ms=1e-3),
        )
        with path.open("rb") as file, pytest.raises(RefusedError, match="no variant passes here"):
            limited.activate_file(MODEL, file.fileno())
        assert device.active() == device.digest(device.first)


def test_in_processes_of_their_own_one_that_cannot_be_loaded_is_passed_over(tmp_path: Path) -> None:
    device = UpdateDevice(tmp_path)
    path = package(device, damaged=("slow",))
    assert update(device, path) == "COMMITTED"
    choice = choice_of(device, path)
    assert choice is not None
    assert choice.variant == "quick"
    assert "cannot load it" in choice.tried[0].error
    device.close()


class TestDurability:
    @pytest.fixture
    def measured(self, device: UpdateDevice) -> InstalledPackage:
        assert update(device, package(device)) == "COMMITTED"
        return device.store.open(device.active())

    def test_survives_a_restart_and_is_not_made_again(self, device: UpdateDevice, measured: InstalledPackage) -> None:
        with RuntimeDb(device.db.path) as db:
            assert chosen_variant(db, measured) == "quick"
            assert not is_due(measured.manifest, db.choice(measured.digest), wanted="", threads=1)
        with RuntimeDb(device.db.path, read_only=True) as db:
            assert chosen_variant(db, measured) == "quick"

    @pytest.mark.parametrize("change", [{"cpu": "Another"}, {"features": ()}, {"engines": {"onnx": "2"}}])
    def test_is_due_when_the_processor_or_an_engine_is_another(
        self, device: UpdateDevice, measured: InstalledPackage, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
    ) -> None:
        basis = msgspec.structs.replace(choosing.current_basis(1), **change)
        monkeypatch.setattr(choosing, "current_basis", lambda _threads: basis)
        assert is_due(measured.manifest, device.db.choice(measured.digest), wanted="", threads=1)
        assert chosen_variant(device.db, measured) == "quick", "until it is made anew, for it can still be run"

    def test_is_due_when_the_threads_are_others(self, device: UpdateDevice, measured: InstalledPackage) -> None:
        choice = device.db.choice(measured.digest)
        assert is_due(measured.manifest, choice, wanted="", threads=2)
        assert not is_due(measured.manifest, choice, wanted="slow", threads=2), "the configuration has decided"
        assert is_due(measured.manifest, None, wanted="", threads=1)

    def test_one_that_cannot_be_run_any_more_is_not_used(
        self, device: UpdateDevice, measured: InstalledPackage
    ) -> None:
        device.db.set_choice(measured.digest, Choice("gone", BASIS, ()))
        assert chosen_variant(device.db, measured) == ""

    def test_goes_with_the_package(self, device: UpdateDevice, measured: InstalledPackage) -> None:
        assert update(device, device.package("3.0.0"), number=2) == "COMMITTED"
        assert device.db.choice(measured.digest) is not None, "it is the one before"
        assert update(device, device.package("4.0.0"), number=3) == "COMMITTED"
        assert device.db.choice(measured.digest) is None

    def test_a_database_of_an_older_daemon_holds_none(self, tmp_path: Path) -> None:
        RuntimeDb(tmp_path / "runtime.db").close()
        with sqlite3.connect(tmp_path / "runtime.db") as raw:
            raw.execute("DROP TABLE choice")
        raw.close()
        with RuntimeDb(tmp_path / "runtime.db", read_only=True) as db:
            assert db.choice("0" * 64) is None
        with RuntimeDb(tmp_path / "runtime.db") as db:
            db.set_choice("0" * 64, Choice("a", BASIS, (Tried("a", 5),)))
            assert db.choice("0" * 64) == Choice("a", BASIS, (Tried("a", 5),))


class TestOnRequest:
    def test_it_is_made_anew_and_taken_up(self, device: UpdateDevice, activation: Activation) -> None:
        update(device, package(device))
        digest = device.active()
        device.db.set_choice(digest, Choice("slow", BASIS, ()))
        swaps = len(device.running.swaps)
        done = activation.choose(MODEL)
        assert (done.changed, done.running, done.gate["variant"]) == (True, True, "quick")
        assert [one["variant"] for one in done.gate["tried"]] == ["slow", "quick"]
        assert device.running.swaps[swaps:] == [digest]
        assert not activation.choose(MODEL).changed
        assert device.running.swaps[swaps:] == [digest], "what runs already is left alone"

    def test_who_goes_back_need_not_wait_for_it(self, device: UpdateDevice, activation: Activation) -> None:
        update(device, package(device))
        assert "tried" not in activation.rollback(MODEL).gate
        again = activation.activate(MODEL, "2.0.0")
        assert again.gate["variant"] == "quick"
        assert "tried" not in again.gate

    def test_one_that_does_not_pass_any_more_is_measured_against_the_others(
        self, device: UpdateDevice, activation: Activation
    ) -> None:
        update(device, package(device, wrong=("quick",)))
        digest = device.active()
        choice = device.db.choice(digest)
        assert choice is not None
        device.db.set_choice(digest, msgspec.structs.replace(choice, variant="quick"))
        activation.rollback(MODEL)
        assert activation.activate(MODEL, "2.0.0").gate["variant"] == "slow"

    def test_one_that_fails_on_live_frames_is_given_up(self, device: UpdateDevice, activation: Activation) -> None:
        update(device, package(device))
        device.db.set_choice(device.active(), before := Choice("slow", BASIS, ()))
        device.running.failing = 3
        with pytest.raises(RefusedError, match="failed on live frames"):
            activation.choose(MODEL)
        assert device.db.choice(device.active()) == before

    def test_is_listed(self, device: UpdateDevice, activation: Activation) -> None:
        update(device, package(device))
        rows = {row["version"]: row for row in activation.models()}
        assert rows["2.0.0"]["choice"]["variant"] == "quick"
        assert rows["1.0.0"]["choice"] is None

    def test_there_must_be_a_choice(self, device: UpdateDevice, activation: Activation) -> None:
        with pytest.raises(UsageError, match="does not ask to be measured"):
            activation.choose(MODEL)
        with pytest.raises(UsageError, match="no package of model 'other'"):
            activation.choose("other")
        named = NotRunning({MODEL: ("slow", 1)})
        stubborn = Activation(device.slots, device.store, named, db=device.db, state_dir=device.folder / "state")
        with pytest.raises(UsageError, match="names variant 'slow'"):
            stubborn.choose(MODEL)

    def test_only_what_is_missing_is_due(self, device: UpdateDevice, activation: Activation) -> None:
        assert activation.due([MODEL, "unknown"]) == []
        update(device, package(device))
        assert activation.due([MODEL]) == []
        device.db.set_choice(device.active(), None)
        assert activation.due([MODEL]) == [MODEL]


class TestChooser:
    """The thread of the daemon that makes what is due."""

    @pytest.fixture
    def due(self, device: UpdateDevice, activation: Activation) -> Activation:
        update(device, package(device))
        device.db.set_choice(device.active(), None)
        return activation

    def ended(self, activation: Activation) -> None:
        Chooser(activation, models=lambda: {MODEL}, stop=threading.Event()).start()
        wait_until(lambda: not any(one.name == "chooser" for one in threading.enumerate()), what="its end")

    def test_makes_what_is_due_and_ends(self, device: UpdateDevice, due: Activation) -> None:
        self.ended(due)
        assert chosen_variant(device.db, device.store.open(device.active())) == "quick"

    def test_waits_for_another_change_to_end(
        self, device: UpdateDevice, due: Activation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edgeinfer.runtime.chooser._FIRST_WAIT_S", 0.01)
        choose, asked = due.choose, []

        def busy_at_first(model: str) -> object:
            asked.append(model)
            if len(asked) == 1:
                raise EdgeInferError("an update is under way")
            return choose(model)

        monkeypatch.setattr(due, "choose", busy_at_first)
        self.ended(due)
        assert len(asked) == 2
        assert device.db.choice(device.active()) is not None

    @pytest.mark.parametrize("error", [RefusedError("no variant passes here"), ValueError("a mistake in the code")])
    def test_gives_up_where_trying_again_helps_nothing(
        self, due: Activation, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        asked = []

        def refused(model: str) -> object:
            asked.append(model)
            raise error

        monkeypatch.setattr(due, "choose", refused)
        self.ended(due)
        assert asked == [MODEL]


def test_pipelines_use_the_choice_and_go_to_no_other_when_less_is_wanted(device: UpdateDevice) -> None:
    path = package(device)
    state = Path(device.config.state_dir)
    pipelines = PipelineSet(
        store=device.store,
        slots=device.slots,
        append=lambda *_: None,
        around=Surroundings(state, device.config),
        chosen=lambda found: chosen_variant(device.db, found),
    )
    config = PipelineConfig(name="p", source=TensorsSource(path=str(device.folder / "no.npz")), package=str(path))
    try:
        pipelines.start([config])
        (pipeline,) = pipelines.all()
        assert pipeline.model.variant.id == "slow", "nothing was measured yet"
        device.db.set_choice(pipeline.model.digest, Choice("quick", BASIS, ()))
        pipelines.swap(MODEL, pipeline.model.digest)
        assert pipeline.model.variant.id == "quick"
        assert not pipelines.use_smaller(pipeline, on=True), "the fastest here runs already"
        assert not pipelines.use_smaller(pipeline, on=False)
        pipelines.apply([msgspec.structs.replace(config, variant="slow")])
        assert pipelines.all()[0].model.variant.id == "slow", "the configuration insists"
    finally:
        pipelines.stop()
