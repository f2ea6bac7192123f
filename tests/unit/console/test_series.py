"""Counting results over time."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.console.repository.base import StoredResult
from edgeinfer.console.series import bucket_results, latency_class, percentile_us, points, resolution_for, totals
from edgeinfer.runtime.results import Kind


def _result(t_s: float, latency_us: int = 1000, kind: int = Kind.ANOMALY, pipeline: str = "p") -> StoredResult:
    return StoredResult(
        device="d", epoch=1, seq=1, pipeline=pipeline, kind=kind, t_ns=int(t_s * 1e9), latency_us=latency_us
    )


@given(st.lists(st.integers(1, 10_000_000), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_percentile_is_close_to_the_true_one(latencies: list[int], fraction: float) -> None:
    found = percentile_us(Counter(latency_class(latency) for latency in latencies), fraction)
    rank = next(i for i in range(1, len(latencies) + 1) if i >= fraction * len(latencies))
    true = sorted(latencies)[rank - 1]
    assert found == pytest.approx(true, rel=0.0455)


def test_nothing_has_no_percentile() -> None:
    assert percentile_us({}, 0.5) is None


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_any_time_and_latency_can_be_counted(t_ns: int, latency_us: int) -> None:
    result = StoredResult(device="d", epoch=1, seq=1, pipeline="p", kind=1, t_ns=t_ns, latency_us=latency_us)
    fine, coarse = bucket_results([result])
    assert (fine.n, coarse.n) == (1, 1)
    assert fine.t_s * 10**9 <= t_ns < (fine.t_s + 1) * 10**9
    assert coarse.t_s % 60 == 0


def test_results_are_counted_by_second_and_minute() -> None:
    results = [_result(120.1), _result(120.9), _result(121.0), _result(121.0, kind=Kind.FRAMES)]
    found = {(b.resolution_s, b.t_s): b.n for b in bucket_results(results)}
    assert found == {(1, 120): 2, (1, 121): 1, (60, 120): 3}


def test_points_fill_the_whole_time() -> None:
    buckets = [b for b in bucket_results([_result(100.0), _result(104.0, 4000)]) if b.resolution_s == 1]
    (series,) = points(buckets, since_s=98, until_s=106, step_s=2)
    assert series["rate"] == [0.0, 0.5, 0.0, 0.5]
    assert [value is None for value in series["p50_us"]] == [True, False, True, False]
    assert totals(buckets)["results"] == 2
    assert totals([]) == {"results": 0, "p50_us": None, "p99_us": None}


@pytest.mark.parametrize(("minutes", "expected"), [(1, (1, 1)), (5, (1, 2)), (120, (1, 40)), (1440, (60, 480))])
def test_charts_have_a_bounded_number_of_points(minutes: int, expected: tuple[int, int]) -> None:
    assert resolution_for(minutes) == expected
    assert minutes * 60 / resolution_for(minutes)[1] <= 180
