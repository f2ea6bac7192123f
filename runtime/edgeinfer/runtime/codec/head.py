"""The head of a packed chunk: which columns there are, how long, and how each is modelled. MessagePack, laid out as
docs/chunk-format.md says."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, NamedTuple

import msgspec

from edgeinfer.runtime.codec.bits import CLASSES
from edgeinfer.runtime.codec.limits import (
    MAX_COLUMNS,
    MAX_HEAD_BYTES,
    MAX_ITEMS,
    MAX_LISTED,
    MAX_NUMBERS,
    MAX_RESULTS,
)
from edgeinfer.runtime.codec.model import Prediction
from edgeinfer.runtime.codec.table import STANDARD, Axis, Field, Lengths, Objects, Type
from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.errors import CodecError

__all__ = [
    "REFERENCES",
    "STANDARD_ID",
    "ColumnHead",
    "Head",
    "Rule",
    "check_lengths",
    "check_schema",
    "decode_head",
    "encode_head",
    "grouped",
    "rules",
    "schema_text",
]

# The first two bytes of the SHA-256 of `schema_text(STANDARD)`.
STANDARD_ID = 0x5C75
# Nobody's column: by how many items the likeness of each item precedes it.
REFERENCES = Field("", Axis.ITEM, Type.INTEGER)

_Signed = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
_Factor = Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]
_Classes = Annotated[bytes, msgspec.Meta(max_length=CLASSES)]
_Listed = Annotated[list[int], msgspec.Meta(max_length=2 * MAX_LISTED)]
_MAX_NAME = 64
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=_MAX_NAME)]
_Schema = Annotated[list[tuple[_Name, Axis, Type]], msgspec.Meta(min_length=1, max_length=MAX_COLUMNS)]


class ColumnHead(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`how`: prediction, plus 4 for signed, 8 times the form, 32 times the fold. `minus`: the place of another column
    among these, from 1. `numbers`: the classes by rank of those in the streams, one a byte; or, where few are not 0,
    place, number, place, number, ...; or no bytes, where all are 0."""

    how: int
    base: _Signed = 0
    numbers: _Classes | _Listed = b""
    start: _Signed = 0
    minus: int = 0
    factor: _Factor = 1


class Head(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`columns`: those that are `placed`. `objects`: for each field of that type, those that there are."""

    schema: int | _Schema
    results: int
    items: int
    boxes: int
    columns: Annotated[list[ColumnHead], msgspec.Meta(max_length=MAX_COLUMNS + 1)]
    objects: Annotated[list[Objects], msgspec.Meta(max_length=MAX_COLUMNS)] = []

    @property
    def lengths(self) -> Lengths:
        return 1, self.results, self.items, self.boxes

    def fields(self) -> tuple[Field, ...]:
        """Raises CodecError for a schema that is not known here."""
        if self.schema == STANDARD_ID:
            return STANDARD
        if isinstance(self.schema, int):
            raise CodecError(f"the chunk has columns that are not known here: schema {self.schema:#06x}")
        fields = tuple([Field(*field) for field in self.schema])
        check_schema(fields)
        return fields


_decoder = msgspec.msgpack.Decoder(Head)
_encoder = msgspec.msgpack.Encoder()


def schema_text(schema: Sequence[Field]) -> str:
    """What the id of a schema is the hash of: a line a column, `name axis type`."""
    return "".join(f"{field.name} {field.axis.name.lower()} {field.type.name.lower()}\n" for field in schema)


def grouped(schema: tuple[Field, ...], lengths: Lengths) -> tuple[tuple[Field, ...], ...]:
    """The columns of numbers that have any, in the order in which these lie in a chunk; those together that are
    modelled together: by axis, the references before the others along items, and boxes with items where each has one.
    """
    _, _, items, boxes = lengths
    return _grouped(schema, items > 0, boxes > 0, items == boxes)


@lru_cache(maxsize=64)
def _grouped(
    schema: tuple[Field, ...], has_items: bool, has_boxes: bool, together: bool
) -> tuple[tuple[Field, ...], ...]:
    numeric = [field for field in schema if field.type is not Type.OBJECT]
    axes = [[field for field in numeric if field.axis is axis] for axis in Axis]
    items = [REFERENCES, *axes[Axis.ITEM]] if has_items else []
    boxes = axes[Axis.BOX] if has_boxes else []
    groups = (
        [axes[Axis.CHUNK], axes[Axis.RESULT], items + boxes]
        if together
        else [axes[Axis.CHUNK], axes[Axis.RESULT], items, boxes]
    )
    return tuple([tuple(group) for group in groups if group])


class Rule(NamedTuple):
    """How a column may be modelled: with predictions up to `most`, and with one taken off whose place, from 1, is above
    `first` and at most `last`: with those of its group that are before it."""

    field: Field
    axis: int
    is_integer: bool
    most: int
    first: int
    last: int


def rules(schema: tuple[Field, ...], lengths: Lengths) -> tuple[Rule, ...]:
    """Of each column that is `grouped`, in turn."""
    return _rules(grouped(schema, lengths))


@lru_cache(maxsize=64)
def _rules(groups: tuple[tuple[Field, ...], ...]) -> tuple[Rule, ...]:
    found: list[Rule] = []
    for fields in groups:
        first = len(found)
        for row, field in enumerate(fields):
            most = Prediction.REFERENCE if row and fields[0] is REFERENCES else Prediction.PREVIOUS
            found.append(Rule(field, int(field.axis), field.type is Type.INTEGER, int(most), first, first + row))
    return tuple(found)


def check_schema(schema: Sequence[Field]) -> None:
    """Raises CodecError unless all the standard columns are among these, and no two of one name."""
    if schema == STANDARD:
        return
    for field in STANDARD:
        if field not in schema:
            raise CodecError(f"the chunk lacks the column {field.name!r} along {field.axis.name}")
    if len(schema) > MAX_COLUMNS or len({field.name for field in schema}) != len(schema):
        raise CodecError(f"expected at most {MAX_COLUMNS} columns of different names in the chunk")
    if not all(1 <= len(field.name) <= _MAX_NAME for field in schema):
        raise CodecError(f"expected names of columns of 1 to {_MAX_NAME} characters")


def check_lengths(schema: tuple[Field, ...], lengths: Lengths) -> None:
    """Raises CodecError for more than a chunk may hold."""
    _, results, items, boxes = lengths
    if not (1 <= results <= MAX_RESULTS and 0 <= boxes <= items <= MAX_ITEMS):
        raise CodecError(f"expected at most {MAX_RESULTS} results and {MAX_ITEMS} items, found {results} and {items}")
    numbers = sum([len(group) * lengths[group[0].axis] for group in grouped(schema, lengths)])
    if numbers > MAX_NUMBERS:
        raise CodecError(f"expected at most {MAX_NUMBERS} numbers in a chunk, found {numbers}")


def encode_head(
    schema: Sequence[Field], lengths: Lengths, columns: Sequence[ColumnHead], objects: Sequence[Objects]
) -> bytes:
    """Raises CodecError for what would be refused as too large."""
    named = STANDARD_ID if schema == STANDARD else [(field.name, field.axis, field.type) for field in schema]
    document = (named, *lengths[1:], [_without_defaults(column) for column in columns])
    raw = _encoder.encode((*document, objects) if any(objects) else document)
    if len(raw) > MAX_HEAD_BYTES:
        raise CodecError(f"expected at most {MAX_HEAD_BYTES} bytes of columns and extras, found {len(raw)}")
    return raw


def _without_defaults(column: ColumnHead) -> tuple[object, ...]:
    if column.factor != 1 or column.minus:
        return (column.how, column.base, column.numbers, column.start, column.minus, column.factor)
    if column.start:
        return (column.how, column.base, column.numbers, column.start)
    return (column.how, column.base, column.numbers) if column.numbers else (column.how, column.base)


def decode_head(raw: bytes) -> Head:
    """Raises CodecError for what is no head, or claims more than a chunk may hold."""
    try:
        head = _decoder.decode(raw)
    except MALFORMED as error:
        raise CodecError(f"the chunk's head cannot be decoded: {error}") from error
    lengths = head.lengths
    fields = head.fields()
    check_lengths(fields, lengths)
    columns = len(rules(fields, lengths))
    if columns != len(head.columns):
        raise CodecError(f"expected {columns} columns of numbers in the chunk, found {len(head.columns)}")
    return head
