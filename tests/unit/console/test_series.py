"""Counting results over time."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.console.repository.base import Bucket
from edgeinfer.console.series import Tally, latency_class, percentile_us, points, resolution_for, totals
from edgeinfer.runtime.codec import COLUMNS, encode, summarize
from edgeinfer.runtime.results import OF_A_FRAME, Kind, Result

LONG_AGO_S = -(1 << 62)
INT64 = st.integers(-(2**63), 2**63 - 1)
RESULTS = st.lists(st.builds(Result, st.sampled_from(Kind), INT64, latency_us=INT64), min_size=1, max_size=30)


def _result(t_s: float, latency_us: int = 1000, kind: Kind = Kind.ANOMALY) -> Result:
    return Result(kind, int(t_s * 1e9), latency_us=latency_us)


def _buckets(*chunks: list[Result], fine_since_s: int = LONG_AGO_S) -> list[Bucket]:
    tally = Tally(fine_since_s=fine_since_s)
    for results in chunks:
        tally.add("d", "p", summarize(COLUMNS, encode(results, COLUMNS), n=len(results)))
    return tally.buckets()


@given(st.lists(st.integers(1, 10_000_000), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_percentile_is_close_to_the_true_one(latencies: list[int], fraction: float) -> None:
    found = percentile_us(Counter(latency_class(latency) for latency in latencies), fraction)
    rank = next(i for i in range(1, len(latencies) + 1) if i >= fraction * len(latencies))
    true = sorted(latencies)[rank - 1]
    assert found == pytest.approx(true, rel=0.0455)


def test_nothing_has_no_percentile() -> None:
    assert percentile_us({}, 0.5) is None


@given(st.lists(RESULTS, min_size=1, max_size=3))
def test_it_counts_as_one_would_by_hand(chunks: list[list[Result]]) -> None:
    expected: dict[tuple[int, int], Counter[int]] = {}
    for result in (result for results in chunks for result in results if result.kind in OF_A_FRAME):
        second = result.t_ns // 10**9
        for resolution_s in (1, 60):
            counts = expected.setdefault((resolution_s, second - second % resolution_s), Counter())
            counts[latency_class(result.latency_us)] += 1
    found = {(b.resolution_s, b.t_s): (b.n, b.latencies) for b in _buckets(*chunks)}
    assert found == {key: (counts.total(), dict(counts)) for key, counts in expected.items()}


def test_results_are_counted_by_second_and_minute() -> None:
    results = [_result(120.1), _result(120.9), _result(121.0), _result(121.0, kind=Kind.FRAMES)]
    found = {(b.resolution_s, b.t_s): b.n for b in _buckets(results)}
    assert found == {(1, 120): 2, (1, 121): 1, (60, 120): 3}


def test_what_is_too_old_for_seconds_is_counted_in_minutes() -> None:
    found = {(b.resolution_s, b.t_s): b.n for b in _buckets([_result(120.1), _result(121.0)], fine_since_s=121)}
    assert found == {(1, 121): 1, (60, 120): 2}


def test_made_up_times_do_not_make_buckets_without_end() -> None:
    chunks = [[_result(60.0 * (i + 5000 * k)) for i in range(5000)] for k in range(5)]
    assert len(_buckets(*chunks)) == 20_000


def test_points_fill_the_whole_time() -> None:
    buckets = [b for b in _buckets([_result(100.0), _result(104.0, 4000)]) if b.resolution_s == 1]
    (series,) = points(buckets, since_s=98, until_s=106, step_s=2)
    assert series["rate"] == [0.0, 0.5, 0.0, 0.5]
    assert [value is None for value in series["p50_us"]] == [True, False, True, False]
    assert totals(buckets)["results"] == 2
    assert totals([]) == {"results": 0, "p50_us": None, "p99_us": None}


@pytest.mark.parametrize(("minutes", "expected"), [(1, (1, 1)), (5, (1, 2)), (120, (1, 40)), (1440, (60, 480))])
def test_charts_have_a_bounded_number_of_points(minutes: int, expected: tuple[int, int]) -> None:
    assert resolution_for(minutes) == expected
    assert minutes * 60 / resolution_for(minutes)[1] <= 180
