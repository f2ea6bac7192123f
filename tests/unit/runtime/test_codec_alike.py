"""Items that are all alike are read at once: to the same numbers as one by one, and no others are taken for such."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.runtime.chunk import PACKED
from edgeinfer.runtime.codec import decode, encode
from edgeinfer.runtime.codec.alike import boxed_alike
from edgeinfer.runtime.errors import CodecError
from edgeinfer.runtime.results import Item, Kind, Result

BOX = (0.25, 0.5, 0.75, 1.0)
numbers = st.floats()
alike = st.builds(Item, st.integers(0, 127), numbers, st.tuples(numbers, numbers, numbers, numbers))


@given(st.lists(alike, min_size=1, max_size=40))
def test_each_number_is_that_of_its_item(items: list[Item]) -> None:
    found = boxed_alike(items)
    assert found is not None
    labels, reals = found
    assert labels.tolist() == [item.label for item in items]
    wanted = [(item.score, *(item.box or ())) for item in items]
    np.testing.assert_array_equal(reals.T, np.array(wanted))


@pytest.mark.parametrize("count", [1, 15, 16, 17, 65_535, 65_536])
def test_however_many_there_are(count: int) -> None:
    found = boxed_alike([Item(number % 128, number / count, BOX) for number in range(count)])
    assert found is not None
    labels, reals = found
    assert labels.tolist() == [number % 128 for number in range(count)]
    assert reals[0].tolist() == [number / count for number in range(count)]
    assert reals[1:, -1].tolist() == list(BOX)


# What types forbid, and what a model may well put out.
OTHERS: list[tuple[Any, ...]] = [
    (128, 0.5, BOX),
    (-1, 0.5, BOX),
    (1 << 70, 0.5, BOX),
    (True, 0.5, BOX),
    (1.0, 0.5, BOX),
    ("a", 0.5, BOX),
    (1, 1, BOX),
    (1, "12345678", BOX),
    (1, 0.5, None),
    (1, 0.5, ()),
    (1, 0.5, (0.0, 0.0, 1.0)),
    (1, 0.5, (0.0, 0.0, 1.0, 1)),
    (1, 0.5, (0.0, 0.0, 1.0, 1.0, 1.0)),
    (1, object(), BOX),
    (1, np.float64(0.5), BOX),
    (1, 0.5, (0.0, 0.0, 1.0, np.float32(1.0))),
]


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("before", [0, 1, 20])
def test_another_one_among_them_is_found(other: tuple[Any, ...], before: int) -> None:
    items = [Item(1, 0.5, BOX)] * before + [Item(*other)] + [Item(2, 0.5, BOX)]
    assert boxed_alike(items) is None


def test_others_that_are_as_long_in_all_are_found() -> None:
    longer, shorter = Item(128, 0.5, BOX), Item(1, 1, BOX)
    for items in ([*[longer] * 8, shorter], [shorter, *[longer] * 8], [*[longer] * 4, shorter, *[longer] * 4]):
        assert boxed_alike(items) is None


def test_no_items_are_not_alike() -> None:
    assert boxed_alike([]) is None


@given(st.lists(alike, min_size=1, max_size=20), st.integers(128, 1000))
def test_both_ways_make_the_same_chunk(items: list[Item], label: int) -> None:
    """A large label makes all of them be read one by one, and is the only difference."""
    at_once = Result(Kind.DETECTION, 1, items=tuple(items))
    one_by_one = Result(Kind.DETECTION, 1, items=(*items, Item(label, 0.5, BOX)))
    found = [kept(result).items[: len(items)] for result in (at_once, one_by_one)]
    # As text, for what is not a number.
    assert repr(found[0]) == repr(found[1])


def kept(result: Result) -> Result:
    (found,) = decode(PACKED, encode([result]), n=1)
    return found


def test_what_is_no_item_is_still_refused() -> None:
    with pytest.raises(CodecError):
        encode([Result(Kind.DETECTION, 1, items=(Item(1 << 64, 0.5, BOX),))])
    assert math.isnan(kept(Result(Kind.DETECTION, 1, items=(Item(1, math.nan, BOX),))).items[0].score)
