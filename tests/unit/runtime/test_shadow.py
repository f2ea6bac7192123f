"""A candidate in shadow: what counts as the same answer, and that it never disturbs the active version."""

import logging
import math
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.learn import shadow
from edgeinfer.runtime.learn.comparison import agree, box_f1, iou
from edgeinfer.runtime.learn.examples import HardExamples
from edgeinfer.runtime.learn.settings import ExamplesConfig, ShadowConfig
from edgeinfer.runtime.learn.shadow import ShadowReport, ShadowRun, disagreement_hook
from edgeinfer.runtime.logs import fields_of
from edgeinfer.runtime.manifest import AnomalyPost, ImagePre, TensorPre
from edgeinfer.runtime.model import Inferred, LoadedModel, Prepared
from edgeinfer.runtime.results import Item, Kind, Result
from edgeinfer.runtime.stages import Seen
from edgeinfer.runtime.store import InstalledPackage, Store
from packages import identity_model, linear_model, make_package
from waiting import wait_until

Array = npt.NDArray[Any]
FEATURES = 8

unit = st.floats(0.0, 1.0)
boxes = st.tuples(unit, unit, unit, unit).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)
found = st.lists(st.builds(Item, st.integers(0, 3), unit, boxes), max_size=6)


class TestComparison:
    @given(boxes, boxes)
    @example((0.0, 0.0, 0.5, 5e-324), (0.0, 0.0, 0.5, 5e-324))
    def test_iou_is_symmetric_and_a_share(self, one: Any, other: Any) -> None:
        assert 0.0 <= iou(one, other) <= 1.0 + 1e-9
        assert iou(one, other) == pytest.approx(iou(other, one))

    def test_iou_is_counted_in_cells(self) -> None:
        """Against the plain definition on a grid."""
        random = np.random.default_rng(0)
        for _ in range(50):
            sides = np.sort(random.integers(0, 20, (2, 2, 2)), axis=2)  # box, axis, ends
            grids = np.zeros((2, 20, 20), bool)
            for grid, ((x1, x2), (y1, y2)) in zip(grids, sides, strict=True):
                grid[y1:y2, x1:x2] = True
            one, other = ((int(x1), int(y1), int(x2), int(y2)) for (x1, x2), (y1, y2) in sides)
            union = int((grids[0] | grids[1]).sum())
            expected = int((grids[0] & grids[1]).sum()) / union if union else 0.0
            assert iou(one, other) == pytest.approx(expected)

    @given(found)
    def test_what_is_the_same_agrees(self, items: list[Item]) -> None:
        large = [item for item in items if item.box and iou(item.box, item.box) > 0.0]
        assert box_f1(large, large) == 1.0
        for kind in (Kind.CLASSIFICATION, Kind.DETECTION, Kind.ANOMALY, Kind.REGRESSION, Kind.RAW):
            assert agree(kind, large, large)

    @given(found, found)
    def test_f1_is_a_share_and_each_box_counts_once(self, ours: list[Item], theirs: list[Item]) -> None:
        score = box_f1(ours, theirs)
        assert 0.0 <= score <= 1.0
        assert score <= 2 * min(len(ours), len(theirs)) / max(len(ours) + len(theirs), 1) or score == 1.0

    @pytest.mark.parametrize(
        ("kind", "ours", "theirs", "same"),
        [
            (Kind.CLASSIFICATION, [(1, 0.9), (2, 0.1)], [(1, 0.5), (3, 0.4)], True),
            (Kind.CLASSIFICATION, [(1, 0.9)], [(2, 0.9)], False),
            (Kind.CLASSIFICATION, [(1, 0.9)], [], False),
            (Kind.ANOMALY, [(1, 9.0)], [(1, 70.0)], True),
            (Kind.ANOMALY, [(1, 9.0)], [(0, 8.9)], False),
            (Kind.REGRESSION, [(0, 10.0), (1, -5.0)], [(0, 10.5), (1, -5.2)], True),
            (Kind.REGRESSION, [(0, 10.0)], [(0, 12.0)], False),
            (Kind.REGRESSION, [(0, 10.0)], [(0, 10.0), (1, 0.0)], False),
            (Kind.EMBEDDING, [(0, 1.0), (1, 1.0)], [(0, 5.0), (1, 5.1)], True),
            (Kind.EMBEDDING, [(0, 1.0), (1, 0.0)], [(0, 0.0), (1, 1.0)], False),
            (Kind.EMBEDDING, [(0, 0.0)], [(0, 0.0)], True),
            (Kind.SEGMENTATION, [(3, 0.5), (4, 0.2)], [(3, 0.45), (4, 0.25)], True),
            (Kind.SEGMENTATION, [(3, 0.5)], [(4, 0.5)], False),
            (Kind.SEGMENTATION, [], [], True),
        ],
    )
    def test_each_task_has_its_own_sameness(
        self, kind: Kind, ours: list[tuple[int, float]], theirs: list[tuple[int, float]], same: bool
    ) -> None:
        assert agree(kind, [Item(*one) for one in ours], [Item(*one) for one in theirs]) is same

    def test_boxes_agree_by_half_of_their_f1(self) -> None:
        box, aside = (0.1, 0.1, 0.5, 0.5), (0.6, 0.6, 0.9, 0.9)
        assert agree(Kind.DETECTION, [], [])
        assert agree(Kind.DETECTION, [Item(1, 0.9, box)], [Item(1, 0.4, (0.1, 0.1, 0.5, 0.45))])
        assert agree(Kind.DETECTION, [Item(1, 0.9, box)], [Item(1, 0.4, box), Item(1, 0.4, aside)])
        assert not agree(Kind.DETECTION, [Item(1, 0.9, box)], [Item(2, 0.9, box)])
        assert not agree(Kind.DETECTION, [Item(1, 0.9, box)], [])

    def test_keypoints_agree_where_they_are_near(self) -> None:
        def at(x: float) -> list[Item]:
            return [Item(0, 0.9, (x, 0.5, x, 0.5)), Item(1, 0.9, (0.2, 0.2, 0.2, 0.2))]

        assert agree(Kind.KEYPOINTS, at(0.5), at(0.55))
        assert not agree(Kind.KEYPOINTS, at(0.5), at(0.7))
        assert not agree(Kind.KEYPOINTS, at(0.5), [])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def package(folder: Path, *, version: str = "1.0.0", seed: int = 0, labels: Sequence[str] = ()) -> InstalledPackage:
    model = linear_model(folder / "m.onnx", features=FEATURES, seed=seed)
    path = folder / f"{version}.edgepkg"
    make_package(path, model, name="m", version=version, pre=TensorPre(), labels=labels)
    return Store(folder / "store").install(path)


def frames(count: int, *, seed: int = 1) -> list[Array]:
    return list(np.random.default_rng(seed).normal(size=(count, FEATURES)).astype(np.float32))


def see(model: LoadedModel, data: Array, index: int = 0) -> Seen:
    frame = Frame(data, 10**18 + index, index, index)
    prepared = model.prepare(frame)
    inferred = model.infer(prepared)
    model.release(prepared)
    return Seen(
        frame, Result(model.kind, frame.t_ns, index, 5, items=inferred.items), prepared.target, inferred.outputs
    )


def feed(run: ShadowRun, active: LoadedModel, inputs: list[Array]) -> list[Result]:
    """One after the other, so that none comes while the candidate is busy; and one more, for the last answer."""
    told: list[Result] = []
    for index, data in enumerate([*inputs, inputs[-1]]):
        told.extend(run(see(active, data, index)))
        assert run.idle.wait(60)
    return told


def test_the_same_model_agrees_on_every_frame(folder: Path) -> None:
    installed = package(folder)
    active = LoadedModel(installed)
    run = ShadowRun(LoadedModel(installed), ShadowConfig(frames=100))
    assert run.report == ShadowReport()
    told = feed(run, active, frames(150))
    assert run.finished
    assert run.report._replace(latency_us_p50=0) == ShadowReport(100, 1.0, 0.0, 0, 0)
    (result,) = told
    assert (result.kind, result.frame) == (Kind.SHADOW, 100)
    extra = result.extra or {}
    assert (extra["candidate"], extra["frames"], extra["agreement"], extra["failures"]) == ("m 1.0.0", 100, 1.0, 0)
    assert extra["latency_us_active"] == 5
    assert msgspec.json.decode(msgspec.json.encode(result), type=Result) == result
    run.close()
    run.close()


def test_another_model_agrees_as_often_as_numpy_says(folder: Path) -> None:
    one, other = LoadedModel(package(folder)), LoadedModel(package(folder, version="2.0.0", seed=9))
    inputs = frames(200)
    weights = [np.random.default_rng(seed).normal(size=(FEATURES, 3)).astype(np.float32) for seed in (0, 9)]
    expected = np.mean([np.argmax(x @ weights[0]) == np.argmax(x @ weights[1]) for x in inputs])
    disagreed: list[int] = []
    run = ShadowRun(other, ShadowConfig(frames=200), disagreed=lambda seen: disagreed.append(seen.frame.index))
    feed(run, one, inputs)
    assert run.report.agreement == pytest.approx(expected)
    assert len(disagreed) == round((1 - expected) * 200)
    assert run.report.psi >= 0.0


def test_one_frame_in_so_many_is_compared(folder: Path) -> None:
    installed = package(folder)
    candidate = LoadedModel(installed)
    run = ShadowRun(candidate, ShadowConfig(frames=10, every=5))
    told = feed(run, LoadedModel(installed), frames(46))
    assert candidate.inferred == 10
    assert "failed" not in (told[0].extra or {})
    assert [result.frame for result in told] == [46]


class Failing(LoadedModel):
    """Raises what it is told to, at every other frame."""

    error: Exception = ModelError("the engine failed")

    def infer(self, prepared: Prepared) -> Inferred:
        if prepared.frame.index % 2:
            raise self.error
        return super().infer(prepared)


@pytest.mark.parametrize("error", [ModelError("the engine failed"), RuntimeError("unforeseen"), MemoryError()])
def test_a_candidate_that_fails_is_counted_and_heard_of_once(
    folder: Path, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    installed = package(folder)
    candidate = Failing(installed)
    candidate.error = error
    run = ShadowRun(candidate, ShadowConfig(frames=20))
    with caplog.at_level(logging.INFO, logger="edgeinfer"):
        (told,) = feed(run, LoadedModel(installed), frames(20))
    assert (run.report.failures, run.report.agreement) == (10, 0.5)
    assert (told.extra or {})["failures"] == 10
    (finished,) = [record for record in caplog.records if "shadow_finished" in record.getMessage()]
    fields = fields_of(finished)
    assert (fields["event"], fields["candidate"], fields["frames"]) == ("shadow_finished", "m 1.0.0", "20")
    assert caplog.text.count("event=shadow_failed") == 1


def test_a_candidate_that_takes_other_inputs_fails_on_all(folder: Path) -> None:
    wide = linear_model(folder / "w.onnx", features=3)
    make_package(folder / "w.edgepkg", wide, name="m", version="2.0.0")
    candidate = LoadedModel(Store(folder / "store").install(folder / "w.edgepkg"))
    run = ShadowRun(candidate, ShadowConfig(frames=5))
    feed(run, LoadedModel(package(folder)), frames(5))
    assert run.finished
    assert run.report == ShadowReport(5, 0.0, 0.0, 0, 5)


def test_classes_are_compared_by_name_where_they_moved(folder: Path) -> None:
    active = package(folder, labels=["a", "b", "c"])
    same = package(folder, version="1.0.1", labels=["a", "b", "c"])
    moved = package(folder, version="2.0.0", labels=["c", "a", "b"])
    reports = []
    for installed in (same, moved):
        run = ShadowRun(LoadedModel(installed), ShadowConfig(frames=30), labels=active.labels())
        feed(run, LoadedModel(active), frames(30))
        reports.append(run.report.agreement)
    assert reports == [1.0, 0.0]


def test_verdicts_are_compared_and_not_scores(folder: Path) -> None:
    model = identity_model(folder / "i.onnx", features=FEATURES)
    runs = []
    for version, threshold in (("1.0.0", 0.5), ("2.0.0", 0.6), ("3.0.0", -1.0)):
        path = folder / f"{version}.edgepkg"
        make_package(path, model, name="m", version=version, post=AnomalyPost(threshold), labels=[version, "x"])
        runs.append(LoadedModel(Store(folder / "store").install(path)))
    agreements = []
    for candidate in runs[1:]:
        run = ShadowRun(candidate, ShadowConfig(frames=10), labels=("1.0.0", "x"))
        feed(run, runs[0], frames(10))
        agreements.append(run.report.agreement)
    assert agreements == [1.0, 0.0]


def test_hard_examples_hear_of_it(folder: Path) -> None:
    installed = package(folder)
    active = LoadedModel(installed)
    examples = HardExamples(ExamplesConfig(margin=0.0), installed.manifest, labels=(), pipeline="p", state_dir=folder)
    other = LoadedModel(package(folder, version="2.0.0", seed=9))
    quiet = ShadowRun(other, ShadowConfig(frames=1))
    run = ShadowRun(other, ShadowConfig(frames=200), disagreed=disagreement_hook([quiet, examples]))
    feed(run, active, frames(200))
    examples.close()
    (path,) = (folder / "examples" / "p").glob("*.json")
    assert b'"reason": "shadow"' in path.read_bytes()


def test_who_listens_cannot_end_it(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    def broken(seen: Seen) -> None:
        raise ValueError(seen.frame.index)

    other = LoadedModel(package(folder, version="2.0.0", seed=9))
    run = ShadowRun(other, ShadowConfig(frames=50), disagreed=broken)
    feed(run, LoadedModel(package(folder)), frames(50))
    assert run.finished
    assert caplog.text.count("event=hook_crashed") == 1


class Hanging(LoadedModel):
    """Comes back from its third call when it is told to."""

    def __init__(self, package: InstalledPackage) -> None:
        super().__init__(package)
        self.go, self.hangs, self.back = threading.Event(), threading.Event(), threading.Event()

    def infer(self, prepared: Prepared) -> Inferred:
        if self.inferred == 2:
            self.hangs.set()
            assert self.go.wait(60)
            self.back.set()
        return super().infer(prepared)


@pytest.fixture
def hanging(folder: Path) -> Iterator[Hanging]:
    candidate = Hanging(package(folder))
    yield candidate
    candidate.go.set()
    wait_until(lambda: not shadow_threads())


def shadow_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "shadow-m"]


def hang(run: ShadowRun, candidate: Hanging, active: LoadedModel) -> None:
    for index, data in enumerate(frames(3)):
        assert run.idle.wait(60)
        assert run(see(active, data, index)) == ()
    assert candidate.hangs.wait(60)


def test_one_that_hangs_holds_up_no_frame_and_ends_as_failed(folder: Path, hanging: Hanging) -> None:
    active = LoadedModel(package(folder, version="1.0.1"))
    run = ShadowRun(hanging, ShadowConfig(frames=10), limit_s=0.05)
    hang(run, hanging, active)
    told: list[Result] = []

    def ended() -> bool:
        told.extend(run(see(active, frames(1)[0], 7)))
        return run.finished

    wait_until(ended)
    assert (run.report.frames, run.report.agreement, run.report.failures) == (2, 0.0, 1)
    assert "took longer than 0.05 s" in run.report.failed
    assert [(result.kind, result.frame) for result in told] == [(Kind.SHADOW, 7)]
    assert (told[0].extra or {})["failed"] == run.report.failed
    before = run.report
    hanging.go.set()
    wait_until(lambda: not shadow_threads())
    assert run(see(active, frames(1)[0], 8)) == ()
    assert run.report == before, "what it says at last is not heard"


def test_frames_that_come_while_it_is_busy_are_skipped(folder: Path, hanging: Hanging) -> None:
    active = LoadedModel(package(folder, version="1.0.1"))
    run = ShadowRun(hanging, ShadowConfig(frames=5))
    hang(run, hanging, active)
    for index, data in enumerate(frames(50)):
        assert run(see(active, data, index)) == ()
    assert run.report.frames == 2
    hanging.go.set()
    assert run.idle.wait(60)
    feed(run, active, frames(2))
    assert run.report[:2] == (5, 1.0)


def test_close_waits_for_no_call_and_counts_as_finished(folder: Path, hanging: Hanging) -> None:
    active = LoadedModel(package(folder, version="1.0.1"))
    run = ShadowRun(hanging, ShadowConfig(frames=5))
    hang(run, hanging, active)
    before = run.finished
    run.close()
    run.close()
    assert (before, run.finished) == (False, True)
    assert not hanging.back.is_set()
    assert run(see(active, frames(1)[0])) == ()


def test_the_frame_is_that_of_the_moment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source may use its array again at once, and so may the pipeline."""
    candidate, active = LoadedModel(package(folder)), LoadedModel(package(folder, version="1.0.1"))
    gate = Gate(candidate)
    monkeypatch.setattr(candidate, "prepare", gate)
    run = ShadowRun(candidate, ShadowConfig(frames=1))
    data = frames(1)[0]
    shown = see(active, data)
    assert run(shown) == ()
    data[:] = -data
    shown.target[:] = 0.0
    gate.go.set()
    assert run.idle.wait(60)
    run(see(active, data, 1))
    assert run.report[:2] == (1, 1.0)


class Gate:
    """Holds the candidate before it reads the frame."""

    def __init__(self, model: LoadedModel) -> None:
        self.go = threading.Event()
        self._prepare = model.prepare

    def __call__(self, frame: Frame, *, is_first: bool = False) -> Prepared:
        assert self.go.wait(60)
        return self._prepare(frame, is_first=is_first)


def with_scores(shown: Seen, score: float) -> Seen:
    items = tuple(msgspec.structs.replace(item, score=score) for item in shown.result.items)
    return shown._replace(result=msgspec.structs.replace(shown.result, items=items))


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_an_active_version_without_numbers_does_not_keep_it_from_ending(folder: Path, score: float) -> None:
    installed = package(folder)
    active = LoadedModel(installed)
    run = ShadowRun(LoadedModel(installed), ShadowConfig(frames=5))
    for index, data in enumerate(frames(6)):
        run(with_scores(see(active, data, index), score))
        assert run.idle.wait(60)
    assert run.finished
    assert run.report[:3] == (5, 1.0, 0.0), "the classes are the same"


def test_a_candidate_that_gives_no_numbers_agrees_with_nothing(folder: Path) -> None:
    installed = package(folder)
    candidate = LoadedModel(installed)
    infer = candidate.infer
    candidate.infer = lambda prepared: infer(prepared)._replace(items=(Item(0, math.nan),))  # type: ignore[method-assign]  # an engine gone wrong
    run = ShadowRun(candidate, ShadowConfig(frames=5))
    feed(run, LoadedModel(installed), frames(5))
    assert run.report == ShadowReport(5, 0.0, 0.0, run.report.latency_us_p50, 0)


@pytest.mark.parametrize("part", ["_psi", "top_score"])
def test_an_error_of_its_own_ends_it_as_failed(folder: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    def broken(*_: object) -> float:
        raise ValueError("no such number")

    monkeypatch.setattr(shadow, part, broken)
    installed = package(folder)
    run = ShadowRun(LoadedModel(installed), ShadowConfig(frames=3))
    (told,) = feed(run, LoadedModel(installed), frames(3))
    assert run.finished
    assert run.report.agreement == 0.0
    assert run.report.frames >= 1
    assert "no such number" in str((told.extra or {})["failed"])


@pytest.mark.data
def test_int8_and_float_of_one_model_agree_on_photographs(folder: Path, data_dir: Path) -> None:
    loaded = []
    for version, file in (("1.0.0", "vww_int8.tflite"), ("2.0.0", "vww_float.tflite")):
        path = folder / f"{version}.edgepkg"
        pre = ImagePre(96, 96, std=(255.0,))
        make_package(path, data_dir / "tiny" / file, name="vww", version=version, engine="litert", pre=pre)
        loaded.append(LoadedModel(Store(folder / "store").install(path)))
    pictures = np.load(data_dir / "tiny" / "vww_samples.npz")["x"][:200, ..., ::-1]
    run = ShadowRun(loaded[1], ShadowConfig(frames=200))
    feed(run, loaded[0], [np.ascontiguousarray(picture) for picture in pictures])
    assert run.report.agreement >= 0.95
    assert run.report.psi < 0.25
    assert run.report.latency_us_p50 > 0
