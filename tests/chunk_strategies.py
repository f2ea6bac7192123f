"""Results of every shape for property tests, and what a codec may do to them."""

import math

import msgspec
from hypothesis import strategies as st

from edgeinfer.runtime.results import Item, Kind, Result

__all__ = ["INT64", "REALS", "UNIT", "assert_close", "results"]

INT64 = st.one_of(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(-3, 3), st.integers(0, 100_000))
UNIT = st.floats(0.0, 1.0)
REALS = st.one_of(UNIT, st.floats(), st.floats(width=32))
EXTRAS = st.dictionaries(
    st.text(max_size=8),
    st.one_of(st.integers(-(1 << 63), (1 << 64) - 1), st.floats(allow_nan=False), st.text(max_size=12)),
    max_size=4,
)
# A fixed step is 1/65536 (codec 1: 1/65535), shown with six decimals; a score has 16 significant bits, shown with six
# digits.
_ABSOLUTE = 1 / 65_535 / 2 + 1e-6
_RELATIVE = 1 / 65_536 + 5e-6
_LARGEST = 3.4e38


def results(
    reals: st.SearchStrategy[float] = REALS, *, items: int = 4, most: int = 40
) -> st.SearchStrategy[list[Result]]:
    item = st.builds(Item, INT64, reals, st.one_of(st.none(), st.tuples(reals, reals, reals, reals)))
    return st.lists(
        st.builds(
            Result,
            st.sampled_from(Kind),
            INT64,
            INT64,
            INT64,
            INT64,
            st.lists(item, max_size=items).map(tuple),
            st.one_of(st.none(), EXTRAS),
        ),
        min_size=1,
        max_size=most,
    )


def assert_close(found: list[Result], wanted: list[Result]) -> None:
    """The same but for the last bits of real numbers."""
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert msgspec.structs.replace(one, items=()) == msgspec.structs.replace(other, items=())
        assert [item.label for item in one.items] == [item.label for item in other.items]
        for left, right in zip(one.items, other.items, strict=True):
            assert (left.box is None) == (right.box is None)
            for a, b in zip((left.score, *(left.box or ())), (right.score, *(right.box or ())), strict=True):
                assert is_close(a, b), (a, b)


def is_close(found: float, wanted: float) -> bool:
    if math.isnan(wanted) or math.isnan(found):
        return math.isnan(wanted) and math.isnan(found)
    if math.isinf(found):
        return abs(wanted) > _LARGEST and (wanted > 0) == (found > 0)
    return abs(found - wanted) <= _ABSOLUTE + _RELATIVE * abs(wanted)
