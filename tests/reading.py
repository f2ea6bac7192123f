"""Opens a source in a test and reads frames of it.

with opened(config) as source:
    frames = read(source, 3)
"""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeinfer.runtime.errors import SourceError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.sources.base import Source, open_source
from edgeinfer.runtime.sources.settings import SourceConfig

__all__ = ["open_files", "opened", "read", "read_until_error"]


@contextlib.contextmanager
def opened(config: SourceConfig) -> Iterator[Source]:
    source = open_source(config, threading.Event())
    try:
        yield source
    finally:
        source.close()


def read(source: Source, count: int) -> list[Frame]:
    """Up to `count` frames; fewer where the source ends."""
    frames: list[Frame] = []
    while len(frames) < count and (frame := source.read()) is not None:
        frames.append(frame)
    return frames


def read_until_error(source: Source) -> str:
    with pytest.raises(SourceError) as caught:
        read(source, 100_000)
    return str(caught.value)


def open_files() -> int:
    """How many files, sockets and devices this process holds open."""
    return len(list(Path("/proc/self/fd").iterdir()))
