"""Whether two versions of a model say the same of a frame. Values in, values out."""

import math
from collections.abc import Sequence

from edgeinfer.runtime.results import Item, Kind

__all__ = ["agree", "box_f1", "iou", "is_finite", "top_score"]

Box = tuple[float, float, float, float]

# Boxes are the same where their labels are and they overlap by half, as PASCAL VOC counts (M. Everingham et al. 2010).
_SAME_BOX, _SAME_BOXES = 0.5, 0.5
# Numbers agree within a tenth of their size, shares of a picture in eight tenths of it, embeddings in direction,
# keypoints within a twentieth of the picture on average.
_RELATIVE, _OVERLAP, _COSINE, _POINTS = 0.1, 0.8, 0.9, 0.05


def agree(kind: Kind, ours: Sequence[Item], theirs: Sequence[Item]) -> bool:
    """Classes: the same best one. Boxes: F1 of at least a half. Anomalies: the same verdict. Segments: shares that
    overlap. Keypoints: near each other. Embeddings: the same direction. Other numbers: of about the same size."""
    match kind:
        case Kind.CLASSIFICATION | Kind.ANOMALY:
            return [item.label for item in ours[:1]] == [item.label for item in theirs[:1]]
        case Kind.DETECTION:
            return box_f1(ours, theirs) >= _SAME_BOXES
        case Kind.SEGMENTATION:
            return _overlap(ours, theirs) >= _OVERLAP
        case Kind.KEYPOINTS:
            return _point_distance(ours, theirs) <= _POINTS
        case Kind.EMBEDDING:
            return _cosine(ours, theirs) >= _COSINE
        case _:
            return _relative_distance(ours, theirs) <= _RELATIVE


def is_finite(items: Sequence[Item]) -> bool:
    """Whether every score is a number: what is none agrees with nothing, also where the label is the same."""
    return all(math.isfinite(item.score) for item in items)


def top_score(kind: Kind, items: Sequence[Item]) -> float | None:
    """The number whose spread is compared: the best score; of detections how many there are; None for none."""
    if kind is Kind.DETECTION:
        return float(len(items))
    return max((item.score for item in items), default=None)


def box_f1(ours: Sequence[Item], theirs: Sequence[Item]) -> float:
    """2 matches / (ours + theirs), best scores matched first, each box once; 1 where neither found any."""
    if not ours and not theirs:
        return 1.0
    free = list(theirs)
    matches = 0
    for item in sorted(ours, key=lambda one: -one.score):
        best = max(
            (other for other in free if other.label == item.label), key=lambda o: iou(item.box, o.box), default=None
        )
        if best is not None and iou(item.box, best.box) >= _SAME_BOX:
            free.remove(best)
            matches += 1
    return 2.0 * matches / (len(ours) + len(theirs))


def iou(one: Box | None, other: Box | None) -> float:
    """Intersection over union; 0 where a box is missing or empty."""
    if one is None or other is None:
        return 0.0
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0.0 or height <= 0.0:
        return 0.0
    shared = width * height
    if not shared:  # smaller than a number can be
        return 0.0
    return shared / (_area(one) + _area(other) - shared)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _overlap(ours: Sequence[Item], theirs: Sequence[Item]) -> float:
    """Twice what both say of each class, over all that they say (Dice, of shares)."""
    total = sum(item.score for item in ours) + sum(item.score for item in theirs)
    other = {item.label: item.score for item in theirs}
    return 2.0 * sum(min(item.score, other.get(item.label, 0.0)) for item in ours) / total if total else 1.0


def _point_distance(ours: Sequence[Item], theirs: Sequence[Item]) -> float:
    other = {item.label: item.box for item in theirs}
    pairs = [(item.box, other[item.label]) for item in ours if item.label in other]
    distances = [math.dist(a[:2], b[:2]) for a, b in pairs if a is not None and b is not None]
    if distances:
        return sum(distances) / len(distances)
    return math.inf if ours or theirs else 0.0


def _cosine(ours: Sequence[Item], theirs: Sequence[Item]) -> float:
    lengths = math.hypot(*(item.score for item in ours)) * math.hypot(*(item.score for item in theirs))
    if len(ours) != len(theirs) or not lengths:
        return float(len(ours) == len(theirs) and _relative_distance(ours, theirs) == 0.0)
    return sum(one.score * other.score for one, other in zip(ours, theirs, strict=True)) / lengths


def _relative_distance(ours: Sequence[Item], theirs: Sequence[Item]) -> float:
    if len(ours) != len(theirs):
        return math.inf
    distance = math.hypot(*(one.score - other.score for one, other in zip(ours, theirs, strict=True)))
    size = max(math.hypot(*(item.score for item in ours)), math.hypot(*(item.score for item in theirs)))
    return distance / size if size else 0.0
