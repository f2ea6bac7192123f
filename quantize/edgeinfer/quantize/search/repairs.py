"""Repairs: what would be better than the best but loses too much, in a better-behaved form or with some layers kept in
a higher precision; and where size is asked for, layers with weights of 4 bits."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from edgeinfer.quantize.search.entry import Entry, Offer
from edgeinfer.quantize.search.mixing import LayerCost, fewest, line_up, most
from edgeinfer.quantize.search.orders import Answer, Evaluate, Mix, Order, Probe
from edgeinfer.quantize.search.state import State, Steps, Tried
from edgeinfer.quantize.search.trying import try_all

__all__ = ["repair", "shrink"]

# Fewer than this is no gain worth a repair.
WORTH = 0.97
_MAX_REPAIRS = 2
_FLOAT, _INT8, _INT4 = "float", "int8", "int4"

# Steps that come to a number.
Count = Generator[Order, Answer, int]


@dataclass(frozen=True, slots=True)
class _Line:
    """Layers in the order in which they get another precision; `word` tells its candidates from those of others."""

    word: str
    layers: tuple[LayerCost, ...]


def repair(state: State, *, share: float) -> Steps:
    """Mend what would be better than the best, but loses too much, until `share` of the time has passed."""
    looked_at = left = 0
    while state.exhaustive or looked_at < _MAX_REPAIRS:
        broken = _worth_mending(state)
        if broken is None or not state.has_time(share):
            break
        looked_at += 1
        left += yield from _mend(state, broken, share=share)
    if looked_at:
        state.close("repairs", looked_at=looked_at, left=left)


def shrink(state: State, *, share: float) -> Steps:
    """Weights of 4 bits where they cost little, in the smallest that keep the budget."""
    able = [name for name, offer in state.offers.items() if _INT4 in offer.mixes and state.made(name)]
    kept = sorted((name for name in able if state.keeps(name)), key=state.cost)[:_MAX_REPAIRS]
    looked_at = left = 0
    for name in kept:
        if not state.has_time(share):
            break
        looked_at += 1
        left += yield from _mix(state, name, _INT4, share=share)
    if looked_at:
        state.close("weights of 4 bits", looked_at=looked_at, left=left)


def _worth_mending(state: State) -> Entry | None:
    """The best of the judged that fail their budget, would gain something, and were not tried to mend yet."""
    best, goal = state.best(), state.goal
    limit = goal.cost(best) * WORTH if best is not None else float("inf")
    seen = {tried.scheme for tried in state.found.tried}
    broken = [
        entry
        for entry in state.found.entries.values()
        if entry.judged is not None
        and not entry.refused
        and goal.misses(entry)
        and not goal.too_large(entry)
        and goal.cost(entry) < limit
        and entry.id not in seen
        and _mendable(state, entry.id)
    ]
    return min(broken, key=goal.cost, default=None)


def _mendable(state: State, name: str) -> bool:
    offer = state.offers.get(name)
    return offer is not None and (bool(_higher(offer)) or any(one.mends == name for one in state.offers.values()))


def _higher(offer: Offer) -> str:
    """The precision in which single layers lose less; "" where the scheme has none."""
    return next((precision for precision in (_INT8, _FLOAT) if precision in offer.mixes), "")


def _mend(state: State, broken: Entry, *, share: float) -> Count:
    """How many forms of it keep the budget."""
    better = [offer.id for offer in state.offers.values() if offer.mends == broken.id and not state.made(offer.id)]
    yield from try_all(state, better, share=share)
    kept = [name for name in better if state.made(name) and state.keeps(name)]
    higher = _higher(state.offers[broken.id])
    if higher and not kept:
        return (yield from _mix(state, broken.id, higher, share=share))
    outcome = f"mended by {', '.join(kept)}" if kept else "no layer of it can have another precision"
    state.found.tried.append(Tried(broken.id, higher or _FLOAT, (), (), "", outcome))
    return len(kept)


def _mix(state: State, scheme: str, precision: str, *, share: float) -> Count:
    """Look for the layers that are to have another precision: along each order of them, how many. Returns whether
    that came to something."""
    answer = yield Probe(scheme, precision, state.until_s(share))
    state.take(answer)
    lines = list(_lines(state, scheme, precision, answer.layers))
    mixed: list[tuple[str, _Line, int]] = []
    for line in lines:
        if mixed and not state.has_time(share):
            break
        number = yield from _search_number(state, scheme, precision, line, share=share)
        if number:
            mixed.append((_mixed_id(scheme, line, number), line, number))
    best = min(mixed, key=lambda one: state.cost(one[0]), default=("", lines[0], 0))
    for name in [name for name, _, _ in mixed if name != best[0]]:
        del state.found.entries[name]
    name, line, number = best
    taken = tuple(cost.name for cost in line.layers[:number])
    outcome = _outcome(name, number, len(line.layers), precision)
    state.found.tried.append(Tried(scheme, precision, line.layers, taken, name, outcome))
    return int(number > 0)


def _lines(state: State, scheme: str, precision: str, costs: Sequence[LayerCost]) -> Iterator[_Line]:
    """By what each layer alone costs or mends. Where layers stay float also the network's own first ones: each border
    between float and integer layers costs a conversion, and so there is only one."""
    screened = state.entry(scheme).screened
    base = screened.divergence if screened is not None else 0.0
    line = tuple(line_up(costs, base=base, per_byte=state.goal.objective == "size"))
    yield _Line("mixed4" if precision == _INT4 else "mixed", line)
    if precision == _FLOAT and len(costs) > 1 and tuple(costs) != line:
        yield _Line("first", tuple(costs))


def _search_number(state: State, scheme: str, precision: str, line: _Line, *, share: float) -> Count:
    """How many layers of a line to take; 0 where no number is of use, or none was found in time. Only that candidate
    is left."""
    lowering = precision == _INT4
    trials = most(len(line.layers)) if lowering else fewest(len(line.layers))
    best = state.best()
    seen: list[str] = []
    taken = 0
    try:
        number = next(trials)
        while not seen or state.has_time(share):
            name = _mixed_id(scheme, line, number)
            seen.append(name)
            layers = tuple(cost.name for cost in line.layers[:number])
            yield from state.ask(Mix(name, scheme, layers, precision))
            if not state.entry(name).refused:
                if best is not None and state.cost(name) >= state.goal.cost(best):
                    break  # a higher precision for more layers, or a lower one for fewer, only makes it worse
                yield from state.ask(Evaluate(name))
            if state.keeps(name):
                taken = number
            number = trials.send(state.keeps(name))
    except StopIteration:
        pass
    for name in seen:
        if not taken or name != _mixed_id(scheme, line, taken):
            state.found.entries.pop(name, None)
    return taken


def _mixed_id(scheme: str, line: _Line, number: int) -> str:
    return f"{scheme}-{line.word}-{number}"


def _outcome(mixed: str, taken: int, count: int, precision: str) -> str:
    what = {_FLOAT: "stay float", _INT8: "have weights of 8 bits", _INT4: "have weights of 4 bits"}[precision]
    if not taken:
        return f"of its {count} layers no number that {what} keeps the budget and gains anything"
    return f"{mixed}: {taken} of {count} layers {what}"
