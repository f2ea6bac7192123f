"""Spreads and their distance: against scipy, the textbook and the tables; and what is told of a frame in numbers."""

import math
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edgeinfer.runtime.learn.distribution import describe, effective_count, ks, ks_limit, psi, psi_limit
from edgeinfer.runtime.learn.statistics import InputStatistics, score_statistics
from edgeinfer.runtime.manifest import Distribution, ImagePre, TensorSpec, WindowPre
from edgeinfer.runtime.results import Item, Kind

Array = npt.NDArray[Any]

values = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=300).map(np.array)
few_values = st.lists(st.integers(0, 4), min_size=30, max_size=300).map(lambda row: np.array(row, float))


def naive_psi(reference: Distribution, found: Array) -> float:
    """By the book, a bin at a time, over the bins that the reference names."""
    edges = [-math.inf, *reference.edges, math.inf]
    total = 0.0
    for low, high, expected in zip(edges[:-1], edges[1:], reference.shares, strict=True):
        share = float(np.mean((found >= low) & (found < high)))
        total += (share - expected) * math.log(share / expected)
    return total


class TestIndices:
    @given(reference=values, found=values)
    def test_ks_is_that_of_scipy_within_a_bin(self, reference: Array, found: Array) -> None:
        known = describe(reference)
        exact = float(stats.ks_2samp(reference, found, method="asymp").statistic)
        measured = ks(known, found)
        assert measured <= exact + 1e-9
        assert measured >= exact - max(known.shares) - 1e-9

    @given(reference=few_values, found=few_values)
    def test_ks_of_values_that_are_few_is_exact(self, reference: Array, found: Array) -> None:
        known = describe(reference)
        if len(known.edges) == 4:  # each value has a bin of its own
            assert ks(known, found) == pytest.approx(float(stats.ks_2samp(reference, found, method="asymp").statistic))

    def test_psi_is_the_textbook_sum(self) -> None:
        random = np.random.default_rng(3)
        for _ in range(20):
            # Ten bins, so that none are merged, and so many values that what stands in for nothing is nothing.
            edges = tuple(np.sort(random.normal(size=9)).tolist())
            expected = np.full(10, 0.1)
            reference = Distribution(edges, tuple(expected.tolist()), -3.0, 3.0, 10**9)
            found = random.normal(loc=0.3, size=200_000)
            assert psi(reference, found) == pytest.approx(naive_psi(reference, found), rel=1e-2)

    @given(reference=values, found=values)
    def test_psi_is_finite_and_not_negative(self, reference: Array, found: Array) -> None:
        assert 0.0 <= psi(describe(reference), found) < 100.0

    @given(reference=values)
    def test_what_is_the_same_has_not_shifted(self, reference: Array) -> None:
        known = describe(reference)
        assert psi(known, reference) == pytest.approx(0.0, abs=1e-9)
        assert ks(known, reference) == pytest.approx(0.0, abs=1e-9)

    @pytest.mark.parametrize("chance", [0.05, 1e-3])
    def test_limits_are_those_of_the_tables(self, chance: float) -> None:
        reference = describe(np.random.default_rng(0).normal(size=400))
        assert psi_limit(reference, 200, chance=chance) == pytest.approx(
            stats.chi2.isf(chance, 9) * (1 / 200 + 1 / 400), rel=0.01
        )
        # The asymptotic formula: scipy's own is the distribution of the statistic itself.
        expected = float(stats.kstwobign.isf(chance)) * math.sqrt(1 / 200 + 1 / 400)
        assert ks_limit(reference, 200, chance=chance) == pytest.approx(expected, rel=0.01)

    def test_chance_stays_below_its_bound_where_nothing_shifts(self) -> None:
        random = np.random.default_rng(5)
        over = np.zeros(2)
        runs = 1000
        for _ in range(runs):
            reference, found = describe(random.gamma(2.0, size=400)), random.gamma(2.0, size=300)
            over += (
                psi(reference, found) > psi_limit(reference, 300, chance=0.01),
                ks(reference, found) > ks_limit(reference, 300, chance=0.01),
            )
        assert over.max() / runs <= 0.02

    def test_values_that_follow_each_other_count_for_fewer(self) -> None:
        """Against the closed form for a first-order autoregression."""
        random = np.random.default_rng(6)
        series = np.zeros(20_000)
        for index, noise in enumerate(random.normal(size=len(series) - 1)):
            series[index + 1] = 0.8 * series[index] + noise
        assert effective_count(series) == pytest.approx(len(series) * (1 - 0.8) / (1 + 0.8), rel=0.1)
        assert effective_count(random.normal(size=1000)) == pytest.approx(1000, rel=0.15)

    @given(found=st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=50).map(np.array))
    def test_any_values_give_numbers(self, found: Array) -> None:
        reference = describe(np.arange(100.0))
        assert math.isfinite(psi(reference, found))
        assert 0.0 <= ks(reference, found) <= 1.0
        assert 0.0 <= effective_count(found) <= max(len(found), 1)


class TestDescribe:
    @given(found=values)
    def test_shares_are_of_all_and_the_manifest_takes_them(self, found: Array) -> None:
        known = describe(found)
        assert sum(known.shares) == pytest.approx(1.0)
        assert known.low <= known.high
        assert msgspec.json.decode(msgspec.json.encode(known), type=Distribution) == known

    def test_a_value_that_never_changed_is_told_from_another(self) -> None:
        known = describe(np.full(200, 3.0))
        assert ks(known, np.full(200, 3.0)) == 0.0
        assert ks(known, np.full(200, 3.1)) == 1.0
        assert psi(known, np.full(200, 3.1)) > 1.0

    def test_rare_values_are_seen_when_they_become_common(self) -> None:
        known = describe(np.array([0.0] * 97 + [1.0] * 3))
        assert psi(known, np.array([0.0] * 50 + [1.0] * 50)) > 0.5

    def test_without_a_finite_value_there_is_nothing(self) -> None:
        with pytest.raises(ValueError, match="finite"):
            describe(np.array([math.nan, math.inf]))

    @pytest.mark.parametrize(
        "wrong",
        [
            {"edges": [1.0], "shares": [1.0], "low": 0.0, "high": 1.0, "n": 5},
            {"edges": [2.0, 1.0], "shares": [0.5, 0.5, 0.0], "low": 0.0, "high": 1.0, "n": 5},
            {"edges": [], "shares": [2.0], "low": 0.0, "high": 1.0, "n": 5},
            {"edges": [], "shares": [1.0], "low": 0.0, "high": 1.0, "n": 0},
        ],
    )
    def test_a_reference_that_cannot_be_is_refused(self, wrong: dict[str, object]) -> None:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, Distribution)


class TestStatistics:
    def test_each_kind_of_result_is_told_in_numbers(self) -> None:
        box = (0.0, 0.0, 1.0, 1.0)
        two = (Item(4, 0.9, box), Item(2, 0.5, box))
        assert score_statistics(Kind.CLASSIFICATION)(two) == {"score": 0.9, "label": 4.0, "margin": pytest.approx(0.4)}
        assert score_statistics(Kind.DETECTION)(two[::-1]) == {"count": 2.0, "score": 0.9, "label": 4.0}
        assert score_statistics(Kind.DETECTION)(()) == {"count": 0.0}
        assert score_statistics(Kind.ANOMALY)((Item(1, 7.5),)) == {"score": 7.5}
        assert score_statistics(Kind.EMBEDDING)((Item(0, 3.0), Item(1, 4.0))) == {"norm": 5.0}
        assert score_statistics(Kind.REGRESSION)((Item(0, 3.0), Item(1, 4.0))) == {"value_0": 3.0, "value_1": 4.0}
        for kind in Kind:
            assert score_statistics(kind)(()) in ({}, {"count": 0.0})

    @pytest.mark.parametrize("layout", ["nhwc", "nchw"])
    def test_pictures_have_the_same_numbers_in_any_precision_and_layout(self, layout: Any) -> None:
        picture = np.random.default_rng(1).integers(0, 256, (1, 48, 64, 3)).astype(np.float32)
        shape = (1, 48, 64, 3) if layout == "nhwc" else (1, 3, 48, 64)
        real = (picture / 255.0).reshape(1, 48, 64, 3)
        arranged = real if layout == "nhwc" else np.ascontiguousarray(real.transpose(0, 3, 1, 2))
        quantized = TensorSpec("x", shape, "int8", scale=1 / 255.0, zero_point=-128)
        measure = InputStatistics(ImagePre(64, 48, layout=layout), [TensorSpec("x", shape, "float32"), quantized])
        exact = measure(arranged.astype(np.float32))
        small = measure((np.rint(arranged * 255.0) - 128).astype(np.int8))
        assert small == pytest.approx(exact, rel=1e-4)
        assert exact["brightness"] == pytest.approx(0.5, abs=0.02)
        assert exact["sharpness"] > 0.2

    def test_windows_are_told_by_channel_and_many_channels_as_a_whole(self) -> None:
        window = np.stack([np.zeros(10), np.arange(10)], axis=1).astype(np.float32)
        few = InputStatistics(WindowPre(10), [])(window[np.newaxis])
        assert few == pytest.approx({"mean_0": 0.0, "mean_1": 4.5, "std_0": 0.0, "std_1": float(np.arange(10).std())})
        many = InputStatistics(WindowPre(5), [])(np.ones((1, 640), np.float32))
        assert many == {"mean": 1.0, "std": 0.0}
