"""Boxes of any detector: those without sense are dropped, overlaps are suppressed, and what is left becomes items.

Corners are (n, 4) x1 y1 x2 y2 in 0..1 of the model's input until they are placed in the source picture.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.manifest import DetectPost
from edgeinfer.runtime.preprocess import Region
from edgeinfer.runtime.results import Item

__all__ = ["Floats", "Labels", "around", "in_unit", "items_of", "suppressed"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
# The best so many go into the suppression, whose time grows with their square.
_MAX_CANDIDATES = 1000
# Beyond this distance from the input a corner says no more than that it is far out.
_FAR = 4.0
# OpenCV takes two boxes of no area for the same one.
_SMALLEST_SIDE = 1e-6
# No coordinate in 0..1 is beyond this, and no box in pixels is all within it.
_IN_PIXELS = 2.0


def around(x: Array, y: Array, width: Array, height: Array) -> Floats:
    """Centres and sizes, each (n,), to corners."""
    corners = np.empty((len(x), 4), dtype=np.float32)
    corners[:, 0], corners[:, 1] = x - width / 2, y - height / 2
    corners[:, 2], corners[:, 3] = x + width / 2, y + height / 2
    return corners


def in_unit(terms: Floats, size: tuple[int, int], declared: DetectPost) -> Floats:
    """(n, 4) x, y, x or width, y or height, in 0..1 of an input of `size` (height, width), from what is declared."""
    unit = declared.coordinates == "unit" or (declared.coordinates == "auto" and not (terms > _IN_PIXELS).any())
    if unit:
        return terms
    height, width = size
    return np.asarray(terms / np.array((width, height, width, height)), dtype=np.float32)


def suppressed(
    corners: Floats, scores: Floats, classes: Labels, region: Region, declared: DetectPost
) -> tuple[Item, ...]:
    """Greedy non-maximum suppression within each class, or over all, then the best `max_boxes`, the best first."""
    candidates = _candidates(corners, scores)
    if not len(candidates):
        return ()
    corners, scores, classes = corners[candidates].clip(-_FAR, 1.0 + _FAR), scores[candidates], classes[candidates]
    kept = _survivors(corners, classes, declared)[: declared.max_boxes]
    return items_of(corners[kept], scores[kept], classes[kept], region, declared)


def items_of(
    corners: Floats, scores: Floats, classes: Labels, region: Region, declared: DetectPost
) -> tuple[Item, ...]:
    """From 0..1 of the model's input to 0..1 of the source picture, cut at its edges. What lies outside is dropped, and
    what is no number."""
    sides = (region.width, region.height, region.width, region.height)
    placed = corners.astype(np.float64) * sides + (region.x, region.y) * 2
    offset = declared.label_offset
    sound = np.isfinite(placed).all(axis=1) & np.isfinite(scores)
    rows = zip(placed.clip(0.0, 1.0).tolist(), scores.tolist(), classes.tolist(), sound.tolist(), strict=True)
    return tuple(
        Item(label + offset, score, (x1, y1, x2, y2))
        for (x1, y1, x2, y2), score, label, is_sound in rows
        if is_sound and x1 < x2 and y1 < y2
    )


def _candidates(corners: Floats, scores: Floats) -> npt.NDArray[np.intp]:
    """Places of the boxes that are some, the best first, the earlier first among equals."""
    sides = corners[:, 2:] - corners[:, :2]
    sound = np.isfinite(corners).all(axis=1) & np.isfinite(scores) & (sides >= _SMALLEST_SIDE).all(axis=1)
    places = np.flatnonzero(sound)
    order: npt.NDArray[np.intp] = places[np.argsort(-scores[places], kind="stable")][:_MAX_CANDIDATES]
    return order


def _survivors(corners: Floats, classes: Labels, declared: DetectPost) -> list[int]:
    """Places of the boxes that no better one overlaps by more than `nms_iou`, for boxes sorted by their scores.

    OpenCV is three to ten times faster than numpy at any number of boxes. It tells classes apart by moving each to a
    place of its own, which is right as long as no coordinate is negative.
    """
    from edgeinfer.runtime.sources.pictures import opencv

    boxes = corners.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    boxes[:, :2] += _FAR
    # By rank, since OpenCV sorts anew: scores above zero, each less than the one before.
    ranks = np.arange(len(boxes), 0, -1, dtype=np.float32).tolist()
    dnn = opencv().dnn
    if declared.class_agnostic:
        kept = dnn.NMSBoxes(boxes.tolist(), ranks, 0.0, declared.nms_iou)
    else:
        kept = dnn.NMSBoxesBatched(boxes.tolist(), ranks, classes.tolist(), 0.0, declared.nms_iou)
    places: list[int] = np.asarray(kept, dtype=np.intp).reshape(-1).tolist()
    return places
