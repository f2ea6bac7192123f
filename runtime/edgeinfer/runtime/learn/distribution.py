"""How a statistic is spread, and how far two spreads lie apart. Values in, values out.

Sources: the population stability index is the symmetric Kullback-Leibler divergence of binned shares (S. Kullback,
R. A. Leibler 1951; as an index of shift: N. Siddiqi, "Credit Risk Scorecards", 2006, with 0.1 as little and 0.25 as
much). Where nothing has shifted, it is about chi-squared of B - 1 degrees, times 1/n + 1/m (B. Yurdakul, J. Naranjo,
"Statistical properties of the population stability index", Journal of Risk Model Validation 14/4, 2020). The
two-sample Kolmogorov-Smirnov statistic and its critical value: N. Smirnov 1939. Quantiles of chi-squared: E. B. Wilson,
M. M. Hilferty, PNAS 17, 1931. Values that follow each other are alike: the number that as many independent ones would
count for is n (1 - r) / (1 + r), r the correlation with the value before (G. V. Bayley, J. M. Hammersley 1946).
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.manifest import Distribution

__all__ = ["describe", "effective_count", "ks", "ks_limit", "psi", "psi_limit"]

Values = npt.NDArray[np.float64]

# Twenty bins: fine enough for the Kolmogorov-Smirnov statistic, which is taken at their edges.
_BINS = 20
# A bin of the population stability index holds about a tenth of the reference, as is usual.
_PSI_SHARE = 0.09
_LOW, _HIGH = 0.005, 0.995
# What a share of nothing counts as, in samples: the logarithm of 0 would make one missing value an infinite shift.
_PSEUDO_COUNT = 0.5


def describe(values: npt.NDArray[Any], *, effective: float | None = None) -> Distribution:
    """The spread of `values` (n,), of which NaN and infinities are left out. `effective` is how many independent
    samples they count for; None: all of them. Raises ValueError where no value is left."""
    finite = _finite(values)
    if not len(finite):
        raise ValueError("expected at least one finite value, found none")
    ordered = np.sort(finite)
    cuts = _quantiles(ordered, np.arange(1, _BINS) / _BINS)
    # Each once, and none that nothing lies below.
    edges = cuts[np.diff(cuts, prepend=ordered[0]) > 0.0]
    if not len(edges):  # nearly all are the same: what is below, that, and what is above
        common = cuts[len(cuts) // 2]
        edges = np.array([common, np.nextafter(common, math.inf)])
    low, high = _quantiles(ordered, np.array([_LOW, _HIGH])).tolist()
    count = len(finite) if effective is None else max(1, round(effective))
    return Distribution(tuple(edges.tolist()), tuple(_shares(finite, edges).tolist()), low, high, count)


def psi(reference: Distribution, values: npt.NDArray[Any]) -> float:
    """The population stability index: sum over bins of (a - e) ln(a / e), a the share of `values`, e that of the
    reference. Bins are merged until each holds about a tenth of the reference."""
    finite = _finite(values)
    edges, expected = _merged(reference)
    if not len(finite):
        return 0.0
    counts = _counts(finite, edges)
    found = (counts + _PSEUDO_COUNT) / (len(finite) + _PSEUDO_COUNT * len(counts))
    awaited = (expected * reference.n + _PSEUDO_COUNT) / (reference.n + _PSEUDO_COUNT * len(counts))
    return float(np.sum((found - awaited) * np.log(found / awaited)))


def ks(reference: Distribution, values: npt.NDArray[Any]) -> float:
    """The largest distance between the two distribution functions, taken at the reference's edges: never more than
    that of all values, and less by no more than what a bin holds."""
    finite = _finite(values)
    if not len(finite) or not reference.edges:
        return 0.0
    found = np.cumsum(_shares(finite, np.asarray(reference.edges)))[:-1]
    return float(np.max(np.abs(found - np.cumsum(reference.shares)[:-1])))


def psi_limit(reference: Distribution, n: float, *, chance: float) -> float:
    """What the index of `n` values exceeds with probability `chance` where nothing has shifted."""
    degrees = len(_merged(reference)[1]) - 1
    return _chi_squared(degrees, chance) * (1.0 / n + 1.0 / reference.n) if degrees and n > 0 else math.inf


def ks_limit(reference: Distribution, n: float, *, chance: float) -> float:
    """What the Kolmogorov-Smirnov statistic of `n` values exceeds with probability `chance` where nothing has
    shifted: sqrt(-ln(chance / 2) / 2 (1/n + 1/m))."""
    return math.sqrt(-math.log(chance / 2.0) / 2.0 * (1.0 / n + 1.0 / reference.n)) if n > 0 else math.inf


def effective_count(values: npt.NDArray[Any]) -> float:
    """How many independent values those that came one after the other count for: at least 1, at most all."""
    finite = _finite(values)
    n = len(finite)
    centred = finite - finite.mean() if n else finite
    power = float(np.dot(centred, centred))
    if n <= 2 or power <= 0.0:
        return float(n)
    r = min(max(float(np.dot(centred[1:], centred[:-1])) / power, 0.0), 1.0 - 1.0 / n)
    return max(1.0, n * (1.0 - r) / (1.0 + r))


def _quantiles(ordered: Values, shares: Values) -> Values:
    """Values that are there: the smallest that so great a share does not exceed."""
    # As numpy's "inverted_cdf"; that brings in masked arrays, which take a megabyte.
    return ordered[np.maximum(np.ceil(shares * len(ordered) - 1e-9).astype(np.int64) - 1, 0)]


def _finite(values: npt.NDArray[Any]) -> Values:
    reals = np.asarray(values, dtype=np.float64).reshape(-1)
    return reals[np.isfinite(reals)]


def _counts(values: Values, edges: npt.NDArray[Any]) -> Values:
    bins = np.searchsorted(edges, values, side="right")
    return np.bincount(bins, minlength=len(edges) + 1).astype(np.float64)


def _shares(values: Values, edges: npt.NDArray[Any]) -> Values:
    return _counts(values, edges) / len(values)


def _merged(reference: Distribution) -> tuple[Values, Values]:
    """Edges and shares of neighbouring bins put together, from below, until each holds enough; all of them where
    nothing would be left to tell apart."""
    edges: list[float] = []
    shares: list[float] = [0.0]
    for share, edge in zip(reference.shares, (*reference.edges, math.inf), strict=True):
        shares[-1] += share
        if shares[-1] >= _PSI_SHARE and edge < math.inf:
            edges.append(edge)
            shares.append(0.0)
    if edges and shares[-1] < _PSI_SHARE:
        edges.pop()
        shares[-2:] = [shares[-2] + shares[-1]]
    if not edges:
        return np.asarray(reference.edges), np.asarray(reference.shares)
    return np.asarray(edges), np.asarray(shares)


def _chi_squared(degrees: int, chance: float) -> float:
    """The value that chi-squared exceeds with probability `chance` (Wilson and Hilferty)."""
    spread = 2.0 / (9.0 * degrees)
    cube_root = 1.0 - spread + _normal_above(chance) * math.sqrt(spread)
    return degrees * max(cube_root, 0.0) ** 3


def _normal_above(chance: float) -> float:
    """The value that a standard normal one exceeds with probability `chance`, by halving; Python's own `statistics`
    takes some megabytes to import."""
    low, high = -40.0, 40.0
    for _ in range(64):
        middle = 0.5 * (low + high)
        if 0.5 * math.erfc(middle / math.sqrt(2.0)) > chance:
            low = middle
        else:
            high = middle
    return high
