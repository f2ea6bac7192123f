"""Suppression of overlapping boxes, held against a plain one, and boxes that make no sense."""

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgeinfer.runtime.manifest import DetectPost
from edgeinfer.runtime.postprocess.boxes import suppressed
from edgeinfer.runtime.preprocess import Region
from edgeinfer.runtime.results import Item

Box = tuple[float, float, float, float]
WHOLE = Region(0.0, 0.0, 1.0, 1.0)
NOTHING: npt.NDArray[np.float32] = np.zeros((0, 4), dtype=np.float32)


def iou(a: Box, b: Box) -> float:
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return shared / (sum(areas) - shared)


def plain(boxes: list[Box], scores: list[float], classes: list[int], declared: DetectPost) -> list[int]:
    """Box by box: kept unless a better one that is kept overlaps it too much."""
    kept: list[int] = []
    for place in sorted(range(len(boxes)), key=lambda place: (-scores[place], place)):
        rivals = [k for k in kept if declared.class_agnostic or classes[k] == classes[place]]
        if all(iou(boxes[place], boxes[rival]) <= declared.nms_iou for rival in rivals):
            kept.append(place)
    return kept[: declared.max_boxes]


def items(boxes: list[Box], scores: list[float], classes: list[int], declared: DetectPost) -> list[Item]:
    corners = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    numbers, labels = np.array(scores, dtype=np.float32), np.array(classes, dtype=np.int64)
    return list(suppressed(corners, numbers, labels, WHOLE, declared))


# Multiples of 1/64: exact in float32, so that both compute the same overlaps, and ties are frequent.
STEPS = 64
SIDE = st.integers(1, 24)
PLACE = st.integers(0, 39)
BOX = st.tuples(PLACE, PLACE, SIDE, SIDE).map(
    lambda box: tuple(value / STEPS for value in (box[0], box[1], box[0] + box[2], box[1] + box[3]))
)
SCORE = st.integers(1, 8).map(lambda level: level / 8)
FOUND = st.lists(st.tuples(BOX, SCORE, st.integers(0, 3)), max_size=40)


# 0.3 and such lie between the overlaps that such boxes can have: a rounding decides nothing.
@given(FOUND, st.sampled_from([0.3001, 0.4501, 0.6001]), st.booleans(), st.sampled_from([1, 5, 100]))
@settings(max_examples=400, deadline=None)
@example([((0.0, 0.0, 0.5, 0.5), 0.5, 0), ((0.0, 0.0, 0.5, 0.5), 0.5, 0)], 0.4501, False, 100)
def test_suppression_is_that_of_a_plain_one(
    found: list[tuple[Box, float, int]], nms_iou: float, class_agnostic: bool, max_boxes: int
) -> None:
    boxes, scores, classes = ([row[part] for row in found] for part in range(3))
    declared = DetectPost("yolo", 0.1, nms_iou, max_boxes, class_agnostic=class_agnostic)
    kept = plain(boxes, scores, classes, declared)  # type: ignore[arg-type]  # the lists are of one part each
    assert [(item.box, item.score, item.label) for item in items(boxes, scores, classes, declared)] == [  # type: ignore[arg-type]  # as above
        (boxes[place], scores[place], classes[place]) for place in kept
    ]


@given(st.permutations(range(6)))
def test_the_order_of_the_boxes_decides_nothing_but_ties(order: list[int]) -> None:
    boxes: list[Box] = [(0.1 * i, 0.1, 0.1 * i + 0.15, 0.3) for i in range(6)]
    scores = [0.9 - 0.1 * i for i in range(6)]
    declared = DetectPost("yolo", 0.1, 0.2)
    wanted = items(boxes, scores, [0] * 6, declared)
    assert items([boxes[i] for i in order], [scores[i] for i in order], [0] * 6, declared) == wanted


def test_classes_far_outside_of_the_picture_do_not_meet() -> None:
    """OpenCV moves classes apart by the largest coordinate: negative ones must not bring them together again."""
    boxes: list[Box] = [(-3.0, -3.0, -2.0, 0.5), (0.0, 0.0, 0.5, 0.5), (-3.9, -1.0, 0.3, 0.3), (-2.9, -3.0, 0.2, 0.5)]
    for pair in itertools.permutations(range(4), 2):
        chosen = [boxes[place] for place in pair]
        found = items(chosen, [0.9, 0.8], [0, 1], DetectPost("yolo", 0.1, 0.0))
        assert len(found) == sum(box[2] > 0 and box[3] > 0 for box in chosen)


@pytest.mark.parametrize(
    "box",
    [
        (0.5, 0.5, 0.5, 0.9),
        (0.9, 0.1, 0.2, 0.5),
        (0.1, 0.1, float("nan"), 0.5),
        (0.1, 0.1, float("inf"), 0.5),
        (float("-inf"), 0.1, float("inf"), 0.5),
        (1.5, 0.1, 1.9, 0.5),
        (-0.9, 0.1, -0.1, 0.5),
    ],
)
def test_a_box_that_is_none_is_dropped_and_suppresses_nothing(box: Box) -> None:
    found = items([box, (0.1, 0.1, 0.5, 0.5)], [0.9, 0.8], [0, 0], DetectPost("yolo", 0.1, 0.1))
    assert [item.score for item in found] == [pytest.approx(0.8)]


@pytest.mark.parametrize("score", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_no_number_is_dropped(score: float) -> None:
    assert items([(0.1, 0.1, 0.5, 0.5)], [score], [0], DetectPost("yolo", 0.1)) == []


def test_two_boxes_of_no_area_are_not_the_same_one() -> None:
    tiny: list[Box] = [(0.1, 0.1, 0.1001, 0.1001), (0.9, 0.9, 0.9001, 0.9001)]
    assert len(items(tiny, [0.9, 0.8], [0, 0], DetectPost("yolo", 0.1))) == 2


def test_nothing_and_very_much() -> None:
    declared = DetectPost("yolo", 0.1, 0.5, 10)
    assert suppressed(NOTHING, NOTHING[:, 0], np.zeros(0, dtype=np.int64), WHOLE, declared) == ()
    corners = np.random.default_rng(0).random((20_000, 4)).astype(np.float32)
    corners[:, 2:] += corners[:, :2]
    scores = np.linspace(0.2, 0.9, len(corners), dtype=np.float32)
    found = suppressed(corners, scores, np.arange(len(corners)) % 90, WHOLE, declared)
    assert len(found) == 10
    assert found[0].score == pytest.approx(0.9)


def test_boxes_lie_in_the_source_picture() -> None:
    corners = np.array([[0.25, 0.5, 0.75, 1.0]], dtype=np.float32)
    letterbox = Region(0.0, -0.5, 1.0, 2.0)
    (item,) = suppressed(corners, np.ones(1, np.float32), np.zeros(1, np.int64), letterbox, DetectPost("yolo"))
    assert item.box == (0.25, 0.5, 0.75, 1.0)
    crop = Region(0.25, 0.0, 0.5, 1.0)
    (item,) = suppressed(corners, np.ones(1, np.float32), np.zeros(1, np.int64), crop, DetectPost("yolo"))
    assert item.box == (0.375, 0.5, 0.625, 1.0)
