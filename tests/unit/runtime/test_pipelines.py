"""The set of running pipelines: what a trial sees of them, and which configurations are refused."""

import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgeinfer.runtime.assembly import Surroundings
from edgeinfer.runtime.errors import ConfigError, EdgeInferError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.handoff import RuntimeDb
from edgeinfer.runtime.manifest import RawPost, WindowPre
from edgeinfer.runtime.pipeline import Pipeline
from edgeinfer.runtime.pipelines import PipelineSet
from edgeinfer.runtime.recorder import Append
from edgeinfer.runtime.results import Kind, Result
from edgeinfer.runtime.rules.settings import RuleConfig
from edgeinfer.runtime.settings import PipelineConfig, RuntimeConfig
from edgeinfer.runtime.slots import Slots
from edgeinfer.runtime.sources.settings import CsvSource, TensorsSource
from edgeinfer.runtime.stages import Seen
from edgeinfer.runtime.store import Store
from packages import identity_model, linear_model, make_package
from waiting import wait_until

FEATURES = 8


class Device:
    """A store with versions of one model, and pipelines whose sources wait."""

    def __init__(self, folder: Path, append: Append = lambda *_: None) -> None:
        self.folder = folder
        self.store = Store(folder / "state")
        self.db = RuntimeDb(folder / "state" / "runtime.db")
        self.slots = Slots(self.db, self.store)
        around = Surroundings(folder / "state", RuntimeConfig(device="d", state_dir=str(folder / "state")))
        self.pipelines = PipelineSet(store=self.store, slots=self.slots, append=append, around=around)
        for name in ("m", "other"):
            linear_model(folder / f"{name}.onnx", features=FEATURES)
            for version in ("1.0.0", "2.0.0"):
                make_package(folder / f"{name}-{version}", folder / f"{name}.onnx", name=name, version=version)

    def config(self, name: str, package: str = "m-1.0.0") -> PipelineConfig:
        source = TensorsSource(path=str(self.folder / "no.npz"))
        return PipelineConfig(name=name, source=source, package=str(self.folder / package))

    def digest(self, package: str) -> str:
        return self.store.install(self.folder / package).digest


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path)
    yield made
    made.pipelines.stop()
    made.db.close()


def frame(features: int = FEATURES) -> Frame:
    return Frame(np.zeros(features, dtype=np.float32), time.time_ns(), time.monotonic_ns(), 0)


def test_a_frame_in_flight_on_the_old_version_proves_nothing_of_the_new_one(device: Device) -> None:
    device.pipelines.start([device.config("p")])
    (pipeline,) = device.pipelines.all()
    old = pipeline.model
    in_flight = old.prepare(frame())
    device.pipelines.swap("m", device.digest("m-2.0.0"))
    old.infer(in_flight)
    assert (old.inferred, device.pipelines.inferred("m")) == (1, 0)
    pipeline.model.infer(pipeline.model.prepare(frame()))
    assert device.pipelines.inferred("m") == 1


def test_failures_are_those_of_the_version_that_is_in_place(device: Device) -> None:
    device.pipelines.start([device.config("p")])
    (pipeline,) = device.pipelines.all()
    old = pipeline.model
    for _ in range(3):
        with pytest.raises(EdgeInferError):
            old.prepare(frame(FEATURES + 1))
    assert device.pipelines.failures("m") == 3
    device.pipelines.swap("m", device.digest("m-2.0.0"))
    assert device.pipelines.failures("m") == 0
    with pytest.raises(EdgeInferError):
        old.prepare(frame(FEATURES + 1))
    assert device.pipelines.failures("m") == 0
    with pytest.raises(EdgeInferError):
        pipeline.model.prepare(frame(FEATURES + 1))
    assert device.pipelines.failures("m") == 1
    pipeline.model.infer(pipeline.model.prepare(frame()))
    assert device.pipelines.failures("m") == 0


def test_each_pipeline_has_to_infer_whose_source_goes_on(device: Device) -> None:
    device.pipelines.start([device.config("p"), device.config("q")])
    first, second = device.pipelines.all()
    first.model.infer(first.model.prepare(frame()))
    assert device.pipelines.inferred("m") == 0
    second.model.infer(second.model.prepare(frame()))
    assert device.pipelines.inferred("m") == 1


def test_of_sources_that_have_all_ended_one_is_enough(device: Device) -> None:
    np.savez(device.folder / "x.npz", x=np.zeros((1, FEATURES), dtype=np.float32))
    source = TensorsSource(path=str(device.folder / "x.npz"))
    device.pipelines.start([PipelineConfig(name="p", source=source, package=str(device.folder / "m-1.0.0"))])
    wait_until(lambda: device.pipelines.idle("m"))
    assert device.pipelines.inferred("m") == 1


def test_a_version_with_the_right_channels_mends_what_lacks_some(tmp_path: Path) -> None:
    """Nothing comes of the source as it is: it is opened for the one that comes, and gives that one's columns."""
    results: list[tuple[float, ...]] = []

    def append(_pipeline: str, result: Result) -> None:
        if result.kind is Kind.RAW:
            results.append(tuple(item.score for item in result.items))

    device = Device(tmp_path, append)
    model = identity_model(tmp_path / "w.onnx", features=2)
    for version, channels in (("1.0.0", ("a", "lost")), ("2.0.0", ("b", "a")), ("3.0.0", ("a", "b"))):
        pre = WindowPre(1, channels=channels)
        make_package(tmp_path / f"w-{version}", model, name="w", version=version, pre=pre, post=RawPost())
    (tmp_path / "rows.csv").write_text("a,b\n" + "1,2\n" * 100_000)
    source = CsvSource(path=str(tmp_path / "rows.csv"), window=1, interval_s=0.01)
    try:
        device.pipelines.start([PipelineConfig(name="p", source=source, package=str(tmp_path / "w-1.0.0"))])
        (pipeline,) = device.pipelines.all()
        wait_until(lambda: "without lost" in pipeline.status.error)
        device.pipelines.swap("w", device.digest("w-2.0.0"))
        wait_until(lambda: len(results) > 3)
        with pytest.raises(ConfigError, match="takes the channels a, b, and the source gives b, a"):
            device.pipelines.swap("w", device.digest("w-3.0.0"))
        assert set(results) == {(2.0, 1.0)}
    finally:
        device.pipelines.stop()
        device.db.close()
    assert pipeline.counts.captured == sum(pipeline.counts.totals().values())


def test_a_source_that_was_opened_for_another_package_meanwhile_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first row comes between the look at what it gives and the change."""
    results: list[tuple[float, ...]] = []

    def append(_pipeline: str, result: Result) -> None:
        if result.kind is Kind.RAW:
            results.append(tuple(item.score for item in result.items))

    device = Device(tmp_path, append)
    model = identity_model(tmp_path / "w.onnx", features=2)
    for version, channels in (("1.0.0", ("a", "b")), ("2.0.0", ("b", "a"))):
        pre = WindowPre(1, channels=channels)
        make_package(tmp_path / f"w-{version}", model, name="w", version=version, pre=pre, post=RawPost())
    (tmp_path / "rows.csv").write_text("a,b\n" + "1,2\n" * 100_000)
    source = CsvSource(path=str(tmp_path / "rows.csv"), window=1, interval_s=0.01)
    try:
        device.pipelines.start([PipelineConfig(name="p", source=source, package=str(tmp_path / "w-1.0.0"))])
        wait_until(lambda: bool(results))
        monkeypatch.setattr(Pipeline, "gives", None)
        device.pipelines.swap("w", device.digest("w-2.0.0"))
        wait_until(lambda: results[-1] == (2.0, 1.0))
    finally:
        device.pipelines.stop()
        device.db.close()
    kept = [row for number, row in enumerate(results) if number and row != results[number - 1]]
    assert (results[0], kept) == ((1.0, 2.0), [(2.0, 1.0)])


def test_a_model_without_pipelines_is_neither_idle_nor_swapped(device: Device) -> None:
    assert not device.pipelines.idle("m")
    assert not device.pipelines.has_swapped("m", device.digest("m-1.0.0"))
    assert device.pipelines.inferred("m") == 0


@pytest.mark.parametrize("how", ["start", "apply"])
def test_two_packages_of_one_model_are_refused(device: Device, how: str) -> None:
    one, two = device.config("p"), device.config("q", "m-2.0.0")
    if how == "apply":
        device.pipelines.start([one])
    before = device.slots.of("m")
    with pytest.raises(ConfigError, match="'p' and 'q' name different packages of model 'm'"):
        getattr(device.pipelines, how)([one, two])
    assert device.slots.of("m") == before, "refused before anything was changed"
    assert len(device.pipelines.all()) == (how == "apply")


def test_the_same_package_twice_and_another_model_are_fine(device: Device) -> None:
    (device.folder / "copy").write_bytes((device.folder / "m-1.0.0").read_bytes())
    device.pipelines.start([device.config("p"), device.config("q", "copy"), device.config("r", "other-2.0.0")])
    assert len(device.pipelines.all()) == 3


def test_a_package_that_was_never_there_is_a_mistake_in_the_configuration(device: Device) -> None:
    with pytest.raises(ConfigError, match=r"pipeline 'p': .*no such package"):
        device.pipelines.start([device.config("p", "lost")])


def test_a_version_that_one_pipeline_cannot_use_changes_none_of_them(device: Device) -> None:
    """Two pipelines of one model; the second has a rule about a label that the new version does not know."""
    for version, labels in (("1.0.0", "abc"), ("2.0.0", "abd")):
        make_package(device.folder / f"l-{version}", device.folder / "m.onnx", name="l", version=version, labels=labels)
    ruled = msgspec.structs.replace(
        device.config("second", "l-1.0.0"), rule=(RuleConfig(name="seen", labels=("c",), min_score=0.5),)
    )
    device.pipelines.start([device.config("first", "l-1.0.0"), ruled])
    before = {pipeline.config.name: (pipeline.model, pipeline.observers) for pipeline in device.pipelines.all()}
    with pytest.raises(ConfigError, match="'c'"):
        device.pipelines.swap("l", device.digest("l-2.0.0"))
    after = {pipeline.config.name: (pipeline.model, pipeline.observers) for pipeline in device.pipelines.all()}
    assert after == before
    assert {model.package.manifest.version for model, _ in after.values()} == {"1.0.0"}


class SlowWriter:
    """An observer that has something to write when it is closed."""

    def __init__(self) -> None:
        self.disk, self.closed = threading.Event(), threading.Event()

    def __call__(self, _seen: Seen) -> Iterable[Result]:
        return ()

    def close(self) -> None:
        assert self.disk.wait(60)
        self.closed.set()


@pytest.mark.parametrize("waits", [False, True])
def test_who_ends_in_a_hurry_leaves_observers_to_write(device: Device, waits: bool) -> None:
    device.pipelines.start([device.config("p")])
    slow = SlowWriter()
    device.pipelines.all()[0].add_observer(slow)
    if waits:
        threading.Timer(0.5, slow.disk.set).start()
        device.pipelines.stop()
        assert slow.closed.is_set()
    else:
        device.pipelines.stop(0.0, leave_s=0.01)
        assert not slow.closed.is_set()
        slow.disk.set()
        assert slow.closed.wait(60)
