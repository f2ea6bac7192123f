"""How a long search tells how far it is: an interface, silence, and a display on stderr for a person who watches.

    with terminal_display("quantizing kws 1.0.0") as progress:
        progress("making litert-int8", 0.1)
        progress.tried(Seen("litert-int8", "evaluated", metric_value=0.91, verdict="accepted"))
        progress.best("litert-int8", "1.6 times as fast as the float model")

A part of the work is given `scaled(progress, start, end)`: it tells 0 to 1 of its own.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from edgeinfer.runtime.errors import EdgeInferError

__all__ = ["Progress", "Seen", "Told", "listening", "scaled", "silent", "terminal_display"]

# How often the display is drawn: often enough for a clock, too seldom to disturb what is being timed.
_DRAWN_PER_S = 4


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of a candidate by now. `stage` is what was just done with it (made, screened, evaluated, timed).
    Figures that are not known yet are None: `metric_value` and `agreement` as in the report, `bytes` of the file,
    `ratio` of its latency to the reference's."""

    variant: str
    stage: str
    metric_value: float | None = None
    agreement: float | None = None
    bytes: int | None = None
    ratio: float | None = None
    verdict: Literal["", "chosen", "accepted", "refused"] = ""
    reason: str = ""


@runtime_checkable
class Progress(Protocol):
    """Who is told. Each of these returns at once and raises nothing."""

    def __call__(self, step: str, done: float, /) -> None:
        """What is being done now, and the share of all that is done, 0.0 to 1.0."""
        ...

    def tried(self, seen: Seen, /) -> None:
        """More is known of a candidate; the last word on each counts."""
        ...

    def best(self, variant: str, text: str, /) -> None:
        """What would be chosen if the search ended now, and why in a few words."""
        ...


# What a caller may give where it wants no more than the steps.
Told = Callable[[str, float], None]


class _Silent:
    def __call__(self, step: str, done: float, /) -> None:
        pass

    def tried(self, seen: Seen, /) -> None:
        pass

    def best(self, variant: str, text: str, /) -> None:
        pass


silent: Progress = _Silent()
"""Tells nobody."""


def scaled(progress: Progress, start: float, end: float) -> Progress:
    """For a part of the work: its 0 to 1 are `start` to `end` of the whole."""
    return _Scaled(progress, start, end)


def listening(told: "Progress | Told") -> Progress:
    """`told` itself, or for a plain function one that passes the steps on and keeps the rest to itself."""
    return told if isinstance(told, Progress) else _Steps(told)


class _Scaled:
    def __init__(self, progress: Progress, start: float, end: float) -> None:
        self._progress, self._start, self._share = progress, start, end - start

    def __call__(self, step: str, done: float, /) -> None:
        self._progress(step, self._start + self._share * done)

    def tried(self, seen: Seen, /) -> None:
        self._progress.tried(seen)

    def best(self, variant: str, text: str, /) -> None:
        self._progress.best(variant, text)


class _Steps(_Silent):
    def __init__(self, told: Told) -> None:
        self._told = told

    def __call__(self, step: str, done: float, /) -> None:
        self._told(step, done)


@contextmanager
def terminal_display(title: str) -> Iterator[Progress]:
    """A live display on stderr where that is a terminal, else silence: logs stay readable. It leaves no trace: what
    was found is for the table."""
    if not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.live import Live

    from edgeinfer.quantize.scoreboard import Scoreboard

    board = Scoreboard(title)
    console = Console(stderr=True)
    if console.is_dumb_terminal:
        yield silent
        return
    _have_litert_speak()
    with Live(board, console=console, refresh_per_second=_DRAWN_PER_S, transient=True, redirect_stdout=False):
        yield board


def _have_litert_speak() -> None:
    """LiteRT says on stderr, once in a process, that it has made its delegate: before the display is drawn, and to
    nobody."""
    from edgeinfer.devices import doctor
    from edgeinfer.runtime.engines import load_engine

    kept, nobody = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nobody, 2)
        load_engine("litert", Path(doctor.__file__).parent / "canary" / "canary.tflite").close()
    except EdgeInferError:
        return  # the search will say what is missing, if it needs it
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nobody)
