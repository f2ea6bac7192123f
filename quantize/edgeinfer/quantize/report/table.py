"""A report as a table for a terminal: the answer first, then what was chosen, accepted and refused, and why."""

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeinfer.quantize.report import figures
from edgeinfer.quantize.report.document import Report, Row
from edgeinfer.quantize.report.gain import answer

__all__ = ["render"]

_MIN_WIDTH = 40
# Reasons stand beside the figures where this much is left for them, else below.
_REASON_WIDTH = 60
_MAX_REASON_LINES = 3
_GAP = "  "
# Lines that a small terminal shows at once.
_SCREEN = 24


@dataclass(frozen=True, slots=True)
class _Column:
    """`text` of a row's cell. Where there is too little room, columns with the smallest `rank` go first."""

    header: str
    rank: int
    text: Callable[[Row], str]
    left: bool = False


def render(report: Report, *, package: Path | None = None, width: int = 100) -> str:
    """Text of lines at most `width` long (and never less than 40), with a newline at its end."""
    width = max(width, _MIN_WIDTH)
    blocks = [_wrapped(answer(report), width), list(_table(report, width))]
    if told := list(_told(report, width)):
        blocks.append(told)
    blocks.append(list(_footer(report, width)))
    if sum(map(len, blocks)) > _SCREEN:  # the first line is out of sight by now
        blocks.append(_wrapped(answer(report), width))
    blocks[-1] += _packed(report, package)
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _table(report: Report, width: int) -> Iterator[str]:
    groups = list(_groups(report))
    rows = [row for _, group in groups for row in group]
    columns = _fitting(_columns(report), rows, width)
    widths = [_width(column, rows) for column in columns]
    widths[0] = min(widths[0], max(width - sum(widths[1:]) - len(_GAP) * (len(widths) - 1), 12))
    used = sum(widths) + len(_GAP) * (len(widths) - 1)
    beside = width - used - len(_GAP) if width - used - len(_GAP) >= _REASON_WIDTH else 0
    heads = [column.header for column in columns]
    yield _line(heads, widths, columns)
    for title, group in groups:
        yield title
        for row in group:
            cells = [column.text(row) for column in columns]
            yield from _with_reason(_line(cells, widths, columns), _reason(row), used, beside, width)
    if unmade := [row for row in report.candidates if not _was_made(row)]:
        yield "not made"
        yield from _names_with_reasons(unmade, width)


def _was_made(row: Row) -> bool:
    return bool(row.bytes) or row.verdict != "refused"


def _names_with_reasons(rows: Sequence[Row], width: int) -> Iterator[str]:
    """There is nothing to show of them but why: a line each where it fits."""
    names = [f"  {figures.plain(row.variant)}" for row in rows]
    longest = min(max(map(len, names)), width // 2)
    for name, row in zip(names, rows, strict=True):
        reason = _reason(row).removeprefix("not made: ")
        first, *more = _limited(reason, width - longest - len(_GAP))
        yield f"{_cut(name, longest).ljust(longest)}{_GAP}{first}".rstrip()
        yield from (" " * (longest + len(_GAP)) + rest for rest in more)


def _groups(report: Report) -> Iterator[tuple[str, list[Row]]]:
    """What was chosen, what the rest is held against, what else would do, what will not; each by latency."""
    chosen, reference = report.chosen, report.reference
    named = {reference.variant} | ({chosen.variant} if chosen is not None else set())
    others = sorted((row for row in report.candidates if row.variant not in named and _was_made(row)), key=_order)
    if chosen is not None:
        yield "chosen", [chosen]
    if chosen is None or chosen.variant != reference.variant:
        yield "float model, the reference", [reference]
    screened = [row for row in others if row.verdict == "refused" and row.drop is None and row.agreement is not None]
    for verdict in ("accepted", "refused"):
        if group := [row for row in others if row.verdict == verdict and row not in screened]:
            yield verdict, group
    if screened:
        yield f"not looked at further, after a first look at {max(row.samples for row in screened)} samples", screened


def _order(row: Row) -> tuple[bool, float, int]:
    return row.latency_ratio is None, row.latency_ratio or 0.0, row.bytes


def _columns(report: Report) -> list[_Column]:
    unit = "%" if report.unit == "percent" else "pt"
    columns = [
        _Column("variant", 9, lambda row: f"  {figures.plain(row.variant)}", left=True),
        _Column(figures.plain(report.metric), 8, lambda row: figures.accuracy(row.metric_value)),
        _Column(f"drop {unit}", 7, lambda row: figures.drop(row, report)),
        _Column("(95 %)", 4, lambda row: figures.interval(row.drop_low, row.drop_high)),
        _Column("test", 5, lambda row: figures.paired_test(row, short=True), left=True),
        _Column("agree", 3, lambda row: figures.share(row.agreement)),
        _Column("size", 6, lambda row: figures.kibibytes(row.bytes)),
        _Column("latency", 1, lambda row: figures.latency(row.latency_us)),
        _Column("ratio", 8, figures.ratio),
        _Column("(95 %)", 2, lambda row: figures.interval(row.ratio_low, row.ratio_high)),
    ]
    if report.objective == "energy":
        columns.append(_Column("energy", 7, _energy))
    return columns


def _energy(row: Row) -> str:
    """Where energy cannot be read, CPU time stands for it."""
    if row.energy_uj is not None:
        return f"{row.energy_uj:,.0f} uJ"
    return "-" if row.cpu_us is None else f"{row.cpu_us:,.0f} us CPU"


def _fitting(columns: list[_Column], rows: Sequence[Row], width: int) -> list[_Column]:
    """The columns that say anything, without the least ones where they do not fit. The variant always stays."""
    kept = [column for column in columns if column.left or any(column.text(row) not in ("", "-") for row in rows)]
    kept = [column for column in kept if column.header != "test" or any(column.text(row) for row in rows)]
    while len(kept) > 1 and sum(_width(column, rows) + len(_GAP) for column in kept) - len(_GAP) > width:
        kept.remove(min(kept, key=lambda column: column.rank))
    return kept


def _width(column: _Column, rows: Sequence[Row]) -> int:
    return max(len(column.header), *(len(column.text(row)) for row in rows))


def _line(cells: Sequence[str], widths: Sequence[int], columns: Sequence[_Column]) -> str:
    padded = (
        _cut(cell, width).ljust(width) if column.left else cell.rjust(width)
        for cell, width, column in zip(cells, widths, columns, strict=True)
    )
    return _GAP.join(padded)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _reason(row: Row) -> str:
    return figures.plain("; ".join(filter(None, (row.reason, *row.warnings))))


def _with_reason(line: str, reason: str, used: int, beside: int, width: int) -> Iterator[str]:
    if not reason:
        yield line.rstrip()
        return
    if beside:
        first, *more = _limited(reason, beside)
        yield f"{line}{_GAP}{first}"
        yield from (" " * (used + len(_GAP)) + rest for rest in more)
        return
    yield line.rstrip()
    yield from ("    " + part for part in _limited(reason, width - 4))


def _limited(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, max_lines=_MAX_REASON_LINES, placeholder=" …") or [""]


def _told(report: Report, width: int) -> Iterator[str]:
    """Warnings, what became of mixed precisions, and remarks."""
    for mark, texts in (
        ("! ", report.warnings),
        ("- ", [f"{one.scheme}: {one.outcome}" for one in report.sensitivity if one.outcome]),
        ("- ", report.notes),
    ):
        for text in texts:
            yield from _wrapped(text, width, first=mark, rest="  ")


def _footer(report: Report, width: int) -> Iterator[str]:
    target = report.target
    how = "measured on" if target.measured else "estimated for"
    where = f"{target.name} ({target.machine})" if target.machine else target.name
    asked = f"at most {report.max_drop:g} {figures.unit_name(report, report.max_drop)} lost"
    if report.min_agreement is not None:
        asked += f", agreement of {report.min_agreement:g} or more"
    if report.max_bytes is not None:
        asked += f", {report.max_bytes:,} bytes or fewer"
    yield from _wrapped(
        f"{report.samples:,} samples, {report.calibration_samples:,} for calibration, {report.seconds:.0f} s; "
        f"budget: {asked}; objective: {report.objective}; latency {how} {where}.",
        width,
    )
    legend = "ratio: latency over that of the float model."
    if any(row.significant is False for row in report.candidates):
        legend += " n.s.: no significant difference to the float model (paired test)."
    if any(row.estimated for row in report.candidates):
        legend += " ~: estimated by rules, not measured."
    yield from _wrapped(legend, width)


def _packed(report: Report, package: Path | None) -> list[str]:
    if package is not None:
        return [f"package: {package}"]
    return ["package: none, refused"] if report.chosen is None else []


def _wrapped(text: str, width: int, *, first: str = "", rest: str = "") -> list[str]:
    return textwrap.wrap(figures.plain(text), width, initial_indent=first, subsequent_indent=rest)
