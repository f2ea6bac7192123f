"""How a long search tells how far it is: a callback, and a bar on stderr for a person who watches."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Progress", "silent", "terminal_bar"]

# Called with what is being done now and the share that is done, 0.0 to 1.0.
Progress = Callable[[str, float], None]


def silent(_step: str, _done: float) -> None:
    """Tells nobody."""


@contextmanager
def terminal_bar(title: str) -> Iterator[Progress]:
    """A progress bar on stderr where that is a terminal, else silence: logs stay readable."""
    if not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    columns = (TextColumn("{task.fields[title]}"), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0, title=title)
        yield lambda step, done: bar.update(task, description=step, completed=done)
