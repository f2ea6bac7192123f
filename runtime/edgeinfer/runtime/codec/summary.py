"""What a console asks of a packed chunk when it comes, in one pass: whether it can be read, and the columns that its
results are indexed by.

Nearly all chunks have the standard columns, and the few that are looked into here modelled simply. Of those everything
that a reader checks is checked, and only what is asked for is computed. Whatever is not plainly so, is not judged here:
it goes through `unpacking`, which knows all there is and says what is wrong.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.codec.bits import BitReader, Naturals, Streamed, check_listed
from edgeinfer.runtime.codec.body import parted
from edgeinfer.runtime.codec.head import REFERENCES, STANDARD_ID, ColumnHead, Head, decode_head, grouped
from edgeinfer.runtime.codec.model import Prediction
from edgeinfer.runtime.codec.standard import check_values
from edgeinfer.runtime.codec.table import STANDARD, Type
from edgeinfer.runtime.codec.unpacking import unpack_table
from edgeinfer.runtime.results import Kind

__all__ = ["summary_columns"]

Integers = npt.NDArray[np.int64]
Columns = tuple[Integers, Integers, Integers]

_SUMMARIZED = ("kind", "t", "latency")
# What is computed: what is asked for, and what says what belongs to what.
_READ = frozenset({*_SUMMARIZED, "items", "boxed", REFERENCES.name})
_PREDICTION, _SIGNED = 3, 4
# Of `ColumnHead.how`: the form, which integers have not and real numbers have, and all that it can be.
_FORM = 3 << 3
_MAX_HOW = 3 << 5
_NONE, _PREVIOUS, _REFERENCE = (int(prediction) for prediction in Prediction)
_KINDS = frozenset(int(kind) for kind in Kind)
_ONE = np.uint64(1)


class _Place(NamedTuple):
    """A column that is read: `start` is where its numbers begin in the streams, if they are there."""

    head: ColumnHead
    length: int
    start: int


def summary_columns(body: bytes, *, n: int) -> Columns:
    """Kind, time and latency of the `n` results of a packed chunk. Raises CodecError for whatever cannot be read."""
    parts = parted(body)
    head = decode_head(parts.head)
    if head.schema == STANDARD_ID and head.results == n and not head.objects:
        streamed: list[Streamed] = []
        places = _places(head, streamed)
        if places is not None:
            found = _columns(head, places, BitReader(streamed, parts.unary, parts.low))
            if found is not None:
                return found
    table = unpack_table(body, n=n, names=(*_SUMMARIZED, "extra"))
    check_values(table)
    kind, t_ns, latency_us = (table.column(name).values for name in _SUMMARIZED)
    return kind, t_ns, latency_us


def _places(head: Head, streamed: list[Streamed]) -> dict[str, _Place] | None:
    """The columns that are read, by name; adds those that are in the streams to `streamed`. None for heads that are
    wrong, or not plain. Raises CodecError for numbers that are listed wrongly."""
    _, _, items, boxes = lengths = head.lengths
    places: dict[str, _Place] = {}
    start = 0
    rules = _rules(min(items, 2), min(items, 2) if boxes == items else min(boxes, 1))
    for one, (name, axis, is_integer, most, first, last) in zip(head.columns, rules, strict=True):
        how, minus, numbers, length = one.how, one.minus, one.numbers, lengths[axis]
        if not 0 <= how < _MAX_HOW or (how & _FORM == 0) != is_integer or how & _PREDICTION > most:
            return None
        if minus and not first < minus <= last:
            return None
        if name in _READ:
            if minus or how & _PREDICTION == _REFERENCE:
                return None
            places[name] = _Place(one, length, start)
        if isinstance(numbers, list):
            check_listed(numbers, length)
        elif numbers:
            streamed.append(Streamed(numbers, how >> 5, length))
            start += length
    return places


class _Rule(NamedTuple):
    """How a column may be modelled: with predictions up to `most`, and with one taken off whose place, from 1, is above
    `first` and at most `last`."""

    name: str
    axis: int
    is_integer: bool
    most: int
    first: int
    last: int


@lru_cache(maxsize=8)
def _rules(items: int, boxes: int) -> tuple[_Rule, ...]:
    """Of each column in turn, in a chunk with as many items and boxes, or more of those that there are."""
    rules: list[_Rule] = []
    for fields in grouped(STANDARD, (1, 1, items, boxes)):
        first = len(rules)
        for row, field in enumerate(fields):
            most = _REFERENCE if row and fields[0] is REFERENCES else _PREVIOUS
            is_integer = field.type is not Type.REAL
            rules.append(_Rule(field.name, int(field.axis), is_integer, most, first, first + row))
    return tuple(rules)


def _columns(head: Head, places: dict[str, _Place], reader: BitReader) -> Columns | None:
    """What is asked for, or None where a number is not as it has to be."""
    _, _, items, boxes = head.lengths
    kind = _values(places["kind"], reader)
    if not _are_kinds(kind) or not _adds_up(places["items"], reader, total=items, most=items):
        return None
    if items and not _adds_up(places["boxed"], reader, total=boxes, most=1):
        return None
    if items and not _refers_back(_values(places[REFERENCES.name], reader)):
        return None
    return kind, _values(places["t"], reader), _values(places["latency"], reader)


def _are_kinds(values: Integers) -> bool:
    lowest, highest = int(np.minimum.reduce(values)), int(np.maximum.reduce(values))
    return lowest in _KINDS and (lowest == highest or _KINDS.issuperset(np.unique(values).tolist()))


def _adds_up(place: _Place, reader: BitReader, *, total: int, most: int) -> bool:
    """Whether the numbers are 0 to `most`, and `total` in all."""
    if not place.head.numbers and place.head.how & _PREDICTION == _NONE:
        return 0 <= place.head.base <= most and place.head.base * place.length == total
    values = _values(place, reader)
    # Of numbers in this range no sum wraps around.
    return 0 <= int(values.min()) <= int(values.max()) <= most and int(values.sum()) == total


def _refers_back(references: Integers) -> bool:
    """Whether each is 0, or as many items back as there are."""
    return int(np.minimum.reduce(references)) >= 0 and bool((references <= np.arange(len(references))).all())


def _values(place: _Place, reader: BitReader) -> Integers:
    """The numbers of a column without another one taken off: what `model.uncounted` and `model.restored` do for many
    columns at a time."""
    head, length, start = place
    is_constant = not head.numbers
    values = (
        np.full(length, head.base, np.int64) if is_constant else _left(head, _naturals(head, length, start, reader))
    )
    if head.how & _PREDICTION == _PREVIOUS:
        np.cumsum(values, out=values)
        values += np.int64(head.start)
    return values


def _naturals(head: ColumnHead, length: int, start: int, reader: BitReader) -> Naturals:
    if isinstance(head.numbers, bytes):
        return reader.numbers(start, start + length)
    naturals = np.zeros(length, dtype=np.uint64)
    naturals[head.numbers[::2]] = head.numbers[1::2]
    return naturals


def _left(head: ColumnHead, naturals: Naturals) -> Integers:
    """What was left of the values, from the numbers that stand for it."""
    if head.how & _SIGNED:
        left = (naturals >> _ONE).view(np.int64)
        signs = naturals.view(np.int64) & 1
        left ^= np.negative(signs, out=signs)
    else:
        left = naturals.view(np.int64)
    if head.factor != 1:
        left *= np.int64(head.factor)
    left += np.int64(head.base)
    return left
