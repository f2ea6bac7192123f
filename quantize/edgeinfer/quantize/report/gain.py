"""What a search gained, in the words of somebody who asks: may I ship this, and what do I gain?"""

import enum
from dataclasses import dataclass

from edgeinfer.quantize.report.document import Report, Row
from edgeinfer.quantize.report.figures import accuracy, effective_drop, interval, kibibytes, unit_name
from edgeinfer.quantize.report.figures import paired_test as tested

__all__ = ["FEW_SAMPLES", "Figure", "Verdict", "answer", "headline_figures", "verdict"]

# What is said of fewer is hardly more than what is said of none.
FEW_SAMPLES = 20

_MINUS, _TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"


class Verdict(enum.Enum):
    """What may be shipped."""

    SHIP = "Ship it"
    UNPROVEN = "Not proven yet"
    FLOAT = "Ship the float model"
    REFUSED = "Do not ship"


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of the headline: `value` large, `detail` below it. `good` is None where it is neither."""

    name: str
    value: str
    detail: str
    good: bool | None = None


def verdict(report: Report) -> Verdict:
    if report.chosen is None:
        return Verdict.REFUSED
    if not report.chosen.quantized:
        return Verdict.FLOAT
    return Verdict.UNPROVEN if 0 < report.chosen.samples < FEW_SAMPLES else Verdict.SHIP


def answer(report: Report) -> str:
    """The report's own, or where it has none (one from before there was any) what its figures say."""
    if report.answer:
        return report.answer
    chosen = report.chosen
    if chosen is None:
        return f"No: no candidate keeps the budget of {report.max_drop:g} {unit_name(report, report.max_drop)}."
    if not chosen.quantized:
        return f"Nothing made it faster within the budget: {chosen.variant} stays first."
    parts = [_speed(chosen), _size(chosen, report.reference), _loss_words(chosen, report)]
    return f"Yes: {chosen.variant}, " + ", ".join(part for part in parts if part) + "."


def headline_figures(report: Report) -> list[Figure]:
    """Speed, size, accuracy and agreement of what was chosen."""
    chosen = report.chosen
    if chosen is None:
        return []
    made = [_speed_figure(chosen, report), _size_figure(chosen, report), _loss_figure(chosen, report)]
    if chosen.agreement is not None:
        made.append(Figure("Same answers", f"{chosen.agreement:.1%}", "of samples as the float model answers them"))
    return [figure for figure in made if figure is not None]


def _speed(row: Row) -> str:
    if not row.latency_ratio:
        return ""
    return f"{1 / row.latency_ratio:.2f} times as fast"


def _size(row: Row, reference: Row) -> str:
    if not row.bytes or not reference.bytes:
        return ""
    change = row.bytes / reference.bytes - 1
    return f"{abs(change):.0%} {'smaller' if change <= 0 else 'larger'}"


def _loss_words(row: Row, report: Report) -> str:
    lost = effective_drop(row, report)
    if lost is None:
        return ""
    unit = unit_name(report)
    if abs(lost) < 0.005:
        return "loses nothing"
    said = f"loses {lost:.2f} {unit}" if lost > 0 else f"gains {-lost:.2f} {unit}"
    return f"{said} ({tested(row)})" if tested(row) else said


def _speed_figure(row: Row, report: Report) -> Figure | None:
    if not row.latency_ratio:
        return None
    if row.variant == report.reference.variant:
        return Figure("Speed", f"1{_TIMES}", "it is the float model that the others are held against")
    how = "estimated by rules" if row.estimated else "measured"
    value, around = f"{1 / row.latency_ratio:.2f}{_TIMES}", ""
    faster: bool | None = row.latency_ratio < 1
    if row.ratio_low and row.ratio_high:
        around = f" {interval(1 / row.ratio_high, 1 / row.ratio_low)}"
        if row.ratio_low <= 1 <= row.ratio_high and not row.estimated:
            value, how, faster = "the same", f"{how}: no difference that is not noise", None
    elif not row.estimated:
        how, faster = "measured in few rounds", None
    return Figure("Speed", value, f"the speed of {report.reference.variant}{around}, {how}", faster)


def _size_figure(row: Row, report: Report) -> Figure | None:
    reference = report.reference
    if not row.bytes or not reference.bytes:
        return None
    change = row.bytes / reference.bytes - 1
    value = f"{_MINUS if change < 0 else '+'}{abs(change):.0%}" if abs(change) >= 0.005 else "same"
    return Figure("File size", value, f"{kibibytes(reference.bytes)} → {kibibytes(row.bytes)}", change <= 0)


def _loss_figure(row: Row, report: Report) -> Figure | None:
    lost = effective_drop(row, report)
    if lost is None:
        return None
    if row.variant == report.reference.variant:
        return Figure(report.metric, accuracy(row.metric_value), "it is what losses are counted from")
    sign = _MINUS if lost > 0.005 else "+" if lost < -0.005 else "±"
    parts = [f"{accuracy(report.reference.metric_value)} → {accuracy(row.metric_value)}"]
    if row.drop_low is not None and row.drop_high is not None:
        parts.append(f"loss {interval(row.drop_low, row.drop_high).strip('()')}")
    if tested(row):
        parts.append(tested(row))
    unit = " %" if report.unit == "percent" else f" {unit_name(report, round(abs(lost), 2))}"
    name = report.metric if report.unit == "points" else f"{report.metric} (worse is minus)"
    return Figure(name, f"{sign}{abs(lost):.2f}{unit}", ", ".join(parts), lost <= report.max_drop)
