"""Cuts windows from rows: every so many rows, or from pause to pause."""

from collections import deque
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.series.rows import Row

__all__ = ["Cutter", "Sessions", "Slices"]

Array = npt.NDArray[Any]
# How many rows a window's buffer is longer than a window: they are moved to its front once in so many rows.
_SPARE_ROWS = 4096


class Cutter(Protocol):
    """Takes rows without gaps; gives windows (length, channels) float32."""

    def add(self, row: Row) -> Array | None:
        """The window that this row completes, or None."""
        ...

    def pause(self) -> Array | None:
        """The series makes a pause, or ends: the window that it closes, or None. The next row begins anew."""
        ...

    def discard(self) -> None:
        """A row that cannot be used: no window may reach over it."""
        ...


class Slices:
    """A window of `length` rows every `stride` rows. Sliding for stride < length, tumbling where they are equal;
    beyond, rows are left out between windows."""

    def __init__(self, length: int, stride: int) -> None:
        self._length = length
        self._stride = stride
        self._until_next = length
        self._rows: Array = np.empty((0, 0), dtype=np.float32)
        self._end = 0

    def add(self, row: Row) -> Array | None:
        if self._end == len(self._rows):
            self._make_room(len(row.values))
        self._rows[self._end] = row.values
        self._end += 1
        self._until_next -= 1
        if self._until_next > 0:
            return None
        self._until_next = self._stride
        return self._rows[self._end - self._length : self._end].copy()

    def pause(self) -> Array | None:
        self.discard()
        return None

    def discard(self) -> None:
        self._until_next = self._length

    def _make_room(self, channels: int) -> None:
        if not len(self._rows):
            spare = min(self._length, _SPARE_ROWS)
            self._rows = np.empty((self._length + spare, channels), dtype=np.float32)
            return
        kept = self._length - 1
        self._rows[:kept] = self._rows[self._end - kept : self._end]
        self._end = kept


class Sessions:
    """A window from pause to pause. Of a longer session the newest `length` rows are kept; a shorter one is filled up
    in front by its first row; one of fewer than `min_rows` is dropped."""

    def __init__(self, length: int, min_rows: int) -> None:
        self._length = length
        self._min_rows = min_rows
        self._rows: deque[list[float]] = deque(maxlen=length)

    def add(self, row: Row) -> Array | None:
        self._rows.append(row.values)
        return None

    def pause(self) -> Array | None:
        rows, self._rows = self._rows, deque(maxlen=self._length)
        if len(rows) < self._min_rows:
            return None
        filled = [rows[0]] * (self._length - len(rows)) + list(rows)
        return np.array(filled, dtype=np.float32)

    def discard(self) -> None:
        """A session has gaps: only the row is left out."""
