"""What a search knows while it climbs: its candidates, the best so far, and how much time has passed."""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace

from edgeinfer.quantize.search.entry import Entry, Offer, Timing
from edgeinfer.quantize.search.goal import Goal
from edgeinfer.quantize.search.mixing import LayerCost
from edgeinfer.quantize.search.orders import Answer, Order

__all__ = ["Found", "Rung", "State", "Steps", "Tried"]

Steps = Generator[Order, Answer, None]


@dataclass(frozen=True, slots=True)
class Rung:
    """How much a part of the search looked at, what it left, and when it was done."""

    name: str
    looked_at: int
    left: int
    elapsed_s: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Tried:
    """Layers that were tried one by one: what each cost, which ones the mixed candidate `mixed` took, and in words
    what came of it."""

    scheme: str
    precision: str
    layers: tuple[LayerCost, ...]
    taken: tuple[str, ...]
    mixed: str
    outcome: str


@dataclass(slots=True)
class Found:
    """What the search knows when it ends. `timed` are those whose latency was settled, or tried to, `leads` what was
    seen of each pair of them then."""

    entries: dict[str, Entry]
    rungs: list[Rung] = field(default_factory=list)
    tried: list[Tried] = field(default_factory=list)
    timed: tuple[str, ...] = ()
    leads: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    cut_short: bool = False


class State:
    """`offers` by id, `floats` the ids of the given models, the reference's first. `screened_out` are those that were
    refused for being too slow or too large beside another one, `passed_over` those that were not even made for what is
    known of their speed: not for good, should that one turn out to be worse. `sketches` is how fast what was not made
    would be, by id."""

    def __init__(self, goal: Goal, offers: Sequence[Offer], floats: Sequence[Entry], *, exhaustive: bool) -> None:
        self.goal = goal
        self.offers = {offer.id: offer for offer in offers}
        self.floats = tuple(entry.id for entry in floats)
        self.exhaustive = exhaustive
        self.found = Found({entry.id: entry for entry in floats})
        self.screened_out: set[str] = set()
        self.passed_over: set[str] = set()
        self.sketches: dict[str, Timing] = {}
        self._elapsed_s = 0.0

    def has_time(self, share: float) -> bool:
        """Whether less than `share` of the time has passed; says so in what is found where it has. To be asked only
        where there is something left to do."""
        if self.exhaustive or self._elapsed_s < self.until_s(share):
            return True
        self.found.cut_short = True
        return False

    def until_s(self, share: float) -> float:
        """When `share` of the time will have passed, in seconds since the search began."""
        return math.inf if self.exhaustive else share * self.goal.time_s

    def ask(self, order: Order) -> Steps:
        self.take((yield order))

    def take(self, answer: Answer) -> None:
        self.found.entries.update(answer.entries)
        self.found.leads.update(answer.leads)
        self.sketches.update(answer.sketches)
        self._elapsed_s = answer.elapsed_s

    def entry(self, name: str) -> Entry:
        return self.found.entries[name]

    def made(self, name: str) -> bool:
        return name in self.found.entries

    def cost(self, name: str) -> float:
        return self.goal.cost(self.entry(name))

    def keeps(self, name: str) -> bool:
        return self.goal.keeps(self.entry(name))

    def best(self, *, among: Sequence[str] | None = None) -> Entry | None:
        """The one of least cost that keeps the budget."""
        names = self.found.entries if among is None else among
        kept = [self.entry(name) for name in names if self.keeps(name)]
        return min(kept, key=self.goal.cost, default=None)

    def refuse(self, name: str, reason: str) -> None:
        self.found.entries[name] = replace(self.entry(name), refused=reason)

    def screen_out(self, name: str, reason: str) -> None:
        """Refuse it as long as nothing better is known of it."""
        self.screened_out.add(name)
        self.refuse(name, reason)

    def pass_over(self, offer: Offer, reason: str) -> None:
        """Refuse to make it as long as nothing better is known of it."""
        self.passed_over.add(offer.id)
        known = Entry(offer.id, offer.engine, offer.precision, quantized=offer.quantizes, about=offer.about)
        self.found.entries[offer.id] = replace(known, refused=reason)

    def take_up(self, name: str) -> None:
        """Take a refusal by `pass_over` back."""
        self.passed_over.discard(name)
        del self.found.entries[name]

    def readmit(self, name: str) -> None:
        """Take a refusal by `screen_out` back."""
        self.screened_out.discard(name)
        self.refuse(name, "")

    def close(self, name: str, *, looked_at: int, left: int) -> None:
        """End a rung."""
        self.found.rungs.append(Rung(name, looked_at, left, self._elapsed_s))
