"""The Pareto picture: what each candidate loses against what it costs, in latency or in size, as SVG for a page.

Colours are the page's own (CSS variables), so that one picture serves light and dark. matplotlib draws it without its
global state, and without a cache in the user's home.
"""

import html
import io
import math
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from edgeinfer.quantize.report import figures
from edgeinfer.quantize.report.document import Report, Row
from edgeinfer.quantize.report.labels import Box, Spot, place

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.typing import RcKeyType

__all__ = ["Against", "draw"]

Against = Literal["latency", "size"]

# Stand-ins that matplotlib takes for colours, and what the page's style sheet has for them.
_INK, _FAINT, _LINE = "#010101", "#020202", "#030303"
_CHOSEN, _FLOAT, _ACCEPTED, _REFUSED, _BUDGET = "#040404", "#050505", "#060606", "#070707", "#080808"
_VARIABLES = {
    _INK: "--ink-2", _FAINT: "--ink-3", _LINE: "--line", _CHOSEN: "--good", _FLOAT: "--accent",
    _ACCEPTED: "--ink-2", _REFUSED: "--off", _BUDGET: "--bad",
}  # fmt: skip
_SETTINGS: "dict[RcKeyType, Any]" = {
    "svg.fonttype": "none",
    "svg.hashsalt": "edgeinfer",
    "text.parse_math": False,
    "font.size": 12,
    "axes.unicode_minus": True,
}
_WIDTH, _HEIGHT = 500, 350
_FONT = 12.0
_LONGEST_LABEL = 30
# A span of costs beyond this factor is drawn on a logarithmic scale.
_LOGARITHMIC = 4.0
# Points of loss that are shown at least, so that a budget of nothing does not magnify noise.
_LEAST_SPAN = 1.0
# Labels that are this many pixels higher or lower than their point get a line to it.
_FAR = 20.0


@dataclass(frozen=True, slots=True)
class _Point:
    """`y` is the gain over the float model in the report's unit (a loss is negative). `below`: it lies under the
    picture, and is drawn at its edge."""

    row: Row
    kind: Literal["chosen", "float", "accepted", "refused"]
    x: float
    y: float
    below: bool = False


_STYLE: dict[str, dict[str, Any]] = {
    "chosen": {"color": _CHOSEN, "marker": "*", "markersize": 17, "zorder": 5},
    "float": {"color": _FLOAT, "marker": "D", "markersize": 8, "zorder": 4},
    "accepted": {"color": _ACCEPTED, "marker": "o", "markersize": 7, "zorder": 3},
    "refused": {"color": _REFUSED, "marker": "X", "markersize": 7, "zorder": 2},
}


def draw(report: Report, against: Against) -> str:
    """An `<svg>` element, or "" where fewer than two candidates have these figures. The same report gives the same
    bytes. Raises ImportError without matplotlib."""
    points = list(_points(report, against))
    if len(points) < 2:
        return ""
    points = _clipped(points, report)
    with _matplotlib():
        from matplotlib import rc_context
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        with rc_context(_SETTINGS):
            figure = Figure(figsize=(_WIDTH / 72, _HEIGHT / 72), dpi=72, facecolor="none")
            axes = figure.add_axes((0.125, 0.15, 0.85, 0.82), facecolor="none")
            _frame(axes, report, against, points)
            _plot(axes, points, against)
            _label(axes, points, budget=report.max_drop)
            drawn = io.StringIO()
            FigureCanvasSVG(figure)
            figure.savefig(drawn, format="svg", metadata={"Date": None})
    return _inlined(drawn.getvalue(), against, points, report)


@contextmanager
def _matplotlib() -> Iterator[None]:
    """Imports matplotlib with a folder of its own for what it caches of fonts, and keeps its remarks (a font lacks a
    sign of some label: browsers bring their own fonts) to itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if "matplotlib.font_manager" not in sys.modules and "MPLCONFIGDIR" not in os.environ:
            with tempfile.TemporaryDirectory(prefix="edgeinfer-fonts-") as folder:
                os.environ["MPLCONFIGDIR"] = folder
                try:
                    import matplotlib.font_manager  # noqa: F401 - it reads and writes its folder when it is imported
                finally:
                    del os.environ["MPLCONFIGDIR"]
        yield


def _points(report: Report, against: Against) -> Iterator[_Point]:
    chosen = report.chosen.variant if report.chosen is not None else ""
    rows = {row.variant: row for row in (report.reference, *report.candidates)}
    for row in rows.values():
        lost = figures.effective_drop(row, report)
        cost = row.latency_ratio if against == "latency" else row.bytes / 1024
        if lost is None or not cost or not (math.isfinite(lost) and math.isfinite(cost)):
            continue
        if row.variant == chosen:
            yield _Point(row, "chosen", cost, -lost)
        elif not row.quantized:
            yield _Point(row, "float", cost, -lost)
        else:
            yield _Point(row, "refused" if row.verdict == "refused" else "accepted", cost, -lost)


def _clipped(points: Sequence[_Point], report: Report) -> list[_Point]:
    """With those far below at the picture's lower edge: what lost everything must not flatten the rest."""
    kept = [p for p in points if p.kind != "refused"]
    lowest = min([p.y - _half(p, report) for p in kept] + [-report.max_drop])
    floor = lowest - max(abs(lowest), report.max_drop, _LEAST_SPAN)
    return [_Point(p.row, p.kind, p.x, floor, below=True) if p.y < floor and p.kind == "refused" else p for p in points]


def _half(point: _Point, report: Report, *, up: bool = False) -> float:
    """How far its interval reaches down, or up, kept within reason: few samples give intervals that dwarf all else."""
    bound = point.row.drop_low if up else point.row.drop_high
    if bound is None:
        return 0.0
    reach = -point.y - bound if up else bound + point.y
    return min(max(reach, 0.0), 3.0 * max(report.max_drop, _LEAST_SPAN))


def _heights(points: Sequence[_Point], report: Report) -> tuple[float, float]:
    """From the lowest to the highest that is shown: all points, and the intervals of what keeps the budget."""
    kept = [p for p in points if p.kind != "refused"]
    low = min([-report.max_drop, *(p.y for p in points), *(p.y - _half(p, report) for p in kept)])
    high = max([0.0, *(p.y for p in points), *(p.y + _half(p, report, up=True) for p in kept)])
    span = (high - low) or _LEAST_SPAN
    return low - 0.08 * span, high + 0.12 * span


def _frame(axes: "Axes", report: Report, against: Against, points: Sequence[_Point]) -> None:
    """Scales, grid, names of the axes, the float model's line and the budget."""
    xs = [p.x for p in points]
    if max(xs) / min(xs) > _LOGARITHMIC:
        axes.set_xscale("log")
        low, high = math.log(min(xs)), math.log(max(xs))
        margin = (high - low) * 0.12
        axes.set_xlim(math.exp(low - margin), math.exp(high + margin * 1.6))
        axes.set_xticks(_round_ticks(*axes.get_xlim()))
        axes.minorticks_off()
    else:
        span = (max(xs) - min(xs)) or max(xs)
        axes.set_xlim(max(min(xs) - 0.15 * span, 0.0), max(xs) + 0.25 * span)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    low, high = _heights(points, report)
    axes.set_ylim(low, high)
    unit = "%" if report.unit == "percent" else "points"
    axes.set_xlabel("latency / float model's" if against == "latency" else "file size, KiB", color=_INK)
    axes.set_ylabel(f"{_cut(figures.plain(report.metric))} against float, {unit}", color=_INK)
    axes.tick_params(colors=_FAINT, labelcolor=_INK, length=3)
    axes.grid(color=_LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_color(_LINE)
    axes.axhline(0.0, color=_FLOAT, linewidth=1.0, linestyle=(0, (1, 2)), zorder=1)
    axes.axhline(-report.max_drop, color=_BUDGET, linewidth=1.2, linestyle=(0, (5, 3)), zorder=1)
    axes.annotate("budget", (1, -report.max_drop), xycoords=axes.get_yaxis_transform(), xytext=(-4, 4),
                  textcoords="offset points", ha="right", color=_BUDGET, fontsize=_FONT - 1)  # fmt: skip


def _round_ticks(low: float, high: float) -> list[float]:
    """Round numbers, closer together where there is room."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if high / low < 20 else (1.0, 2.0, 5.0)
    ticks = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    return [tick for tick in ticks if low <= tick <= high]


def _plot(axes: "Axes", points: Sequence[_Point], against: Against) -> None:
    for number, point in enumerate(points):
        style = _STYLE[point.kind]
        if point.below:
            axes.plot(point.x, point.y, linestyle="none", gid=f"point{number}", **{**style, "marker": "v"})
            continue
        row, x_error, y_error = point.row, None, None
        if against == "latency" and row.ratio_low is not None and row.ratio_high is not None:
            x_error = [[max(point.x - row.ratio_low, 0.0)], [max(row.ratio_high - point.x, 0.0)]]
        if row.drop_low is not None and row.drop_high is not None:
            y_error = [[max(point.y + row.drop_high, 0.0)], [max(-row.drop_low - point.y, 0.0)]]
        if x_error is not None or y_error is not None:
            axes.errorbar(point.x, point.y, xerr=x_error, yerr=y_error, fmt="none", ecolor=style["color"],
                          elinewidth=1.0, capsize=2.5, alpha=0.45, zorder=1.5)  # fmt: skip
        axes.plot(point.x, point.y, linestyle="none", gid=f"point{number}", **style)


def _label(axes: "Axes", points: Sequence[_Point], *, budget: float) -> None:
    """The most important first; a refused one goes without where there is no room."""
    at = [axes.transData.transform((p.x, p.y)) for p in points]
    markers = [Box(x - 6, y - 6, x + 6, y + 6) for x, y in at]
    order = sorted(range(len(points)), key=lambda i: ("chosen", "float", "accepted", "refused").index(points[i].kind))
    area = Box(*axes.bbox.extents)
    # Where the budget is named, at the right end of its line.
    line = float(axes.get_yaxis_transform().transform((1, -budget))[1])
    markers.append(Box(area.x1 - 50, line, area.x1, line + 18))
    texts = {i: _text(points[i]) for i in order}
    placed = place(
        [((float(at[i][0]), float(at[i][1])), len(texts[i]) * _FONT * 0.56, _FONT * 1.15) for i in order],
        taken=markers,
        within=area,
    )
    for i, spot in zip(order, placed, strict=True):
        if spot is None:
            continue
        point = points[i]
        color = {"chosen": _CHOSEN, "float": _FLOAT, "accepted": _INK, "refused": _FAINT}[point.kind]
        axes.annotate(
            texts[i], (point.x, point.y), xytext=spot.offset, textcoords="offset pixels", ha=spot.align, va="center",
            arrowprops=_pointer(spot),
            color=color, fontsize=_FONT, fontweight="bold" if point.kind == "chosen" else "normal", zorder=6,
        )  # fmt: skip


def _pointer(spot: Spot) -> dict[str, Any] | None:
    if abs(spot.offset[1]) < _FAR:
        return None
    side = {"left": 0.0, "right": 1.0, "center": 0.5}[spot.align]
    line = {"arrowstyle": "-", "color": _FAINT, "linewidth": 0.7, "shrinkA": 1.0, "shrinkB": 6.0}
    return {**line, "relpos": (side, 0.5)}


def _text(point: _Point) -> str:
    name = _cut(figures.plain(point.row.variant))
    if not point.below or point.row.drop is None:
        return name
    return f"{name} (\N{MINUS SIGN}{point.row.drop:.{0 if point.row.drop >= 10 else 1}f})"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…"


def _inlined(svg: str, against: Against, points: Sequence[_Point], report: Report) -> str:
    """As a part of an HTML page: names of its own, the page's colours, a title for those who do not see it."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{against}-", svg).replace("xlink:href", "href")
    svg = re.sub(r"font-family: [^;\"]*; ?", "", svg)
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, f"var({variable})")
    for number, point in enumerate(points):
        said = html.escape(_said(point, report))
        svg = svg.replace(f'<g id="{against}-point{number}">', f'<g id="{against}-point{number}"><title>{said}</title>')
    return re.sub(r"<svg[^>]*>", _opened(against, points), svg, count=1)


def _opened(against: Against, points: Sequence[_Point]) -> str:
    against_what = "latency" if against == "latency" else "file size"
    title = html.escape(f"Accuracy of {len(points)} candidates against their {against_what}; the figures are in the "
                        "table below")  # fmt: skip
    return (
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="{against}-title">'
        f'<title id="{against}-title">{title}</title>'
    )


def _said(point: _Point, report: Report) -> str:
    row = point.row
    unit = figures.unit_name(report)
    return (
        f"{figures.plain(row.variant)}: loses {figures.drop(row, report)} {unit}, ratio {figures.ratio(row)}, "
        f"{figures.kibibytes(row.bytes)}, {row.verdict}"
    )
