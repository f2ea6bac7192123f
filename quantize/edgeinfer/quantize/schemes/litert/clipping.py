"""Where to cut off an activation's range, so that the mean squared error of its int8 values is smallest."""

import numpy as np

from edgeinfer.runtime.engines.base import Array

__all__ = ["BINS", "best_range"]

BINS = 2048
_STEPS = 255
# Shares of each side of the range that are tried.
_SHARES = np.linspace(0.02, 1.0, 197)


def best_range(counts: Array, low: float, high: float) -> tuple[float, float]:
    """The range within [low, high] with the smallest squared error.

    `counts` (BINS,) is the histogram over [low, high] of all values but the zeros, which int8 keeps exactly. The error
    of a value inside is step^2 / 12, as of rounding that is uniform within a step; outside it is the square of its
    distance to the border.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    total = float(counts.sum())
    if total == 0.0 or high <= low:
        return low, high
    lows, highs = low * _SHARES, high * _SHARES
    below, above = _outside(counts, low, high, lows), _outside(counts[::-1], -high, -low, -highs)
    steps = (highs[None, :] - lows[:, None]) / _STEPS
    inside = np.maximum(total - below[0][:, None] - above[0][None, :], 0.0)
    error = inside * steps**2 / 12.0 + below[1][:, None] + above[1][None, :]
    i, j = np.unravel_index(int(np.argmin(error)), error.shape)
    return float(lows[i]), float(highs[j])


def _outside(counts: Array, low: float, high: float, borders: Array) -> tuple[Array, Array]:
    """How many values lie below each border, and the sum of their squared distances to it."""
    centres = low + (np.arange(BINS) + 0.5) * (high - low) / BINS
    sums = [np.concatenate(([0.0], np.cumsum(counts * centres**power))) for power in (0, 1, 2)]
    index = np.searchsorted(centres, borders)
    n, first, second = (row[index] for row in sums)
    return n, n * borders**2 - 2.0 * borders * first + second
