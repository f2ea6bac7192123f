"""Codec PACKED, the other way: a body becomes a table. docs/chunk-format.md is the layout."""

from collections.abc import Collection, Mapping, Sequence
from itertools import groupby, pairwise
from operator import attrgetter

import msgspec
import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.codec.bits import BitReader, Naturals, Numbers, Streamed, check_listed
from edgeinfer.runtime.codec.body import parted
from edgeinfer.runtime.codec.head import REFERENCES, ColumnHead, Rule, decode_head, rules
from edgeinfer.runtime.codec.model import Model, Prediction, restored, uncounted
from edgeinfer.runtime.codec.reals import Form
from edgeinfer.runtime.codec.table import Column, Field, Lengths, Objects, Table, Type
from edgeinfer.runtime.errors import CodecError

__all__ = ["check_column", "checked_objects", "unpack_table"]

Integers = npt.NDArray[np.int64]

_NONE: Integers = np.zeros(0, dtype=np.int64)
# Needed whatever is asked for: they say what belongs to what.
_ALWAYS = frozenset({REFERENCES.name, "items", "boxed"})
_PREDICTIONS = tuple(Prediction)
# Members of an enumeration are slow to look up.
_OBJECT, _NO_FORM = Type.OBJECT, Form.NONE
_FORMS = tuple(Form)
# Of `ColumnHead.how`, from its lowest bit on: the prediction, the sign, and the form, which is 0 of integers alone.
# Above these is the fold: at most 2, so that all of it is less than the last one.
_PREDICTION, _SIGNED, _FORM, _MAX_HOW = 3, 4, 3 << 3, 3 << 5


class _Placed(msgspec.Struct, frozen=True, gc=False):
    """A column of numbers: row `row` of the group whose first column is number `group`; from `start` on in the streams
    if it `is_streamed`."""

    field: Field
    group: int
    row: int
    model: Model
    form: Form
    length: int
    numbers: Numbers
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
    placed, streamed = _placed(rules(schema, lengths), head.columns, lengths)
    reader = BitReader(streamed, parts.unary, parts.low)
    values = _values(placed if names is None else _needed(placed, names), reader)
    _check_counts(lengths, values)
    objects = checked_objects(schema, lengths, head.objects)
    forms = {one.field.name: one.form for one in placed}
    columns = [
        Column(field, values.get(field.name, _NONE), forms.get(field.name, _NO_FORM), objects.get(field.name, []))
        for field in schema
        if names is None or field.name in names
    ]
    return Table(lengths, tuple(columns))


def _placed(
    rules: Sequence[Rule], heads: Sequence[ColumnHead], lengths: Lengths
) -> tuple[list[_Placed], list[Streamed]]:
    """All columns, and what the streams hold of them. Raises CodecError for heads that make no sense."""
    placed: list[_Placed] = []
    streamed: list[Streamed] = []
    start = 0
    for rule, head in zip(rules, heads, strict=True):
        check_column(rule, head)
        field, axis, _, _, first, last = rule
        how, minus, numbers, length = head.how, head.minus, head.numbers, lengths[axis]
        is_signed = how & _SIGNED != 0
        row = minus - 1 - first if minus else -1
        model = Model(_PREDICTIONS[how & _PREDICTION], row, head.start, head.base, head.factor, is_signed)
        form = _FORMS[(how & _FORM) >> 3]
        begin, is_streamed = start, False
        if isinstance(numbers, list):
            check_listed(numbers, length)
        elif numbers:
            streamed.append(Streamed(numbers, how >> 5, length))
            is_streamed = True
            start += length
        placed.append(_Placed(field, first, last - first, model, form, length, numbers, begin, is_streamed))
    return placed, streamed


def check_column(rule: Rule, head: ColumnHead) -> None:
    """Raises CodecError for a column that is modelled as none of its kind can be."""
    how, minus = head.how, head.minus
    if minus and not rule.first < minus <= rule.last:
        raise CodecError(f"column {rule.last + 1} of the chunk has one taken off that is not before it: {minus}")
    if how & _PREDICTION > rule.most:
        raise CodecError(f"column {rule.last + 1} of the chunk cannot have prediction {how & _PREDICTION}")
    if not 0 <= how < _MAX_HOW or (how & _FORM == 0) != rule.is_integer:
        raise CodecError(f"the column {rule.field.name[:20]!r} has numbers of another type than it says")


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
        values.update(zip([one.field.name for one in group], rows, strict=True))
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
    numbers = reader.numbers(0, max([one.start + one.length for one in placed if one.is_streamed], default=0))
    naturals = np.zeros(sum([one.length for one in placed]), dtype=np.uint64)
    places: list[int] = []
    listed: list[int] = []
    stop = 0
    for one in placed:
        start, stop = stop, stop + one.length
        if one.is_streamed:
            naturals[start:stop] = numbers[one.start : one.start + one.length]
        elif isinstance(one.numbers, list):
            places += [start + place for place in one.numbers[::2]]
            listed += one.numbers[1::2]
    if places:
        naturals[places] = listed
    return naturals


def _check_counts(lengths: Lengths, values: Mapping[str, Integers]) -> None:
    """Every item belongs to a result, every box to an item."""
    _, _, items, boxes = lengths
    for name, total, most in (("items", items, items), ("boxed", boxes, 1)):
        counts = values.get(name, _NONE)
        # Of numbers in this range no sum wraps around.
        if len(counts) and not 0 <= int(np.minimum.reduce(counts)) <= int(np.maximum.reduce(counts)) <= most:
            raise CodecError(f"expected 0 to {most} in the column {name!r}")
        found = int(np.add.reduce(counts))
        if found != total:
            raise CodecError(f"expected {total} in all in the column {name!r}, found {found}")


def checked_objects(schema: Sequence[Field], lengths: Lengths, found: Sequence[Objects]) -> dict[str, Objects]:
    """By column. Raises CodecError for those that are at no place, or not in order."""
    if not found:
        return {}
    fields = [field for field in schema if field.type is _OBJECT]
    if len(found) != len(fields):
        raise CodecError(f"expected {len(fields)} columns of objects in the chunk, found {len(found)}")
    for field, objects in zip(fields, found, strict=True):
        edges = [-1, *(place for place, _ in objects), lengths[field.axis]]
        if not all(before < after for before, after in pairwise(edges)):
            raise CodecError(f"the column {field.name[:20]!r} has objects out of order")
    return {field.name: objects for field, objects in zip(fields, found, strict=True)}
