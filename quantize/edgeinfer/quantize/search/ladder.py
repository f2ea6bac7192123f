"""The search as a ladder: cheap looks at many candidates first, dear ones at the few that can still win.

Nothing is made, run or timed in here: the search gives orders (`edgeinfer.quantize.search.orders`) and is told what
came of them, so that it can be tested on recorded measurements, as a generator:

    search = climb(goal, offers, floats)
    order = next(search)
    order = search.send(answer)  # until StopIteration, whose value is the Found

The rungs: the float models; the schemes that usually win; the others, while there is time; repairs of what would be
fastest but loses too much (its layers one by one, then mixed precision); smaller weights where size is asked for; at
last latency, side by side, until the order is settled.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace

from edgeinfer.quantize.search.entry import Entry, Offer
from edgeinfer.quantize.search.goal import Goal
from edgeinfer.quantize.search.mixing import LayerCost, fewest, line_up, most
from edgeinfer.quantize.search.orders import Answer, Evaluate, Make, Mix, Order, Probe, Screen, Time
from edgeinfer.quantize.search.settle import contenders, settled, still_racing

__all__ = ["Found", "Rung", "Tried", "climb"]

# First looks at latency are this rough: what is slower by more than this will not be the fastest.
ROUGH = 1.2
# Fewer than this is no gain worth a repair.
WORTH = 0.97
# Shares of the time after which a rung is not begun any more.
_MORE_SCHEMES, _REPAIRS, _SETTLING = 0.35, 0.6, 0.9
_MAX_REPAIRS = 2
_MAX_TIMINGS = 12
_MAX_FINALISTS = 8
_FLOAT, _INT4 = "float", "int4"

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
    """What the search knows when it ends. `timed` are those whose latency was settled, or tried to."""

    entries: dict[str, Entry]
    rungs: list[Rung] = field(default_factory=list)
    tried: list[Tried] = field(default_factory=list)
    timed: tuple[str, ...] = ()
    cut_short: bool = False


def climb(
    goal: Goal, offers: Sequence[Offer], floats: Sequence[Entry], *, exhaustive: bool = False
) -> Generator[Order, Answer, Found]:
    """`floats` are the given models, the reference first. An exhaustive search looks at everything."""
    climber = _Climber(goal, offers, floats, exhaustive=exhaustive)
    yield from climber.look_at_floats()
    yield from climber.try_schemes(rung=0)
    if climber.has_time(_MORE_SCHEMES):
        yield from climber.try_schemes(rung=1)
    if exhaustive:
        yield from climber.try_schemes(rung=2)
    yield from climber.repair()
    if goal.objective == "size" and climber.has_time(_REPAIRS):
        yield from climber.shrink()
    yield from climber.settle()
    return climber.found


class _Climber:
    def __init__(self, goal: Goal, offers: Sequence[Offer], floats: Sequence[Entry], *, exhaustive: bool) -> None:
        self._goal = goal
        self._offers = {offer.id: offer for offer in offers}
        self._floats = [entry.id for entry in floats]
        self._exhaustive = exhaustive
        self._elapsed_s = 0.0
        self.found = Found({entry.id: entry for entry in floats})

    def has_time(self, share: float) -> bool:
        """Whether less than `share` of the time has passed; says so in what is found where it has."""
        if self._exhaustive or self._elapsed_s < share * self._goal.time_s:
            return True
        self.found.cut_short = True
        return False

    def look_at_floats(self) -> Steps:
        yield from self._ask(Screen(tuple(self._floats)))
        for name in self._floats:
            yield from self._ask(Evaluate(name))
        self._close("float models", looked_at=len(self._floats), left=len(self._floats))

    def try_schemes(self, *, rung: int) -> Steps:
        offers = [offer for offer in self._offers.values() if offer.rung == rung and self._wanted(offer)]
        ids = tuple(offer.id for offer in offers if not offer.after)
        yield from self._try(ids)
        later = tuple(offer.id for offer in offers if offer.after and self._came_to_something(offer.after))
        yield from self._try(later)
        ids = (*ids, *later)
        if not ids:
            return
        left = sum(self._goal.keeps(self._entry(name)) for name in ids)
        self._close(f"schemes, rung {rung}", looked_at=len(ids), left=left)

    def _try(self, ids: tuple[str, ...]) -> Steps:
        if not ids:
            return
        yield from self._ask(Make(ids))
        made = tuple(name for name in ids if not self._entry(name).refused)
        if made:
            yield from self._ask(Screen(made))
        yield from self._judge(made)

    def _came_to_something(self, name: str) -> bool:
        return self._made(name) and self._entry(name).bytes > 0

    def _wanted(self, offer: Offer) -> bool:
        return self._exhaustive or not offer.mends

    def _judge(self, ids: Sequence[str]) -> Steps:
        """Evaluate what can still win, the most promising first."""
        for name in sorted(ids, key=lambda name: (self._goal.cost(self._entry(name)), name)):
            entry = self._entry(name)
            if entry.refused or entry.judged is not None:
                continue
            hopeless = "" if self._exhaustive else self._hopeless(entry)
            if hopeless:
                self._refuse(entry, hopeless)
                continue
            yield from self._ask(Evaluate(name))

    def _hopeless(self, entry: Entry) -> str:
        """Why a screened candidate is not worth a look at all samples; "" where it is."""
        timing = entry.timing
        if timing is not None and timing.error:
            return timing.error
        if too_large := self._goal.too_large(entry):
            return too_large
        best = self._best()
        if best is not None and self._goal.cost(entry) > self._goal.cost(best) * self._roughly:
            return f"screened out: {self._times(entry, best)} {best.id}, which keeps the budget"
        return ""

    @property
    def _roughly(self) -> float:
        """Bytes are exact, and the looks at what is slower are the dear ones."""
        return ROUGH if self._goal.objective != "size" else 1.0

    def _times(self, entry: Entry, best: Entry) -> str:
        factor = self._goal.cost(entry) / self._goal.cost(best)
        word = {"latency": "slower than", "size": "larger than", "energy": "hungrier than"}[self._goal.objective]
        return f"{factor:.2f} times {word}"

    def repair(self) -> Steps:
        """Mend what would be better than the best, but loses too much."""
        looked_at = 0
        while looked_at < _MAX_REPAIRS and self.has_time(_REPAIRS):
            broken = self._worth_mending()
            if broken is None:
                break
            looked_at += 1
            yield from self._mend(broken)
        if looked_at:
            self._close("repairs", looked_at=looked_at, left=sum(1 for tried in self.found.tried if tried.taken))

    def _worth_mending(self) -> Entry | None:
        """The best of the judged that fail their budget, would gain something, and were not tried to mend yet."""
        best = self._best()
        limit = self._goal.cost(best) * WORTH if best is not None else float("inf")
        seen = {tried.scheme for tried in self.found.tried}
        broken = [
            entry
            for entry in self.found.entries.values()
            if entry.judged is not None
            and not entry.refused
            and not self._goal.keeps(entry)
            and not self._goal.too_large(entry)
            and self._goal.cost(entry) < limit
            and entry.id not in seen
            and self._can_mend(entry.id)
        ]
        return min(broken, key=self._goal.cost, default=None)

    def _can_mend(self, name: str) -> bool:
        offer = self._offers.get(name)
        return offer is not None and (_FLOAT in offer.mixes or any(one.mends == name for one in self._offers.values()))

    def _mend(self, broken: Entry) -> Steps:
        better = tuple(
            offer.id for offer in self._offers.values() if offer.mends == broken.id and not self._made(offer.id)
        )
        if better:
            yield from self._try(better)
            if any(self._goal.keeps(self._entry(name)) for name in better):
                self.found.tried.append(Tried(broken.id, _FLOAT, (), (), "", f"mended by {', '.join(better)}"))
                return
        if _FLOAT not in self._offers[broken.id].mixes:
            self.found.tried.append(Tried(broken.id, _FLOAT, (), (), "", "no layer of it can stay float"))
            return
        yield from self._mix(broken.id, _FLOAT)

    def shrink(self) -> Steps:
        """Weights of 4 bits where they cost little."""
        able = [name for name, offer in self._offers.items() if _INT4 in offer.mixes and self._made(name)]
        kept = [name for name in able if self._goal.keeps(self._entry(name))]
        kept.sort(key=lambda name: self._goal.cost(self._entry(name)))
        for name in kept[:_MAX_REPAIRS]:
            yield from self._mix(name, _INT4)
        if kept:
            self._close("weights of 4 bits", looked_at=len(kept[:_MAX_REPAIRS]), left=len(self.found.tried))

    def _mix(self, scheme: str, precision: str) -> Steps:
        answer = yield Probe(scheme, precision)
        self._take(answer)
        screened = self._entry(scheme).screened
        line = line_up(answer.layers, base=screened.divergence if screened is not None else 0.0)
        trials = fewest(len(line)) if precision == _FLOAT else most(len(line))
        taken = yield from self._search_number(scheme, precision, line, trials)
        self._keep_only(scheme, precision, len(line), taken)
        names = tuple(cost.name for cost in line[:taken])
        mixed = _mixed_id(scheme, precision, taken) if taken else ""
        outcome = self._outcome(mixed, taken, len(line), precision)
        self.found.tried.append(Tried(scheme, precision, tuple(line), names, mixed, outcome))

    def _search_number(
        self, scheme: str, precision: str, line: Sequence[LayerCost], trials: Generator[int, bool, int | None]
    ) -> Generator[Order, Answer, int]:
        """How many layers to take; 0 where no number is of use."""
        best = self._best()
        try:
            number = next(trials)
            while True:
                name = _mixed_id(scheme, precision, number)
                layers = tuple(cost.name for cost in line[:number])
                yield from self._ask(Mix(name, scheme, layers, precision))
                if self._no_better(name, best):
                    return 0  # with more layers it would only get worse
                if not self._entry(name).refused:
                    yield from self._ask(Evaluate(name))
                number = trials.send(self._goal.keeps(self._entry(name)))
        except StopIteration as stop:
            return stop.value or 0

    def _no_better(self, name: str, best: Entry | None) -> bool:
        """Whether float layers have cost a candidate all that it had gained."""
        if self._goal.objective == "size" or best is None:
            return False
        return self._goal.cost(self._entry(name)) >= self._goal.cost(best)

    def _keep_only(self, scheme: str, precision: str, count: int, taken: int) -> None:
        for number in range(1, count + 1):
            if number != taken:
                self.found.entries.pop(_mixed_id(scheme, precision, number), None)

    def _outcome(self, mixed: str, taken: int, count: int, precision: str) -> str:
        what = "stay float" if precision == _FLOAT else "have weights of 4 bits"
        if not taken:
            return f"of its {count} layers no number that {what} keeps the budget and gains anything"
        return f"{mixed}: {taken} of {count} layers {what}"

    def settle(self) -> Steps:
        """Time the contenders side by side, until they are in order or no nearer to it."""
        kept = [entry for entry in self.found.entries.values() if self._goal.keeps(entry)]
        if not self._exhaustive:
            kept = contenders(kept, self._goal, rough=ROUGH, most=_MAX_FINALISTS)
        racing = tuple(entry.id for entry in kept)
        self.found.timed = tuple(dict.fromkeys([*self._floats, *racing]))
        for _ in range(_MAX_TIMINGS):
            best = self._best(among=racing)
            leader = best.id if best is not None else self._floats[0]
            answer = yield Time(tuple(dict.fromkeys([*self._floats, *racing])), leader)
            self._take(answer)
            if self._goal.objective == "size" or settled(racing, answer.lead, leader=leader):
                break
            if not self.has_time(_SETTLING):
                break
            racing = still_racing(racing, answer.lead, leader=leader)
        self._close("latency, side by side", looked_at=len(self.found.timed), left=len(racing))

    def _best(self, *, among: Sequence[str] | None = None) -> Entry | None:
        names = self.found.entries if among is None else among
        kept = [self._entry(name) for name in names if self._goal.keeps(self._entry(name))]
        return min(kept, key=self._goal.cost, default=None)

    def _ask(self, order: Order) -> Steps:
        self._take((yield order))

    def _take(self, answer: Answer) -> None:
        self.found.entries.update(answer.entries)
        self._elapsed_s = answer.elapsed_s

    def _entry(self, name: str) -> Entry:
        return self.found.entries[name]

    def _made(self, name: str) -> bool:
        return name in self.found.entries

    def _refuse(self, entry: Entry, reason: str) -> None:
        self.found.entries[entry.id] = replace(entry, refused=reason)

    def _close(self, name: str, *, looked_at: int, left: int) -> None:
        self.found.rungs.append(Rung(name, looked_at, left, self._elapsed_s))


def _mixed_id(scheme: str, precision: str, number: int) -> str:
    return f"{scheme}-{'mixed' if precision == _FLOAT else 'mixed4'}-{number}"
