"""Hard examples: which inputs are worth keeping, how many, and that they are whole on the disk."""

import errno
import io
import json
import os
import threading
import weakref
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.runtime import quota_folder
from edgeinfer.runtime.frame import Frame, Origin
from edgeinfer.runtime.learn.distribution import describe
from edgeinfer.runtime.learn.examples import HardExamples
from edgeinfer.runtime.learn.hardness import Hardness, Spans, margin_of, novelty
from edgeinfer.runtime.learn.settings import ExamplesConfig
from edgeinfer.runtime.manifest import AnomalyPost, ClassifyPost, DetectPost, ImagePre, Reference, TensorPre
from edgeinfer.runtime.model import LoadedModel
from edgeinfer.runtime.posts import RegressPost
from edgeinfer.runtime.quota_folder import QuotaFolder
from edgeinfer.runtime.results import Item, Kind, Result
from edgeinfer.runtime.stages import Seen
from edgeinfer.runtime.store import InstalledPackage, Store
from packages import linear_model, make_package, picture_model
from waiting import wait_until

pytestmark = pytest.mark.usefixtures("patient_writers")

Array = npt.NDArray[Any]
HOUR_NS, DAY_NS = 3600 * 10**9, 86_400 * 10**9
BOX = (0.0, 0.0, 1.0, 1.0)


class TestHardness:
    @pytest.mark.parametrize(
        ("kind", "items", "post", "margin"),
        [
            (Kind.CLASSIFICATION, [Item(3, 0.55), Item(1, 0.40)], ClassifyPost(), 0.15),
            (Kind.CLASSIFICATION, [Item(3, 0.55)], ClassifyPost(top_k=1), 0.10),
            (Kind.CLASSIFICATION, [], ClassifyPost(), 1.0),
            (Kind.DETECTION, [Item(3, 0.9, BOX), Item(1, 0.52, BOX)], DetectPost(score_threshold=0.5), 0.02),
            (Kind.DETECTION, [], DetectPost(), 1.0),
            (Kind.ANOMALY, [Item(1, 2.2)], AnomalyPost(threshold=2.0), 0.1),
            (Kind.ANOMALY, [Item(0, 0.5)], AnomalyPost(threshold=2.0), 0.75),
            (Kind.ANOMALY, [Item(1, 900.0)], AnomalyPost(threshold=2.0), 1.0),
            (Kind.ANOMALY, [Item(1, 1.0)], AnomalyPost(threshold=0.0), 1.0),
            (Kind.REGRESSION, [Item(0, 1.0)], RegressPost(), 1.0),
        ],
    )
    def test_the_margin_is_the_way_to_another_answer(
        self, kind: Kind, items: list[Item], post: Any, margin: float
    ) -> None:
        assert margin_of(kind, tuple(items), post) == pytest.approx(margin)

    def test_novel_is_what_lies_outside_of_the_reference(self) -> None:
        reference = {"score": describe(np.linspace(0.0, 1.0, 1001)), "count": describe(np.full(50, 2.0))}
        assert novelty({"score": 0.5, "count": 2.0, "unknown": 9.0}, reference) == (0.0, "")
        excess, name = novelty({"score": 1.2}, reference)
        assert (round(excess, 2), name) == (0.21, "score")
        assert novelty({"score": 1.2, "count": 3.0}, reference) == (1.0, "count")
        assert novelty({"score": float("nan")}, reference) == (1.0, "score")
        assert novelty({"score": float("inf")}, reference) == (1.0, "score")


class TestSpans:
    @staticmethod
    def run(spans: Spans, hard_at_ns: Iterable[int], reason: str = "margin") -> list[int]:
        """When an input was kept; a hard one comes at each of these times."""
        kept = []
        for now_ns in hard_at_ns:
            if spans.is_over(now_ns):
                if spans.budget_left:
                    spans.keep(reason)
                    kept.append(now_ns)
                spans.begin(now_ns)
        return kept

    def test_a_burst_does_not_take_the_day(self) -> None:
        """Ten minutes of hard frames, thirty a second, then one in a minute."""
        spans = Spans(ExamplesConfig(per_hour=600, per_day=100))
        burst = self.run(spans, range(1, 600 * 10**9, 33_000_000))
        assert 8 <= len(burst) <= 15
        later = self.run(spans, range(600 * 10**9, DAY_NS, 60 * 10**9))
        assert 70 <= len(later) <= 92
        assert later[-1] > 0.9 * DAY_NS

    @settings(max_examples=30, deadline=None)
    @given(st.integers(1, 100), st.integers(1, 50), st.integers(1, 2**20))
    def test_no_hour_and_no_day_has_more_than_its_budget(self, per_hour: int, per_day: int, seed: int) -> None:
        spans = Spans(ExamplesConfig(per_hour=per_hour, per_day=per_day))
        steps = np.random.default_rng(seed).integers(1, 10**12, 2000)
        kept = self.run(spans, np.cumsum(steps).tolist())
        assert all(after - before >= HOUR_NS // per_hour for before, after in pairwise(kept))
        for first in kept:
            # A day begins where the last one ended: any span as long may touch two of them.
            assert sum(first <= other < first + DAY_NS for other in kept) <= 2 * per_day

    def test_a_restart_gives_no_new_budget(self) -> None:
        spans = Spans(ExamplesConfig(per_day=10, per_hour=3600), kept_today=10)
        assert self.run(spans, range(1, DAY_NS, 10**12)) == []
        assert len(self.run(spans, range(DAY_NS + 1, 2 * DAY_NS, 10**12))) > 5

    def test_a_reason_that_was_kept_often_counts_for_less(self) -> None:
        spans = Spans(ExamplesConfig())
        night, unsure = Hardness("novel", 1.0, 1.0), Hardness("margin", 0.4, 0.06)
        assert spans.worth(night) > spans.worth(unsure)
        spans.keep("novel")
        spans.keep("novel")
        assert spans.worth(unsure) > spans.worth(night)


class Stage:
    """The stage with its model, fed by hand."""

    def __init__(self, package: InstalledPackage, config: ExamplesConfig, folder: Path, *, step_s: float = 1.0) -> None:
        self.model = LoadedModel(package)
        self.folder = folder
        self.stage = HardExamples(config, package.manifest, labels=package.labels(), pipeline="door", state_dir=folder)
        self._step_ns = int(step_s * 1e9)
        self.index = 0

    def feed(self, inputs: Iterable[Array], *, origin: Origin | None = None) -> list[Result]:
        found: list[Result] = []
        for data in inputs:
            found += self.stage(self.seen(data, origin=origin))
        return found

    def seen(self, data: Array, *, origin: Origin | None = None) -> Seen:
        frame = Frame(data, 10**18 + self.index, self.index * self._step_ns, self.index, origin)
        self.index += 1
        prepared = self.model.prepare(frame)
        inferred = self.model.infer(prepared)
        result = Result(self.model.kind, frame.t_ns, frame.index, items=inferred.items)
        return Seen(frame, result, prepared.target, inferred.outputs)

    def told(self, data: Array, count: int) -> list[Result]:
        """Feed it sure ones until it has told of so many examples."""
        found: list[Result] = []

        def enough() -> bool:
            found.extend(self.feed([data]))
            return len(found) >= count

        wait_until(enough, what=f"{count} examples told of")
        return found

    def files(self, ending: str = "") -> list[Path]:
        return sorted(path for path in (self.folder / "examples" / "door").glob("*") if path.name.endswith(ending))


EACH = ExamplesConfig(per_hour=3600, per_day=100_000, margin=0.2)  # a span a second


@pytest.fixture
def package(tmp_path: Path) -> InstalledPackage:
    model = linear_model(tmp_path / "m.onnx", features=2, classes=2)
    make_package(tmp_path / "m.edgepkg", model, name="m", labels=["no", "yes"], pre=TensorPre())
    return Store(tmp_path / "store").install(tmp_path / "m.edgepkg")


UNSURE = np.zeros(2, np.float32)  # both classes alike
SURE = np.array([50.0, -50.0], np.float32)


def test_windows_are_kept_whole_with_what_was_made_of_them(package: InstalledPackage, tmp_path: Path) -> None:
    stage = Stage(package, EACH, tmp_path)
    assert stage.feed([UNSURE, SURE, SURE]) == []
    (told,) = stage.told(SURE, 1)
    assert (told.kind, told.frame, told.t_ns) == (Kind.EXAMPLE, 0, 10**18)
    extra = told.extra or {}
    assert (extra["reason"], extra["margin"]) == ("margin", 0.0)
    path = tmp_path / str(extra["file"])
    with np.load(path, allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["x"], UNSURE[np.newaxis])
    about = json.loads(path.with_suffix(".json").read_bytes())
    assert (about["pipeline"], about["package"], about["version"], about["frame"]) == ("door", "m", "1.0.0", 0)
    assert [item["name"] for item in about["items"]] == ["no", "yes"]
    assert about["items"][0]["score"] == pytest.approx(0.5)
    stage.stage.close()


def test_sure_ones_are_not_kept(package: InstalledPackage, tmp_path: Path) -> None:
    stage = Stage(package, EACH, tmp_path)
    stage.feed([SURE] * 50)
    stage.stage.close()
    assert stage.files() == []
    assert not (tmp_path / "examples").exists()


def test_of_a_span_the_hardest_is_kept(package: InstalledPackage, tmp_path: Path) -> None:
    stage = Stage(package, EACH, tmp_path, step_s=0.01)
    nearly = [np.array([0.02 * k, 0.0], np.float32) for k in (5, 3, 1, 2, 4)]
    stage.feed([SURE, *nearly, *[SURE] * 200])
    stage.stage.close()
    (path,) = stage.files(".npz")
    with np.load(path) as archive:
        np.testing.assert_array_equal(archive["x"][0], nearly[2])


def test_what_waits_at_the_end_is_written(package: InstalledPackage, tmp_path: Path) -> None:
    stage = Stage(package, ExamplesConfig(), tmp_path)
    stage.feed([UNSURE])
    stage.stage.close()
    stage.stage.close()
    assert len(stage.files(".json")) == 1


def test_the_array_may_be_used_again(package: InstalledPackage, tmp_path: Path) -> None:
    stage = Stage(package, EACH, tmp_path)
    shared = UNSURE.copy()
    stage.feed([shared])
    shared[:] = 7.0
    stage.stage.close()
    with np.load(stage.files(".npz")[0]) as archive:
        np.testing.assert_array_equal(archive["x"][0], UNSURE)


def test_pictures_are_jpegs_that_any_program_reads(tmp_path: Path) -> None:
    model = picture_model(tmp_path / "m.onnx", width=8, height=8)
    make_package(tmp_path / "m.edgepkg", model, name="m", pre=ImagePre(8, 8, std=(25500.0,)))  # all classes alike
    package = Store(tmp_path / "store").install(tmp_path / "m.edgepkg")
    stage = Stage(package, msgspec.structs.replace(EACH, margin=1.0), tmp_path)
    picture: Array = np.full((48, 64, 3), 90, np.uint8)
    cv2.rectangle(picture, (8, 8), (24, 24), (80, 100, 90), -1)
    picture = cv2.GaussianBlur(picture, (0, 0), 3.0)
    stage.feed([picture], origin=Origin("gate", 7, 3, 0.5, BOX))
    stage.stage.close()
    (path,) = stage.files(".jpg")
    found = cv2.imread(str(path))
    assert found is not None
    assert np.abs(found.astype(int) - picture).max() <= 3
    about = json.loads(path.with_suffix(".json").read_bytes())
    assert about["shape"] == [48, 64, 3]
    assert about["origin"]["pipeline"] == "gate"


def test_novel_inputs_and_scores_are_kept(package: InstalledPackage, tmp_path: Path) -> None:
    usual = np.random.default_rng(0).normal(size=500)
    reference = Reference(inputs={"mean": describe(usual)})
    manifest = msgspec.structs.replace(package.manifest, reference=reference)
    stage = Stage(msgspec.structs.replace(package, manifest=manifest), EACH, tmp_path)
    odd = np.array([950.0, -50.0], np.float32)
    stage.feed([SURE] * 7 + [odd])  # inputs are measured on every eighth frame
    (told,) = stage.told(SURE, 1)
    assert {"reason": "novel", "detail": "mean"}.items() <= (told.extra or {}).items()
    stage.stage.close()


def test_what_the_shadow_disagrees_on_is_kept(package: InstalledPackage, tmp_path: Path) -> None:
    stage = Stage(package, EACH, tmp_path)
    stage.stage.disagreed(stage.seen(SURE))
    (told,) = stage.told(SURE, 1)
    assert (told.extra or {})["reason"] == "shadow"
    stage.stage.close()


def test_the_oldest_go_when_the_quota_is_full(package: InstalledPackage, tmp_path: Path) -> None:
    stage = Stage(package, msgspec.structs.replace(EACH, max_bytes=4000), tmp_path)
    for count in range(12):
        stage.feed([UNSURE])
        stage.told(SURE, 1)
        assert sum(path.stat().st_size for path in stage.files()) <= 4000, count
    stage.stage.close()
    kept = [int(path.name[:9]) for path in stage.files(".json")]
    assert kept == list(range(13 - len(kept), 13))
    assert 1 < len(kept) < 12


def test_a_restart_goes_on_with_the_numbers_and_the_budget(package: InstalledPackage, tmp_path: Path) -> None:
    config = msgspec.structs.replace(EACH, per_day=2)
    for _ in range(4):
        stage = Stage(package, config, tmp_path)
        stage.feed([UNSURE])
        stage.stage.close()
    assert [int(path.name[:9]) for path in stage.files(".json")] == [1, 2]


def test_a_folder_that_cannot_be_made_costs_examples_and_no_frame(package: InstalledPackage, tmp_path: Path) -> None:
    (tmp_path / "examples").write_text("in the way")
    stage = Stage(package, EACH, tmp_path)
    stage.feed([UNSURE, SURE, UNSURE, SURE] * 20)
    stage.stage.close()
    assert (tmp_path / "examples").read_text() == "in the way"


def test_a_full_disk_costs_examples_until_there_is_room(
    package: InstalledPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, full = os.fsync, threading.Event()
    refused = threading.Event()

    def fsync(descriptor: int) -> None:
        if full.is_set():
            refused.set()
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    full.set()
    stage = Stage(package, EACH, tmp_path)
    stage.feed([UNSURE, SURE])
    assert refused.wait(60)
    full.clear()
    stage.feed([UNSURE, SURE])
    (told,) = stage.told(SURE, 1)
    assert told.frame == 2
    stage.stage.close()
    assert len(stage.files()) == 2, "and nothing half written"


def test_while_nothing_can_be_written_nothing_piles_up(package: InstalledPackage, tmp_path: Path) -> None:
    (tmp_path / "examples").write_text("every write fails")
    stage = Stage(package, EACH, tmp_path)
    kept: list[weakref.ref[Array]] = []
    for _ in range(30):
        stage.feed([UNSURE])
        if stage.stage._held is not None:
            kept.append(weakref.ref(stage.stage._held.frame.data))
        stage.feed([SURE, SURE])
        wait_until(lambda: not stage.stage._folder._waiting and not stage.stage._folder._began_s)
    stage.feed([SURE])
    assert not stage.stage._waiting
    assert kept
    assert [data() for data in kept] == [None] * len(kept), "no frame is kept by anyone"
    stage.stage.close()


def test_closing_while_frames_come_keeps_each_input_once(package: InstalledPackage, tmp_path: Path) -> None:
    for attempt in range(10):
        stage = Stage(package, EACH, tmp_path / str(attempt))
        stage.feed([UNSURE])
        closing = threading.Thread(target=stage.stage.close)
        closing.start()
        stage.feed([UNSURE, SURE] * 5)
        closing.join(60)
        stage.feed([UNSURE, SURE] * 5)
        assert stage.stage._held is None
        frames = [path.name.partition("-")[2] for path in stage.files(".json")]
        assert len(frames) == len(set(frames)) >= 1


class Disk:
    """`os.fsync` that hangs until it is told to go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hangs, self.go = threading.Event(), threading.Event()
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self.fsync)

    def fsync(self, descriptor: int) -> None:
        self.hangs.set()
        assert self.go.wait(60)
        self._fsync(descriptor)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk(monkeypatch)
    yield disk
    disk.go.set()
    wait_until(lambda: not writers())


def writers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "t"]


class TestHangingDisk:
    @pytest.fixture
    def patient_writers(self) -> None:
        """Not here."""

    def test_the_thread_of_a_full_folder_ends_when_the_disk_comes_back(self, tmp_path: Path, disk: Disk) -> None:
        folder = QuotaFolder(tmp_path, max_bytes=1000, thread_name="t", max_waiting=2)
        names = [folder.put("x", lambda: {".a": b"1"})]
        assert disk.hangs.wait(60)
        names += [folder.put("x", lambda: {".a": b"1"}) for _ in range(3)]
        assert names[-1] == ""
        folder.close()
        assert folder.take_given_up() == names[1:3], "their memory is not held by a disk that may never come back"
        assert writers() == ["t"]
        disk.go.set()
        wait_until(lambda: not writers())
        assert [written.name for written in folder.take_written()] == names[:1]

    @pytest.mark.usefixtures("disk")
    def test_who_closes_waits_for_a_hanging_disk_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folders = [QuotaFolder(tmp_path / str(n), max_bytes=1000, thread_name="t") for n in range(5)]
        for folder in folders:
            folder.put("x", lambda: {".a": b"1"})
        wait_until(lambda: all(folder._began_s for folder in folders))
        waits: list[float] = []
        for folder in folders:
            wait = folder._changed.wait

            def waiting(timeout: float | None = None, wait: Any = wait) -> bool:
                assert timeout is not None
                waits.append(timeout)
                return bool(wait(timeout))

            monkeypatch.setattr(folder._changed, "wait", waiting)
            folder.close(60.0)
        assert sum(waits) < 3 * quota_folder._HANGS_S, "each by itself would be five times that"

    def test_entries_that_are_only_many_are_waited_for(
        self, tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(quota_folder, "_HANGS_S", 60.0)  # none of them hangs
        disk.go.set()
        folder = QuotaFolder(tmp_path, max_bytes=1000, thread_name="t")
        names = [folder.put("x", lambda: {".a": b"1"}) for _ in range(8)]
        folder.close(60.0)
        assert [written.name for written in folder.take_written()] == [name for name in names if name]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


class TestQuotaFolder:
    def test_a_disk_that_is_nearly_full_is_left_to_the_results(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What is written here, and what of it goes, moves what is free."""
        room = 30
        monkeypatch.setattr(quota_folder, "_free_bytes", lambda folder: room - _size(folder))
        folder = QuotaFolder(tmp_path, max_bytes=1000, thread_name="t")
        for _ in range(5):
            assert folder.put("a", lambda: {".txt": b"0123456789"})
            wait_until(lambda: not folder._waiting)
        wait_until(lambda: len(folder._written) == 5)
        assert [path.name[:9] for path in sorted(tmp_path.iterdir())] == ["000000003", "000000004", "000000005"]
        room = -1  # others have filled it
        name = folder.put("a", lambda: {".txt": b"0123456789"})
        wait_until(lambda: list(folder._given_up) == [name])
        assert list(tmp_path.iterdir()) == []
        assert caplog.text.count("the disk is nearly full") == 1
        room = 30
        folder.put("a", lambda: {".txt": b"0123456789"})
        folder.close()
        assert len(list(tmp_path.iterdir())) == 1
        assert folder.error == ""

    @pytest.mark.parametrize("told", [False, True])
    def test_a_disk_that_does_not_tell_what_is_free_is_written_to(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool
    ) -> None:
        """A ramfs and a tmpfs without a bound say that they have 0 blocks, and none free."""

        def statvfs(_folder: Path) -> os.statvfs_result:
            if not told:
                raise OSError(errno.ENOSYS, "not there")
            return os.statvfs_result((4096, 4096, 0, 0, 0, 0, 0, 0, 0, 255))

        monkeypatch.setattr(os, "statvfs", statvfs)
        folder = QuotaFolder(tmp_path, max_bytes=20, thread_name="t")
        for _ in range(3):
            assert folder.put("a", lambda: {".txt": b"0123456789"})
        folder.close(60.0)
        wait_until(lambda: len(folder._written) == 3)
        assert [path.name[:9] for path in sorted(tmp_path.iterdir())] == ["000000002", "000000003"]

    def test_a_crash_leaves_nothing_that_counts(self, tmp_path: Path) -> None:
        (tmp_path / ".000000007-x.jpg.tmp").write_bytes(b"half")
        (tmp_path / "notes.txt").write_bytes(b"somebody's")
        folder = QuotaFolder(tmp_path, max_bytes=10, thread_name="t")
        name = folder.put("new", lambda: {".a": b"12345"})
        folder.close()
        assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.a", "notes.txt"]
        assert [written.name for written in folder.take_written()] == [name]
        assert folder.put("late", lambda: {".a": b""}) == ""

    def test_too_many_at_once_are_refused_and_not_waited_for(self, tmp_path: Path) -> None:
        go = threading.Event()

        def slow() -> dict[str, bytes]:
            assert go.wait(60)
            return {".a": b"1"}

        folder = QuotaFolder(tmp_path, max_bytes=1000, thread_name="t", max_waiting=2)
        names = [folder.put("x", slow) for _ in range(10)]
        taken = [name for name in names if name]
        assert 2 <= len(taken) <= 3
        go.set()
        folder.close()
        assert [written.name for written in folder.take_written()] == taken

    def test_one_that_is_too_large_or_cannot_be_made_is_given_up(self, tmp_path: Path) -> None:
        folder = QuotaFolder(tmp_path, max_bytes=10, thread_name="t")
        folder.put("large", lambda: {".a": b"x" * 11})
        folder.put("broken", lambda: {".a": str(1 / 0).encode()})
        folder.put("good", lambda: {".a": b"x"})
        folder.close()
        assert [written.files for written in folder.take_written()] == [("000000003-good.a",)]
        assert folder.take_given_up() == ["000000001-large", "000000002-broken"]

    def test_files_may_be_taken_away_at_any_time(self, tmp_path: Path) -> None:
        folder = QuotaFolder(tmp_path / "f", max_bytes=100, thread_name="t")
        for count in range(30):
            folder.put("x", lambda: {".a": b"x" * 30, ".b": b"y"})
            wait_until(lambda: len(folder.take_written()) == 1)
            if count % 7 == 0:
                for path in (tmp_path / "f").iterdir():
                    path.unlink()
        folder.close()
        assert 0 < sum(path.stat().st_size for path in (tmp_path / "f").iterdir()) <= 100


def test_an_npz_is_a_recorded_input(package: InstalledPackage, tmp_path: Path) -> None:
    """What was kept can be fed to a pipeline again."""
    from edgeinfer.runtime.sources.settings import TensorsSource
    from edgeinfer.runtime.sources.tensors import Tensors

    stage = Stage(package, EACH, tmp_path)
    stage.feed([UNSURE])
    stage.stage.close()
    source = Tensors(TensorsSource(path=str(stage.files(".npz")[0])))
    frame = source.read()
    assert frame is not None
    np.testing.assert_array_equal(frame.data, UNSURE)
    assert io.BytesIO(stage.files(".npz")[0].read_bytes()).read(2) == b"PK"
