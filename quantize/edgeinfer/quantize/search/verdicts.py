"""The decision: which candidate is the package's first variant, and what is said of each of the others.

The rule: of those that keep the budget, the one with the least cost (latency, bytes or energy); among those that cost
the same within two per cent, the smallest file; among those of one size, the one that the guards warn least of, and
then the one that agrees most with the float model, and last the one whose outputs are nearest to its: which of them
was the fastest by a hair is noise. The given float models take part: where quantizing gains nothing
that is said, and a float one stays first. Where candidates could be made and every one of them breaks the budget,
nothing is chosen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edgeinfer.quantize.report.document import Row
from edgeinfer.quantize.search.entry import Entry
from edgeinfer.quantize.search.goal import Goal

__all__ = ["Verdicts", "answer", "choose", "judge", "variants_to_pack"]

# Costs closer than this are one cost.
SAME_COST = 1.02
# Files closer than this are of one size: the same weights in another wrapping.
SAME_SIZE = 1.05
# What two digits do not show is not said.
_NO_CHANGE = 0.005
# A device of another kind may find another variant the fastest: it is given this many to choose from.
_SEVERAL = 4


@dataclass(frozen=True, slots=True)
class Verdicts:
    """`rows` in the order of the entries, the reference's first."""

    reference: Row
    chosen: Row | None
    rows: tuple[Row, ...]


def choose(entries: Mapping[str, Entry], goal: Goal, *, given: Sequence[str]) -> Entry | None:
    """The best of the candidates; None where the budget refuses them all. `given` are the user's own models."""
    kept = [entry for entry in entries.values() if goal.keeps(entry)]
    made = [entry for entry in entries.values() if entry.id not in given]
    broke = [entry for entry in made if not entry.refused and entry.judged is not None and goal.misses(entry)]
    if not kept or (broke and all(entry.id in given for entry in kept)):
        return None
    least = min(goal.cost(entry) for entry in kept)
    same = [entry for entry in kept if goal.cost(entry) <= least * SAME_COST]
    smallest = min(entry.bytes for entry in same)
    small = [entry for entry in same if entry.bytes <= smallest * SAME_SIZE]
    return min(small, key=lambda entry: (len(entry.warnings), -_agreement(entry), _divergence(entry), entry.id))


def judge(entries: Mapping[str, Entry], goal: Goal, *, chosen: Entry | None, given: Sequence[str]) -> Verdicts:
    """A row for each candidate. `given` are the user's own models, the reference first."""
    rows = {entry.id: _row(entry, goal, chosen) for entry in entries.values()}
    return Verdicts(rows[given[0]], rows[chosen.id] if chosen is not None else None, tuple(rows.values()))


def variants_to_pack(chosen: Row, rows: Sequence[Row], *, given: Sequence[str], measured: bool) -> list[str]:
    """The chosen variant, then a float model of the user's, on the same engine where there is one. Where the target was
    not measured, the next best candidates too, for the device to choose from."""
    accepted = [row for row in rows if row.verdict == "accepted" and row.latency_ratio is not None]
    accepted.sort(key=lambda row: (row.latency_ratio or 0.0, row.variant))
    floats = sorted((row for row in accepted if row.variant in given), key=lambda row: row.engine != chosen.engine)
    # Of each kind the best: what uses the same kernels here does so there.
    kinds = {(row.engine, row.precision): row for row in reversed(accepted) if row.quantized}
    kinds.pop((chosen.engine, chosen.precision), None)
    others = sorted(kinds.values(), key=lambda row: (row.latency_ratio or 0.0, row.variant))
    if not measured:
        packed = [chosen, *others[: _SEVERAL - 1], *floats[:1]]
    elif chosen.variant in given:
        packed = [chosen, *others[:1]]
    else:
        packed = [chosen, *floats[:1]]
    return list(dict.fromkeys(row.variant for row in packed))


def answer(verdicts: Verdicts, goal: Goal, *, given: Sequence[str]) -> str:
    """May I ship this, and what do I gain?"""
    chosen, reference = verdicts.chosen, verdicts.reference
    if chosen is None:
        return f"Nothing to ship: no candidate keeps {_budget(goal)}."
    gains = ", ".join(filter(None, (_speed(chosen), _size(chosen, reference))))
    if chosen.variant == reference.variant:
        return f"Ship the float model as it is ({chosen.variant}): nothing that keeps the budget is better."
    if chosen.variant in given:
        return f"Ship the float model {chosen.variant}: {gains}. Quantizing gains nothing more within the budget."
    return f"Ship {chosen.variant}: {gains}; {_loss(chosen, goal)}."


def _budget(goal: Goal) -> str:
    """What the float model and any other had to keep, in the words of the flags that set it."""
    unit = "per cent" if goal.percent else "point" if goal.max_drop == 1 else "points"
    limits = [f"loses at most {goal.max_drop:g} {unit}"]
    if goal.min_agreement is not None:
        limits.append(f"agrees with the float model on {goal.min_agreement:g} of the samples")
    if goal.max_bytes is not None:
        limits.append(f"has at most {goal.max_bytes:,} bytes")
    if len(limits) == 1:
        return f"within {goal.max_drop:g} {unit} of the float model"
    return f"the budget, that it {', '.join(limits[:-1])} and {limits[-1]}"


def _speed(row: Row) -> str:
    if not row.latency_ratio:
        return ""
    word = "estimated " if row.estimated else ""
    if abs(row.latency_ratio - 1.0) < _NO_CHANGE:
        return f"{word}as fast as the float model"
    if row.latency_ratio < 1.0:
        return f"{word}{1.0 / row.latency_ratio:.2f} times as fast as the float model"
    return f"{word}{row.latency_ratio:.2f} times as slow as the float model"


def _size(row: Row, reference: Row) -> str:
    return f"{100.0 * row.bytes / reference.bytes:.0f} % of its size" if reference.bytes else ""


def _loss(row: Row, goal: Goal) -> str:
    if row.drop is None:
        return "its accuracy is unknown"
    word = "points" if goal.unit == "points" else "per cent"
    said = f"loses {row.drop:.2f} {word}" if row.drop > 0 else f"gains {-row.drop:.2f} {word}"
    if row.drop == 0:
        said = f"loses nothing on {row.samples:,} samples"
    return said if row.significant or row.drop == 0 else f"{said}, no significant difference"


def _row(entry: Entry, goal: Goal, chosen: Entry | None) -> Row:
    verdict, reason = _verdict(entry, goal, chosen)
    timing, judged, screened = entry.timing, entry.judged, entry.screened
    timed = timing is not None and not timing.error
    drops = [goal.drop(value) for value in _interval(entry)]
    return Row(
        variant=entry.id,
        engine=entry.engine,
        precision=entry.precision,
        quantized=entry.quantized,
        bytes=entry.bytes,
        verdict=verdict,
        reason=reason,
        about=entry.about,
        metric_value=judged.metric_value if judged else None,
        agreement=judged.agreement if judged else screened.agreement if screened else None,
        drop=_rounded(drops[0]) if drops else None,
        drop_low=_rounded(drops[1]) if drops else None,
        drop_high=_rounded(drops[2]) if drops else None,
        p_value=round(judged.difference.p_value, 5) if judged else None,
        significant=judged.difference.significant if judged else None,
        latency_us=round(timing.latency_us, 2) if timed and timing and timing.latency_us else None,
        latency_ratio=round(timing.ratio, 4) if timed and timing else None,
        ratio_low=round(timing.ratio_low, 4) if timed and timing else None,
        ratio_high=round(timing.ratio_high, 4) if timed and timing else None,
        cpu_us=timing.cpu_us if timed and timing else None,
        energy_uj=timing.energy_uj if timed and timing else None,
        estimated=bool(timing and timing.estimated),
        samples=judged.samples if judged else screened.samples if screened else 0,
        layers=dict(entry.plan),
        warnings=entry.warnings,
    )


def _interval(entry: Entry) -> tuple[float, ...]:
    if entry.judged is None:
        return ()
    difference = entry.judged.difference
    return difference.value, difference.low, difference.high


def _rounded(value: float) -> float:
    """To a hundredth of a point, and 0.0 instead of -0.0."""
    return round(value, 4) + 0.0


def _verdict(entry: Entry, goal: Goal, chosen: Entry | None) -> tuple[Literal["chosen", "accepted", "refused"], str]:
    if entry.refused:
        return "refused", entry.refused
    if entry.judged is None:
        return "refused", "was not evaluated: the time was up"
    if missed := goal.misses(entry):
        return "refused", missed
    if chosen is None:
        return "accepted", "within the budget"
    if entry.id == chosen.id:
        return "chosen", f"{_best(goal)} within the budget"
    return "accepted", _compared(entry, chosen, goal)


def _best(goal: Goal) -> str:
    return {"latency": "fastest", "size": "smallest", "energy": "takes the least energy"}[goal.objective]


def _compared(entry: Entry, chosen: Entry, goal: Goal) -> str:
    ours, theirs = goal.cost(entry), goal.cost(chosen)
    word = {"latency": "slower", "size": "larger", "energy": "hungrier"}[goal.objective]
    if theirs and ours > theirs * SAME_COST:
        return f"{ours / theirs:.2f} times {word} than {chosen.id}"
    if entry.bytes > chosen.bytes * SAME_SIZE:
        return f"no {word} than {chosen.id}, but its file is larger"
    return f"like {chosen.id}, and agrees no better with the float model"


def _divergence(entry: Entry) -> float:
    return entry.screened.divergence if entry.screened is not None else 0.0


def _agreement(entry: Entry) -> float:
    return entry.judged.agreement if entry.judged is not None else 0.0
