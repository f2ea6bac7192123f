"""Windows cut from rows, against naive slicing."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.runtime.series import Shape, Shaper
from edgeinfer.runtime.series.rows import Row
from edgeinfer.runtime.series.windows import Slices
from sensor_rows import SECOND, WALL, arrival, rows_of, run

FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


def naive_slices(values: list[float], window: int, stride: int) -> list[list[float]]:
    return [values[end - window : end] for end in range(window, len(values) + 1, stride)]


class TestSlices:
    @given(st.lists(FLOAT32, max_size=120), st.integers(1, 20), st.integers(1, 30))
    def test_windows_are_those_of_naive_slicing(self, values: list[float], window: int, stride: int) -> None:
        found = run(Shape(window=window, stride=stride), [arrival(i, v) for i, v in enumerate(values)])
        assert rows_of(found) == naive_slices(values, window, stride)
        ends = range(window - 1, len(values), stride)
        assert [w.t_ns for w in found] == [WALL + end * SECOND for end in ends], "the time of the newest row"
        assert [w.mono_ns for w in found] == [end * SECOND + 5 for end in ends], "when it arrived"

    @pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 4095, 4096, 4097])
    def test_a_window_stays_as_it_is_when_its_buffer_moves(self, length: int) -> None:
        """At every boundary of the ring."""
        slices = Slices(length, 1)
        kept = []
        for index in range(3 * length + 5):
            window = slices.add(Row(index, [float(index), -float(index)]))
            if window is not None and index % max(1, length // 3) == 0:
                kept.append((index, window))
        assert kept
        for index, window in kept:
            assert window.dtype == np.float32
            assert window[:, 0].tolist() == list(range(index - length + 1, index + 1))
            assert (window[:, 1] == -window[:, 0]).all()

    @given(st.lists(st.booleans(), max_size=60), st.integers(1, 6), st.integers(1, 6))
    def test_no_window_reaches_over_a_row_that_cannot_be_used(
        self, usable: list[bool], window: int, stride: int
    ) -> None:
        slices = Slices(window, stride)
        found: list[list[float]] = []
        expected: list[list[float]] = []
        run_: list[float] = []
        for index, good in enumerate(usable):
            if good:
                run_.append(float(index))
                cut = slices.add(Row(index, [float(index)]))
                found += [] if cut is None else [cut[:, 0].tolist()]
            else:
                expected += naive_slices(run_, window, stride)
                run_ = []
                slices.discard()
        assert found == expected + naive_slices(run_, window, stride)


class TestSessions:
    SHAPE = Shape(window=4, cut="sessions", session_gap_ns=10 * SECOND, min_rows=2)

    def test_a_pause_ends_it(self) -> None:
        times = [0, 1, 2, 3, 13, 14, 15, 16, 17, 18, 40, 100, 101]
        found = run(self.SHAPE, [arrival(t, t) for t in times])
        assert rows_of(found) == [
            [15, 16, 17, 18],  # ten seconds are not more than ten: one session, its newest four rows
            [100, 100, 100, 101],  # short: its first row is repeated in front; the one at 40 has too few
        ]
        assert [w.t_ns - WALL for w in found] == [18 * SECOND, 101 * SECOND]
        assert [w.mono_ns for w in found] == [18 * SECOND + 5, 101 * SECOND + 5]

    def test_the_clock_ends_it_without_a_row(self) -> None:
        shaper = Shaper(self.SHAPE)
        for t in (0, 1):
            assert shaper.add(arrival(t, t)) == []
        assert shaper.advance(11 * SECOND) == []
        (window,) = shaper.advance(11 * SECOND + 1)
        assert window.data[:, 0].tolist() == [0, 0, 0, 1]
        assert shaper.advance(12 * SECOND) == []
        assert shaper.add(arrival(30, 7)) == shaper.finish() == []

    @given(st.lists(st.integers(0, 15), min_size=1, max_size=60), st.integers(1, 6), st.integers(1, 3))
    def test_sessions_are_those_of_naive_splitting(self, steps: list[int], window: int, min_rows: int) -> None:
        min_rows = min(min_rows, window)
        times = np.cumsum(steps).tolist()
        sessions: list[list[float]] = [[]]
        for t, step in zip(times, [0, *steps[1:]], strict=True):
            if step > 10:
                sessions.append([])
            sessions[-1].append(float(t))
        expected = [([s[0]] * window + s)[-window:] if len(s) < window else s[-window:] for s in sessions]
        shape = Shape(window=window, cut="sessions", session_gap_ns=10 * SECOND, min_rows=min_rows)
        found = rows_of(run(shape, [arrival(t, t) for t in times]))
        assert found == [e for e, s in zip(expected, sessions, strict=True) if len(s) >= min_rows]


class TestTime:
    @pytest.mark.parametrize("years", [-10, 10])
    @pytest.mark.parametrize("period_s", [0, 1])
    @pytest.mark.parametrize("cut", ["slices", "sessions"])
    def test_a_clock_that_jumps_moves_no_window(self, years: int, period_s: int, cut: str) -> None:
        shape = Shape(
            window=3,
            cut="sessions" if cut == "sessions" else "slices",
            session_gap_ns=5 * SECOND if cut == "sessions" else 0,
            max_gap_ns=20 * SECOND,
            period_ns=period_s * SECOND,
        )
        times = [*range(10), *range(30, 40)]
        jump_s = years * 365.25 * 86400
        plain = run(shape, [arrival(t, t) for t in times])
        jumped = run(shape, [arrival(t, t, wall_s=jump_s if t >= 5 else 0.0) for t in times])
        assert rows_of(plain) == rows_of(jumped)
        assert [w.mono_ns for w in plain] == [w.mono_ns for w in jumped]
        for before, after in zip(plain, jumped, strict=True):
            jumps = round(jump_s * SECOND) if before.t_ns - WALL >= 5 * SECOND else 0
            assert after.t_ns == before.t_ns + jumps, "the wall clock of its newest row, as it was then"

    def test_a_pause_longer_than_the_largest_gap_begins_anew(self) -> None:
        shape = Shape(window=3, max_gap_ns=2 * SECOND)
        assert rows_of(run(shape, [arrival(t, t) for t in (0, 1, 2, 4, 7, 8, 9, 12)])) == [
            [0, 1, 2],
            [1, 2, 4],
            [7, 8, 9],
        ]

    def test_without_a_bound_rows_alone_count(self) -> None:
        assert rows_of(run(Shape(window=2), [arrival(t, t) for t in (0, 1e6, 1e6)])) == [[0, 1e6], [1e6, 1e6]]


def test_what_is_not_finite_is_missing() -> None:
    found = run(Shape(window=1), [arrival(i, v) for i, v in enumerate((math.inf, 2, -math.inf, 1e39, math.nan, 3))])
    assert rows_of(found) == [[0], [2], [2], [2], [2], [3]]
