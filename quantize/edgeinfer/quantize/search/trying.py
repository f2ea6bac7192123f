"""Schemes: made, looked at, and judged where they can still win."""

from collections.abc import Sequence

from edgeinfer.quantize.search.entry import Entry, Offer
from edgeinfer.quantize.search.orders import Evaluate, Make, Screen
from edgeinfer.quantize.search.sketching import (
    came_to_something,
    expected_cost,
    gains_nothing,
    hopeless,
    outdone,
    swiftest,
)
from edgeinfer.quantize.search.state import State, Steps

__all__ = ["find_one_that_keeps", "reconsider", "try_all", "try_schemes"]

# The share of the time that is all of it, and how much of it may pass to find out whether anything keeps the budget.
_ALL, _LATE = 1.0, 1.5


def try_schemes(state: State, *, rung: int, share: float) -> Steps:
    """Those of a rung, until `share` of the time has passed."""
    offers = [offer for offer in state.offers.values() if offer.rung == rung and _wanted(state, offer)]
    # Where there is hardly any time, what may gain most.
    offers.sort(key=lambda offer: (not offer.quantizes, gains_nothing(state, offer)))
    if not offers or (rung > 0 and not state.has_time(share)):
        return
    now = [offer for offer in offers if not offer.after or came_to_something(state, offer.after)]
    yield from _by_speed(state, now, share=share)
    later = [offer for offer in offers if offer not in now and came_to_something(state, offer.after)]
    yield from _by_speed(state, later, share=share)
    made = [offer.id for offer in (*now, *later) if state.made(offer.id) and offer.id not in state.passed_over]
    yield from _judge(state, made)  # also those that were made to begin others with, where the time was up before
    state.close(f"schemes, rung {rung}", looked_at=len(made), left=sum(state.keeps(name) for name in made))


def _by_speed(state: State, offers: Sequence[Offer], *, share: float) -> Steps:
    """The fastest first, as far as that is known: what is slower is made where these break the budget."""
    offers = _without_hopeless(state, offers)
    tried = False
    while offers and (not tried or state.has_time(share)):
        batch, offers = swiftest(state, offers)
        yield from try_all(state, [offer.id for offer in batch], share=share)
        offers = _without_hopeless(state, offers)
        tried = True


def try_all(state: State, ids: Sequence[str], *, share: float) -> Steps:
    """Make, screen and judge them. One is made whatever the time is, and all that are made are judged while there is
    any."""
    made: list[str] = []
    for name in ids:
        if made and not state.has_time(share):
            break
        if not state.made(name):
            yield from state.ask(Make((name,)))
        if not state.entry(name).refused:
            made.append(name)
    new = tuple(name for name in made if state.entry(name).screened is None)
    if new:
        yield from state.ask(Screen(new, state.until_s(share)))
    yield from _judge(state, made)


def reconsider(state: State, *, share: float) -> Steps:
    """Try those after all that were put aside beside one that is not as good as it seemed."""
    revived = [name for name in sorted(state.passed_over) if not hopeless(state, state.offers[name])]
    readmitted = [name for name in sorted(state.screened_out) if not outdone(state, state.entry(name))]
    for name in readmitted:
        state.readmit(name)
    yield from _judge(state, readmitted)
    if revived and state.has_time(share):
        for name in revived:
            state.take_up(name)
        yield from try_all(state, revived, share=share)


def find_one_that_keeps(state: State, *, share: float) -> Steps:
    """Where all that were judged break the budget, judge also what was put aside beside a float model, until one
    keeps it: that nothing does is said only of what was looked at, and never hangs on how fast something seemed."""
    judged = [entry for entry in state.found.entries.values() if entry.judged is not None]
    made = [entry.id for entry in judged if entry.id not in state.floats and not entry.refused]
    kept = [name for name in (*made, *state.floats) if state.keeps(name)]
    if any(name in kept for name in made) or (kept and not made):
        return
    aside = {*state.screened_out, *state.passed_over}
    for name in sorted(aside, key=lambda name: (expected_cost(state, name), name)):
        if not state.has_time(share):
            return
        yield from _look_after_all(state, name)
        if state.keeps(name):
            return


def _look_after_all(state: State, name: str) -> Steps:
    if name in state.passed_over:
        state.take_up(name)
        yield from state.ask(Make((name,)))
        if state.entry(name).refused:
            return
        yield from state.ask(Screen((name,), state.until_s(_ALL)))
    else:
        state.readmit(name)
    entry = state.entry(name)
    if refused := entry.refused or _unfit(state, entry):
        state.refuse(name, refused)
    else:
        yield from state.ask(Evaluate(name))


def _without_hopeless(state: State, offers: Sequence[Offer]) -> list[Offer]:
    """Leave out what is known to be too slow before it is made, and say so."""
    kept = []
    for offer in offers:
        reason = "" if state.made(offer.id) else hopeless(state, offer)
        if reason:
            state.pass_over(offer, reason)
        else:
            kept.append(offer)
    return kept


def _wanted(state: State, offer: Offer) -> bool:
    return state.exhaustive or not offer.mends


def _judge(state: State, ids: Sequence[str]) -> Steps:
    """Evaluate what can still win, the most promising first, while there is time: one of them in any case."""
    for name in sorted(ids, key=lambda name: (state.cost(name), name)):
        entry = state.entry(name)
        if entry.refused or entry.judged is not None:
            continue
        if not state.exhaustive:
            if refused := _unfit(state, entry):
                state.refuse(name, refused)
                continue
            if reason := outdone(state, entry):
                state.screen_out(name, f"screened out: {reason}")
                continue
        if not _may_judge(state):
            return
        yield from state.ask(Evaluate(name))


def _may_judge(state: State) -> bool:
    made = [entry for entry in state.found.entries.values() if entry.id not in state.floats]
    if not any(entry.judged is not None for entry in made):
        return True
    return state.has_time(_ALL if any(state.goal.keeps(entry) for entry in made) else _LATE)


def _unfit(state: State, entry: Entry) -> str:
    if entry.timing is not None and entry.timing.error:
        return entry.timing.error
    return state.goal.too_large(entry)
