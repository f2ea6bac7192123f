"""Codec PACKED, the other way: a body becomes a table. docs/chunk-format.md is the layout."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby, pairwise
from operator import attrgetter
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.codec.bits import BitReader, Naturals, Numbers, Streamed, check_listed
from edgeinfer.runtime.codec.body import parted
from edgeinfer.runtime.codec.head import REFERENCES, ColumnHead, decode_head, grouped
from edgeinfer.runtime.codec.model import Model, Prediction, restored, uncounted
from edgeinfer.runtime.codec.reals import Form
from edgeinfer.runtime.codec.table import Column, Field, Lengths, Objects, Table, Type
from edgeinfer.runtime.errors import CodecError

__all__ = ["unpack_table"]

Integers = npt.NDArray[np.int64]

_NONE: Integers = np.zeros(0, dtype=np.int64)
# Needed whatever is asked for: they say what belongs to what.
_ALWAYS = frozenset({REFERENCES.name, "items", "boxed"})
_PREDICTIONS = tuple(Prediction)
_FORMS = tuple(Form)
_SIGNED = 4
# With the largest fold.
_MAX_HOW = 3 << 5


class _Placed(NamedTuple):
    """A column of numbers: row `row` of group `group`; from `start` on in the streams if it `is_streamed`."""

    field: Field
    group: int
    row: int
    model: Model
    form: Form
    length: int
    numbers: Numbers
    fold: int
    start: int
    is_streamed: bool


def unpack_table(body: bytes, *, n: int, names: Collection[str] | None = None) -> Table:
    """The table of a chunk of `n` results; with `names` only these columns. Raises CodecError for anything that is not
    exactly that, whichever columns are asked for."""
    parts = parted(body)
    head = decode_head(parts.head)
    if head.results != n:
        raise CodecError(f"expected {n} results in the chunk, found {head.results}")
    schema, lengths = head.fields(), head.lengths
    placed = _placed(grouped(schema, lengths), head.columns, lengths)
    streamed = [
        Streamed(one.numbers, one.fold, one.length) for one in placed if isinstance(one.numbers, bytes) and one.numbers
    ]
    reader = BitReader(streamed, parts.unary, parts.low)
    values = _values(placed if names is None else _needed(placed, names), reader)
    _check_counts(lengths, values)
    objects = _objects(schema, lengths, head.objects)
    forms = {one.field.name: one.form for one in placed}
    columns = [
        Column(field, values.get(field.name, _NONE), forms.get(field.name, Form.NONE), objects.get(field.name, []))
        for field in schema
        if names is None or field.name in names
    ]
    return Table(lengths, tuple(columns))


def _placed(groups: Sequence[Sequence[Field]], heads: Sequence[ColumnHead], lengths: Lengths) -> list[_Placed]:
    """Raises CodecError for heads that make no sense."""
    placed: list[_Placed] = []
    start = 0
    for group, fields in enumerate(groups):
        first, length = len(placed), lengths[fields[0].axis]
        refers = fields[0] is REFERENCES
        for row, field in enumerate(fields):
            head = heads[first + row]
            model = _model(head, row, first, can_refer=refers and row > 0)
            if isinstance(head.numbers, list):
                check_listed(head.numbers, length)
                is_streamed = False
            else:
                is_streamed = head.numbers != b""
            form, fold = _form(field, head), head.how >> 5
            placed.append(_Placed(field, group, row, model, form, length, head.numbers, fold, start, is_streamed))
            start += length if is_streamed else 0
    return placed


def _model(head: ColumnHead, row: int, first: int, *, can_refer: bool) -> Model:
    """`first`: the place of the group's first column in the chunk."""
    prediction, minus = head.how & 3, head.minus - 1 - first if head.minus else -1
    if head.minus and not 0 <= minus < row:
        raise CodecError(f"column {first + row + 1} of the chunk has one taken off that is not before it: {head.minus}")
    if prediction > (Prediction.REFERENCE if can_refer else Prediction.PREVIOUS):
        raise CodecError(f"column {first + row + 1} of the chunk cannot have prediction {prediction}")
    return Model(_PREDICTIONS[prediction], minus, head.start, head.base, head.factor, bool(head.how & _SIGNED))


def _form(field: Field, head: ColumnHead) -> Form:
    form = head.how >> 3 & 3
    if not 0 <= head.how < _MAX_HOW or (form == Form.NONE) == (field.type is Type.REAL):
        raise CodecError(f"the column {field.name[:20]!r} has numbers of another type than it says")
    return _FORMS[form]


def _needed(placed: list[_Placed], names: Collection[str]) -> list[_Placed]:
    """Those of these names, what is taken off them, and what is always needed."""
    needed: list[_Placed] = []
    rows: set[tuple[int, int]] = set()
    for one in reversed(placed):
        if one.field.name in names or one.field.name in _ALWAYS or (one.group, one.row) in rows:
            needed.append(one)
            rows.add((one.group, one.model.minus))
    return needed[::-1]


def _values(placed: list[_Placed], reader: BitReader) -> dict[str, Integers]:
    counts = [one.length for one in placed]
    left = uncounted(_naturals(placed, reader), [one.model for one in placed], counts)
    values: dict[str, Integers] = {}
    start = 0
    for _, together in groupby(placed, key=attrgetter("group")):
        group = list(together)
        stop = start + len(group) * group[0].length
        rows = restored(left[start:stop].reshape(len(group), -1), _models(group), refers=group[0].field is REFERENCES)
        values |= {one.field.name: row for one, row in zip(group, rows, strict=True)}
        start = stop
    return values


def _models(group: list[_Placed]) -> list[Model]:
    """Their models, with the rows that they have here."""
    if len(group) == group[-1].row + 1:
        return [one.model for one in group]
    rows = [one.row for one in group]
    return [
        msgspec.structs.replace(one.model, minus=rows.index(one.model.minus)) if one.model.minus >= 0 else one.model
        for one in group
    ]


def _naturals(placed: list[_Placed], reader: BitReader) -> Naturals:
    """The numbers of columns, one after the other."""
    naturals = np.zeros(sum([one.length for one in placed]), dtype=np.uint64)
    streamed = [(one.start, one.start + one.length) for one in placed if one.is_streamed]
    found = [reader.numbers(start, stop) for start, stop in _joined(streamed)]
    numbers = found[0] if len(found) == 1 else np.concatenate(found or [naturals[:0]])
    # Those that are one after the other here, too, are copied at once.
    places: list[tuple[int, int]] = []
    stop = 0
    for one in placed:
        start, stop = stop, stop + one.length
        if one.is_streamed:
            places.append((start, stop))
        elif isinstance(one.numbers, list):
            naturals[start:stop][one.numbers[::2]] = one.numbers[1::2]
    done = 0
    for start, stop in _joined(places):
        naturals[start:stop] = numbers[done : done + stop - start]
        done += stop - start
    return naturals


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same ranges, as few as there can be."""
    joined: list[tuple[int, int]] = []
    for start, stop in ranges:
        first = joined.pop()[0] if joined and joined[-1][1] == start else start
        joined.append((first, stop))
    return joined


def _check_counts(lengths: Lengths, values: Mapping[str, Integers]) -> None:
    """Every item belongs to a result, every box to an item."""
    _, _, items, boxes = lengths
    for name, total, most in (("items", items, items), ("boxed", boxes, 1)):
        counts = values.get(name, _NONE)
        # Of numbers in this range no sum wraps around.
        if len(counts) and not 0 <= int(counts.min()) <= int(counts.max()) <= most:
            raise CodecError(f"expected 0 to {most} in the column {name!r}")
        if int(counts.sum()) != total:
            raise CodecError(f"expected {total} in all in the column {name!r}, found {int(counts.sum())}")


def _objects(schema: Sequence[Field], lengths: Lengths, found: Sequence[Objects]) -> dict[str, Objects]:
    if not found:
        return {}
    fields = [field for field in schema if field.type is Type.OBJECT]
    if len(found) != len(fields):
        raise CodecError(f"expected {len(fields)} columns of objects in the chunk, found {len(found)}")
    for field, objects in zip(fields, found, strict=True):
        edges = [-1, *(place for place, _ in objects), lengths[field.axis]]
        if not all(before < after for before, after in pairwise(edges)):
            raise CodecError(f"the column {field.name[:20]!r} has objects out of order")
    return {field.name: objects for field, objects in zip(fields, found, strict=True)}
