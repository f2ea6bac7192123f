"""Mixed precision: which layers get another precision than the rest, found with few trials.

Each layer is tried alone first. Then the layers stand in a line, the most rewarding first, and what is looked for is
how many of them to take: as few as make the candidate keep its budget (float layers in an integer model), or as many
as the budget bears (4-bit layers in an 8-bit one). More layers cost or repair more accuracy, so that halving the range
again and again finds the number; where single results scatter, it finds one that was seen to be right.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

__all__ = ["LayerCost", "fewest", "line_up", "most"]


@dataclass(frozen=True, slots=True)
class LayerCost:
    """One layer that alone has the other precision: how far the outputs are then from the float model's, and how many
    bytes that saves (negative: costs)."""

    name: str
    op: str
    weights: int
    divergence: float
    bytes_saved: int


def line_up(costs: Sequence[LayerCost], *, base: float, per_byte: bool = False) -> list[LayerCost]:
    """Layers in the order in which they are to be taken. `base` is the divergence without any: those that lower it come
    first, the most helpful foremost, with `per_byte` the most helpful for what they add to the file; those that save
    bytes by what they cost for a byte, as a knapsack is filled."""
    saving = [cost for cost in costs if cost.bytes_saved > 0]
    if saving:
        return sorted(saving, key=lambda cost: (max(cost.divergence - base, 0.0) / cost.bytes_saved, cost.name))
    if per_byte:
        return sorted(costs, key=lambda cost: ((cost.divergence - base) / max(-cost.bytes_saved, 1), cost.name))
    return sorted(costs, key=lambda cost: (cost.divergence, cost.name))


def fewest(count: int) -> Generator[int, bool, int | None]:
    """How few of `count` layers are enough: yields a number to try and is told whether it is enough. Returns the least
    that was; None where not even `count` are."""
    step = 1
    low = 0  # too few
    while step < count:
        if (yield step):
            return (yield from _between(low, step))
        low, step = step, step * 2
    if low < count and (yield count):
        return (yield from _between(low, count))
    return None


def _between(low: int, high: int) -> Generator[int, bool, int]:
    """`low` is too few, `high` enough."""
    while high - low > 1:
        middle = (low + high) // 2
        if (yield middle):
            high = middle
        else:
            low = middle
    return high


def most(count: int) -> Generator[int, bool, int]:
    """How many of `count` layers are not too many: yields a number to try and is told whether it still is within the
    budget. Returns the most that were; 0 where even one is too many."""
    if count == 0 or (yield count):
        return count
    low, high = 0, count  # good; too many
    while high - low > 1:
        middle = (low + high) // 2
        if (yield middle):
            low = middle
        else:
            high = middle
    return low
