"""Recorded inputs from an `.npz` file: each row is one frame."""

import time
import zipfile
import zlib
from pathlib import Path

import numpy as np

from edgeinfer.runtime.errors import SourceError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.sources.settings import TensorsSource

__all__ = ["Tensors"]


class Tensors:
    live = False

    def __init__(self, config: TensorsSource) -> None:
        path = Path(config.path)
        try:
            with path.open("rb") as file:
                archive = np.load(file, allow_pickle=False)
                if not isinstance(archive, np.lib.npyio.NpzFile):
                    raise SourceError(f"{path}: expected an .npz file, found a single array")
                with archive:
                    self._rows = archive[config.key]
        except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
            raise SourceError(f"{path}: expected an .npz file with an array {config.key!r}: {error}") from error
        if self._rows.ndim == 0 or not len(self._rows):
            raise SourceError(f"{path}: array {config.key!r} has no rows")
        self._repeat = config.repeat
        self._index = 0

    def read(self) -> Frame | None:
        if self._index >= len(self._rows) and not self._repeat:
            return None
        row = self._rows[self._index % len(self._rows)]
        frame = Frame(row, time.time_ns(), time.monotonic_ns(), self._index)
        self._index += 1
        return frame

    def close(self) -> None:
        self._rows = self._rows[:0]
