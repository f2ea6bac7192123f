"""Speed before accuracy: what is too slow, by something like it that was sooner made, is not made at all."""

import math
from collections.abc import Sequence
from dataclasses import replace

from edgeinfer.quantize.search.entry import Entry, Offer, Timing
from edgeinfer.quantize.search.orders import Make, Screen, Sketch
from edgeinfer.quantize.search.settle import near
from edgeinfer.quantize.search.state import State, Steps

__all__ = ["came_to_something", "expected_cost", "gains_nothing", "hopeless", "outdone", "sketch", "swiftest"]

# Fewer channels are to gain more than this, or the model with all of them will do.
_GAIN = 0.97
_LAST_RUNG = 1
# Of the time for schemes, for making sketches and for timing them too: the rest is for making what is worth it.
_SHARE, _TIMED_SHARE = 0.5, 0.7


def sketch(state: State, *, share: float) -> Steps:
    """Have what may be tried timed by sketches, where latency is what counts, and make what others begin with."""
    offers = [offer for offer in state.offers.values() if offer.rung <= _LAST_RUNG and not offer.mends]
    if state.exhaustive or state.goal.objective != "latency" or len(offers) < 2 or not state.has_time(share):
        return
    first = tuple(dict.fromkeys(offer.after for offer in offers if offer.after in state.offers))
    for name in first:
        yield from state.ask(Make((name,)))
    made = tuple(name for name in first if came_to_something(state, name))
    if made:
        yield from state.ask(Screen(made, state.until_s(share)))
    unknown = [offer for offer in offers if offer.id not in first and not _will_be_known(state, offer)]
    unknown.sort(key=lambda offer: offer.rung)
    wanted = tuple(offer.id for offer in unknown if not offer.after or came_to_something(state, offer.after))
    if wanted:
        yield from state.ask(Sketch(wanted, state.until_s(_SHARE * share), state.until_s(_TIMED_SHARE * share)))


def swiftest(state: State, offers: Sequence[Offer]) -> tuple[list[Offer], list[Offer]]:
    """Those that may be about as fast as the fastest, and those of which nothing is known; and the others."""
    costs = [state.goal.cost(entry) for offer in offers if (entry := _expected(state, offer)) is not None]
    if not costs:
        return list(offers), []
    first = [
        offer for offer in offers if (entry := _expected(state, offer)) is None or near(entry, min(costs), state.goal)
    ]
    return first, [offer for offer in offers if offer not in first]


def hopeless(state: State, offer: Offer) -> str:
    """Why it is not worth being made; "" where it is."""
    if state.exhaustive or state.goal.objective != "latency" or (expected := _expected(state, offer)) is None:
        return ""
    plain = state.offers.get(offer.prunes)
    unpruned = _expected(state, plain) if plain is not None else None
    # What a few rounds cannot tell is left to those that settle the order.
    if unpruned is not None and state.goal.least_cost(expected) > _GAIN * state.goal.cost(unpruned):
        return f"not made: hardly faster than {offer.prunes}, which has all channels"
    reason = outdone(state, expected)
    if reason and offer.id not in state.sketches:
        reason = f"no faster than {offer.like}, which is too slow"
    return f"not made: {reason}" if reason else ""


def gains_nothing(state: State, offer: Offer) -> bool:
    """Whether it is known to be no faster than a float model, where latency is what counts."""
    expected = _expected(state, offer) if state.goal.objective == "latency" else None
    fastest = min((state.cost(name) for name in state.floats), default=math.inf)
    return expected is not None and state.goal.cost(expected) > _GAIN * fastest


def outdone(state: State, entry: Entry) -> str:
    """How much worse a roughly timed candidate is than the best that keeps the budget; "" where it may be as good."""
    best, goal = state.best(), state.goal
    if best is None or near(entry, goal.cost(best), goal):
        return ""
    theirs = goal.cost(best)
    word = {"latency": "slower", "size": "larger", "energy": "hungrier"}[goal.objective]
    times = f"{goal.cost(entry) / theirs:.2f} times {word}" if theirs > 0 else word
    return f"{times} than {best.id}, which keeps the budget"


def expected_cost(state: State, name: str) -> float:
    """What one that was put aside costs, as far as that is known."""
    expected = _expected(state, state.offers[name]) if name in state.offers else state.entry(name)
    return state.goal.cost(expected) if expected is not None else math.inf


def came_to_something(state: State, name: str) -> bool:
    """Whether it is a file that runs: if too slow beside another one, or too large, still good to begin with."""
    if not state.made(name) or not (entry := state.entry(name)).bytes:
        return False
    return not entry.refused or name in state.screened_out or entry.refused == state.goal.too_large(entry)


def _will_be_known(state: State, offer: Offer) -> bool:
    """By another one that runs the same kernels and is sketched, or was timed."""
    return offer.like in state.offers or (bool(offer.like) and _timing(state, offer.like) is not None)


def _expected(state: State, offer: Offer) -> Entry | None:
    """What it costs, by what was seen of itself, or of one that is like it."""
    for name in (offer.id, offer.like):
        if name and (timing := _timing(state, name)) is not None:
            made = state.found.entries.get(offer.id)
            known = made or Entry(offer.id, offer.engine, offer.precision, quantized=offer.quantizes)
            return replace(known, timing=timing)
    return None


def _timing(state: State, name: str) -> Timing | None:
    made = state.found.entries.get(name)
    if made is not None and made.timing is not None and not made.timing.error:
        return made.timing
    return state.sketches.get(name)
