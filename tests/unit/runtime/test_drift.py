"""Drift: no alarm where nothing shifts, and one that names what has, on real data; what was learned is kept."""

import csv
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.runtime.config import parse_config
from edgeinfer.runtime.errors import ConfigError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.learn.distribution import describe
from edgeinfer.runtime.learn.drift import MIN_WINDOW, DriftWatch
from edgeinfer.runtime.learn.drift_observer import DriftObserver
from edgeinfer.runtime.learn.settings import DriftConfig
from edgeinfer.runtime.learn.statistics import InputStatistics, frame_inputs, score_statistics
from edgeinfer.runtime.manifest import (
    AnomalyPost,
    ClassifyPost,
    ImagePre,
    Manifest,
    Reference,
    WindowPre,
)
from edgeinfer.runtime.model import LoadedModel
from edgeinfer.runtime.results import Kind, Result
from edgeinfer.runtime.stages import Seen
from edgeinfer.runtime.store import InstalledPackage, Store
from packages import linear_model, make_package, projection_model

Array = npt.NDArray[Any]
EAGER = DriftConfig(sample_s=0.0, interval_s=1e-9, window=200)


def watch_of(config: DriftConfig = EAGER) -> DriftWatch:
    random = np.random.default_rng(8)
    return DriftWatch(config, Reference(scores={"score": describe(random.normal(size=500))}))


def test_a_report_needs_enough_frames() -> None:
    watch = watch_of()
    for _ in range(MIN_WINDOW - 1):
        watch.add({"score": 0.0}, {})
    assert watch.report() is None
    watch.add({"score": 0.0, "unknown": 3.0}, {"also": 1.0})
    report = watch.report()
    assert report is not None
    assert (report.n, report.worst, report.drifted) == (MIN_WINDOW, "score", True)
    assert report.extra()["drifted"] == 1


def test_the_window_forgets_and_the_report_follows() -> None:
    watch, random = watch_of(), np.random.default_rng(9)
    for value in random.normal(loc=3.0, size=200):
        watch.add({"score": value}, {})
    assert watch.report().drifted  # type: ignore[union-attr]  # there are enough
    for value in random.normal(size=200):
        watch.add({"score": value}, {})
    assert not watch.report().drifted  # type: ignore[union-attr]  # there are enough


@pytest.mark.parametrize(
    ("text", "reason"),
    [("window = 10", "window"), ('reference = "mine"', "reference"), ("ks = 2.0", "ks"), ("every = 3", "every")],
)
def test_a_configuration_that_makes_no_sense_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse_config(text, DriftConfig)


class Stage:
    """The stage with its model, fed by hand. `step_s` lies between two frames."""

    def __init__(self, package: InstalledPackage, config: DriftConfig, folder: Path, *, step_s: float = 1.0) -> None:
        self.model = LoadedModel(package)
        self.stage = DriftObserver(config, package.manifest, pipeline="p", state_dir=folder)
        self._step_ns = int(step_s * 1e9)
        self.index = 0

    def feed(self, inputs: Iterable[Array]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for data in inputs:
            frame = Frame(data, 10**18 + self.index, self.index * self._step_ns, self.index)
            self.index += 1
            prepared = self.model.prepare(frame)
            inferred = self.model.infer(prepared)
            result = Result(self.model.kind, frame.t_ns, frame.index, items=inferred.items)
            for more in self.stage(Seen(frame, result, prepared.target, inferred.outputs)):
                assert (more.kind, more.frame) == (Kind.DRIFT, frame.index)
                found.append(more.extra or {})
            self.model.release(prepared)
        return found


def install(folder: Path, package: Path) -> InstalledPackage:
    return Store(folder / "store").install(package)


def with_reference(package: InstalledPackage, reference: Reference) -> InstalledPackage:
    """As if the package had been made with one."""
    return msgspec.structs.replace(package, manifest=msgspec.structs.replace(package.manifest, reference=reference))


def reference_of(package: InstalledPackage, inputs: Iterable[Array]) -> Reference:
    """Of inputs that are no series."""
    model, manifest = LoadedModel(package), package.manifest
    scores_of = score_statistics(model.kind)
    inputs_of = InputStatistics(manifest.preprocess, frame_inputs(manifest.variants))
    rows: list[tuple[dict[str, float], dict[str, float]]] = []
    for index, data in enumerate(inputs):
        prepared = model.prepare(Frame(data, 0, 0, index))
        rows.append((scores_of(model.infer(prepared).items), inputs_of(prepared.target)))
    kept = [{name: describe(np.array([row[part][name] for row in rows])) for name in rows[0][part]} for part in (0, 1)]
    return Reference(scores=kept[0], inputs=kept[1])


@pytest.mark.data
class TestPictures:
    """Persons and no persons, photographed (the samples of Visual Wake Words)."""

    @pytest.fixture
    def pictures(self, data_dir: Path) -> tuple[Array, Array]:
        samples = np.load(data_dir / "tiny" / "vww_samples.npz")
        order = np.random.default_rng(2).permutation(len(samples["y"]))
        return np.ascontiguousarray(samples["x"][order][..., ::-1]), samples["y"][order]

    @pytest.fixture
    def package(self, tmp_path: Path, data_dir: Path, pictures: tuple[Array, Array]) -> InstalledPackage:
        path, model = tmp_path / "vww.edgepkg", data_dir / "tiny" / "vww_int8.tflite"
        make_package(path, model, name="vww", engine="litert", pre=ImagePre(96, 96, std=(255.0,)), post=ClassifyPost())
        installed = install(tmp_path, path)
        return with_reference(installed, reference_of(installed, pictures[0][:250]))

    @pytest.fixture
    def stage(self, package: InstalledPackage, tmp_path: Path) -> Stage:
        return Stage(package, EAGER, tmp_path)

    def test_other_pictures_of_the_same_kind_do_not_drift(self, stage: Stage, pictures: tuple[Array, Array]) -> None:
        reports = stage.feed(pictures[0][250:])
        assert len(reports) == 250 - MIN_WINDOW + 1
        assert [report for report in reports if report["drifted"]] == []
        assert reports[-1]["psi_score"] < 0.25
        assert reports[-1]["psi_input"] < 0.25
        assert reports[-1]["n"] == 200

    @pytest.mark.parametrize(
        ("change", "worst"),
        [
            (lambda picture: (picture * 0.5).astype(np.uint8), {"brightness", "contrast"}),
            (lambda picture: np.clip(picture.astype(int) + 60, 0, 255).astype(np.uint8), {"brightness"}),
            (lambda picture: cv2.GaussianBlur(picture, (0, 0), 2.0), {"sharpness"}),
        ],
        ids=["darker", "brighter", "out of focus"],
    )
    def test_a_changed_camera_is_told_by_what_changed(
        self, stage: Stage, pictures: tuple[Array, Array], change: Callable[[Array], Array], worst: set[str]
    ) -> None:
        last = stage.feed([change(picture) for picture in pictures[0][250:]])[-1]
        assert last["drifted"] == 1
        assert last["worst"] in worst
        assert last["psi_input"] > 1.0

    def test_other_things_in_the_same_light_are_told_by_the_scores(
        self, stage: Stage, pictures: tuple[Array, Array]
    ) -> None:
        x, y = pictures
        last = stage.feed(x[250:][y[250:] == 1])[-1]
        assert (last["drifted"], last["worst"]) == (1, "label")
        assert last["psi_score"] > last["psi_input"]


@pytest.mark.data
class TestSeries:
    """Sensors of a water loop (SKAB), and a metered day over and over (NAB)."""

    LENGTH = 20

    def windows(self, series: Array, *, stride: int) -> list[Array]:
        return [series[start : start + self.LENGTH] for start in range(0, len(series) - self.LENGTH, stride)]

    def package(self, folder: Path, series: Array, *, components: int) -> InstalledPackage:
        mean, std = series.mean(axis=0), series.std(axis=0) + 1e-6
        rows = np.stack([w.reshape(-1) for w in self.windows((series - mean) / std, stride=self.LENGTH)])
        basis = np.linalg.svd(rows, full_matrices=False)[2][:components]
        path = folder / "m.edgepkg"
        pre = WindowPre(self.LENGTH, (), tuple(mean.tolist()), tuple(std.tolist()))
        make_package(path, projection_model(folder / "m.onnx", basis), name="m", pre=pre, post=AnomalyPost(1.0))
        return install(folder, path)

    def test_a_sensor_that_is_off_is_told_by_its_channel(self, tmp_path: Path, data_dir: Path) -> None:
        with (data_dir / "sensors/skab/anomaly-free/anomaly-free.csv").open() as file:
            rows = list(csv.reader(file, delimiter=";"))[1:]
        series = np.array([[float(cell) for cell in row[1:9]] for row in rows], np.float32)
        windows = self.windows(series, stride=self.LENGTH)
        order = np.random.default_rng(4).permutation(len(windows))
        shuffled = [windows[index] for index in order]
        package = self.package(tmp_path, series, components=20)
        package = with_reference(package, reference_of(package, shuffled[::2]))
        others = shuffled[1::2]
        assert not any(report["drifted"] for report in Stage(package, EAGER, tmp_path).feed(others))
        offset = np.zeros(8, np.float32)
        offset[3] = 2 * series[:, 3].std()
        last = Stage(package, EAGER, tmp_path).feed([window + offset for window in others])[-1]
        assert last["drifted"] == 1
        assert last["worst"] in {"mean_3", "score"}
        assert last["psi_input"] > 1.0

    def test_days_like_those_before_do_not_drift_and_a_shifted_meter_does(self, tmp_path: Path, data_dir: Path) -> None:
        """With a reference that the pipeline has learned by itself."""
        with (data_dir / "sensors/nab/artificialNoAnomaly/art_daily_small_noise.csv").open() as file:
            series = np.array([[float(row["value"])] for row in csv.DictReader(file)], np.float32)
        package = self.package(tmp_path, series, components=4)
        config = msgspec.structs.replace(EAGER, learn=800)
        stage = Stage(package, config, tmp_path)
        reports = stage.feed(self.windows(np.concatenate([series] * 3), stride=5))
        assert len(reports) > 500
        assert not any(report["drifted"] for report in reports)
        last = stage.feed(self.windows(series + series.std() * 2, stride=5))[-1]
        assert (last["drifted"], last["worst"]) == (1, "mean_0")


class TestOwnReference:
    @pytest.fixture
    def package(self, tmp_path: Path) -> InstalledPackage:
        make_package(tmp_path / "m.edgepkg", linear_model(tmp_path / "m.onnx"), name="m")
        return install(tmp_path, tmp_path / "m.edgepkg")

    CONFIG = msgspec.structs.replace(EAGER, learn=100)

    @staticmethod
    def rows(count: int, *, offset: float = 0.0) -> list[Array]:
        random = np.random.default_rng(count)
        return [(random.normal(size=8) + offset).astype(np.float32) for _ in range(count)]

    def kept(self, folder: Path) -> list[Path]:
        return sorted((folder / "learn").glob("*"))

    def test_a_restart_does_not_forget_it(self, package: InstalledPackage, tmp_path: Path) -> None:
        first = Stage(package, self.CONFIG, tmp_path)
        assert first.feed(self.rows(100)) == [], "it learns"
        assert not first.feed(self.rows(80))[-1]["drifted"]
        first.stage.close()
        assert [path.suffix for path in self.kept(tmp_path)] == [".json"]
        again = Stage(package, self.CONFIG, tmp_path)
        assert again.feed(self.rows(100, offset=3.0))[-1]["drifted"], "it compares from its first frames on"
        again.stage.close()

    def test_it_is_learned_anew_for_another_package_or_another_count(
        self, package: InstalledPackage, tmp_path: Path
    ) -> None:
        first = Stage(package, self.CONFIG, tmp_path)
        first.feed(self.rows(100))
        first.stage.close()
        newer = msgspec.structs.replace(package, manifest=msgspec.structs.replace(package.manifest, version="1.0.1"))
        assert Stage(newer, self.CONFIG, tmp_path).feed(self.rows(99)) == []
        assert Stage(package, self.CONFIG, tmp_path).feed(self.rows(60)) != []
        fewer = msgspec.structs.replace(self.CONFIG, learn=60)
        assert Stage(package, fewer, tmp_path).feed(self.rows(60)) == []  # and now its own is being written

    @pytest.mark.parametrize("damage", [b"", b"{}", b"\xff" * 100, b"[" * 100_000])
    def test_one_that_is_damaged_is_learned_again(
        self, package: InstalledPackage, tmp_path: Path, damage: bytes
    ) -> None:
        first = Stage(package, self.CONFIG, tmp_path)
        first.feed(self.rows(100))
        first.stage.close()
        self.kept(tmp_path)[0].write_bytes(damage)
        again = Stage(package, self.CONFIG, tmp_path)
        assert again.feed(self.rows(100)) == []
        assert again.feed(self.rows(60)) != []

    def test_a_folder_that_cannot_be_written_costs_the_memory_alone(
        self, package: InstalledPackage, tmp_path: Path
    ) -> None:
        (tmp_path / "learn").write_text("in the way")
        stage = Stage(package, self.CONFIG, tmp_path)
        stage.feed(self.rows(100))
        assert not stage.feed(self.rows(80))[-1]["drifted"]
        stage.stage.close()

    def test_those_of_old_packages_go_in_time(self, package: InstalledPackage, tmp_path: Path) -> None:
        for number in range(7):
            manifest = msgspec.structs.replace(package.manifest, version=f"1.0.{number}")
            stage = Stage(msgspec.structs.replace(package, manifest=manifest), self.CONFIG, tmp_path)
            stage.feed(self.rows(100))
            stage.stage.close()
            for age, path in enumerate(reversed(self.kept(tmp_path))):
                os.utime(path, (10**9 - age, 10**9 - age))
        assert len(self.kept(tmp_path)) == 4

    def test_the_configuration_may_prefer_it(self, package: InstalledPackage, tmp_path: Path) -> None:
        far = Reference(scores={"score": describe(np.full(500, -7.0))})
        packaged = with_reference(package, far)
        assert Stage(packaged, self.CONFIG, tmp_path).feed(self.rows(60))[-1]["drifted"]
        own = msgspec.structs.replace(self.CONFIG, reference="own")
        stage = Stage(packaged, own, tmp_path)
        stage.feed(self.rows(100))
        assert not stage.feed(self.rows(80))[-1]["drifted"]
        stage.stage.close()


def test_frames_are_looked_at_and_told_of_at_their_pace(tmp_path: Path) -> None:
    make_package(tmp_path / "m.edgepkg", linear_model(tmp_path / "m.onnx"), name="m")
    package = install(tmp_path, tmp_path / "m.edgepkg")
    package = with_reference(package, Reference(scores={"score": describe(np.linspace(0.3, 1.0, 500))}))
    config = DriftConfig(sample_s=1.0, interval_s=60.0)
    stage = Stage(package, config, tmp_path, step_s=0.1)
    reports = stage.feed([np.zeros(8, np.float32)] * 3000)  # five minutes
    assert [report["n"] for report in reports] == [50, 110, 170, 230, 290]


@settings(max_examples=25)
@given(st.binary(max_size=200))
def test_a_reference_in_a_manifest_is_read_or_refused(raw: bytes) -> None:
    try:
        msgspec.json.decode(raw, type=Reference)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return


def test_an_old_manifest_has_none() -> None:
    assert {field.name: field.default for field in msgspec.structs.fields(Manifest)}["reference"] is None
