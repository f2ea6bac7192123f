"""The regular grid, against numpy's interpolation and integration."""

import itertools
import math
import random

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.runtime.series import Arrival, Shape, Shaper
from edgeinfer.runtime.series.grid import Grid
from edgeinfer.runtime.series.resampling import Resample
from sensor_rows import SECOND, WALL, arrival, rows_of, run

END = 1 << 100
# Samples at any distance: steps in ns of a made-up clock, and values.
SERIES = st.lists(st.tuples(st.integers(1, 60), st.floats(-1e3, 1e3)), min_size=1, max_size=60).map(
    lambda steps: list(zip(itertools.accumulate(step for step, _ in steps), (value for _, value in steps), strict=True))
)


def resampled(
    samples: list[tuple[int, float]], *, period: int, resample: Resample = "linear", tolerance: int = 1 << 90
) -> list[tuple[int, float]]:
    """(tick, value) of one channel, asked for after each sample."""
    grid = Grid([1], period_ns=period, resample=resample, tolerance_ns=tolerance)
    rows = []
    for at, value in samples:
        grid.add(at, [value], 0)
        rows += grid.advance(at)
    return [(row.place_ns, row.values[0]) for row in rows + grid.advance(END)]


def is_dense(times: list[int], tick: int, period: int) -> bool:
    """Whether the samples around a tick come at twice the rate of the ticks or faster."""
    after = int(np.searchsorted(times, tick))
    return 0 < after < len(times) and 2 * (times[after] - times[after - 1]) <= period


def mean_of_polygon(times: list[int], values: list[float], start: float, end: float) -> float:
    """By numpy, over all its corners."""
    inside = [float(t) for t in times if start < t < end]
    corners = np.array([start, *inside, end])
    return float(np.trapezoid(np.interp(corners, times, values), corners) / (end - start))


class TestLinear:
    @given(SERIES, st.integers(1, 100))
    def test_ticks_lie_on_the_polygon_or_are_its_mean(self, series: list[tuple[int, float]], period: int) -> None:
        times, values = [t for t, _ in series], [v for _, v in series]
        found = resampled(series, period=period)
        assert [t for t, _ in found] == list(range(times[0], times[-1] + 1, period))
        half = period // 2
        for tick, value in found:
            if is_dense(times, tick, period) and times[0] <= tick - half and tick + half <= times[-1]:
                expected = mean_of_polygon(times, values, tick - half, tick + half)
            else:
                expected = float(np.interp(tick, times, values))
            assert value == pytest.approx(expected, abs=1e-6)

    @given(
        st.lists(st.integers(1, 60), min_size=2, max_size=80),
        st.integers(1, 100),
        st.floats(-10, 10),
        st.floats(-1e3, 1e3),
    )
    def test_a_line_stays_the_line(self, steps: list[int], period: int, slope: float, start: float) -> None:
        times = list(itertools.accumulate(steps))
        for tick, value in resampled([(t, start + slope * t) for t in times], period=period):
            assert value == pytest.approx(start + slope * tick, abs=1e-6)

    def test_downsampling_does_not_alias(self) -> None:
        """A tone just beside the new rate would come back as a slow one; the mean takes it away."""
        rate, period = 1000, SECOND // 10
        times = np.arange(0, 20 * rate) * (SECOND // rate)
        tone = np.sin(2 * np.pi * 9.9 * times / SECOND)
        found = resampled(list(zip(times.tolist(), tone.tolist(), strict=True)), period=period)
        assert max(abs(v) for _, v in found[1:-1]) < 0.02
        assert max(abs(tone[:: rate // 10])) > 0.9, "picking samples would show it whole"

    def test_a_regular_series_is_itself_and_does_not_wait(self) -> None:
        grid = Grid([1], period_ns=10, resample="linear", tolerance_ns=100)
        for k in range(20):
            grid.add(7 + 10 * k, [float(k)], 0)
            assert [(row.place_ns, row.values) for row in grid.advance(7 + 10 * k)] == [(7 + 10 * k, [float(k)])]

    def test_a_sample_too_far_away_is_not_used(self) -> None:
        found = resampled([(0, 1.0), (100, 2.0)], period=10, tolerance=30)
        assert found[:4] == [(0, 1.0), (10, 1.0), (20, 1.0), (30, 1.0)]
        assert all(math.isnan(v) for _, v in found[4:7])
        assert found[7:] == [(70, 2.0), (80, 2.0), (90, 2.0), (100, 2.0)]


class TestHold:
    @given(SERIES, st.integers(1, 100))
    def test_ticks_have_the_last_sample_or_the_mean_since_the_last_tick(
        self, series: list[tuple[int, float]], period: int
    ) -> None:
        for tick, value in resampled(series, period=period, resample="hold"):
            since = [v for t, v in series if tick - period < t <= tick]
            last = [v for t, v in series if t <= tick][-1]
            assert value == pytest.approx(sum(since) / len(since) if len(since) > 1 else last)


@given(SERIES, st.integers(1, 100), st.sampled_from(["linear", "hold"]), st.integers(1, 200))
def test_when_it_is_asked_changes_nothing(
    series: list[tuple[int, float]], period: int, resample: Resample, tolerance: int
) -> None:
    asked = resampled(series, period=period, resample=resample, tolerance=tolerance)
    grid = Grid([1], period_ns=period, resample=resample, tolerance_ns=tolerance)
    for at, value in series:
        grid.add(at, [value], 0)
    at_once = [(row.place_ns, row.values[0]) for row in grid.advance(END)]
    assert str(asked) == str(at_once), "as texts: NaN is unlike itself"


Samples = list[tuple[int, float]]


@given(st.lists(SERIES, min_size=2, max_size=3), st.integers(1, 80), st.integers(1, 100), st.randoms(), st.booleans())
def test_a_join_does_not_depend_on_the_order_of_its_sensors(
    sensors: list[Samples], period: int, tolerance: int, rng: random.Random, hold: bool
) -> None:
    resample: Resample = "hold" if hold else "linear"

    def join(order: list[int]) -> list[tuple[int, list[float]]]:
        grid = Grid([1] * len(sensors), period_ns=period, resample=resample, tolerance_ns=tolerance)
        # Sensors that come at the same time come in the order that is asked for.
        samples = [(at, order.index(i), i, value) for i in range(len(sensors)) for at, value in sensors[i]]
        rows = []
        for at, _, i, value in sorted(samples):
            rows += grid.advance(at)
            grid.add(at, [value], i)
        rows += grid.advance(END)
        return [(row.place_ns, row.values) for row in rows]

    order = list(range(len(sensors)))
    first = join(order)
    rng.shuffle(order)
    assert str(join(order)) == str(first)
    assert all(tick % period == 0 for tick, _ in first), "the grid is one that all share"
    for column, samples in enumerate(sensors):
        for tick, values in first:
            near = any(abs(t - tick) <= tolerance and (t <= tick or not hold) for t, _ in samples)
            in_period = sum(tick - period < t <= tick for t, _ in samples) > 1
            dense = is_dense([t for t, _ in samples], tick, period)
            assert near or in_period or dense or math.isnan(values[column])


class TestSeries:
    """Grid, gaps and windows together."""

    SHAPE = Shape(window=3, period_ns=SECOND)

    def test_windows_of_an_irregular_series(self) -> None:
        rows = [arrival(t, 10 * t) for t in (0, 0.7, 2.2, 2.9, 4.1)]
        found = run(self.SHAPE, rows)
        assert rows_of(found) == [[0, 10, 20], [10, 20, 30], [20, 30, 40]]
        assert [w.t_ns - WALL for w in found] == [2 * SECOND, 3 * SECOND, 4 * SECOND]
        assert [w.mono_ns for w in found] == [round(t * SECOND) + 5 for t in (2.2, 4.1, 4.1)]

    def test_too_long_a_gap_begins_anew(self) -> None:
        rows = [arrival(t, t) for t in (0, 1, 2, 3, 6, 7, 10.5, 11.5, 12.5)]
        shape = msgspec.structs.replace(self.SHAPE, max_gap_ns=3 * SECOND)
        assert rows_of(run(shape, rows)) == [
            [0, 1, 2],
            [1, 2, 3],
            [2, 3, 4],
            [3, 4, 5],
            [4, 5, 6],
            [5, 6, 7],
            [10.5, 11.5, 12.5],
        ]

    def test_ten_years_without_a_row_cost_nothing(self) -> None:
        shape = Shape(window=2, period_ns=1_000_000)
        rows = [arrival(t, 1.0) for t in (0, 0.001, 3e8, 3e8 + 0.001)]
        assert len(run(shape, rows)) == 2
        nothing = [arrival(t, math.nan) for t in range(3, 300_000, 1000)]
        assert len(run(shape, [*rows[:2], *nothing, *rows[2:]])) == 2

    @pytest.mark.parametrize(
        ("missing", "expected"),
        [
            ("hold", [[1, 5], [2, 5], [3, 5], [4, 5], [5, 9]]),
            ("zero", [[1, 5], [2, 0], [3, 0], [4, 0], [5, 9]]),
            ("interpolate", [[1, 5], [2, 6], [3, 7], [4, 8], [5, 9]]),
            ("drop", [[1, 5], [5, 9]]),
        ],
    )
    def test_a_sensor_of_two_that_gives_less(self, missing: str, expected: list[list[float]]) -> None:
        shape = Shape(
            window=len(expected),
            period_ns=SECOND,
            tolerance_ns=SECOND // 2,
            missing=missing,  # type: ignore[arg-type]  # one of the four
        )
        rows = sorted(
            [arrival(t, t, source=0) for t in range(1, 6)] + [arrival(t, t + 4, source=1) for t in (1, 5)],
            key=lambda one: one.place_ns,
        )
        (found,) = run(shape, rows, channels=(1, 1))
        assert found.data.tolist() == expected

    def test_a_sensor_that_died_holds_the_others_up_by_the_tolerance(self) -> None:
        shape = Shape(window=1, period_ns=SECOND, tolerance_ns=2 * SECOND)
        shaper = Shaper(shape, channels=(1, 1))
        found = [shaper.add(arrival(0, 1.0, source=0)), shaper.add(arrival(0, 2.0, source=1))]
        found += [shaper.add(arrival(t, float(t), source=0)) for t in range(1, 8)]
        assert [len(windows) for windows in found] == [0, 1, 0, 0, 0, 1, 1, 1, 1], "rows 1 to 4 of 7"
        assert [len(shaper.advance(t * SECOND)) for t in range(8, 30)] == [1, 1, 1] + 19 * [0]

    def test_a_session_is_resampled_up_to_its_end(self) -> None:
        shape = Shape(window=4, cut="sessions", session_gap_ns=5 * SECOND, period_ns=SECOND)
        rows = [arrival(t, t) for t in (0.5, 2.5, 20, 22, 23)]
        assert rows_of(run(shape, rows)) == [[0.5, 0.5, 1.5, 2.5], [20, 21, 22, 23]]


@given(
    st.lists(
        st.tuples(st.integers(-5, 400), st.integers(0, 2), st.floats(), st.booleans()),
        max_size=60,
    ),
    st.sampled_from(["hold", "interpolate", "drop", "zero"]),
    st.sampled_from(["linear", "hold"]),
    st.integers(0, 50),
    st.booleans(),
)
def test_whatever_comes_windows_are_finite_and_in_order(
    steps: list[tuple[int, int, float, bool]], missing: str, resample: str, max_gap: int, sessions: bool
) -> None:
    shape = Shape(
        window=3,
        stride=2,
        cut="sessions" if sessions else "slices",
        session_gap_ns=40 if sessions else 0,
        missing=missing,  # type: ignore[arg-type]  # one of the four
        resample=resample,  # type: ignore[arg-type]  # one of the two
        max_gap_ns=max_gap,
        period_ns=10,
        tolerance_ns=15,
    )
    shaper = Shaper(shape, channels=(1, 2, 1))
    at = 0
    windows = []
    for step, source, value, idle in steps:
        at += max(step, 0)
        values = (value, -value) if source == 1 else (value,)
        windows += shaper.advance(at) if idle else shaper.add(Arrival(at, at, at, values, source))
    windows += shaper.finish()
    assert all(np.isfinite(window.data).all() and window.data.shape == (3, 4) for window in windows)
    assert [w.t_ns for w in windows] == sorted(w.t_ns for w in windows)
