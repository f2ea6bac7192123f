"""A chunk as a table: named columns of integers, real numbers or objects, along one of four axes.

This is what a chunk of codec PACKED holds, also in columns that nobody here knows.
"""

import enum
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.codec.reals import Form
from edgeinfer.runtime.errors import CodecError

__all__ = ["COORDINATES", "STANDARD", "Axis", "Column", "Field", "Lengths", "Objects", "Table", "Type"]

Integers = npt.NDArray[np.int64]
# How many places each axis has, by its number.
Lengths = tuple[int, int, int, int]
# Place and value, in the order of the places.
Objects = list[tuple[int, msgspec.Raw]]


class Axis(enum.IntEnum):
    """What there is one value of. The numbers are stored: never reuse one."""

    CHUNK = 0
    RESULT = 1
    ITEM = 2  # the items of all results, one after the other
    BOX = 3  # the items that have a box


class Type(enum.IntEnum):
    """What a value is. The numbers are stored: never reuse one."""

    INTEGER = 0
    REAL = 1
    OBJECT = 2  # anything that MessagePack can say; not every place has one


class Field(msgspec.Struct, frozen=True, cache_hash=True):
    """A column without its values."""

    name: str
    axis: Axis
    type: Type


COORDINATES = ("x1", "y1", "x2", "y2")
# What a `Result` is made of.
STANDARD = (
    Field("kind", Axis.RESULT, Type.INTEGER),
    Field("t", Axis.RESULT, Type.INTEGER),
    Field("frame", Axis.RESULT, Type.INTEGER),
    Field("latency", Axis.RESULT, Type.INTEGER),
    Field("age", Axis.RESULT, Type.INTEGER),
    Field("items", Axis.RESULT, Type.INTEGER),
    Field("boxed", Axis.ITEM, Type.INTEGER),
    Field("label", Axis.ITEM, Type.INTEGER),
    Field("score", Axis.ITEM, Type.REAL),
    *(Field(name, Axis.BOX, Type.REAL) for name in COORDINATES),
    Field("extra", Axis.RESULT, Type.OBJECT),
)
_NO_NUMBERS: Integers = np.empty(0, dtype=np.int64)


class Column(msgspec.Struct, frozen=True, eq=False, gc=False):
    """`values`: one int64 a place on the axis, for real numbers as `form` says. Objects are where `values` is empty."""

    field: Field
    values: Integers = _NO_NUMBERS
    form: Form = Form.NONE
    objects: Objects = []

    def part(self, start: int, stop: int) -> "Column":
        """The places `start` to `stop`."""
        objects = [(place - start, value) for place, value in self.objects if start <= place < stop]
        return Column(self.field, self.values[start:stop], self.form, objects)


class Table(msgspec.Struct, frozen=True, eq=False, gc=False):
    lengths: Lengths
    columns: tuple[Column, ...]

    @property
    def schema(self) -> tuple[Field, ...]:
        return tuple([column.field for column in self.columns])

    def column(self, name: str) -> Column:
        """Raises CodecError where there is none of that name."""
        for column in self.columns:
            if column.field.name == name:
                return column
        raise CodecError(f"the chunk lacks the column {name!r}")

    def check(self) -> None:
        """Raises CodecError unless each column has as many values as its axis has places."""
        for column in self.columns:
            length = 0 if column.field.type is Type.OBJECT else self.lengths[column.field.axis]
            if len(column.values) != length or (
                length and (column.form is Form.NONE) == (column.field.type is Type.REAL)
            ):
                raise CodecError(
                    f"expected {length} values in the column {column.field.name!r}, and a form if they are real"
                )
            places = [-1, *(place for place, _ in column.objects), self.lengths[column.field.axis]]
            if not all(before < after for before, after in pairwise(places)):
                raise CodecError(f"the column {column.field.name!r} has objects out of order")

    def split(self, at: int) -> "tuple[Table, Table]":
        """The first `at` results with all that is theirs, and the rest; what is the chunk's is in both."""
        items = int(self.column("items").values[:at].sum())
        boxes = int(self.column("boxed").values[:items].sum())
        _, results, all_items, all_boxes = self.lengths
        first = self._part((0, 0, 0, 0), (1, at, items, boxes))
        return first, self._part((0, at, items, boxes), (1, results, all_items, all_boxes))

    def _part(self, starts: Sequence[int], stops: Sequence[int]) -> "Table":
        columns = (column.part(starts[column.field.axis], stops[column.field.axis]) for column in self.columns)
        chunk, results, items, boxes = (stop - start for start, stop in zip(starts, stops, strict=True))
        return Table((chunk, results, items, boxes), tuple(columns))
