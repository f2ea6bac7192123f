"""From a tensor's histogram to the range that its integers cover.

A wide range rounds every value coarsely; a narrow one clips the rare large ones. Where to cut: at percentiles, where
the mean squared error is least, or where the distribution is changed least (relative entropy, as in TensorRT's
calibration: S. Migacz, "8-bit Inference with TensorRT", GTC 2017, here for ranges that need not be symmetric).
"""

from dataclasses import dataclass

import numpy as np

from edgeinfer.runtime.engines.base import Array

__all__ = ["Histogram", "entropy_range", "mse_range", "percentile_range"]

# Of 10 000 values of a tensor, one may lie outside its range.
PERCENTILE = 99.99
_LEVELS = 255
_CUTS = 64
# Below this share of the seen range, what is left is no range for 8 bits but for outliers to be looked into.
_LEAST_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Histogram:
    """`counts` int64 (bins,) of the values from `low` to `high`, in bins of equal width."""

    low: float
    high: float
    counts: Array

    @property
    def edges(self) -> Array:
        """float64 (bins + 1,)"""
        return np.linspace(self.low, self.high, len(self.counts) + 1)


def percentile_range(histogram: Histogram) -> tuple[float, float]:
    """Without the rarest values, half of them at each end."""
    total = int(histogram.counts.sum())
    if total == 0:
        return histogram.low, histogram.high
    shares = np.cumsum(histogram.counts) / total
    cut = (100.0 - PERCENTILE) / 200.0
    edges = histogram.edges
    low = edges[int(np.searchsorted(shares, cut, side="right"))]
    high = edges[min(int(np.searchsorted(shares, 1.0 - cut)) + 1, len(edges) - 1)]
    return min(float(low), 0.0), max(float(high), 0.0)


def mse_range(histogram: Histogram) -> tuple[float, float]:
    """Where rounding (step^2 / 12 for each value inside) and clipping together cost the least squared error."""
    edges = histogram.edges
    middles, counts = (edges[1:] + edges[:-1]) / 2.0, histogram.counts.astype(np.float64)
    lows, highs = _cuts(histogram.low), _cuts(histogram.high)
    below, above = _beyond(-middles, counts, -lows), _beyond(middles, counts, highs)
    steps = (highs[None, :] - lows[:, None]) / _LEVELS
    cost = counts.sum() * steps**2 / 12.0 + below[:, None] + above[None, :]
    low, high = np.unravel_index(int(np.argmin(cost)), cost.shape)
    return float(lows[low]), float(highs[high])


def _cuts(end: float) -> Array:
    """Candidates for an end of the range, from a share of it to all of it."""
    return end * np.linspace(_LEAST_SHARE, 1.0, _CUTS) if end else np.zeros(1)


def _beyond(middles: Array, counts: Array, cuts: Array) -> Array:
    """For each cut the summed squared distance of the values above it."""
    distances = np.maximum(middles[None, :] - cuts[:, None], 0.0)
    cost: Array = distances**2 @ counts
    return cost


def entropy_range(histogram: Histogram) -> tuple[float, float]:
    """Where the quantized distribution tells least apart from the seen one; both ends are drawn in alike."""
    shares = np.linspace(_LEAST_SHARE, 1.0, _CUTS)
    histogram = _without_zeros(histogram)
    costs = [_divergence(histogram, histogram.low * share, histogram.high * share) for share in shares]
    best = float(shares[int(np.argmin(costs))])
    return histogram.low * best, histogram.high * best


def _without_zeros(histogram: Histogram) -> Histogram:
    """Zero is exact in any range; the many zeros behind a Relu say nothing about where to cut."""
    counts = histogram.counts.copy()
    counts[int(np.clip(np.searchsorted(histogram.edges, 0.0, side="right") - 1, 0, len(counts) - 1))] = 0
    return Histogram(histogram.low, histogram.high, counts)


def _divergence(histogram: Histogram, low: float, high: float) -> float:
    """Relative entropy of the clipped histogram to what is left of it in 255 levels."""
    edges = histogram.edges
    middles = (edges[1:] + edges[:-1]) / 2.0
    inside = (middles >= low) & (middles <= high)
    if not inside.any():
        return float("inf")
    kept = histogram.counts[inside].astype(np.float64)
    clipped = kept.copy()
    clipped[0] += histogram.counts[middles < low].sum()
    clipped[-1] += histogram.counts[middles > high].sum()
    levels = np.minimum(np.arange(len(kept)) * _LEVELS // len(kept), _LEVELS - 1)
    filled = clipped > 0  # a bin without values stays without any
    totals = np.bincount(levels, weights=kept, minlength=_LEVELS)
    occupied = np.bincount(levels, weights=filled.astype(np.float64), minlength=_LEVELS)
    quantized = np.where(filled, totals[levels] / np.maximum(occupied[levels], 1.0), 0.0)
    if not quantized.sum() or not clipped.sum():
        return float("inf")
    p = clipped[filled] / clipped.sum()
    q = np.maximum(quantized[filled] / quantized.sum(), 1e-12)
    return float(np.sum(p * np.log(p / q)))
