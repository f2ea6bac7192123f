"""Puts the report of a search together from what the search found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeinfer.quantize.dataset import Samples
from edgeinfer.quantize.metrics import Metric
from edgeinfer.quantize.report.document import Confusion, LayerRow, Report, Sensitivity, Step, TargetRow
from edgeinfer.quantize.report.gain import FEW_SAMPLES
from edgeinfer.quantize.search.entry import Entry
from edgeinfer.quantize.search.goal import Goal
from edgeinfer.quantize.search.ladder import Found, Tried
from edgeinfer.quantize.search.statistics import needed_samples
from edgeinfer.quantize.search.verdicts import Verdicts, answer
from edgeinfer.quantize.targets.base import Target
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.manifest import Task

__all__ = ["Told", "make_report"]

# A table of more classes than this is not read by anybody.
_MAX_SHOWN_CLASSES = 40
# Of fewer candidates the best is hardly chosen by luck.
_MANY = 3
# Of the time that is given, what leaves too little for the rest.
_MUCH = 0.5


@dataclass(frozen=True, slots=True)
class Told:
    """What the search was made with. `labels` are the names of the `classes`, `notes` what was done to the models."""

    goal: Goal
    metric: Metric
    target: Target
    samples: Samples
    task: Task
    given: Sequence[str]
    classes: int = 0
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    command: str = ""


def make_report(found: Found, verdicts: Verdicts, told: Told, said: Mapping[str, Array], *, seconds: float) -> Report:
    """`said`: which class candidates called each sample, (N,) by id, where the task has classes."""
    chosen = found.entries[verdicts.chosen.variant] if verdicts.chosen is not None else None
    return Report(
        metric=told.metric.name,
        higher_is_better=told.metric.higher_is_better,
        unit=told.goal.unit,
        max_drop=told.goal.max_drop,
        min_agreement=told.goal.min_agreement,
        max_bytes=told.goal.max_bytes,
        objective=told.goal.objective,
        target=TargetRow(name=told.target.name, measured=told.target.measured, machine=told.target.machine),
        answer=_answer(verdicts, found, told),
        reference=verdicts.reference,
        chosen=verdicts.chosen,
        candidates=verdicts.rows,
        samples=told.samples.examples,
        calibration_samples=len(told.samples.calibration or ()),
        seconds=round(seconds, 3),
        warnings=_warnings(found, chosen, told),
        notes=told.notes,
        sensitivity=tuple(_sensitivity(tried) for tried in found.tried if tried.layers),
        confusion=_confusion(said, chosen, told),
        steps=_steps(found),
        labels=told.labels,
        command=told.command,
    )


def _answer(verdicts: Verdicts, found: Found, told: Told) -> str:
    """That nothing is better is only known where everything was looked at."""
    chosen = verdicts.chosen
    said = answer(verdicts, told.goal, given=told.given, cut_short=_short_of_time(found, told))
    if chosen is not None and chosen.quantized and 0 < chosen.samples < FEW_SAMPLES:
        what = said.removeprefix("Ship ").replace(": ", ", ", 1)
        return f"Not proven yet: {what} {chosen.samples} samples cannot tell that: judge it on more before it ships."
    return said


def _short_of_time(found: Found, told: Told) -> str:
    """What is known of a float model that is shipped because the time was up."""
    if not found.cut_short:
        return ""
    tried = any(entry.bytes for entry in found.entries.values() if entry.id not in told.given)
    return "nothing better was found before the time was up" if tried else "the time was up before anything was tried"


def _warnings(found: Found, chosen: Entry | None, told: Told) -> tuple[str, ...]:
    said = [*told.samples.warnings]
    if chosen is not None:
        said += chosen.warnings
        said += _too_few(chosen, told)
        said += _flattered(found, chosen, told)
        said += _forbidden(chosen, told)
    if found.cut_short:
        given = f"{told.goal.time_s:g} s that were given"
        said.append(f"not everything was tried in the {given}: more time might find more{_spent(found, told)}")
    if not told.target.measured:
        said.append(f"latency is estimated by rules for {told.target.name}, not measured: the device picks on arrival")
    return tuple(said)


def _spent(found: Found, told: Told) -> str:
    """On what the time went, where it was not on the search: float models are judged on all samples in any case."""
    before_s = found.rungs[0].elapsed_s if found.rungs else 0.0
    if before_s < _MUCH * told.goal.time_s:
        return ""
    return f" ({before_s:.0f} s went on reading the samples and judging the float models on all of them)"


def _too_few(chosen: Entry, told: Told) -> list[str]:
    """Whether a drop of the budget's size could be missed with so few samples."""
    if chosen.judged is None or chosen.id == told.given[0]:
        return []
    judged, goal = chosen.judged, told.goal
    allowed = goal.max_drop / 100.0 * (abs(goal.base) if goal.percent else 1.0)
    least = 0.0 if goal.percent else 1.0 / max(judged.samples, 1)
    needed = needed_samples(judged.difference, judged.samples, drop=allowed, least=least)
    if needed <= judged.samples:
        return []
    unit = "per cent" if goal.percent else "point" if goal.max_drop == 1 else "points"
    few = f"{judged.samples} samples are too few to tell a loss of {goal.max_drop:g} {unit} from none"
    return [f"{few}: about {_rounded(needed)} are needed"]


def _flattered(found: Found, chosen: Entry, told: Told) -> list[str]:
    """The best of many on the same samples is in part the luckiest."""
    judged = [entry for entry in found.entries.values() if entry.judged is not None and entry.id not in told.given]
    if chosen.judged is None or chosen.id in told.given or len(judged) < _MANY:
        return []
    most = told.goal.drop(chosen.judged.difference.high)
    if not most > told.goal.max_drop:
        return []
    unit = "points" if told.goal.unit == "points" else "per cent"
    many = f"this is the best of {len(judged)} candidates on the same samples, which flatters it"
    return [f"the loss may be as much as {most:.2f} {unit} (95 %), and {many}: judge it once more on others"]


def _forbidden(chosen: Entry, told: Told) -> list[str]:
    """What ran here, and not where it is to run as it is installed. A device of the fleet has run it itself."""
    if chosen.engine != "openvino" or told.target.name.startswith("device:"):
        return []
    needed = "set MemoryDenyWriteExecute=no in its unit, or it runs the float model that is packed beside it"
    return [f"OpenVINO compiles as it loads a model, which the packaged service may not: {needed}"]


def _rounded(count: int) -> int:
    """To two digits: it is an estimate."""
    step = int(10 ** max(len(str(count)) - 2, 0))
    return -(-count // step) * step


def _sensitivity(tried: Tried) -> Sensitivity:
    taken = set(tried.taken)
    others = "int4" if tried.precision == "int8" else "int8"
    rows = tuple(
        LayerRow(
            name=cost.name,
            op=cost.op,
            weights=cost.weights,
            divergence=cost.divergence,
            bytes_saved=cost.bytes_saved,
            precision=tried.precision if cost.name in taken else others if taken else "",
        )
        for cost in tried.layers
    )
    return Sensitivity(scheme=tried.scheme, lower=tried.precision, layers=rows, outcome=tried.outcome)


def _confusion(said: Mapping[str, Array], chosen: Entry | None, told: Told) -> Confusion | None:
    if told.task != "classification" or chosen is None or not told.samples.labelled or chosen.id not in said:
        return None
    theirs, ours = said[told.given[0]], said[chosen.id]
    count = told.classes
    names = told.labels if len(told.labels) == count else tuple(str(index) for index in range(count))
    shown = _shown_classes(told.samples.y, theirs, ours, count)
    return Confusion(
        labels=tuple(names[index] for index in shown),
        reference=_counted(told.samples.y, theirs, shown),
        chosen=_counted(told.samples.y, ours, shown),
    )


def _shown_classes(labels: Array, theirs: Array, ours: Array, count: int) -> list[int]:
    """All classes; of many, those that the two models judge differently most often."""
    if count <= _MAX_SHOWN_CLASSES:
        return list(range(count))
    differs = theirs != ours
    involved = np.concatenate([said[differs] for said in (labels, theirs, ours)])
    classes, often = np.unique(involved, return_counts=True)
    return sorted(int(one) for one in classes[np.argsort(-often, kind="stable")][:_MAX_SHOWN_CLASSES])


def _counted(labels: Array, said: Array, shown: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """How often each class was called each, of the classes that are shown."""
    place = {one: index for index, one in enumerate(shown)}
    matrix = [[0] * len(shown) for _ in shown]
    for right, called in zip(labels.tolist(), said.tolist(), strict=True):
        if right in place and called in place:
            matrix[place[right]][place[called]] += 1
    return tuple(tuple(row) for row in matrix)


def _steps(found: Found) -> tuple[Step, ...]:
    steps, before = [], 0.0
    for rung in found.rungs:
        steps.append(
            Step(
                name=rung.name,
                seconds=round(rung.elapsed_s - before, 3),
                looked_at=rung.looked_at,
                left=rung.left,
                detail=rung.detail,
            )
        )
        before = rung.elapsed_s
    return tuple(steps)
