"""What the person in front of the terminal sees of the demo: steps, and a line that moves."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from edgeinfer.quantize.progress import Progress, terminal_display

__all__ = ["Screen"]


class Screen:
    """Writes to standard error: standard output is for the closing summary. Colours and the moving line
    only on a terminal."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._moving = False

    def step(self, text: str) -> None:
        self._clear()
        self._write(f"\n{self._bold('▸ ' + text)}\n")

    def say(self, text: str) -> None:
        self._clear()
        self._write(f"  {text}\n")

    def moving(self, text: str) -> None:
        """A line that the next one replaces. Without a terminal nothing is shown."""
        if self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            self._write(f"\r\x1b[2K  {text[: width - 2]}")
            self._moving = True

    @contextmanager
    def progress(self, title: str) -> Iterator[Progress]:
        self._clear()
        with terminal_display(f"  {title}") as progress:
            yield progress

    def _clear(self) -> None:
        if self._moving:
            self._write("\r\x1b[2K")
            self._moving = False

    def _bold(self, text: str) -> str:
        return f"\x1b[1m{text}\x1b[0m" if self._is_terminal else text

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
