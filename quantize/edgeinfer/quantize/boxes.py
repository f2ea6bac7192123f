"""Compares the boxes that two models find in the same pictures, or the labelled ones."""

from collections.abc import Sequence

from edgeinfer.runtime.errors import SamplesError
from edgeinfer.runtime.results import Item

__all__ = ["Boxes", "f1", "iou", "matches", "partners"]

Boxes = tuple[Item, ...]
# The usual overlap from which two boxes count as the same object (PASCAL VOC).
SAME_OBJECT_IOU = 0.5


def f1(found: Sequence[Boxes], expected: Sequence[Boxes]) -> float:
    """2 TP / (found + expected) over all pictures. Raises SamplesError where nothing was expected anywhere."""
    wanted = sum(map(len, expected))
    if wanted == 0:
        raise SamplesError(
            "expected samples in which the float model finds objects, found none in any of them",
            hint="are the declared preprocessing and score threshold right?",
        )
    true_positives = sum(matches(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    return 2.0 * true_positives / (sum(map(len, found)) + wanted)


def matches(found: Boxes, expected: Boxes) -> int:
    """How many boxes have a partner of the same class."""
    return len(partners(found, expected))


def partners(found: Boxes, expected: Boxes) -> dict[int, int]:
    """Places of the boxes that have a partner of the same class, and the partner's: the best-scored choose first the
    one that they overlap most, each partner once."""
    free = dict(enumerate(expected))
    pairs: dict[int, int] = {}
    for index in sorted(range(len(found)), key=lambda index: -found[index].score):
        overlaps = {
            place: iou(found[index], other) for place, other in free.items() if other.label == found[index].label
        }
        best = max(overlaps, key=overlaps.__getitem__, default=None)
        if best is not None and overlaps[best] >= SAME_OBJECT_IOU:
            pairs[index] = best
            del free[best]
    return pairs


def iou(first: Item, second: Item) -> float:
    """Intersection over union of two items' boxes; 0 where one has none."""
    if first.box is None or second.box is None:
        return 0.0
    left, top = max(first.box[0], second.box[0]), max(first.box[1], second.box[1])
    right, bottom = min(first.box[2], second.box[2]), min(first.box[3], second.box[3])
    shared = max(0.0, right - left) * max(0.0, bottom - top)
    union = _area(first.box) + _area(second.box) - shared
    return shared / union if union > 0.0 else 0.0


def _area(box: tuple[float, float, float, float]) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
