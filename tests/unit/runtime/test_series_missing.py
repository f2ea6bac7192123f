"""What stands where a sensor gave nothing, against numpy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.runtime.series.missing import Missing, make_filler
from edgeinfer.runtime.series.rows import Row

NAN = math.nan
CELLS = st.one_of(st.just(NAN), st.floats(-1e6, 1e6))
TABLES = st.lists(st.tuples(CELLS, CELLS), max_size=40)


def filled(
    rows: list[tuple[float, ...]], missing: Missing, *, max_gap: int = 0, patience: int = 1000
) -> list[list[float] | None]:
    """Rows lie 1 apart."""
    filler = make_filler(missing, max_gap_ns=max_gap, patience=patience)
    found = [row for place, values in enumerate(rows) for row in filler.add(Row(place, list(values)))]
    return [None if row is None else row.values for row in found + filler.finish()]


@given(TABLES)
def test_hold_repeats_the_last_value(rows: list[tuple[float, ...]]) -> None:
    last = [0.0, 0.0]
    expected = []
    for row in rows:
        last = [before if math.isnan(value) else value for value, before in zip(row, last, strict=True)]
        expected.append(last)
    assert filled(rows, "hold") == expected


@given(TABLES)
def test_zero_and_drop(rows: list[tuple[float, ...]]) -> None:
    assert filled(rows, "zero") == [[0.0 if math.isnan(value) else value for value in row] for row in rows]
    assert filled(rows, "drop") == [list(row) for row in rows if not any(map(math.isnan, row))]


@given(TABLES)
def test_interpolation_is_that_of_numpy(rows: list[tuple[float, ...]]) -> None:
    found = filled(rows, "interpolate")
    assert len(found) == len(rows)
    table = np.array(rows, dtype=float).reshape(-1, 2)
    for channel in range(2):
        given_ = ~np.isnan(table[:, channel])
        expected = (
            np.interp(np.arange(len(rows)), np.flatnonzero(given_), table[given_, channel])
            if given_.any()
            else np.zeros(len(rows))
        )
        assert np.allclose([row[channel] for row in found if row is not None], expected)


@given(TABLES, st.integers(1, 4), st.sampled_from(["hold", "interpolate", "drop", "zero"]))
def test_rows_come_in_order_and_wait_no_longer_than_they_may(
    rows: list[tuple[float, ...]], patience: int, missing: Missing
) -> None:
    filler = make_filler(missing, max_gap_ns=0, patience=patience)
    given_ = 0
    for place, values in enumerate(rows):
        out = filler.add(Row(place, list(values)))
        assert all(row is not None and all(map(math.isfinite, row.values)) for row in out)
        places = [row.place_ns for row in out if row is not None]
        assert places == sorted(places)
        given_ += len(out)
        if missing != "drop":
            assert place + 1 - given_ <= patience
    if missing != "drop":
        assert given_ + len(filler.finish()) == len(rows)


@given(st.lists(CELLS, max_size=40), st.integers(1, 5), st.sampled_from(["hold", "interpolate", "zero"]))
def test_rows_in_too_long_a_gap_are_unusable(cells: list[float], max_gap: int, missing: Missing) -> None:
    found = filled([(cell,) for cell in cells], missing, max_gap=max_gap)
    assert len(found) == len(cells)
    for place, cell in enumerate(cells):
        row = found[place]
        if not math.isnan(cell):
            assert row == [cell]
            continue
        before = next((i for i in range(place, -1, -1) if not math.isnan(cells[i])), None)
        after = next((i for i in range(place, len(cells)) if not math.isnan(cells[i])), None)
        if before is not None and place - before <= max_gap:
            assert row is not None
        elif missing == "interpolate" and before is None and after is not None and after - place <= max_gap:
            pass  # before the first value: it depends on how long the rows before it waited
        else:
            assert row is None


def test_interpolation_waits_for_the_value_after() -> None:
    filler = make_filler("interpolate", max_gap_ns=0, patience=10)
    assert filler.add(Row(0, [0.0, 1.0])) == [Row(0, [0.0, 1.0])]
    assert filler.add(Row(1, [NAN, 2.0])) == []
    assert filler.add(Row(2, [NAN, NAN])) == []
    assert filler.add(Row(3, [6.0, NAN])) == [Row(1, [2.0, 2.0])]
    assert filler.add(Row(4, [NAN, 5.0])) == [Row(2, [4.0, 3.0]), Row(3, [6.0, 4.0])]
    assert filler.finish() == [Row(4, [6.0, 5.0])], "held where nothing came"


@pytest.mark.parametrize("missing", ["hold", "zero", "interpolate"])
def test_a_channel_that_dies_makes_rows_unusable_and_comes_back(missing: Missing) -> None:
    rows: list[tuple[float, ...]] = [(float(i), NAN if 3 <= i < 9 else float(i)) for i in range(12)]
    found = filled(rows, missing, max_gap=3)
    assert [i for i, row in enumerate(found) if row is None] == [6, 7, 8]
