"""What a person sees of a measurement: a line while it runs, a table of at most 80 columns when it is done."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from edgeinfer.runtime.bench import Bench, Figures
    from edgeinfer.runtime.bench.document import Span
    from edgeinfer.runtime.bench.race import Moment

__all__ = ["LiveLine", "describe", "lines", "microseconds"]

_MIB = 1 << 20
_WIDTH = 79
_REDRAW_S = 0.2
_CLEAR = "\r\x1b[K"
# Drift over windows that are shorter than this is noise.
_MIN_WINDOW_S = 1.0
_DIGITS, _FEWER_DIGITS = 4, 3
# Fewer rounds give no interval of 95 %.
_MIN_BLOCKS = 6


class LiveLine:
    """One line on a terminal, drawn again a few times a second and gone at the end; nothing where `stream` is none."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_live = stream.isatty()
        self._drawn_s = float("-inf")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._write(_CLEAR)

    def draw(self, moment: "Moment") -> None:
        now_s = time.monotonic()
        if now_s - self._drawn_s >= _REDRAW_S or not moment.median_us:
            self._drawn_s = now_s
            self._write(f"{_CLEAR}{describe(moment)[:_WIDTH]}")

    def _write(self, text: str) -> None:
        if self._is_live:
            self._stream.write(text)
            self._stream.flush()


def describe(moment: "Moment") -> str:
    """How far it is, how the device fares, and whose turn it is."""
    minutes, seconds = divmod(round(moment.left_s), 60)
    parts = [f"{moment.done:4.0%}", f"{minutes}:{seconds:02d} left"]
    if moment.temperature_c is not None:
        parts.append(f"{moment.temperature_c:.0f} C")
    if moment.frequency_mhz is not None:
        parts.append(f"{moment.frequency_mhz:.0f} MHz")
    parts.append(f"{moment.doing} {microseconds(moment.median_us)} us" if moment.median_us else moment.doing)
    return "  ".join(parts)


def microseconds(value: float, *, digits: int = _DIGITS) -> str:
    """Four digits or more: 8.312, 83.12, 831.2, 83120."""
    return f"{value:.{max(0, digits - len(str(int(value))))}f}"


def lines(found: "Bench") -> Iterator[str]:
    """The whole answer."""
    machine = found.machine
    kind = f", {machine.kind}" if machine.kind else ""
    yield f"{machine.cpu or machine.arch}, {machine.cores} cores{kind}"
    measured = [row for row in found.variants if not row.error]
    if measured:
        yield ""
        yield from _table(_columns(found, measured), measured)
        yield ""
    for row in found.variants:
        if row.error:
            yield f"{_name(row)}: not measured: {row.error}"
    yield from _notes(found, measured)


Column = tuple[str, "Callable[[Figures], str]"]


def _columns(found: "Bench", measured: "Sequence[Figures]") -> list[Column]:
    """What is known, as short as can be: a terminal has few columns."""
    metered = any(row.energy_uj is not None for row in measured)
    places = 2 if metered else 3
    columns: list[Column] = [
        ("variant", _name),
        ("p50 us", lambda row: microseconds(row.p50_us)),
        ("p99", lambda row: microseconds(row.p99_us, digits=_FEWER_DIGITS)),
        ("cpu", lambda row: microseconds(row.cpu_us, digits=_FEWER_DIGITS)),
        ("MiB", lambda row: f"{row.rss_bytes / _MIB:.1f}"),
        ("ratio", lambda row: f"{row.ratio:.3f}"),
        ("95 %", lambda row: "" if _is_reference(row) else f"{row.ratio_low:.{places}f}-{row.ratio_high:.{places}f}"),
    ]
    if found.window_s >= _MIN_WINDOW_S:
        columns.append(("drift", lambda row: f"{100 * (row.drift - 1):+z.1f}%"))
    if metered:
        columns.append(("uJ", lambda row: "-" if row.energy_uj is None else microseconds(row.energy_uj)))
    return columns


def _name(row: "Figures") -> str:
    return row.variant if row.threads == 1 else f"{row.variant} x{row.threads}"


def _is_reference(row: "Figures") -> bool:
    return row.ratio == row.ratio_low == row.ratio_high == 1.0


def _table(columns: "list[Column]", rows: "Sequence[Figures]") -> Iterator[str]:
    """The first column to the left, figures to the right."""
    cells = [[name for name, _ in columns], *([cell(row) for _, cell in columns] for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    for first, *others in cells:
        figures = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        yield "  ".join((first.ljust(widths[0]), *figures)).rstrip()


def _notes(found: "Bench", measured: "Sequence[Figures]") -> Iterator[str]:
    """What the columns mean, and what is to be known of the run."""
    if found.interrupted:
        yield "interrupted: these are the figures until then"
    if measured:
        yield from _legend(found, measured)
    temperature, frequency = found.conditions.temperature_c, found.conditions.frequency_mhz
    if temperature is not None:
        yield f"temperature: {_span(temperature, 'C')}"
    if frequency is not None:
        yield f"clock: {_span(frequency, 'MHz')}"
    if found.conditions.throttled:
        yield f"THE DEVICE HELD ITSELF BACK: {', '.join(found.conditions.throttled)}"


def _legend(found: "Bench", measured: "Sequence[Figures]") -> Iterator[str]:
    threads = max(row.threads for row in measured)
    yield f"p99, cpu: us, cpu of all threads together{f'; x{threads}: {threads} threads' if threads > 1 else ''}"
    yield f"ratio: to {found.reference}, round by round, with its 95 % interval"
    if min(row.blocks for row in measured) < _MIN_BLOCKS:
        yield "       too few rounds for an interval: it is their range; give it more --seconds"
    if found.window_s >= _MIN_WINDOW_S:
        yield f"drift: from the first {found.window_s:.0f} s to the last {found.window_s:.0f} s"
    if found.energy_source == "cpu-seconds":
        yield f"energy: {found.energy_detail}; cpu stands for it"
    else:
        yield f"uJ: energy of a call, idle power included, by {found.energy_detail}"


def _span(span: "Span", unit: str) -> str:
    return f"{span.start:.0f} {unit} at the start, {span.end:.0f} at the end, {span.min:.0f} to {span.max:.0f}"
