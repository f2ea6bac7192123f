"""Places labels beside points so that they cover neither each other nor a point."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Box", "Spot", "place"]


@dataclass(frozen=True, slots=True)
class Box:
    """In pixels, the origin at the bottom left."""

    x0: float
    y0: float
    x1: float
    y1: float

    def meets(self, other: "Box") -> bool:
        return self.x0 < other.x1 and other.x0 < self.x1 and self.y0 < other.y1 and other.y0 < self.y1

    def holds(self, other: "Box") -> bool:
        return self.x0 <= other.x0 and self.y0 <= other.y0 and other.x1 <= self.x1 and other.y1 <= self.y1


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a label goes: its offset to the point, in pixels, and how it is aligned there; its middle is at that
    height."""

    offset: tuple[float, float]
    align: Literal["left", "right", "center"]


def _spots() -> Iterator[Spot]:
    """The nearest and easiest to read first."""
    for reach in (0.0, 14.0, 28.0, 42.0):
        yield Spot((11.0, reach), "left")
        yield Spot((11.0, -reach), "left")
        yield Spot((-11.0, reach), "right")
        yield Spot((-11.0, -reach), "right")
        yield Spot((0.0, 14.0 + reach), "center")
        yield Spot((0.0, -14.0 - reach), "center")


_SPOTS = tuple(_spots())


def place(
    labels: Sequence[tuple[tuple[float, float], float, float]], *, taken: Sequence[Box], within: Box
) -> list[Spot | None]:
    """A spot for each label, given as its point, its width and its height, in that order of precedence; None where
    there is no room. `taken` is where nothing may lie."""
    full = list(taken)
    found: list[Spot | None] = []
    for (x, y), width, height in labels:
        spots = ((spot, _box(spot, x, y, width, height)) for spot in _SPOTS)
        free = ((spot, box) for spot, box in spots if within.holds(box) and not any(box.meets(one) for one in full))
        spot, box = next(free, (None, None))
        found.append(spot)
        if box is not None:
            full.append(box)
    return found


def _box(spot: Spot, x: float, y: float, width: float, height: float) -> Box:
    left = {"left": 0.0, "right": -width, "center": -width / 2}[spot.align]
    x0, y0 = x + spot.offset[0] + left, y + spot.offset[1] - height / 2
    return Box(x0, y0, x0 + width, y0 + height)
