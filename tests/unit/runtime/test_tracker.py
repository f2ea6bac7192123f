"""The tracker on synthetic scenes, and on what a real detector said of the real video."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment

from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.manifest import DetectPost, ImagePre
from edgeinfer.runtime.model import LoadedModel
from edgeinfer.runtime.results import Item
from edgeinfer.runtime.rules.assignment import assign
from edgeinfer.runtime.rules.settings import TrackerConfig
from edgeinfer.runtime.rules.tracker import Tracked, Tracker, overlaps
from edgeinfer.runtime.store import Store
from packages import make_package

SECOND = 1_000_000_000
FPS = 10


def thing(x: float, y: float = 0.5, *, label: int = 1, score: float = 0.9, size: float = 0.1) -> Item:
    return Item(label, score, (x - size / 2, y - size, x + size / 2, y + size))


class Film:
    """Shows frames to a tracker, ten a second."""

    def __init__(self, config: TrackerConfig | None = None) -> None:
        self.tracker = Tracker(config or TrackerConfig())
        self._now_ns = 0

    def show(self, *items: Item, steps: int = 1) -> Tracked:
        self._now_ns += steps * SECOND // FPS
        return self.tracker.update(items, steps=steps, now_ns=self._now_ns)


class TestAssignment:
    weights = arrays(
        np.float64, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.floats(-1.0, 1.0, width=16)
    )

    @given(weights)
    @settings(max_examples=300)
    def test_it_is_as_good_as_scipys(self, weights: npt.NDArray[np.float64]) -> None:
        pairs = assign(weights)
        assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
        assert all(weights[row, column] > 0 for row, column in pairs)
        padded = np.hstack([np.maximum(weights, 0.0), np.zeros((len(weights), len(weights)))])
        rows, columns = linear_sum_assignment(padded, maximize=True)
        assert sum(weights[pair] for pair in pairs) == pytest.approx(padded[rows, columns].sum(), abs=1e-9)

    def test_many_that_all_like_the_same(self) -> None:
        rng = np.random.default_rng(0)
        for size in (10, 40):
            weights = np.tile(rng.random(size), (size, 1)) + 0.01 * rng.random((size, size))
            rows, columns = linear_sum_assignment(weights, maximize=True)
            found = assign(weights)
            assert len(found) == size
            assert sum(weights[pair] for pair in found) == pytest.approx(weights[rows, columns].sum())

    def test_nothing_to_pair(self) -> None:
        assert assign(np.empty((0, 3))) == assign(np.empty((3, 0))) == assign(np.zeros((2, 2))) == []


def test_overlap_of_boxes() -> None:
    boxes = np.array([[0.0, 0.0, 0.2, 0.2], [0.1, 0.0, 0.3, 0.2], [0.5, 0.5, 0.5, 0.5]])
    wanted = [[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 0]]
    assert overlaps(boxes, boxes) == pytest.approx(np.array(wanted))


class TestScenes:
    def test_a_parked_car_is_one_track(self) -> None:
        film, rng = Film(), np.random.default_rng(0)
        tracks = set()
        for _ in range(1000):
            x, y = 0.5 + rng.normal(0, 0.003), 0.5 + rng.normal(0, 0.003)
            seen = rng.random() > 0.3  # the detector misses a third of the frames
            tracks |= set(film.show(*([thing(x, y)] if seen else [])).tracks)
        assert tracks - {0} == {1}

    def test_a_parked_car_is_one_track_though_almost_no_frame_is_inferred(self) -> None:
        """As behind a motion gate: a frame a minute, and every tenth of them without the car."""
        film = Film()
        found = {film.show(*([thing(0.5)] if minute % 10 else []), steps=60 * FPS).tracks for minute in range(1, 200)}
        assert found == {(0,), (1,), ()}

    def test_two_that_cross_keep_their_numbers(self) -> None:
        film = Film()
        for step in range(61):
            left, right = thing(0.2 + step * 0.01, 0.45), thing(0.8 - step * 0.01, 0.55)
            tracks = film.show(left, right).tracks
            if step:
                assert tracks == (1, 2), step

    def test_who_is_hidden_for_a_while_is_the_same_afterwards(self) -> None:
        film = Film()
        for step in range(60):
            seen = not 25 <= step < 40  # a second and a half behind a tree
            found = film.show(*([thing(0.1 + step * 0.012)] if seen else []))
            assert not found.gone
            if seen and step:
                assert found.tracks == (1,), step

    def test_who_is_half_hidden_is_kept_by_a_low_score(self) -> None:
        film = Film(TrackerConfig(max_lost_s=0.0))
        for step in range(40):
            found = film.show(thing(0.2 + step * 0.01, score=0.3 if 10 <= step < 30 else 0.9))
            if step:
                assert found.tracks == (1,)
        assert Film().show(thing(0.5, score=0.3)).tracks == (0,)

    def test_low_scores_begin_no_track(self) -> None:
        film = Film()
        assert {film.show(thing(0.5, score=0.55)).tracks for _ in range(10)} == {(0,)}

    def test_a_false_positive_of_one_frame_is_no_track(self) -> None:
        film, rng = Film(), np.random.default_rng(1)
        for step in range(300):
            ghost = [thing(*rng.uniform(0.1, 0.9, 2))] if step % 3 == 0 else []
            assert set(film.show(*ghost).tracks) <= {0}
        assert film.show(thing(0.5)).tracks == (0,)
        assert film.show(thing(0.5)).tracks == (1,), "and none of them took a number"

    def test_what_is_given_up_is_told_once_and_comes_back_as_another(self) -> None:
        film = Film(TrackerConfig(max_lost_s=1.0))
        film.show(thing(0.5))
        film.show(thing(0.5))
        gone = [film.show().gone for _ in range(20)]
        assert [index for index, ids in enumerate(gone) if ids] == [10]
        assert gone[10] == (1,)
        film.show(thing(0.5))
        assert film.show(thing(0.5)).tracks == (2,)

    def test_only_the_same_label_is_the_same_thing(self) -> None:
        film = Film(TrackerConfig(min_hits=1))
        assert film.show(thing(0.5)).tracks == (1,)
        assert film.show(thing(0.5, label=2)).tracks == (2,)
        assert film.show(thing(0.5, label=2), thing(0.5)).tracks == (2, 1)

    @pytest.mark.parametrize("every", [1, 2, 5])
    def test_speed_is_a_matter_of_frames_captured(self, every: int) -> None:
        """A walker is followed too where only each fifth frame is inferred, at the same speed in the picture."""
        film = Film()
        tracks = [film.show(thing(0.1 + frame * 0.008), steps=every).tracks[0] for frame in range(0, 100, every)]
        assert set(tracks[2:]) == {1}

    def test_items_without_a_box_belong_to_no_track(self) -> None:
        film = Film(TrackerConfig(min_hits=1))
        assert film.show(Item(1, 0.9), thing(0.5), Item(1, 0.8)).tracks == (0, 1, 0)
        assert film.show(Item(1, 0.9)).tracks == (0,)
        assert film.show().tracks == ()

    def test_a_crowd_is_followed_one_by_one(self) -> None:
        """Thirty walkers with noise, some hidden at times: hardly a number changes hands."""
        film, rng = Film(), np.random.default_rng(3)
        places, speeds = rng.uniform(0.1, 0.9, (30, 2)), rng.normal(0, 0.002, (30, 2))
        last: dict[int, int] = {}
        changes = 0
        for _ in range(150):
            places = places + speeds
            seen = [index for index in range(30) if rng.random() > 0.05]
            shown = [thing(*(places[index] + rng.normal(0, 0.001, 2)), size=0.04) for index in seen]
            for index, track in zip(seen, film.show(*shown).tracks, strict=True):
                if track:
                    changes += last.get(index, track) != track
                    last[index] = track
        assert changes <= 10, changes
        assert film.tracker._last_id <= 40

    def test_there_is_a_limit_to_tracks(self) -> None:
        film = Film(TrackerConfig(min_hits=1))
        grid = [thing(x / 40, y / 40, size=0.01) for x, y in itertools.product(range(40), range(40))]
        assert max(film.show(*grid).tracks) == 512
        assert max(film.show(*grid).tracks) == 512

    boxes = st.tuples(*[st.floats(0.0, 1.0)] * 4)
    items = st.builds(Item, st.integers(0, 2), st.floats(0.0, 1.0), boxes | st.none())

    @given(st.lists(st.tuples(st.lists(items, max_size=6), st.integers(-5, 500)), max_size=12))
    def test_whatever_comes_each_number_is_there_once_and_never_returns(
        self, frames: Sequence[tuple[Sequence[Item], int]]
    ) -> None:
        film, ended = Film(TrackerConfig(max_lost_s=0.1)), set()
        for shown, steps in frames:
            found = film.tracker.update(shown, steps=steps, now_ns=film._now_ns)
            film._now_ns += max(0, steps) * SECOND // FPS
            tracks = [track for track in found.tracks if track]
            assert len(found.tracks) == len(shown)
            assert len(set(tracks)) == len(tracks)
            ended |= set(found.gone)
            assert not ended & set(tracks)


EVERY = 3


@pytest.fixture(scope="module")
def detections(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Item, ...]]:
    """What the SSD model finds in each third frame of the real video, down to a score of 0.3."""
    folder = tmp_path_factory.mktemp("ssd")
    make_package(
        folder / "ssd.edgepkg",
        data_dir / "models" / "ssd_mobilenet_v1_coco_quant.tflite",
        name="ssd",
        engine="litert",
        pre=ImagePre(300, 300, mean=(128.0,), std=(128.0,)),
        post=DetectPost(score_threshold=0.3, label_offset=1),
    )
    model = LoadedModel(Store(folder / "store").install(folder / "ssd.edgepkg"))
    video = cv2.VideoCapture(str(data_dir / "video" / "one-by-one-person-detection.mp4"))
    found: list[tuple[Item, ...]] = []
    for index in itertools.count():
        if not video.grab():
            return found
        if index % EVERY == 0:
            prepared = model.prepare(Frame(video.retrieve()[1], 0, 0, index))
            found.append(model.infer(prepared).items)
            model.release(prepared)
    return found


@pytest.mark.data
class TestMeasured:
    """People cross the real video one by one."""

    PERSON = 1

    def spans(self, detections: Sequence[tuple[Item, ...]], least: float) -> list[tuple[int, int]]:
        """The first and last frame of each track of a person."""
        film, spans = Film(), dict[int, tuple[int, int]]()
        for index, items in enumerate(detections):
            shown = [item for item in items if item.score >= least]
            for item, track in zip(shown, film.show(*shown, steps=EVERY).tracks, strict=True):
                if track and item.label == self.PERSON:
                    spans[track] = (spans.get(track, (index * EVERY, 0))[0], index * EVERY)
        return list(spans.values())

    @pytest.mark.parametrize("least", [0.3, 0.5])
    def test_each_passage_of_the_measurement_is_one_track(
        self, data_dir: Path, detections: Sequence[tuple[Item, ...]], least: float
    ) -> None:
        """A passage: frames with a person, as they were measured apart, with less than two seconds between them."""
        rows = json.loads((data_dir / "video" / "person_ssd_measured.json").read_text())["rows"]
        seen = [frame for frame, count, _ in rows if count]
        firsts = [frame for frame in seen if not {frame - 10, frame - 20} & set(seen)]
        lasts = [frame for frame in seen if not {frame + 10, frame + 20} & set(seen)]
        passages = list(zip(firsts, lasts, strict=True))
        spans = self.spans(detections, least)
        assert len(passages) == 6
        assert len(spans) == len(passages), spans
        for (begun, ended), (first, last) in zip(spans, passages, strict=True):
            assert abs(begun - first) <= 15, (spans, passages)
            assert abs(ended - last) <= 15, (spans, passages)
