"""Figures from blocks: percentiles of bounded histograms, ratios of rounds, drift."""

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.runtime.bench.statistics import Block, bucket, drift, merged, percentile_ns, ratio, summary


def blocks(medians: list[float], *, first_round: int = 1, energy_uj: float | None = None) -> list[Block]:
    return [
        Block(first_round + i, float(i), calls=10, total_ns=int(10 * m), median_ns=m, cpu_ns=5, energy_uj=energy_uj)
        for i, m in enumerate(medians)
    ]


@given(st.integers(min_value=0, max_value=10**13))
def test_a_bucket_is_within_a_thousandth_of_what_it_counts(ns: int) -> None:
    assert abs(bucket(ns) - ns) <= ns / 1000 + (0 if ns >= 1024 else 1e-9)
    assert bucket(bucket(ns)) == bucket(ns)


@given(st.lists(st.integers(min_value=1, max_value=10**9), min_size=1, max_size=200), st.sampled_from((0.5, 0.99, 1.0)))
def test_percentiles_are_those_of_the_sorted_values(values: list[int], share: float) -> None:
    counts: dict[int, int] = {}
    half = len(values) // 2
    for part in (values[:half], values[half:]):
        merged(counts, {bucket(v): sum(bucket(w) == bucket(v) for w in part) for v in part})
    nearest = sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]
    assert percentile_ns(counts, share) == bucket(nearest)


def test_an_empty_histogram_has_no_percentile() -> None:
    assert percentile_ns({}, 0.5) == 0


def test_what_slows_a_whole_round_changes_no_ratio() -> None:
    load = [1.0, 3.0, 1.2, 2.0, 1.0, 5.0, 1.0, 1.1]
    found = ratio(blocks([50.0 * x for x in load]), blocks([100.0 * x for x in load]))
    assert found == pytest.approx((0.5, 0.5, 0.5))


def test_rounds_without_the_reference_do_not_count() -> None:
    ours, theirs = blocks([10.0, 10.0, 90.0]), blocks([20.0, 20.0])
    assert ratio(ours, theirs) == (0.5, 0.5, 0.5)
    assert ratio(ours, blocks([20.0], first_round=9)) == (0.0, 0.0, 0.0)


def test_the_interval_holds_the_true_ratio_nineteen_times_in_twenty() -> None:
    source = random.Random(7)
    held, runs = 0, 400
    for _ in range(runs):
        noisy = [0.8 * source.lognormvariate(0.0, 0.1) for _ in range(40)]
        found = ratio(blocks(noisy), blocks([1.0] * 40))
        held += found.low <= 0.8 <= found.high
        assert found.value == statistics.median(noisy)
    assert held / runs > 0.93


def test_few_rounds_give_their_whole_range() -> None:
    assert ratio(blocks([1.0, 3.0, 2.0]), blocks([1.0] * 3)) == (2.0, 1.0, 3.0)


def test_drift_compares_the_first_window_with_the_last() -> None:
    assert drift(blocks([100.0] * 10 + [120.0] * 80 + [150.0] * 10), window_s=9.0) == (100.0, 150.0)
    assert drift([], window_s=1.0) == (0.0, 0.0)
    assert drift(blocks([7.0]), window_s=60.0) == (7.0, 7.0)


def test_a_call_takes_its_share() -> None:
    found = summary([*blocks([100.0, 200.0], energy_uj=30.0), *blocks([300.0], energy_uj=None)])
    assert (found.calls, found.mean_ns, found.cpu_ns, found.energy_uj) == (30, 200.0, 0.5, 3.0)
    assert summary([]).energy_uj is None
