"""The decision: which candidate is the package's first variant, and what is said of each of the others.

The rule: of those that keep the budget, the one with the least cost (latency, bytes or energy); among those that cost
the same within two per cent, or whose latency cannot be told from the least (the interval of the ratio of both
includes 1), the smallest file; among those of one size, the one that the guards warn least of, then the one that agrees
most with the float model, then the plainest, and last the one whose outputs are nearest to the float model's: which of
them was the fastest by a hair is noise. The given float models take part: where quantizing gains nothing that is said,
and a float one stays first. Where candidates could be made and every one of them breaks the budget, nothing is chosen,
unless the time was up before all had been looked at: then a float one is.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from edgeinfer.quantize.report.document import Row
from edgeinfer.quantize.search.entry import Entry, Leads
from edgeinfer.quantize.search.goal import Goal
from edgeinfer.quantize.search.settle import ROUGH, SAME_COST, lead_over, no_worse

__all__ = ["Verdicts", "answer", "choose", "judge", "variants_to_pack"]

# Files closer than this are of one size: the same weights in another wrapping.
SAME_SIZE = 1.05
# What two digits do not show is not said.
_NO_CHANGE = 0.005
# A device of another kind may find another variant the fastest: it is given this many to choose from.
_SEVERAL = 4
# Parts of a name that tell what was done beside quantizing.
_SWITCHES = frozenset({"pruned", "cle", "bc"})
# Of a wider interval the ends are said, and not a figure that it does not bear out.
_WIDE = 1.1
_NONE: Leads = {}


@dataclass(frozen=True, slots=True)
class Verdicts:
    """`rows` in the order of the entries, the reference's first. `nearest`: where nothing was chosen, what came nearest
    to the budget and what it misses, in words."""

    reference: Row
    chosen: Row | None
    rows: tuple[Row, ...]
    nearest: str = ""


def choose(
    entries: Mapping[str, Entry], goal: Goal, *, given: Sequence[str], leads: Leads = _NONE, cut_short: bool = False
) -> Entry | None:
    """The best of the candidates; None where the budget refuses them all. `given` are the user's own models, `leads`
    what is known of pairs, `cut_short` where not everything was looked at."""
    kept = [entry for entry in entries.values() if goal.keeps(entry)]
    made = [entry for entry in entries.values() if entry.id not in given]
    broke = [entry for entry in made if not entry.refused and entry.judged is not None and goal.misses(entry)]
    if not kept or (broke and not cut_short and all(entry.id in given for entry in kept)):
        return None
    least = min(kept, key=goal.cost)
    same = [entry for entry in kept if no_worse(entry, least, goal, leads)]
    smallest = min(entry.bytes for entry in same)
    return min((entry for entry in same if entry.bytes <= smallest * SAME_SIZE), key=_worse)


def _worse(entry: Entry) -> tuple[int, float, int, float, str]:
    """What orders candidates of one cost and size, the best first."""
    return len(entry.warnings), -_agreement(entry), _switches(entry), _divergence(entry), entry.id


def judge(
    entries: Mapping[str, Entry], goal: Goal, *, chosen: Entry | None, given: Sequence[str], leads: Leads = _NONE
) -> Verdicts:
    """A row for each candidate. `given` are the user's own models, the reference first; `leads` as they were chosen
    by."""
    said = _Sayer(entries, goal, chosen, leads)
    rows = {entry.id: _row(entry, goal, said.verdict(entry)) for entry in entries.values()}
    # A model loses nothing against itself: that is no finding that a test or an interval could doubt.
    itself = msgspec.structs.replace(rows[given[0]], drop_low=None, drop_high=None, p_value=None, significant=None)
    rows[given[0]] = itself
    nearest = _nearest(entries.values(), goal, given=given) if chosen is None else ""
    return Verdicts(itself, rows[chosen.id] if chosen is not None else None, tuple(rows.values()), nearest)


def _nearest(entries: Iterable[Entry], goal: Goal, *, given: Sequence[str]) -> str:
    """Of the made ones the smallest where all are too large, else the one that loses least of those that are not."""
    made = [entry for entry in entries if entry.id not in given and entry.bytes]
    small = [entry for entry in made if not goal.too_large(entry)]
    if not small:
        smallest = min(made, key=lambda entry: entry.bytes, default=None)
        return f"The smallest, {smallest.id}, {goal.too_large(smallest)}" if smallest is not None else ""
    judged = [(entry.judged.difference.value, entry) for entry in small if entry.judged and not entry.refused]
    least = min(judged, key=lambda one: (one[0], one[1].id), default=None)
    return f"The nearest, {least[1].id}, {goal.misses(least[1])}" if least is not None else ""


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


def answer(verdicts: Verdicts, goal: Goal, *, given: Sequence[str], cut_short: str = "") -> str:
    """May I ship this, and what do I gain? `cut_short`: why nothing is known to be better than a float model."""
    chosen, reference = verdicts.chosen, verdicts.reference
    if chosen is None:
        near = f" {verdicts.nearest}." if verdicts.nearest else ""
        seen = ", of those that there was time to look at" if cut_short else ""
        return f"Nothing to ship: no candidate keeps {_budget(goal)}{seen}.{near}"
    than = reference.variant if chosen.variant in given else "the float model"
    gains = ", ".join(filter(None, (_speed(chosen, than), _size(chosen, reference))))
    if chosen.variant == reference.variant:
        why = cut_short or "nothing that keeps the budget is better"
        return f"Ship the float model as it is ({chosen.variant}): {why}."
    if chosen.variant in given:
        why = cut_short or "quantizing gains nothing more within the budget"
        return f"Ship the float model {chosen.variant}: {gains}. {why[0].upper()}{why[1:]}."
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


def _speed(row: Row, than: str = "the float model") -> str:
    """Beside the float model, which is called `than`: no more than what the interval bears out."""
    if not row.latency_ratio:
        return ""
    word = "estimated " if row.estimated else ""
    low, high = (row.ratio_low, row.ratio_high) if not row.estimated else (None, None)
    if low and high and low <= 1.0 <= high and high > low * SAME_COST:
        return f"as fast as {than} within the noise ({low:.2f} to {high:.2f} of its latency)"
    if low is None and not row.estimated and 1.0 / ROUGH <= row.latency_ratio <= ROUGH:
        return f"as fast as {than}, as far as few rounds can tell"
    if abs(row.latency_ratio - 1.0) < _NO_CHANGE:
        return f"{word}as fast as {than}"
    if low and high and high > low * _WIDE:
        ends, how = ((1.0 / high, 1.0 / low), "fast") if high < 1.0 else ((low, high), "slow")
        return f"{ends[0]:.2f} to {ends[1]:.2f} times as {how} as {than}"
    if row.latency_ratio < 1.0:
        return f"{word}{1.0 / row.latency_ratio:.2f} times as fast as {than}"
    return f"{word}{row.latency_ratio:.2f} times as slow as {than}"


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


def _row(entry: Entry, goal: Goal, verdict: tuple[Literal["chosen", "accepted", "refused"], str]) -> Row:
    timing, judged, screened = entry.timing, entry.judged, entry.screened
    timed = timing is not None and not timing.error
    sure = timed and timing is not None and not timing.rough
    drops = [goal.drop(value) for value in _interval(entry)]
    return Row(
        variant=entry.id,
        engine=entry.engine,
        precision=entry.precision,
        quantized=entry.quantized,
        bytes=entry.bytes,
        verdict=verdict[0],
        reason=verdict[1],
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
        ratio_low=round(timing.ratio_low, 4) if sure and timing else None,
        ratio_high=round(timing.ratio_high, 4) if sure and timing else None,
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


@dataclass(frozen=True, slots=True)
class _Sayer:
    """What is said of each candidate beside the one that was chosen."""

    entries: Mapping[str, Entry]
    goal: Goal
    chosen: Entry | None
    leads: Leads

    def verdict(self, entry: Entry) -> tuple[Literal["chosen", "accepted", "refused"], str]:
        if entry.refused:
            return "refused", entry.refused
        if entry.judged is None:
            return "refused", "was not evaluated: the time was up"
        if missed := self.goal.misses(entry):
            return "refused", missed
        if self.chosen is None:
            return "accepted", "within the budget"
        if entry.id == self.chosen.id:
            return "chosen", self._why(entry)
        return "accepted", self._beside(entry, self.chosen)

    def _why(self, chosen: Entry) -> str:
        """Why it was chosen: not for its latency where that cannot be told from another one's."""
        least = min((entry for entry in self.entries.values() if self.goal.keeps(entry)), key=self.goal.cost)
        cost = self.goal.cost(chosen)
        if not cost > self.goal.cost(least):
            best = {"latency": "fastest", "size": "smallest", "energy": "takes the least energy"}[self.goal.objective]
            return f"{best} within the budget"
        return f"{self._tied(chosen, least)}; chosen for {_advantage(chosen, least)}"

    def _beside(self, entry: Entry, chosen: Entry) -> str:
        ours, theirs = self.goal.cost(entry), self.goal.cost(chosen)
        word = {"latency": "slower", "size": "larger", "energy": "hungrier"}[self.goal.objective]
        if theirs and ours > theirs * SAME_COST and not no_worse(entry, chosen, self.goal, self.leads):
            return f"{ours / theirs:.2f} times {word} than {chosen.id}"
        if entry.bytes > chosen.bytes * SAME_SIZE:
            return f"{self._tied(entry, chosen)}, but its file is larger"
        return f"like {chosen.id}, and {_drawback(entry, chosen)}"

    def _tied(self, entry: Entry, other: Entry) -> str:
        """That both cost the same, and how sure that is."""
        if self.goal.objective != "latency":
            return f"no {'larger' if self.goal.objective == 'size' else 'hungrier'} than {other.id}"
        if entry.timing is not None and entry.timing.estimated:
            return f"estimated as fast as {other.id}"
        low, high = lead_over(entry, other, self.leads)
        if low <= 1.0 <= high < math.inf and high > low * SAME_COST:
            return f"as fast as {other.id} within the noise ({low:.2f} to {high:.2f} of its latency)"
        return f"as fast as {other.id}" + ("" if high < math.inf else ", as far as few rounds can tell")


def _advantage(entry: Entry, other: Entry) -> str:
    if entry.bytes * SAME_SIZE < other.bytes:
        return "its size"
    if len(entry.warnings) < len(other.warnings):
        return "what the guards say of it"
    if _agreement(entry) > _agreement(other):
        return "agreeing more with the float model"
    return "being plainer" if _switches(entry) < _switches(other) else "outputs nearer to the float model's"


def _drawback(entry: Entry, chosen: Entry) -> str:
    if len(entry.warnings) > len(chosen.warnings):
        return "the guards warn more of it"
    if _agreement(entry) < _agreement(chosen):
        return "agrees less with the float model"
    return "agrees no better with the float model"


def _switches(entry: Entry) -> int:
    """How many things were done beside quantizing: of candidates that are alike the plainest is chosen."""
    return bool(entry.plan) + len(_SWITCHES.intersection(entry.id.split("-")))


def _divergence(entry: Entry) -> float:
    return entry.screened.divergence if entry.screened is not None else 0.0


def _agreement(entry: Entry) -> float:
    return entry.judged.agreement if entry.judged is not None else 0.0
