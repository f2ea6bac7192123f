"""The difference between two confusions: which classes the chosen variant calls otherwise than the float model does."""

from dataclasses import dataclass

from edgeinfer.quantize.report.document import Confusion

__all__ = ["ChangedPair", "HeatMap", "changed_pairs", "heat_map"]

# A matrix of more classes is no picture any more.
MAX_MATRIX = 24


@dataclass(frozen=True, slots=True)
class ChangedPair:
    """How often class `true` was called `called`. `better`: less of a mistake, or more of what is right."""

    true: str
    called: str
    float_count: int
    chosen_count: int
    better: bool

    @property
    def change(self) -> int:
        return self.chosen_count - self.float_count


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Chosen minus float. `cells[i][j]` is the change, and how strongly it is coloured: -1.0 (worse) to 1.0."""

    labels: tuple[str, ...]
    cells: tuple[tuple[tuple[int, float], ...], ...]


def changed_pairs(confusion: Confusion, *, most: int) -> tuple[list[ChangedPair], int]:
    """The pairs that changed most, mistakes before what is right, and how many changed in all."""
    changed = [
        (i, j, before, now)
        for i, (row_before, row_now) in enumerate(zip(confusion.reference, confusion.chosen, strict=True))
        if row_before != row_now
        for j, (before, now) in enumerate(zip(row_before, row_now, strict=True))
        if before != now
    ]
    changed.sort(key=lambda one: (one[0] == one[1], -abs(one[3] - one[2]), one[0], one[1]))
    labels = confusion.labels
    pairs = [ChangedPair(labels[i], labels[j], old, new, (new > old) == (i == j)) for i, j, old, new in changed[:most]]
    return pairs, len(changed)


def heat_map(confusion: Confusion) -> HeatMap | None:
    """None where there are too many classes for a picture, or nothing changed."""
    count = len(confusion.labels)
    changes = [
        [now - before for before, now in zip(old, new, strict=True)]
        for old, new in zip(confusion.reference[:MAX_MATRIX], confusion.chosen[:MAX_MATRIX], strict=True)
    ]
    largest = max((abs(change) for row in changes for change in row), default=0)
    if count > MAX_MATRIX or not largest:
        return None
    cells = tuple(
        tuple((change, (change if i == j else -change) / largest) for j, change in enumerate(row))
        for i, row in enumerate(changes)
    )
    return HeatMap(confusion.labels, cells)
