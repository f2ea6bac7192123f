"""Codec PACKED, one way: a table becomes a body. docs/chunk-format.md is the layout."""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.codec.bits import Numbers, pack_numbers
from edgeinfer.runtime.codec.body import joined
from edgeinfer.runtime.codec.choice import find_references, items_modelled, modelled
from edgeinfer.runtime.codec.head import REFERENCES, ColumnHead, check_lengths, check_schema, encode_head, grouped
from edgeinfer.runtime.codec.limits import MAX_RAW_BYTES
from edgeinfer.runtime.codec.model import Model, divided, natural
from edgeinfer.runtime.codec.reals import Form
from edgeinfer.runtime.codec.table import COORDINATES, Column, Field, Lengths, Table, Type

__all__ = ["pack_table"]

Integers = npt.NDArray[np.int64]

# The next label is as bad as a box that is off by this much, in steps of 1/65536.
_OTHER_LABEL = 3_000
# What counts up, and what begins where another column ends.
_COUNTING = ("t", "frame")
_MINUS = (("age", "latency"), ("x2", "x1"), ("y2", "y1"))

# Members of an enumeration are slow to look up.
_OBJECT, _NO_FORM = Type.OBJECT, Form.NONE


def pack_table(table: Table) -> bytes:
    """Raises CodecError for what could not be unpacked again, as it is too large."""
    schema, lengths = table.schema, table.lengths
    check_schema(schema)
    check_lengths(schema, lengths)
    columns = {column.field.name: column for column in table.columns}
    groups = grouped(schema, lengths)
    packed = [divided(left, models) for models, left in (_modelled(group, columns, lengths) for group in groups)]
    counts = [rows.shape[1] for _, rows in packed for _ in range(len(rows))]
    naturals = natural(np.concatenate([rows.reshape(-1) for _, rows in packed]))
    numbers, unary, low = pack_numbers(naturals, counts, max_bytes=MAX_RAW_BYTES)
    heads = _column_heads(groups, [models for models, _ in packed], columns, iter(numbers))
    objects = [column.objects for column in table.columns if column.field.type is _OBJECT]
    return joined(encode_head(schema, lengths, heads, objects), unary, low)


def _modelled(fields: tuple[Field, ...], columns: dict[str, Column], lengths: Lengths) -> tuple[list[Model], Integers]:
    counting, minus = _usual(fields)
    rows = np.empty((len(fields), lengths[fields[0].axis]), dtype=np.int64)
    refers = fields[0] is REFERENCES
    np.concatenate([columns[field.name].values for field in fields[refers:]], out=rows[refers:].reshape(-1))
    if refers:
        rows[0] = _references(columns, lengths, has_boxes="x1" in [field.name for field in fields])
        return items_modelled(rows, minus=minus)
    return modelled(rows, counting=counting, minus=minus)


@lru_cache(maxsize=64)
def _usual(fields: tuple[Field, ...]) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    """The rows that count up, and those that have another one before them taken off, with it."""
    row = {field.name: row for row, field in enumerate(fields)}
    minus = [(row[one], row[other]) for one, other in _MINUS if one in row and row.get(other, len(row)) < row[one]]
    return tuple([row[name] for name in _COUNTING if name in row]), tuple(minus)


def _references(columns: dict[str, Column], lengths: Lengths, *, has_boxes: bool) -> Integers:
    """By label, box and score; of items without boxes, by label alone: a score like an earlier one tells nothing."""
    _, results, items, _ = lengths
    features = np.empty((4 if has_boxes else 1, items), dtype=np.int64)
    np.multiply(columns["label"].values, _OTHER_LABEL, out=features[0])
    if has_boxes:
        x1, y1, x2, y2 = [columns[name].values for name in COORDINATES]
        np.add(x1, columns["score"].values, out=features[1])
        features[2] = y1
        np.add(x2, y2, out=features[3])
    return find_references(features, usual=round(items / results))


def _column_heads(
    groups: Sequence[Sequence[Field]],
    models: Sequence[Sequence[Model]],
    columns: dict[str, Column],
    numbers: Iterator[tuple[Numbers, int]],
) -> list[ColumnHead]:
    heads: list[ColumnHead] = []
    for fields, theirs in zip(groups, models, strict=True):
        first = len(heads)
        for field, model in zip(fields, theirs, strict=True):
            found, fold = next(numbers)
            form = _NO_FORM if field is REFERENCES else columns[field.name].form
            how = model.prediction | model.signed << 2 | form << 3 | fold << 5
            minus = first + model.minus + 1 if model.minus >= 0 else 0
            heads.append(ColumnHead(how, model.base, found, model.start, minus, model.factor))
    return heads
