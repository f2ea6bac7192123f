"""Paired tests and intervals, held against scipy and against what they promise."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edgeinfer.quantize.search.statistics import (
    Difference,
    bootstrap_difference,
    mcnemar,
    median_interval,
    needed_samples,
    paired_difference,
)


@given(lost=st.integers(0, 400), won=st.integers(0, 400))
def test_mcnemar_is_the_exact_binomial_test(lost: int, won: int) -> None:
    expected = stats.binomtest(min(lost, won), lost + won, 0.5).pvalue if lost + won else 1.0
    assert mcnemar(lost=lost, won=won) == pytest.approx(expected, rel=1e-6)


def test_many_discordant_pairs_do_not_underflow() -> None:
    assert mcnemar(lost=50_000, won=50_000) == pytest.approx(1.0, abs=0.01)
    assert mcnemar(lost=51_000, won=49_000) < 1e-6


def test_a_paired_difference_of_rights_and_wrongs() -> None:
    theirs = np.array([1.0] * 90 + [0.0] * 10)
    ours = theirs.copy()
    ours[:8] = 0.0
    found = paired_difference(ours, theirs)
    assert found.value == pytest.approx(0.08)
    assert found.low > 0.02
    assert found.high < 0.15
    assert found.p_value == pytest.approx(mcnemar(lost=8, won=0))
    assert found.significant
    assert not paired_difference(theirs, theirs).significant


def test_a_difference_of_errors_that_are_no_shares() -> None:
    random = np.random.default_rng(1)
    theirs = random.gamma(2.0, 1.0, 400)
    same = paired_difference(theirs + random.normal(0.0, 0.2, 400), theirs)
    assert not same.significant
    worse = paired_difference(theirs - 0.5, theirs)
    assert worse.value == pytest.approx(0.5)
    assert worse.significant


@pytest.mark.parametrize("truth", [0.0, 0.05])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(truth: float) -> None:
    random = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        theirs = (random.random(300) < 0.9).astype(float)
        flipped = random.random(300)
        ours = np.where(flipped < 0.04, 1.0 - theirs, theirs)
        ours = np.where((theirs == 1.0) & (flipped > 1.0 - truth), 0.0, ours)
        gap = truth * 0.9 + 0.04 * (0.9 - 0.1)
        found = paired_difference(ours, theirs)
        covered += found.low <= gap <= found.high
    assert covered >= 180, f"{covered} of 200"


def test_a_bootstrap_of_a_metric_that_is_no_mean() -> None:
    random = np.random.default_rng(3)
    theirs, ours = random.normal(1.0, 1.0, 200), random.normal(0.0, 1.0, 200)
    found = bootstrap_difference(lambda places: float(np.median(theirs[places]) - np.median(ours[places])), 200)
    assert found.low < found.value < found.high
    assert found.significant
    nothing = bootstrap_difference(lambda _places: math.nan, 10)
    assert not nothing.significant, "no number: nothing can be said"


def test_how_many_samples_tell_a_point() -> None:
    random = np.random.default_rng(4)
    gaps = random.choice([1.0, -1.0, 0.0], 4000, p=[0.015, 0.005, 0.98])
    seen = paired_difference(np.zeros(4000), gaps)
    needed = needed_samples(seen, 4000, drop=0.01)
    assert 1200 < needed < 2000, "7.85 * 0.02 / 0.01^2 is 1570"
    told = 0
    for _ in range(200):
        lost, won, _same = random.multinomial(needed, [0.015, 0.005, 0.98])
        told += mcnemar(lost=int(lost), won=int(won)) < 0.05
    assert 130 <= told <= 195, f"a power of about 80 %: told in {told} of 200"
    assert needed_samples(seen, 4000, drop=0.0) == 0
    same = paired_difference(np.ones(30), np.ones(30))
    assert needed_samples(same, 30, drop=0.01, least=1 / 30) > 2000, "30 that agree say little of the next"
    assert needed_samples(Difference(0.0, -math.inf, math.inf, 1.0), 10, drop=0.01) == 0


@pytest.mark.parametrize("count", [1, 5, 6, 9, 12, 40])
def test_the_interval_of_a_median_is_that_of_the_binomial_distribution(count: int) -> None:
    low, high = median_interval([float(i) for i in range(count)])
    inside = sum(math.comb(count, k) for k in range(int(low) + 1, int(high) + 1)) / 2**count
    if count >= 6:
        assert inside >= 0.95
        tighter = sum(math.comb(count, k) for k in range(int(low) + 2, int(high))) / 2**count
        assert tighter < 0.95, "it is as narrow as it may be"
    else:
        assert (low, high) == (0.0, count - 1.0)


def test_no_values_no_interval() -> None:
    assert median_interval([]) == (-math.inf, math.inf)


def test_significant_is_one_in_twenty() -> None:
    assert Difference(0.1, 0.0, 0.2, 0.049).significant
    assert not Difference(0.1, 0.0, 0.2, 0.05).significant
