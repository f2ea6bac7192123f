"""When the order of latencies is settled: which candidates may be the fastest by a rough look, which race, whether
more rounds would tell more, and which of them cannot be told from each other."""

import math
from collections.abc import Sequence

from edgeinfer.quantize.search.entry import Entry, Leads
from edgeinfer.quantize.search.goal import Goal

__all__ = ["ROUGH", "SAME", "SAME_COST", "contenders", "lead_over", "near", "no_worse", "settled", "still_racing"]

# A per cent more or less is no reason to go on timing, nor to prefer one candidate to another.
SAME = 0.01
# Costs closer than this are one cost.
SAME_COST = 1.02
# First looks at latency are this rough: what is slower by more than this will not be the fastest.
ROUGH = 1.2
# The same, beyond the lower end of its interval, where it has one.
_BEYOND = 1.1
_UNKNOWN = (0.0, math.inf)


def near(entry: Entry, cost: float, goal: Goal) -> bool:
    """Whether it may be as good as one of that cost, by what is roughly known."""
    if goal.objective == "size":
        return goal.cost(entry) <= cost  # of sizes nothing is rough
    least = goal.least_cost(entry)
    return least <= cost * (_BEYOND if least < goal.cost(entry) else ROUGH)


def contenders(kept: Sequence[Entry], goal: Goal, *, most: int) -> list[Entry]:
    """Those of the candidates within the budget that may be the best, by what is roughly known: at most `most`."""
    ordered = sorted(kept, key=lambda entry: (goal.cost(entry), entry.id))
    if not ordered:
        return []
    least = goal.cost(ordered[0])
    return [entry for entry in ordered[:most] if near(entry, least, goal)]


def lead_over(entry: Entry, other: Entry, leads: Leads) -> tuple[float, float]:
    """The 95 % interval of the latency of `entry` over that of `other`: of the rounds in which both ran, else as wide
    as both of their own to the reference together, which is never too narrow."""
    if (found := leads.get((entry.id, other.id))) is not None:
        return found
    ours, theirs = entry.timing, other.timing
    if ours is None or theirs is None or not ours.ratio_low or not theirs.ratio_low:
        return _UNKNOWN
    return ours.ratio_low / theirs.ratio_high, ours.ratio_high / theirs.ratio_low


def no_worse(entry: Entry, best: Entry, goal: Goal, leads: Leads) -> bool:
    """Whether it costs what the best does: nearly the same, or not surely more by what was measured. What seems to be
    far slower is not called as fast for want of rounds."""
    cost, least = goal.cost(entry), goal.cost(best)
    if cost <= least * SAME_COST:
        return True
    if goal.objective != "latency" or cost > least * ROUGH or (entry.timing is not None and entry.timing.estimated):
        return False
    return lead_over(entry, best, leads)[0] <= 1.0


def settled(racing: Sequence[str], leads: Leads, *, leader: str) -> bool:
    """Whether each candidate is surely slower than the leader, surely not, or surely the same: its interval lies on one
    side of 1, or is narrower than what makes a difference."""
    for name in racing:
        if name == leader or (name, leader) not in leads:
            continue
        low, high = leads[name, leader]
        if low <= 1.0 <= high and high - low > 2 * SAME:
            return False
    return True


def still_racing(racing: Sequence[str], leads: Leads, *, leader: str) -> tuple[str, ...]:
    """Those that are not surely slower than the leader: more rounds are worth it for these alone."""
    return tuple(name for name in racing if name == leader or leads.get((name, leader), _UNKNOWN)[0] <= 1.0 + SAME)
