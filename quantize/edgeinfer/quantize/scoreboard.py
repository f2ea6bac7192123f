"""What a person sees while a search runs: a bar, what is tried now, the last candidates with their figures, the best.

Drawn by rich's thread while the search's tells: what is shared is replaced whole, never changed in place.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from edgeinfer.quantize.progress import Seen

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.text import Text

__all__ = ["Scoreboard"]

_MOST_ROWS = 8
# The bar, the step, the header of the figures, two for the best, and one that stays free for the prompt.
_OTHER_LINES = 6
_NAME_WIDTH = range(12, 37)
# The share of the width that names may have: figures and reasons need the rest.
_NAME_SHARE = 0.45
_MARKS = {"chosen": ("★", "green"), "accepted": ("✓", "green"), "refused": ("✗", "red"), "": ("·", "dim")}
_BAR_WIDTH = range(10, 41)


@dataclass(frozen=True, slots=True)
class _Column:
    """`text` of a candidate's figure; it is shown on terminals at least `from_width` wide."""

    header: str
    width: int
    from_width: int
    text: Callable[[Seen], str]


_COLUMNS = (
    _Column("metric", 8, 40, lambda seen: _number(seen.metric_value, ".4f")),
    _Column("agree", 7, 90, lambda seen: _number(seen.agreement, ".4f")),
    _Column("KiB", 7, 66, lambda seen: f"{seen.bytes / 1024:,.0f}" if seen.bytes else ""),
    _Column("ratio", 6, 50, lambda seen: _number(seen.ratio, ".2f")),
)


class Scoreboard:
    """A `Progress` that rich can draw. `clock` counts seconds."""

    def __init__(self, title: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._title = title
        self._clock = clock
        self._started = clock()
        self._step, self._done = "", 0.0
        self._seen: tuple[Seen, ...] = ()
        self._best = ("", "")

    def __call__(self, step: str, done: float, /) -> None:
        # What was done does not become undone: parts of the work may count their shares roughly.
        self._step, self._done = step, max(self._done, min(max(done, 0.0), 1.0))

    def tried(self, seen: Seen, /) -> None:
        before = next((one for one in self._seen if one.variant == seen.variant), None)
        others = tuple(one for one in self._seen if one.variant != seen.variant)
        self._seen = (*others, _merged(before, seen))

    def best(self, variant: str, text: str, /) -> None:
        self._best = (variant, text)

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "Iterator[Text]":
        for line in self.lines(options.max_width, console.size.height):
            line.truncate(options.max_width, overflow="ellipsis")
            line.no_wrap = True
            yield line

    def lines(self, width: int, height: int) -> "Iterator[Text]":
        """What is drawn on a terminal of `width` columns and `height` lines."""
        yield self._bar(width)
        yield _styled(("  ", ""), (self._step, "cyan"))
        rows = self._seen[-max(min(_MOST_ROWS, height - _OTHER_LINES), 0) :] if height > _OTHER_LINES else ()
        if rows:
            refused = sum(seen.verdict == "refused" for seen in self._seen)
            yield from _figures(rows, width, counted=f"{len(self._seen)} tried, {refused} refused")
        variant, text = self._best
        if variant:
            yield from _leader(variant, text, width)

    def _bar(self, width: int) -> "Text":
        elapsed = int(self._clock() - self._started)
        clock = f"{elapsed // 60}:{elapsed % 60:02d}"
        room = width - len(self._title) - len(clock) - 10
        if room < _BAR_WIDTH.start:
            return _styled((f"{self._title} ", "bold"), (f"{self._done:4.0%}  {clock}", ""))
        length = min(room, _BAR_WIDTH.stop - 1)
        filled = round(length * self._done)
        return _styled(
            (f"{self._title}  ", "bold"),
            ("━" * filled, "green"),
            ("─" * (length - filled), "dim"),
            (f" {self._done:4.0%}  {clock}", ""),
        )


def _leader(variant: str, text: str, width: int) -> "Iterator[Text]":
    """The best so far, on one line where it fits."""
    head = (("  best so far  ", "dim"), (variant, "bold green"))
    if 17 + len(variant) + len(text) <= width:
        yield _styled(*head, (f"  {text}", ""))
        return
    yield _styled(*head)
    yield _styled((f"  {text}", ""))


def _figures(rows: tuple[Seen, ...], width: int, *, counted: str) -> "Iterator[Text]":
    columns = [column for column in _COLUMNS if width >= column.from_width]
    longest = max(len(counted), *(len(seen.variant) for seen in rows))
    name_width = max(min(longest, _NAME_WIDTH.stop - 1, int(width * _NAME_SHARE)), _NAME_WIDTH.start)
    header = "".join(f"{column.header:>{column.width}}" for column in columns)
    yield _styled((f"    {_cut(counted, name_width):{name_width}}{header}", "dim"))
    for seen in rows:
        mark, style = _MARKS[seen.verdict]
        shown = "".join(f"{column.text(seen):>{column.width}}" for column in columns)
        said = seen.reason or seen.stage
        yield _styled(
            (f"  {mark} ", style),
            (f"{_cut(seen.variant, name_width):{name_width}}", "bold" if seen.verdict == "chosen" else ""),
            (shown, "dim" if seen.verdict == "refused" else ""),
            (f"  {said}", "dim"),
        )


def _merged(before: Seen | None, now: Seen) -> Seen:
    """What is known now, with the figures of earlier stages where this one has none."""
    if before is None:
        return now
    missing = {field.name: getattr(before, field.name) for field in fields(now) if getattr(now, field.name) is None}
    return replace(now, **missing)


def _styled(*parts: tuple[str, str]) -> "Text":
    from rich.text import Text

    text = Text(no_wrap=True, overflow="ellipsis")
    for content, style in _printable(parts):
        text.append(content, style)
    return text


def _printable(parts: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Names come from files: none of them may steer the terminal."""
    for content, style in parts:
        yield "".join(c if c.isprintable() else "?" for c in content), style


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
