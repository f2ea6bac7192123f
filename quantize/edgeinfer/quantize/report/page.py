"""`report.html`: what a search found, on one page that opens without a network and can be printed.

    write_page(report, Path("report.html"), title="kws 1.0.0", provenance=manifest.provenance)

Everything is in the one file: style, script and pictures. Names of layers and labels come from files: all of them are
escaped, and the page's own policy lets no other script run than the one whose hash it names.
"""

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeinfer.quantize.report import figures
from edgeinfer.quantize.report.confusions import ChangedPair, HeatMap, changed_pairs, heat_map
from edgeinfer.quantize.report.document import LayerRow, Report, Row, Sensitivity
from edgeinfer.quantize.report.gain import Verdict, answer, headline_figures, verdict
from edgeinfer.runtime.durable import write_durably
from edgeinfer.runtime.errors import DependencyError, StorageError
from edgeinfer.runtime.manifest import Provenance

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["page", "write_page"]

_MARKS = {Verdict.SHIP: "yes", Verdict.UNPROVEN: "unsure", Verdict.FLOAT: "same", Verdict.REFUSED: "no"}
_TEMPLATES = Path(__file__).parent / "templates"
# Layers that are shown at once; the others are a click away.
_LAYERS_SHOWN = 20
_MOST_LAYERS = 2_000
_PAIRS_SHOWN = 15


def write_page(report: Report, path: Path, *, title: str, provenance: Provenance | None = None) -> None:
    """Write the page whole or not at all. Raises DependencyError without the extra `quantize`, StorageError where the
    file cannot be written."""
    content = page(report, title=title, provenance=provenance).encode()
    try:
        write_durably(path, content)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from error


def page(report: Report, *, title: str, provenance: Provenance | None = None) -> str:
    """The page as text; the same report gives the same text. Raises DependencyError."""
    try:
        from edgeinfer.quantize.report import pareto

        pictures = [pareto.draw(report, "latency"), pareto.draw(report, "size")]
        templates = _environment()
    except ImportError as error:
        raise DependencyError(
            f"the page of a report needs {error.name}", hint="pip install 'edgeinfer[quantize]'"
        ) from error
    script, style = (_TEMPLATES / "report.js").read_text(), (_TEMPLATES / "report.css").read_text()
    return templates.get_template("report.html").render(
        title=title,
        report=report,
        answer=answer(report),
        verdict=verdict(report),
        mark=_MARKS[verdict(report)],
        headline=headline_figures(report),
        pictures=[picture for picture in pictures if picture],
        candidates=[_line(row, report) for row in _kept(report)],
        refused=[_line(row, report) for row in _refused(report)],
        sensitivity=[_layers(one) for one in report.sensitivity if one.layers],
        chosen_layers=_precisions(report),
        confusion=_confusion(report),
        longest_step=max((step.seconds for step in report.steps), default=0.0) or 1.0,
        provenance=provenance,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=style,
    )


def _environment() -> "Environment":
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["figures"] = figures
    environment.filters["plain"] = figures.plain
    return environment


@dataclass(frozen=True, slots=True)
class _Line:
    """A candidate in a table. `order` are its figures for sorting, infinite where there are none."""

    row: Row
    role: str
    drop: str
    order: tuple[float, float, float, float, float]


def _kept(report: Report) -> Iterator[Row]:
    """What was chosen, then the float model, then what else keeps the budget, the fastest first."""
    first = [report.chosen] if report.chosen is not None else []
    first += [report.reference] if report.reference.variant not in {row.variant for row in first} else []
    named = {row.variant for row in first}
    rest = [row for row in report.candidates if row.verdict != "refused" and row.variant not in named]
    yield from first
    yield from sorted(rest, key=lambda row: (row.latency_ratio is None, row.latency_ratio or 0.0))


def _refused(report: Report) -> Iterator[Row]:
    """The float model stands above in any case."""
    return (row for row in report.candidates if row.verdict == "refused" and row.variant != report.reference.variant)


def _line(row: Row, report: Report) -> _Line:
    chosen = report.chosen is not None and row.variant == report.chosen.variant
    role = "chosen" if chosen else "reference" if row.variant == report.reference.variant else ""
    numbers = (row.metric_value, figures.effective_drop(row, report), row.agreement, row.bytes, row.latency_ratio)
    order = tuple(math.inf if number is None else float(number) for number in numbers)
    return _Line(row, role, figures.drop(row, report), (order[0], order[1], order[2], order[3], order[4]))


@dataclass(frozen=True, slots=True)
class _LayerBar:
    """`divergence` is infinite where it is no number; its bar is full then."""

    layer: LayerRow
    divergence: float
    share: float


@dataclass(frozen=True, slots=True)
class _LayerTable:
    """Layers of one scheme, the most sensitive first; `left_out` are not even behind the click."""

    scheme: str
    lower: str
    outcome: str
    shown: tuple[_LayerBar, ...]
    more: tuple[_LayerBar, ...]
    left_out: int
    with_gain: bool
    counted: str


def _layers(one: Sensitivity) -> _LayerTable:
    finite = [divergence for divergence in map(_divergence, one.layers) if math.isfinite(divergence)]
    largest = max(finite, default=0.0) or 1.0
    ranked = sorted(one.layers, key=_divergence, reverse=True)[:_MOST_LAYERS]
    bars = tuple(
        _LayerBar(layer, _divergence(layer), min(max(_divergence(layer) / largest, 0.0), 1.0)) for layer in ranked
    )
    return _LayerTable(
        scheme=one.scheme,
        lower=one.lower,
        outcome=one.outcome,
        shown=bars[:_LAYERS_SHOWN],
        more=bars[_LAYERS_SHOWN:],
        left_out=len(one.layers) - len(ranked),
        with_gain=any(layer.latency_gain is not None for layer in one.layers),
        counted=_counted(Counter(layer.precision for layer in one.layers if layer.precision)),
    )


def _divergence(layer: LayerRow) -> float:
    """Infinite where it is no number: such a layer ruins the output."""
    value = layer.divergence
    return value if value is not None and math.isfinite(value) else math.inf


def _counted(precisions: "Counter[str]") -> str:
    """For instance: 9 layers int8, 3 int4."""
    parts = [f"{count} {name}" for name, count in precisions.most_common()]
    return "layers: " + ", ".join(parts) if parts else ""


def _precisions(report: Report) -> str:
    return _counted(Counter(report.chosen.layers.values())) if report.chosen is not None else ""


@dataclass(frozen=True, slots=True)
class _ConfusionView:
    pairs: list[ChangedPair]
    changed: int
    heat: HeatMap | None
    classes: int


def _confusion(report: Report) -> _ConfusionView | None:
    if report.confusion is None or report.chosen is None:
        return None
    pairs, changed = changed_pairs(report.confusion, most=_PAIRS_SHOWN)
    return _ConfusionView(pairs, changed, heat_map(report.confusion), len(report.confusion.labels))
