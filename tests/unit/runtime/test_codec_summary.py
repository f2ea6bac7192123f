"""What a console asks of a chunk in one pass is what reading it says, and it refuses what cannot be read."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeinfer.runtime.codec import PACKED, decode, encode, summarize
from edgeinfer.runtime.codec.body import joined, parted
from edgeinfer.runtime.errors import CodecError
from edgeinfer.runtime.results import Item, Kind, Result

N = 40
BOX = (0.25, 0.5, 0.75, 1.0)


def _rows(*, kinds: tuple[Kind, ...], boxed: tuple[bool, ...]) -> list[Result]:
    return [
        Result(
            kinds[i % len(kinds)], 10**18 + i * 33_000_000 + i * i % 977, i, 4000 + i * 7919 % 997, 9000 + i,
            tuple(Item(label, 0.5 + i % 9 / 50, BOX if has_box else None) for label, has_box in enumerate(boxed)),
        )
        for i in range(N)
    ]  # fmt: skip


CHUNKS = [
    _rows(kinds=(Kind.DETECTION,), boxed=(True, True)),
    _rows(kinds=(Kind.DETECTION, Kind.CLASSIFICATION), boxed=(True, False)),
    _rows(kinds=(Kind.CLASSIFICATION,), boxed=(False,)),
    _rows(kinds=(Kind.FRAMES, Kind.RAW), boxed=()),
]
BODIES = [encode(rows) for rows in CHUNKS]


@pytest.mark.parametrize("number", range(len(CHUNKS)))
def test_it_says_what_the_results_say(number: int) -> None:
    summary = summarize(PACKED, BODIES[number], n=N)
    assert summary.kind.tolist() == [row.kind for row in CHUNKS[number]]
    assert summary.t_ns.tolist() == [row.t_ns for row in CHUNKS[number]]
    assert summary.latency_us.tolist() == [row.latency_us for row in CHUNKS[number]]
    assert {summary.kind.dtype, summary.t_ns.dtype, summary.latency_us.dtype} == {np.dtype(np.int64)}


_INTEGERS = st.sampled_from([0, 1, 2, 3, 4, 5, 7, 8, 33, 64, 96, 255, -1, (1 << 63) - 1, -(1 << 63)]) | st.integers(
    0, 99
)
_NUMBERS = st.binary(max_size=4) | st.lists(st.integers(0, N + 1) | st.integers(0, (1 << 64) - 1), max_size=6)
_PART = st.one_of(
    st.tuples(st.sampled_from([0, 1, 3, 4, 5]), _INTEGERS),  # how, base, start, minus, factor
    st.tuples(st.just(2), _NUMBERS),
)


def _changed(body: bytes, column: int, part: tuple[int, Any], more: list[Any]) -> bytes:
    """The chunk with one part of the model of one column changed, and `more` behind its columns."""
    parts = parted(body)
    head = msgspec.msgpack.decode(parts.head)
    models = head[4]
    model = models[column % len(models)]
    model += [0, 0, b"", 0, 0, 1][len(model) :]
    place, value = part
    model[place] = value
    return joined(msgspec.msgpack.encode([*head[:5], *more]), parts.unary, parts.low)


@given(
    number=st.integers(0, len(BODIES) - 1),
    column=st.integers(0, 13),
    part=_PART,
    more=st.sampled_from([[], [], [], [[]], [[[]]], [[[], []]], [[[[0, {"a": 1}]]]], [[[[0, 1]]]], [[[[N, {}]]]]]),
)
@example(number=0, column=6, part=(1, 3), more=[])
@example(number=0, column=0, part=(1, 99), more=[])
@example(number=0, column=1, part=(4, 1), more=[])
@example(number=2, column=7, part=(1, 1), more=[])
def test_it_takes_what_can_be_read_and_nothing_else(number: int, column: int, part: tuple[int, Any], more: Any) -> None:
    body = _changed(BODIES[number], column, part, more)
    try:
        rows = decode(PACKED, body, n=N)
    except CodecError:
        with pytest.raises(CodecError):
            summarize(PACKED, body, n=N)
        return
    summary = summarize(PACKED, body, n=N)
    assert summary.kind.tolist() == [row.kind for row in rows]
    assert summary.t_ns.tolist() == [row.t_ns for row in rows]
    assert summary.latency_us.tolist() == [row.latency_us for row in rows]
