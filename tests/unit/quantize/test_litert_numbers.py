"""The arithmetic behind LiteRT's schemes, against plain loops and exhaustive search."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.quantize.schemes.litert.clipping import BINS, best_range
from edgeinfer.quantize.schemes.litert.moments import Moments, Window, patches
from edgeinfer.quantize.schemes.litert.rounding import rounded
from edgeinfer.runtime.engines.base import Array


def int8_error(values: Array, low: float, high: float) -> float:
    step = (high - low) / 255
    zero = np.rint(-low / step)
    kept = (np.clip(np.rint(values / step) + zero, 0, 255) - zero) * step
    return float(np.mean((values - kept) ** 2))


def histogram(values: Array) -> tuple[Array, float, float]:
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    return np.histogram(values[values != 0.0], bins=BINS, range=(low, high))[0].astype(float), low, high


@pytest.mark.parametrize("rectified", [False, True])
def test_rare_large_values_are_cut_off_where_that_pays(rectified: bool) -> None:
    random = np.random.default_rng(0)
    values = random.laplace(0.0, 1.0, 200_000)
    values = np.maximum(values, 0.0) if rectified else values
    counts, low, high = histogram(values)
    best = best_range(counts, low, high)
    assert low <= best[0] <= 0.0 < best[1] < high
    assert int8_error(values, *best) < 0.95 * int8_error(values, low, high)
    around = [(best[0] * a, best[1] * b) for a in (0.8, 1.0, 1.25) for b in (0.8, 1.0, 1.25)]
    assert int8_error(values, *best) <= 1.1 * min(int8_error(values, *pair) for pair in around)


def test_even_values_are_not_cut_off() -> None:
    values = np.random.default_rng(0).uniform(-3.0, 1.0, 100_000)
    counts, low, high = histogram(values)
    assert best_range(counts, low, high) == pytest.approx((low, high), rel=0.02)


def test_a_tensor_of_zeros_has_an_empty_range() -> None:
    assert best_range(np.zeros(BINS), 0.0, 0.0) == (0.0, 0.0)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    same=st.booleans(),
)
def test_patches_are_what_a_convolution_sees(
    size: tuple[int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilation: tuple[int, int],
    same: bool,
) -> None:
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    if not same and (reach[0] > size[0] or reach[1] > size[1]):
        return
    values = np.random.default_rng(0).normal(size=(1, *size, 2)).astype(np.float32)
    counts = [-(-n // s) if same else (n - r) // s + 1 for n, s, r in zip(size, strides, reach, strict=True)]
    totals = [max((c - 1) * s + r - n, 0) for c, s, r, n in zip(counts, strides, reach, size, strict=True)]
    before = [total // 2 if same else 0 for total in totals]
    expected = []
    for i in range(counts[0]):
        for j in range(counts[1]):
            seen = np.zeros((*kernel, 2), np.float32)
            for a in range(kernel[0]):
                for b in range(kernel[1]):
                    y = i * strides[0] + a * dilation[0] - before[0]
                    x = j * strides[1] + b * dilation[1] - before[1]
                    if 0 <= y < size[0] and 0 <= x < size[1]:
                        seen[a, b] = values[0, y, x]
            expected.append(seen.reshape(-1, 2))
    found = patches(values, Window(kernel, strides, dilation, same))
    np.testing.assert_array_equal(found, np.stack(expected))


def test_of_many_positions_some_are_taken_evenly() -> None:
    values = np.arange(100 * 100, dtype=np.float32).reshape(1, 100, 100, 1)
    found = patches(values, Window((1, 1), (1, 1), (1, 1), same=True))
    assert found.shape == (256, 1, 1)
    assert found[0, 0, 0] == 0.0
    assert found[-1, 0, 0] == 9999.0


def test_moments_are_those_of_all_vectors_together() -> None:
    vectors = np.random.default_rng(0).normal(2.0, 1.0, (50, 3, 4))
    moments = Moments.of(3, 4)
    for part in np.array_split(vectors, 7):
        moments.add(part)
    np.testing.assert_allclose(moments.mean(), vectors.mean(axis=0))
    for group in range(3):
        expected = np.cov(vectors[:, group].T, bias=True)
        np.testing.assert_allclose(moments.covariance()[group], expected, atol=1e-12)


def correlated(count: int, inputs: int) -> Array:
    random = np.random.default_rng(3)
    mixed: Array = random.normal(size=(count, 6)) @ random.normal(size=(6, inputs))
    return mixed + 0.1 * random.normal(size=(count, inputs))


@pytest.mark.parametrize("levels", [7, 127])
def test_rounding_for_the_inputs_beats_the_nearest(levels: int) -> None:
    vectors = correlated(500, 40)
    weights = np.random.default_rng(4).normal(size=(8, 40))
    values, scales = rounded(weights, (vectors.T @ vectors / 500)[None], levels=levels)
    steps = values / scales[:, None]
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-6)
    assert np.abs(steps).max() <= levels + 1e-6
    nearest_scales = np.abs(weights).max(axis=1, keepdims=True) / levels
    nearest = np.rint(weights / nearest_scales) * nearest_scales
    by_inputs = np.mean((vectors @ (weights - values).T) ** 2)
    assert by_inputs < 0.3 * np.mean((vectors @ (weights - nearest).T) ** 2)


def test_outputs_with_inputs_of_their_own_are_rounded_each_by_these() -> None:
    weights = np.random.default_rng(4).normal(size=(3, 9))
    own = np.stack([(v := correlated(100, 9) * (group + 1)).T @ v for group in range(3)])
    together, scales = rounded(weights, own, levels=7)
    for group in range(3):
        alone, scale = rounded(weights[group : group + 1], own[group : group + 1], levels=7)
        # The order in which inputs are rounded is one for all; these moments differ by a factor alone.
        np.testing.assert_allclose(together[group], alone[0])
        np.testing.assert_allclose(scales[group], scale[0])


@pytest.mark.parametrize("weights", [np.zeros((2, 5)), np.full((2, 5), 1e-30)])
def test_weights_and_inputs_of_nothing(weights: Array) -> None:
    values, scales = rounded(weights, np.zeros((1, 5, 5)), levels=7)
    assert np.isfinite(values).all()
    assert (scales > 0.0).all()
    np.testing.assert_allclose(values, weights, atol=1e-30)
