"""The search as a ladder: cheap looks at many candidates first, dear ones at the few that can still win.

Nothing is made, run or timed in here: the search gives orders (`edgeinfer.quantize.search.orders`) and is told what
came of them, so that it can be tested on recorded measurements, as a generator:

    search = climb(goal, offers, floats)
    order = next(search)
    order = search.send(answer)  # until StopIteration, whose value is the Found

The rungs: the float models; how fast the schemes would be, by sketches; the schemes that usually win; the others, while
there is time; repairs of what would be best but loses too much (its layers one by one, then mixed precision); smaller
weights where size is asked for; at last latency, side by side, until the order is settled.
"""

import math
from collections.abc import Generator, Sequence

from edgeinfer.quantize.search.entry import Entry, Offer
from edgeinfer.quantize.search.goal import Goal
from edgeinfer.quantize.search.orders import Answer, Evaluate, Order, Screen, Time
from edgeinfer.quantize.search.repairs import repair, shrink
from edgeinfer.quantize.search.settle import contenders, settled, still_racing
from edgeinfer.quantize.search.sketching import sketch
from edgeinfer.quantize.search.state import Found, Rung, State, Steps, Tried
from edgeinfer.quantize.search.trying import find_one_that_keeps, reconsider, try_schemes

__all__ = ["Found", "Rung", "Tried", "climb"]

# Shares of the time after which a rung is not begun any more, nor gone on with.
_SCHEMES, _REPAIRS, _SETTLING = 0.5, 0.6, 0.9
_MAX_TIMINGS = 12
_MAX_FINALISTS = 8


def climb(
    goal: Goal, offers: Sequence[Offer], floats: Sequence[Entry], *, exhaustive: bool = False
) -> Generator[Order, Answer, Found]:
    """`floats` are the given models, the reference first. An exhaustive search looks at everything."""
    state = State(goal, offers, floats, exhaustive=exhaustive)
    yield from _look_at_floats(state)
    yield from sketch(state, share=_SCHEMES)
    yield from try_schemes(state, rung=0, share=_SCHEMES)
    yield from try_schemes(state, rung=1, share=_SCHEMES)
    if exhaustive:
        yield from try_schemes(state, rung=2, share=1.0)
    yield from repair(state, share=_REPAIRS)
    if goal.objective == "size":
        yield from shrink(state, share=_REPAIRS)
    yield from find_one_that_keeps(state, share=_SETTLING)
    yield from _settle(state)
    return state.found


def _look_at_floats(state: State) -> Steps:
    yield from state.ask(Screen(state.floats, state.until_s(_SCHEMES)))
    for name in state.floats:
        yield from state.ask(Evaluate(name))
    state.close("float models", looked_at=len(state.floats), left=len(state.floats))


def _settle(state: State) -> Steps:
    """Time the contenders side by side; then also those that seemed to be worse than they are."""
    yield from _race(state, _contenders(state))
    if not state.exhaustive:
        yield from reconsider(state, share=_SETTLING)
        late = _overlooked(state)
        if late and state.has_time(_SETTLING):
            best = state.best(among=state.found.timed)
            yield from _race(state, (*([best.id] if best is not None else []), *late))
    state.close("latency, side by side", looked_at=len(state.found.timed), left=len(_contenders(state)))


def _contenders(state: State) -> tuple[str, ...]:
    kept = [entry for entry in state.found.entries.values() if state.goal.keeps(entry)]
    if not state.exhaustive:
        kept = contenders(kept, state.goal, most=_MAX_FINALISTS)
    return tuple(entry.id for entry in kept)


def _overlooked(state: State) -> tuple[str, ...]:
    """Those that were not timed, and seem to be no worse than the best of those that were."""
    best = state.best(among=state.found.timed)
    limit = state.goal.cost(best) if best is not None else math.inf
    names = [name for name in state.found.entries if name not in state.found.timed and state.keeps(name)]
    return tuple(name for name in names if state.goal.least_cost(state.entry(name)) <= limit)


def _race(state: State, racing: tuple[str, ...]) -> Steps:
    """Until they are in order, or no nearer to it."""
    state.found.timed = tuple(dict.fromkeys([*state.floats, *state.found.timed, *racing]))
    beside = state.floats
    for _ in range(_MAX_TIMINGS):
        # The reference is what ratios are of; the other float models have been seen once.
        yield from state.ask(Time(tuple(dict.fromkeys([*beside, *racing])), state.until_s(_SETTLING)))
        beside, leads = state.floats[:1], state.found.leads
        best = state.best(among=racing)  # by what is known now: who led before may have been lucky
        leader = best.id if best is not None else state.floats[0]
        if state.goal.objective == "size" or settled(racing, leads, leader=leader):
            break
        if not state.has_time(_SETTLING):
            break
        racing = still_racing(racing, leads, leader=leader)
