"""Recorded rows are placed by their time column, whatever stands in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.runtime.series import Placement
from edgeinfer.runtime.sources.timestamps import RecordedTime, parse_time


def places(raw: list[int | None]) -> list[int | None]:
    placement = Placement()
    return [placement.place(one) for one in raw]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ([10, 20, 35], [10, 20, 35]),
        ([10, 20, None, 40], [10, 20, 30, 40]),
        ([None, None, 10, None], [None, None, 10, 10]),
        ([10, 20, 40, 30, 50], [10, 20, 40, 40, 50]),  # two rows changed places
        ([10, 20, 30, 30, 30, 40], [10, 20, 30, 30, 30, 40]),
        ([100, 110, 120, 20, 30, 40], [100, 110, 120, 130, 140, 150]),  # the clock was set back
        ([0, 1, 2, 1000, 4, 5, 6], [0, 1, 2, 1000, 1001, 1002, 1003]),  # one row from the future
        ([0, 1, 2, 1000, 1001], [0, 1, 2, 1000, 1001]),  # a pause
    ],
    ids=["as it is", "no time", "none at first", "swapped", "the same", "set back", "garbage", "pause"],
)
def test_places(raw: list[int | None], expected: list[int | None]) -> None:
    assert places(raw) == expected


@given(st.lists(st.one_of(st.none(), st.integers(-(10**20), 10**20), st.integers(0, 100)), max_size=60))
def test_places_never_go_back(raw: list[int | None]) -> None:
    found = [place for place in places(raw) if place is not None]
    assert found == sorted(found)
    assert len(found) == len(raw) - next((i for i, one in enumerate(raw) if one is not None), len(raw))


@pytest.mark.parametrize(
    ("text", "unit", "place_ns", "is_absolute"),
    [
        ("1970-01-02T00:00:00Z", "s", 86_400 * 10**9, True),
        (" 2020-02-08 13:30:47 ", "s", 1_581_168_647 * 10**9, True),
        ("2013-12-10 06:25:00.000001", "s", 1_386_656_700_000_001_000, True),
        ("2020-02-08T13:30:47+01:00", "s", 1_581_165_047 * 10**9, True),
        ("2020-02-08", "s", 1_581_120_000 * 10**9, True),
        ("1581168647.5", "s", 1_581_168_647_500_000_000, True),
        ("1581168647500", "ms", 1_581_168_647_500_000_000, True),
        ("0.25", "s", 250_000_000, False),
        ("-3", "s", -3 * 10**9, False),
        ("1960-01-01", "s", -315_619_200 * 10**9, False),
    ],
)
def test_times(text: str, unit: str, place_ns: int, is_absolute: bool) -> None:
    found = parse_time(text, unit)  # type: ignore[arg-type]  # one of the units
    assert found == RecordedTime(place_ns, place_ns if is_absolute else None)


@pytest.mark.parametrize(
    "text", ["", "now", "nan", "inf", "1e300", "2020-13-01", "0001-01-01T00:00:00+23:59", "9" * 5000, "\x00"]
)
def test_what_is_no_time(text: str) -> None:
    found = parse_time(text)
    assert found is None or found.t_ns is None


@given(st.text(max_size=40))
def test_any_text_is_a_time_that_fits_or_none(text: str) -> None:
    found = parse_time(text)
    assert found is None or found.t_ns is None or 0 <= found.t_ns < 1 << 63
