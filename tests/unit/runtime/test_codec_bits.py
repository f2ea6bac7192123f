"""Numbers as bits: classes, ranks, streams."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.runtime.codec.bits import BitReader, Naturals, Streamed, bit_lengths, check_listed, pack_numbers
from edgeinfer.runtime.errors import CodecError

NATURAL = st.one_of(st.integers(0, 3), st.integers(0, 1 << 20), st.integers(0, (1 << 64) - 1))
COLUMN = st.one_of(
    st.lists(NATURAL, min_size=1, max_size=80),
    st.builds(lambda value, count: [value] * count, NATURAL, st.integers(1, 80)),
)


def naturals(values: list[int]) -> Naturals:
    return np.array(values, dtype=np.uint64)


@given(st.lists(NATURAL, min_size=1))
def test_lengths_are_those_of_python(values: list[int]) -> None:
    assert bit_lengths(naturals(values)).tolist() == [value.bit_length() for value in values]


@pytest.mark.parametrize("bit", range(64))
def test_lengths_around_each_power_of_two(bit: int) -> None:
    values = [max(0, (1 << bit) - 1), 1 << bit, min((1 << bit) + 1, (1 << 64) - 1), (1 << (bit + 1)) - 1]
    assert bit_lengths(naturals(values)).tolist() == [value.bit_length() for value in values]


@given(st.lists(COLUMN, min_size=1, max_size=6))
def test_what_is_packed_is_read(columns: list[list[int]]) -> None:
    counts = [len(column) for column in columns]
    numbers, unary, low = pack_numbers(
        naturals([value for column in columns for value in column]), counts, max_bytes=9999
    )
    streamed = [
        Streamed(table, fold, count)
        for (table, fold), count in zip(numbers, counts, strict=True)
        if isinstance(table, bytes) and table
    ]
    reader = BitReader(streamed, unary, low)
    start = 0
    for column, (found, _) in zip(columns, numbers, strict=True):
        wanted = [0] * len(column)
        if isinstance(found, list):
            check_listed(found, len(column))
            for place, number in zip(found[::2], found[1::2], strict=True):
                wanted[place] = number
        elif found:
            wanted = reader.numbers(start, start + len(column)).tolist()
            start += len(column)
        assert wanted == column


def test_more_bits_than_allowed_are_refused() -> None:
    with pytest.raises(CodecError, match="at most 100 bytes"):
        pack_numbers(naturals([(1 << 64) - 1 - i for i in range(100)]), [100], max_bytes=100)


@pytest.mark.parametrize(
    ("column", "unary", "low"),
    [
        ((b"\x03", 0, 2), b"\xc0", b""),  # two numbers of class 3 have two low bits each
        ((b"\x03", 0, 2), b"\xc0", b"\x00\x00"),
        ((b"\x03", 2, 2), b"\xc0", b""),  # and two bits of their ranks each
        ((b"\x03", 0, 3), b"\xc0", b"\x00"),  # only two numbers
        ((b"\x03", 0, 1), b"\xc0", b"\x00"),
        ((b"\x03", 0, 2), b"\xc0\x00", b"\x00"),  # a byte of nothing
        ((b"\x03\x05", 0, 2), b"\x90", b""),  # rank 2 of two classes
        ((b"\x03\x05", 1, 1), b"\x40", b"\x00"),
        ((b"\x41", 0, 1), b"\x80", b""),  # no number has 65 bits
        ((b"\x41\x00", 0, 1), b"\x80", b""),
        ((b"\x00", 0, 1), bytes(9) + b"\x01", b""),  # rank 79
        ((b"\x00", 2, 1), bytes(7) + b"\x01", b"\x00"),  # rank 252
        ((b"\x00", 0, 1), b"", b""),
        ((bytes(range(65)) + b"\x00", 0, 1), bytes(8) + b"\x40", b""),  # rank 65
    ],
)
def test_streams_that_do_not_fit_are_refused(column: tuple[bytes, int, int], unary: bytes, low: bytes) -> None:
    with pytest.raises(CodecError):
        BitReader([Streamed(*column)], unary, low).numbers(0, column[2])


@pytest.mark.parametrize("unary", [b"\xff" * (4 << 20), bytes(4 << 20) + b"\x01"], ids=["too many", "too far"])
def test_no_memory_is_taken_for_more_numbers_than_the_columns_have(unary: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(CodecError, match="expected 1 numbers"):
            BitReader([Streamed(b"\x00", 0, 1)], unary, b"")
        assert tracemalloc.get_traced_memory()[1] < 4 * len(unary)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("numbers", [[1], [0, 1, 2], [5, 1], [-1, 1], [0, -1]])
def test_lists_that_do_not_fit_are_refused(numbers: list[int]) -> None:
    with pytest.raises(CodecError, match="lists numbers"):
        check_listed(numbers, 5)
