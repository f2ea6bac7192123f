"""What `edgeinfer top` shows: a status document as lines of text. Values only: no terminal, no clock."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["lines", "plain"]

Document = dict[str, Any]

# Select Graphic Rendition, ECMA-48.
_BOLD, _DIM, _RED, _GREEN, _YELLOW, _RESET = "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"
_SOURCE_COLOURS = {"running": _GREEN, "waiting": _YELLOW}
_EVENTS = 5
_WIDTH = 80
_ERROR_LINES = 3
_NAME = 16


def lines(status: Document, before: Document | None, *, note: str = "", clock: str = "") -> list[tuple[str, str]]:
    """Each line as its text and its colour. `before`: an earlier document, for rates as of now; without one they are
    averages since the start. `note`: why this is not fresh. Nothing in a line is a control character."""
    return [(plain(text), colour) for text, colour in _lines(status, before, note, clock)]


def plain(text: str) -> str:
    """What a terminal shows as it is: names come from packages, and could be commands to it."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _lines(status: Document, before: Document | None, note: str, clock: str) -> Iterator[tuple[str, str]]:
    yield f"edgeinfer  {status.get('device', '')}   up {span(status.get('uptime_s', 0.0))}   {clock}".rstrip(), _BOLD
    for line in textwrap.wrap(note, _WIDTH)[:_ERROR_LINES]:
        yield line, _YELLOW
    yield from _machine(status)
    yield "", ""
    yield _columns("PIPELINE", "SOURCE", "RES/S", "READ/S", "ENGINE p50", "p99", "AGE p50", "p99"), _DIM
    for name, pipeline in status.get("pipelines", {}).items():
        yield from _pipeline(name, pipeline, status, before)
    yield "", ""
    yield f"{'MODEL':<{_NAME}} {'VERSION':<12} {'VARIANT':<28} {'MEMORY':>10}", _DIM
    for name, model in status.get("models", {}).items():
        size = status.get("model_bytes", {}).get(name)
        memory = amount(size) if size else "-"
        yield f"{_cut(name, _NAME)} {_cut(model['version'], 12)} {_cut(model['variant'], 28)} {memory:>10}", ""
    yield from _events(status)


def _machine(status: Document) -> Iterator[tuple[str, str]]:
    buffer, temperature, governor = status.get("buffer", {}), status.get("temperature_c"), status.get("governor") or {}
    size = f"   {amount(buffer['bytes'])} of {amount(buffer['max_bytes'])}" if "bytes" in buffer else ""
    yield f"buffer     {buffer.get('durable_seq', 0)} durable, {buffer.get('pending', 0)} pending{size}", ""
    for line in textwrap.wrap(buffer.get("error", ""), _WIDTH - 2)[:_ERROR_LINES]:
        yield f"  {line}", _RED
    parts = [f"memory     {amount(status.get('rss_bytes', 0))}"]
    if temperature is not None:
        parts.append(f"temperature {temperature:.1f} C")
    level = governor.get("level")
    if level == 0:
        parts.append("governor: full speed")
    elif level:
        parts.append(f"governor: {level} down, {governor.get('reason')} ({governor.get('step')})")
    yield "   ".join(parts), _YELLOW if level else ""


def _pipeline(name: str, pipeline: Document, status: Document, before: Document | None) -> Iterator[tuple[str, str]]:
    latency, age = pipeline["latency_us"], pipeline.get("age_us", {})
    rates = (f"{_rate(name, status, before):.1f}", f"{pipeline.get('frame_rate', 0.0):.1f}")
    times = [duration(found.get(quantile, 0)) for found in (latency, age) for quantile in ("p50", "p99")]
    yield _columns(name, pipeline["source"], *rates, *times), _SOURCE_COLOURS.get(pipeline["source"], "")
    counts = [f"{count} {state.replace('_', ' ')}" for state, count in pipeline["frames"].items() if count]
    if pipeline.get("events"):
        counts.append(f"{pipeline['events']} events")
    if pipeline.get("restarts"):
        counts.append(f"{pipeline['restarts']} engine restarts")
    yield f"  {pipeline['captured']} frames: {', '.join(counts) or 'none ended yet'}", ""
    for line in textwrap.wrap(pipeline["error"], _WIDTH - 2)[:_ERROR_LINES]:
        yield f"  {line}", _RED
    last = status.get("last", {}).get(name)
    if last:
        yield f"  newest: {_result(last)}", _DIM


def _columns(name: str, source: str, *numbers: str) -> str:
    """A line of the table of pipelines: 80 columns at most."""
    widths = (7, 7, 11, 8, 8, 8)
    return f"{_cut(name, _NAME)} {source:<8} " + " ".join(f"{n:>{w}}" for n, w in zip(numbers, widths, strict=True))


def _rate(name: str, status: Document, before: Document | None) -> float:
    """Results a second."""
    pipeline = status["pipelines"][name]
    earlier = before.get("pipelines", {}).get(name) if before else None
    elapsed_s = (status["t_ns"] - before["t_ns"]) / 1e9 if before else 0.0
    if earlier is None or elapsed_s <= 0 or pipeline["results"] < earlier["results"]:
        return float(pipeline["fps"])
    return float((pipeline["results"] - earlier["results"]) / elapsed_s)


def _result(last: Document) -> str:
    """`person 0.73, tv 0.51`: the first items by name."""
    if not last["items"]:
        return "nothing found"
    shown = [f"{item['name']} {_score(item['score'])}" for item in last["items"]]
    more = last["found"] - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _score(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}" if abs(value) < 1e-2 else f"{value:.2f}"


def _events(status: Document) -> Iterator[tuple[str, str]]:
    recent = status.get("recent", [])[:_EVENTS]
    if not recent:
        return
    yield "", ""
    yield "LATELY", _DIM
    for entry in recent:
        ago = span((status["t_ns"] - entry["t_ns"]) / 1e9)
        yield f"{ago:>10} ago  {_cut(entry['pipeline'], _NAME)} {_said(entry['kind'], entry['extra'])}", ""


def _said(kind: str, extra: Document) -> str:
    """What matters most first: the line may be cut."""
    if kind == "swap":
        return f"{extra['model']} {extra['from']} -> {extra['to']}, {float(extra['gap_ms']):.0f} ms"
    rule = extra.get("rule")
    rest = ", ".join(f"{key} {value}" for key, value in extra.items() if key != "rule")
    return f"{rule}: {rest}" if rule else f"{kind}: {rest}"


def _cut(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else text[: width - 1] + "~"


def duration(us: float) -> str:
    """Microseconds in the unit that suits them."""
    if not us:
        return "-"
    if us < 1000:
        return f"{us:.0f} us"
    return f"{us / 1000:.1f} ms" if us < 1e6 else f"{us / 1e6:.1f} s"


def amount(size: float) -> str:
    """Bytes in the unit that suits them."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def span(seconds: float) -> str:
    """Seconds as people say them."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def screen(shown: Sequence[tuple[str, str]], *, width: int, height: int, colours: bool) -> str:
    """The lines as one screen: cut to its size, each ending in "clear the rest of the line"."""
    fitting = list(shown[:height])
    if len(shown) > height:
        fitting[-1] = (f"... {len(shown) - height + 1} more lines: they need a taller terminal", _DIM)
    rows = []
    for text, colour in fitting:
        cut = text[:width]
        rows.append(f"{colour}{cut}{_RESET}" if colours and colour else cut)
    return "\x1b[K\r\n".join(rows) + "\x1b[K"
