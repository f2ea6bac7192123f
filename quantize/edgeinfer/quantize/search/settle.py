"""When the order of latencies is settled: which candidates may be the fastest by a rough look, which race, and whether
more rounds would tell more."""

from collections.abc import Mapping, Sequence

from edgeinfer.quantize.search.entry import Entry
from edgeinfer.quantize.search.goal import Goal

__all__ = ["SAME", "contenders", "near", "settled", "still_racing"]

# A per cent more or less is no reason to go on timing, nor to prefer one candidate to another.
SAME = 0.01
# First looks at latency are this rough: what is slower by more than this will not be the fastest.
_ROUGH = 1.2
# The same, beyond the lower end of its interval, where it has one.
_BEYOND = 1.1


def near(entry: Entry, cost: float, goal: Goal) -> bool:
    """Whether it may be as good as one of that cost, by what is roughly known."""
    if goal.objective == "size":
        return goal.cost(entry) <= cost  # of sizes nothing is rough
    least = goal.least_cost(entry)
    return least <= cost * (_BEYOND if least < goal.cost(entry) else _ROUGH)


def contenders(kept: Sequence[Entry], goal: Goal, *, most: int) -> list[Entry]:
    """Those of the candidates within the budget that may be the best, by what is roughly known: at most `most`."""
    ordered = sorted(kept, key=lambda entry: (goal.cost(entry), entry.id))
    if not ordered:
        return []
    least = goal.cost(ordered[0])
    return [entry for entry in ordered[:most] if near(entry, least, goal)]


def settled(racing: Sequence[str], lead: Mapping[str, tuple[float, float]], *, leader: str) -> bool:
    """Whether each candidate is surely slower than the leader, surely not, or surely the same: its interval lies on one
    side of 1, or is narrower than what makes a difference."""
    for name in racing:
        if name == leader or name not in lead:
            continue
        low, high = lead[name]
        if low <= 1.0 <= high and high - low > 2 * SAME:
            return False
    return True


def still_racing(racing: Sequence[str], lead: Mapping[str, tuple[float, float]], *, leader: str) -> tuple[str, ...]:
    """Those that are not surely slower than the leader: more rounds are worth it for these alone."""
    return tuple(name for name in racing if name == leader or lead.get(name, (0.0, 0.0))[0] <= 1.0 + SAME)
