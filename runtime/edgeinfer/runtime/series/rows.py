"""Rows of a sensor series, and the windows that are cut from them."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["MISSING", "Arrival", "Row", "Window", "real_or_missing"]

# A value that the sensor did not give.
MISSING = math.nan
# What a model's float32 input can hold.
_MAX_MAGNITUDE = float(np.finfo(np.float32).max)


class Arrival(NamedTuple):
    """A row as it comes in. `place_ns`: where it lies in its series, never less than that of the row before;
    `t_ns`: wall clock; `mono_ns`: monotonic clock when it arrived; `values`: one a channel, NaN where the sensor gave
    nothing; `source`: which of several joined sensors it is of; `dated`: `t_ns` goes with `place_ns`, which it does not
    in a recording that counts from some start and is read at some other time; `timed`: `place_ns` is a time, and not
    only an order."""

    place_ns: int
    t_ns: int
    mono_ns: int
    values: Sequence[float]
    source: int = 0
    dated: bool = True
    timed: bool = True


class Row(NamedTuple):
    """A row inside of the series: all channels of it, at one place."""

    place_ns: int
    values: list[float]


class Window(NamedTuple):
    """Rows (length, channels) float32, every value finite. `t_ns`: wall clock of the newest row; `mono_ns`: when the
    last row arrived that it needed; `place_ns`: where the newest row lies in its series; `timed`: that is a time."""

    t_ns: int
    mono_ns: int
    data: npt.NDArray[Any]
    place_ns: int
    timed: bool


def real_or_missing(values: Sequence[float]) -> list[float]:
    """The same values; what is infinite or beyond float32 counts as missing."""
    return [value if abs(value) <= _MAX_MAGNITUDE else MISSING for value in values]
