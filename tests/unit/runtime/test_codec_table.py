"""Chunks as tables: columns that nobody here knows are read, cut and written again."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunk_strategies import INT64, assert_close, results
from edgeinfer.runtime.codec import (
    COLUMNS,
    JSON,
    PACKED,
    Axis,
    Column,
    Field,
    Table,
    Type,
    decode,
    decode_table,
    encode,
    encode_table,
    split,
    summarize,
)
from edgeinfer.runtime.codec.reals import Form
from edgeinfer.runtime.codec.table import STANDARD
from edgeinfer.runtime.errors import CodecError
from edgeinfer.runtime.results import Item, Kind, Result

FORMS = {Type.INTEGER: [Form.NONE], Type.REAL: [Form.FIXED, Form.FLOAT32, Form.FLOAT64]}
OBJECTS = st.recursive(
    st.one_of(st.none(), st.booleans(), INT64, st.floats(allow_nan=False), st.text(max_size=9), st.binary(max_size=9)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)


def with_columns(table: Table, *columns: Column) -> Table:
    return Table(table.lengths, (*table.columns, *columns))


@st.composite
def strangers(draw: st.DrawFn) -> tuple[list[Result], Table]:
    """Results, and their table with columns that no result has, in between and at the end."""
    given_ = draw(results(items=3, most=20))
    table = decode_table(PACKED, encode(given_), n=len(given_))
    columns = list(table.columns)
    for number in range(draw(st.integers(1, 5))):
        axis, type_ = draw(st.sampled_from(Axis)), draw(st.sampled_from(Type))
        length = table.lengths[axis]
        field = Field(f"new {number}", axis, type_)
        if type_ is Type.OBJECT:
            places = sorted(draw(st.sets(st.integers(0, length - 1), max_size=4))) if length else []
            column = Column(field, objects=[(p, msgspec.Raw(msgspec.msgpack.encode(draw(OBJECTS)))) for p in places])
        else:
            values = draw(st.lists(INT64, min_size=length, max_size=length))
            form = draw(st.sampled_from(FORMS[type_])) if length else Form.NONE
            column = Column(field, np.array(values, dtype=np.int64), form)
        columns.insert(draw(st.integers(0, len(columns))), column)
    return given_, Table(table.lengths, tuple(columns))


def assert_same(found: Table, wanted: Table) -> None:
    assert found.lengths == wanted.lengths
    for one, other in zip(found.columns, wanted.columns, strict=True):
        assert (one.field, one.form) == (other.field, other.form)
        assert one.values.tolist() == other.values.tolist()
        assert [(place, bytes(value)) for place, value in one.objects] == [
            (place, bytes(value)) for place, value in other.objects
        ]


@settings(max_examples=200)
@given(strangers())
def test_unknown_columns_survive_and_disturb_nobody(given_: tuple[list[Result], Table]) -> None:
    wanted, table = given_
    body = encode_table(table)
    assert_same(decode_table(PACKED, body, n=len(wanted)), table)
    assert_close(decode(PACKED, body, n=len(wanted)), wanted)
    assert summarize(PACKED, body, n=len(wanted)).t_ns.tolist() == [result.t_ns for result in wanted]


@settings(max_examples=200)
@given(strangers(), st.integers(0, 1 << 20))
def test_unknown_columns_are_cut_where_the_results_are(given_: tuple[list[Result], Table], cut: int) -> None:
    wanted, table = given_
    n = len(wanted)
    if n == 1:
        return
    at = 1 + cut % (n - 1)
    first, rest = split(PACKED, encode_table(table), n=n, at=at)
    parts = decode_table(PACKED, first, n=at), decode_table(PACKED, rest, n=n - at)
    assert_close(decode(PACKED, first, n=at) + decode(PACKED, rest, n=n - at), wanted)
    for column in table.columns:
        one, other = (part.column(column.field.name) for part in parts)
        if column.field.axis is Axis.CHUNK:
            assert one.values.tolist() == other.values.tolist() == column.values.tolist()
            assert [bytes(value) for _, value in one.objects] == [bytes(value) for _, value in column.objects]
            continue
        assert [*one.values.tolist(), *other.values.tolist()] == column.values.tolist()
        start = parts[0].lengths[column.field.axis]
        joined = [*one.objects, *((place + start, value) for place, value in other.objects)]
        assert [(place, bytes(value)) for place, value in joined] == [
            (place, bytes(value)) for place, value in column.objects
        ]


@pytest.mark.parametrize("codec", [COLUMNS, JSON, PACKED])
def test_any_codec_is_a_table(codec: int) -> None:
    given_ = [
        Result(Kind.DETECTION, 5 + i, items=(Item(i, 0.5), Item(2, 0.25, (0.0, 0.25, 0.5, 1.0)))) for i in range(3)
    ]
    table = decode_table(codec, encode(given_, codec), n=3)
    assert table.lengths == (1, 3, 6, 3)
    assert tuple(column.field for column in table.columns) == STANDARD
    assert table.column("label").values.tolist() == [0, 2, 1, 2, 2, 2]
    assert_close(decode(PACKED, encode_table(table), n=3), given_)


def test_a_table_that_could_not_be_read_again_is_not_written() -> None:
    table = decode_table(PACKED, encode([Result(Kind.EVENT, 1)] * 3), n=3)
    number = np.zeros(3, dtype=np.int64)
    for field, message in (
        (Field("t", Axis.RESULT, Type.INTEGER), "different names"),
        (Field("", Axis.RESULT, Type.INTEGER), "name"),
        (Field("x" * 65, Axis.RESULT, Type.INTEGER), "name"),
    ):
        with pytest.raises(CodecError, match=message):
            encode_table(with_columns(table, Column(field, number)))
    many = [Column(Field(f"n{i}", Axis.RESULT, Type.INTEGER), number) for i in range(51)]
    with pytest.raises(CodecError, match="at most 64 columns"):
        encode_table(with_columns(table, *many))
    assert len(decode(PACKED, encode_table(with_columns(table, *many[:50])), n=3)) == 3
    with pytest.raises(CodecError, match="lacks the column 'extra'"):
        encode_table(Table(table.lengths, table.columns[:-1]))
    for strange, message in (
        (Column(Field("x", Axis.RESULT, Type.INTEGER), number[:2]), "expected 3 values"),
        (Column(Field("x", Axis.RESULT, Type.REAL), number), "a form"),
        (Column(Field("x", Axis.RESULT, Type.INTEGER), number, Form.FIXED), "a form"),
        (Column(Field("x", Axis.RESULT, Type.OBJECT), objects=[(3, msgspec.Raw(b"\x01"))]), "out of order"),
        (Column(Field("x", Axis.RESULT, Type.OBJECT), objects=[(1, msgspec.Raw(b"\x01"))] * 2), "out of order"),
    ):
        with pytest.raises(CodecError, match=message):
            encode_table(with_columns(table, strange))


def test_columns_in_another_order_are_the_same_results() -> None:
    given_ = [
        Result(Kind.KEYPOINTS, 5 + i, i, 7, 9, (Item(0, 0.5, (i / 8, i / 16, i / 8, i / 16)),), {"i": i})
        for i in range(8)
    ]
    table = decode_table(PACKED, encode(given_), n=8)
    body = encode_table(Table(table.lengths, table.columns[::-1]))
    assert decode(PACKED, body, n=8) == decode(PACKED, encode(given_), n=8)


def test_unknown_kinds_are_a_table_but_no_results() -> None:
    table = decode_table(PACKED, encode([Result(Kind.EVENT, 1)]), n=1)
    strange = Column(STANDARD[0], np.array([99], dtype=np.int64))
    body = encode_table(Table(table.lengths, (strange, *table.columns[1:])))
    assert decode_table(PACKED, body, n=1).column("kind").values.tolist() == [99]
    for reads in (decode, summarize):
        with pytest.raises(CodecError, match="kind"):
            reads(PACKED, body, n=1)


def test_extras_of_another_shape_are_a_table_but_no_results() -> None:
    table = decode_table(PACKED, encode([Result(Kind.EVENT, 1)]), n=1)
    strange = Column(STANDARD[-1], objects=[(0, msgspec.Raw(msgspec.msgpack.encode({"nested": {"a": 1}})))])
    body = encode_table(Table(table.lengths, (*table.columns[:-1], strange)))
    assert bytes(decode_table(PACKED, body, n=1).column("extra").objects[0][1]) == bytes(strange.objects[0][1])
    for reads in (decode, summarize):
        with pytest.raises(CodecError, match="extra"):
            reads(PACKED, body, n=1)
