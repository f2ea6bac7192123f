"""What a console asks of a packed chunk when it comes, in one pass: whether it can be read, and the columns that its
results are indexed by.

Nearly all chunks have the standard columns, and the few that are looked into here modelled simply. Of those everything
that a reader checks is checked, and only what is asked for is computed. Whatever is not plainly so, is not judged here:
it goes through `unpacking`, which knows all there is and says what is wrong.
"""

import msgspec
import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.codec.bits import BitReader, Naturals, Streamed, check_listed
from edgeinfer.runtime.codec.body import Body, parted
from edgeinfer.runtime.codec.head import REFERENCES, STANDARD_ID, ColumnHead, Head, decode_head, rules
from edgeinfer.runtime.codec.model import Prediction, with_signs
from edgeinfer.runtime.codec.standard import check_extras, check_kinds
from edgeinfer.runtime.codec.table import STANDARD
from edgeinfer.runtime.codec.unpacking import check_column, checked_objects, unpack_table

__all__ = ["summary_columns"]

Integers = npt.NDArray[np.int64]
Columns = tuple[Integers, Integers, Integers]

_SUMMARIZED = ("kind", "t", "latency")
# What is computed: what is asked for, and what says what belongs to what.
_READ = frozenset({*_SUMMARIZED, "items", "boxed", REFERENCES.name})
_PREDICTION, _SIGNED = 3, 4
_NONE, _PREVIOUS, _REFERENCE = (int(prediction) for prediction in Prediction)


class _Place(msgspec.Struct, frozen=True, gc=False):
    """A column that is read: `start` is where its numbers begin in the streams, if they are there."""

    head: ColumnHead
    length: int
    start: int

    @property
    def is_streamed(self) -> bool:
        return isinstance(self.head.numbers, bytes) and self.head.numbers != b""


def summary_columns(body: bytes, *, n: int) -> Columns:
    """Kind, time and latency of the `n` results of a packed chunk. Raises CodecError for whatever cannot be read."""
    parts = parted(body)
    head = decode_head(parts.head)
    if head.schema == STANDARD_ID and head.results == n:
        found = _plain_columns(parts, head)
        if found is not None:
            return found
    table = unpack_table(body, n=n, names=(*_SUMMARIZED, "extra"))
    kind, t_ns, latency_us = (table.column(name).values for name in _SUMMARIZED)
    check_kinds(kind)
    check_extras(table.column("extra").objects)
    return kind, t_ns, latency_us


def _plain_columns(parts: Body, head: Head) -> Columns | None:
    """The same of a chunk with the standard columns, or None where one that is read is not plain."""
    streamed: list[Streamed] = []
    places = _places(head, streamed)
    if places is None:
        return None
    reader = BitReader(streamed, parts.unary, parts.low)
    stop = max([place.start + place.length for place in places.values() if place.is_streamed], default=0)
    naturals = reader.numbers(0, stop)
    values = _Values(places, naturals, with_signs(naturals))
    if not values.belong_together(head):
        return None
    kind, t_ns, latency_us = (values.of(name) for name in _SUMMARIZED)
    check_kinds(kind)
    check_extras(checked_objects(STANDARD, head.lengths, head.objects).get("extra", []))
    return kind, t_ns, latency_us


def _places(head: Head, streamed: list[Streamed]) -> dict[str, _Place] | None:
    """The columns that are read, by name; adds those that are in the streams to `streamed`. None for columns that are
    not plain. Raises CodecError for heads that make no sense."""
    lengths = head.lengths
    places: dict[str, _Place] = {}
    start = 0
    for one, rule in zip(head.columns, rules(STANDARD, lengths), strict=True):
        check_column(rule, one)
        numbers, length, name = one.numbers, lengths[rule.axis], rule.field.name
        if name in _READ:
            if one.minus or one.how & _PREDICTION == _REFERENCE:
                return None
            places[name] = _Place(one, length, start)
        if isinstance(numbers, list):
            check_listed(numbers, length)
        elif numbers:
            streamed.append(Streamed(numbers, one.how >> 5, length))
            start += length
    return places


class _Values(msgspec.Struct, frozen=True, gc=False):
    """The values of columns without another one taken off: what `model.uncounted` and `model.restored` compute for many
    columns at a time. `naturals`: the numbers in the streams; `left`: the same `with_signs`, which become values."""

    places: dict[str, _Place]
    naturals: Naturals
    left: Integers

    def of(self, name: str) -> Integers:
        """To be asked for once."""
        place = self.places[name]
        head = place.head
        if not head.numbers:
            values = np.full(place.length, head.base, np.int64)
        else:
            values = self._left(place)
            if head.factor != 1:
                values *= np.int64(head.factor)
            values += np.int64(head.base)
        if head.how & _PREDICTION == _PREVIOUS:
            np.cumsum(values, out=values)
            values += np.int64(head.start)
        return values

    def _left(self, place: _Place) -> Integers:
        naturals, left = self.naturals, self.left
        numbers, where = place.head.numbers, slice(place.start, place.start + place.length)
        if isinstance(numbers, list):
            naturals = np.zeros(place.length, dtype=np.uint64)
            naturals[numbers[::2]] = numbers[1::2]
            left, where = with_signs(naturals), slice(None)
        return left[where] if place.head.how & _SIGNED else naturals[where].view(np.int64)

    def belong_together(self, head: Head) -> bool:
        """Whether every item belongs to a result, every box to an item, and none refers to what is not before it."""
        _, _, items, boxes = head.lengths
        if not self._add_up("items", total=items, most=items):
            return False
        return not items or (self._add_up("boxed", total=boxes, most=1) and self._refer_back())

    def _add_up(self, name: str, *, total: int, most: int) -> bool:
        """Whether the numbers are 0 to `most`, and `total` in all."""
        head, length = self.places[name].head, self.places[name].length
        if not head.numbers and head.how & _PREDICTION == _NONE:
            return 0 <= head.base <= most and head.base * length == total
        values = self.of(name)
        # Of numbers in this range no sum wraps around.
        is_counted = 0 <= int(np.minimum.reduce(values)) <= int(np.maximum.reduce(values)) <= most
        return is_counted and int(np.add.reduce(values)) == total

    def _refer_back(self) -> bool:
        """Whether each item's reference is 0, or as many items back as there are."""
        references = self.of(REFERENCES.name)
        return int(np.minimum.reduce(references)) >= 0 and bool((references <= np.arange(len(references))).all())
