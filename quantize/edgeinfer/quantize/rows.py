"""Rows: samples as the float model takes them, one at a time, so that a set may be larger than the memory.

rows = ArrayRows(pixels)                         # an array, kept in its own dtype
rows = ImageRows(files, preprocess, (96, 96, 3))   # pictures, decoded when they are asked for
rows.row(0)                                      # float32 (1, *rows.shape)
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import SamplesError, SourceError
from edgeinfer.runtime.manifest import ImagePre, TensorSpec
from edgeinfer.runtime.preprocess import compile_preprocess
from edgeinfer.runtime.sources.pictures import NO_PICTURE, decode_picture

__all__ = ["ArrayRows", "ImageRows", "Rows", "Table", "fit_to_model", "spread", "stacked"]


class Rows(Protocol):
    """A set of rows. None of them is kept as float32."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row, without the batch."""
        ...

    def __len__(self) -> int: ...

    def row(self, index: int) -> Array:
        """float32 (1, *shape), the caller's own. Raises SamplesError where it cannot be read."""
        ...

    def picked(self, indices: Array) -> "Rows":
        """The rows at these places, in this order; nothing is copied."""
        ...


class Table(Protocol):
    """What rows are taken from: an array (N, ...), or what looks like one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> "np.dtype[Any]": ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Array: ...


class ArrayRows:
    """The rows of a table (N, ...), which is kept as it is. `convert` makes float32 (1, *shape) of (1, ...)."""

    def __init__(
        self, array: Table, convert: Callable[[Array], Array] | None = None, *, places: Array | None = None
    ) -> None:
        self._array = array
        self._convert = convert or _as_float
        self._places = np.arange(len(array)) if places is None else places
        self._shape: tuple[int, ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        if self._shape is None:
            self._shape = self._converted(np.zeros((1, *self._array.shape[1:]), self._array.dtype)).shape[1:]
        return self._shape

    def __len__(self) -> int:
        return len(self._places)

    def row(self, index: int) -> Array:
        return self._converted(np.asarray(self._array[int(self._places[index])])[np.newaxis])

    def _converted(self, values: Array) -> Array:
        made: Array = np.ascontiguousarray(self._convert(values), dtype=np.float32)
        return made.copy() if np.may_share_memory(made, values) else made

    def picked(self, indices: Array) -> "ArrayRows":
        return ArrayRows(self._array, self._convert, places=self._places[indices])


def _as_float(values: Array) -> Array:
    return values.astype(np.float32)


class ImageRows:
    """Pictures in files, decoded and preprocessed as the device does it, each time that one is asked for.

    `shape` is that of the model's input without the batch.
    """

    def __init__(self, files: Sequence[Path], preprocess: ImagePre, shape: tuple[int, ...]) -> None:
        self._files = tuple(files)
        self._preprocess = preprocess
        self._shape = shape
        self._prepare = compile_preprocess(preprocess, TensorSpec("", (1, *shape), "float32"))

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    def __len__(self) -> int:
        return len(self._files)

    def row(self, index: int) -> Array:
        path = self._files[index]
        try:
            picture = decode_picture(np.frombuffer(path.read_bytes(), np.uint8))
        except OSError as error:
            raise SamplesError(f"{path}: expected a picture, found a file that cannot be read: {error}") from error
        if picture is NO_PICTURE:
            raise SamplesError(f"{path}: expected a picture, found a file that holds none or a part of one")
        target = self._prepare.new_target()
        try:
            self._prepare(picture, target)
        except SourceError as error:
            raise SamplesError(f"{path}: {error.message}") from error
        return target

    def picked(self, indices: Array) -> "ImageRows":
        return ImageRows([self._files[int(index)] for index in indices], self._preprocess, self._shape)


def fit_to_model(x: Array, shape: tuple[int, ...], *, where: str) -> Array:
    """`x` (N, ...) as (N, *shape), where only dimensions of size 1 differ, or where the model's input is flat.

    Raises SamplesError naming both shapes where they do not fit.
    """
    found = x.shape[1:]
    same_but_ones = [n for n in found if n != 1] == [n for n in shape if n != 1]
    flat = len(shape) == 1 and math.prod(found) == shape[0]
    if same_but_ones or flat:
        return x.reshape(len(x), *shape)
    hint = "declare the samples with --preprocess, or write them as the model takes them"
    if sorted(found) == sorted(shape):
        hint = "the same sizes in another order: is the layout (channels first or last) right?"
    raise SamplesError(
        f"{where}: expected samples of shape ({_join(shape)}) for the model, found ({_join(found)})", hint=hint
    )


def _join(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


def stacked(rows: Rows) -> Array:
    """float32 (N, *shape): all of them at once, for few."""
    if not len(rows):
        return np.zeros((0, *rows.shape), np.float32)
    return np.concatenate([rows.row(index) for index in range(len(rows))])


def spread(count: int, of: int) -> Array:
    """At most `count` of the places 0 to `of` - 1, at equal distances over all of them."""
    if count >= of:
        return np.arange(of)
    places: Array = (np.arange(count) * of) // max(count, 1)
    return places
