"""From levels 0..255 to the model's numbers.

A level x of a channel becomes `(x - mean) / std` in float32, and for an integer input the quantization of that: one
definition, `level_table`. How it is computed is chosen by what is fastest and gives the very same numbers:

- the bytes are the input's own: nothing is left to do;
- bytes whose highest bit is flipped (int8 with a zero point of -128): one exclusive or;
- other bytes: a table of 256 entries, one for all channels where they agree, for that takes half the time;
- reals: the arithmetic itself, with interleaved channels against arrays of the picture's size; it took 0.5 to 0.9 of a
  table's time. Where those arrays would be large, one table for each channel.
"""

import math
from collections.abc import Callable

import numpy as np

from edgeinfer.runtime.engines.base import quantize_input
from edgeinfer.runtime.manifest import ImagePre, TensorSpec
from edgeinfer.runtime.preprocess.contract import Array
from edgeinfer.runtime.preprocess.deposit import Deposit
from edgeinfer.runtime.preprocess.standardize import Standardize
from edgeinfer.runtime.sources.pictures import opencv

__all__ = ["Levels", "compile_levels", "level_table"]

Levels = Callable[[Array, Array], None]
"""Writes the numbers for bytes in the order of the model's input into the input."""

_LEVELS = np.arange(256, dtype=np.uint8)
_HIGH_BIT = np.uint8(128)
_COLORS = 3
_COLOR_RANK = 3
_MAX_SPREAD_BYTES = 4 << 20  # two arrays of 418 x 418 pixels


def level_table(declared: ImagePre, spec: TensorSpec, channel: int) -> Array:
    """(256,) of the input's dtype: what each level becomes in this channel."""
    mean, std = declared.mean, declared.std
    shift, scale = np.float32(mean[channel % len(mean)]), np.float32(std[channel % len(std)])
    return quantize_input((_LEVELS.astype(np.float32) - shift) / scale, spec)


def _channels(declared: ImagePre) -> int:
    return 1 if declared.color == "gray" else _COLORS


def compile_levels(declared: ImagePre, spec: TensorSpec, shape: tuple[int, ...]) -> Levels | None:
    """For bytes of `shape` (without the batch); None where they are the input's own bytes already."""
    planar = declared.layout == "nchw" and len(shape) == _COLOR_RANK
    tables = [level_table(declared, spec, channel) for channel in range(_channels(declared))]
    if np.dtype(spec.dtype) not in {np.dtype(np.uint8), np.dtype(np.int8)}:
        differ = any(not np.array_equal(table, tables[0]) for table in tables)
        too_large = 2 * math.prod(shape) * np.dtype(np.float32).itemsize > _MAX_SPREAD_BYTES
        if differ and too_large and not planar and spec.dtype == "float32":
            return _TablePerChannel(tables, shape, planar=False)
        return _Arithmetic(declared, spec, shape, planar=planar)
    tables = [table.view(np.uint8) for table in tables]
    if any(not np.array_equal(table, tables[0]) for table in tables):
        return _TablePerChannel(tables, shape, planar=planar)
    if np.array_equal(tables[0], _LEVELS):
        return None
    if np.array_equal(tables[0], _LEVELS ^ _HIGH_BIT):
        return _FlipHighBit(shape)
    return _Table(tables[0], shape, planar=planar)


class _FlipHighBit:
    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape

    def __call__(self, levels: Array, target: Array) -> None:
        np.bitwise_xor(levels, _HIGH_BIT, out=target.view(np.uint8).reshape(self._shape))


class _Table:
    def __init__(self, table: Array, shape: tuple[int, ...], *, planar: bool) -> None:
        self._look_up = opencv().LUT
        self._table = table.reshape(1, 256)
        # One channel to OpenCV: planes lie below each other, pixels beside each other.
        self._flat = (-1, shape[-1]) if planar else (shape[0], -1)

    def __call__(self, levels: Array, target: Array) -> None:
        self._look_up(levels.reshape(self._flat), self._table, target.view(np.uint8).reshape(self._flat))


class _TablePerChannel:
    def __init__(self, tables: list[Array], shape: tuple[int, ...], *, planar: bool) -> None:
        self._look_up = opencv().LUT
        self._shape = shape
        self._dtype = tables[0].dtype
        self._planar = planar
        self._tables = [table.reshape(1, 256) for table in tables]
        self._merged = opencv().merge([table.reshape(256, 1) for table in tables])

    def __call__(self, levels: Array, target: Array) -> None:
        out = target.view(self._dtype).reshape(self._shape)
        if not self._planar:
            self._look_up(levels, self._merged, out)
            return
        for channel, table in enumerate(self._tables):
            self._look_up(levels[channel], table, out[channel])


class _Arithmetic:
    """One pass over everything, or over each plane."""

    def __init__(self, declared: ImagePre, spec: TensorSpec, shape: tuple[int, ...], *, planar: bool) -> None:
        self._deposit = Deposit(spec, shape)
        channels = range(_channels(declared))
        mean = tuple(declared.mean[channel % len(declared.mean)] for channel in channels)
        std = tuple(declared.std[channel % len(declared.std)] for channel in channels)
        self._planes: list[Standardize] = []
        self._whole: Standardize | None = None
        if planar and len(set(zip(mean, std, strict=True))) > 1:
            self._planes = [Standardize((m,), (s,)) for m, s in zip(mean, std, strict=True)]
        else:
            self._whole = Standardize(mean, std)
            self._whole.fit(shape)

    def __call__(self, levels: Array, target: Array) -> None:
        room = self._deposit.room(target)
        if self._whole is not None:
            self._whole(levels, room)
        for channel, standardize in enumerate(self._planes):
            standardize(levels[channel], room[channel])
        self._deposit.settle(target)
