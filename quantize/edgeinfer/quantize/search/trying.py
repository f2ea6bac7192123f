"""Schemes: made, looked at, and judged where they can still win."""

from collections.abc import Sequence
from dataclasses import replace

from edgeinfer.quantize.search.entry import Entry, Offer
from edgeinfer.quantize.search.orders import Evaluate, Make, Screen
from edgeinfer.quantize.search.state import State, Steps

__all__ = ["ROUGH", "find_one_that_keeps", "reconsider", "try_all", "try_schemes"]

# First looks at latency are this rough: what is slower by more than this will not be the fastest.
ROUGH = 1.2


def try_schemes(state: State, *, rung: int, share: float) -> Steps:
    """Those of a rung, until `share` of the time has passed."""
    offers = [offer for offer in state.offers.values() if offer.rung == rung and _wanted(state, offer)]
    offers.sort(key=lambda offer: not offer.quantizes)  # where there is hardly any time, what may gain most
    if not offers or (rung > 0 and not state.has_time(share)):
        return
    offers = _without_hopeless(state, offers)
    now = tuple(offer.id for offer in offers if not offer.after)
    yield from try_all(state, now, share=share)
    later = tuple(offer.id for offer in offers if offer.after and _came_to_something(state, offer.after))
    yield from try_all(state, later, share=share)
    made = [name for name in (*now, *later) if state.made(name)]
    state.close(f"schemes, rung {rung}", looked_at=len(made), left=sum(state.keeps(name) for name in made))


def try_all(state: State, ids: Sequence[str], *, share: float) -> Steps:
    """Make, screen and judge them. One is made whatever the time is, and all that are made are judged."""
    made: list[str] = []
    for name in ids:
        if made and not state.has_time(share):
            break
        yield from state.ask(Make((name,)))
        if not state.entry(name).refused:
            made.append(name)
    if made:
        yield from state.ask(Screen(tuple(made)))
    yield from _judge(state, made)


def reconsider(state: State) -> Steps:
    """Judge those after all that were screened out beside one that is not as good as it seemed."""
    readmitted = [name for name in sorted(state.screened_out) if not _outdone(state, name)]
    for name in readmitted:
        state.readmit(name)
    yield from _judge(state, readmitted)


def find_one_that_keeps(state: State, *, share: float) -> Steps:
    """Where all that were judged break the budget, judge also what was screened out beside a float model, until one
    keeps it: that nothing does is said only of what was looked at, and never hangs on how fast something seemed."""
    judged = [entry for entry in state.found.entries.values() if entry.judged is not None]
    made = [entry.id for entry in judged if entry.id not in state.floats and not entry.refused]
    if not made or any(state.keeps(name) for name in made):
        return
    for name in sorted(state.screened_out, key=lambda name: (state.cost(name), name)):
        if not state.has_time(share):
            return
        state.readmit(name)
        yield from state.ask(Evaluate(name))
        if state.keeps(name):
            return


def _without_hopeless(state: State, offers: Sequence[Offer]) -> list[Offer]:
    """Leave out what is known to be too slow before it is made, and say so."""
    if state.exhaustive or state.goal.objective != "latency":
        return list(offers)
    kept = []
    for offer in offers:
        if _was_timed(state, offer.like) and _outdone(state, offer.like):
            refused = f"not made: no faster than {offer.like}, which is too slow"
            known = Entry(offer.id, offer.engine, offer.precision, quantized=offer.quantizes, about=offer.about)
            state.found.entries[offer.id] = replace(known, refused=refused)
        else:
            kept.append(offer)
    return kept


def _was_timed(state: State, name: str) -> bool:
    timing = state.entry(name).timing if state.made(name) else None
    return timing is not None and not timing.error


def _came_to_something(state: State, name: str) -> bool:
    return state.made(name) and state.entry(name).bytes > 0


def _wanted(state: State, offer: Offer) -> bool:
    return state.exhaustive or not offer.mends


def _judge(state: State, ids: Sequence[str]) -> Steps:
    """Evaluate what can still win, the most promising first."""
    for name in sorted(ids, key=lambda name: (state.cost(name), name)):
        entry = state.entry(name)
        if entry.refused or entry.judged is not None:
            continue
        if not state.exhaustive:
            if refused := _unfit(state, entry):
                state.refuse(name, refused)
                continue
            if outdone := _outdone(state, name):
                state.screen_out(name, outdone)
                continue
        yield from state.ask(Evaluate(name))


def _unfit(state: State, entry: Entry) -> str:
    if entry.timing is not None and entry.timing.error:
        return entry.timing.error
    return state.goal.too_large(entry)


def _outdone(state: State, name: str) -> str:
    """Why a screened candidate is not worth a look at all samples beside the best; "" where it is."""
    best, goal = state.best(), state.goal
    if best is None:
        return ""
    theirs = goal.cost(best)
    if goal.least_cost(state.entry(name)) <= theirs * (ROUGH if goal.objective != "size" else 1.0):
        return ""  # of sizes nothing is rough
    word = {"latency": "slower", "size": "larger", "energy": "hungrier"}[goal.objective]
    times = f"{state.cost(name) / theirs:.2f} times {word}" if theirs > 0 else word
    return f"screened out: {times} than {best.id}, which keeps the budget"
