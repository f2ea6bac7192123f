"""Whether a difference is one: paired tests of accuracy, and intervals of measured ratios.

All are of values that were measured on the same samples, or in the same rounds: what pairs have in common cancels out.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "Difference",
    "bootstrap_difference",
    "mcnemar",
    "median_interval",
    "needed_samples",
    "paired_difference",
]

_RESAMPLES = 2000
_SEED = 20260102
# Two-sided 95 % and a power of 80 %: 1.960 + 0.842.
_Z_TOTAL = 2.802
# From one end of a 95 % interval to the other, in standard errors.
_Z_INTERVAL = 3.92
_CONFIDENCE = 0.95
_LEVEL = 0.05

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Difference:
    """How much less the second of a pair has, with its 95 % interval, and the chance to see such a difference where
    there is none. In the unit of the values."""

    value: float
    low: float
    high: float
    p_value: float

    @property
    def significant(self) -> bool:
        return self.p_value < _LEVEL


def paired_difference(ours: Floats, theirs: Floats) -> Difference:
    """Of the means of two arrays (N,), `theirs` minus `ours`. Where all values are 0 or 1 the p-value is McNemar's,
    else that of the sign-flip test that the bootstrap's interval stands for."""
    gaps = np.asarray(theirs, np.float64) - np.asarray(ours, np.float64)
    low, high, p_value = _resampled(gaps)
    if np.isin(gaps, (-1.0, 0.0, 1.0)).all():
        p_value = mcnemar(lost=int((gaps > 0).sum()), won=int((gaps < 0).sum()))
        if not gaps.any() and np.isin(ours, (0.0, 1.0)).all():
            # No resample of pairs that are all alike differs; what was not seen among n occurs in up to 3 / n
            # (the rule of three: Hanley and Lippman-Hand 1983, JAMA 249).
            low, high = -min(1.0, 3.0 / len(gaps)), min(1.0, 3.0 / len(gaps))
    return Difference(float(gaps.mean()), low, high, p_value)


def mcnemar(*, lost: int, won: int) -> float:
    """The exact two-sided p-value of McNemar's test: `lost` examples only the first had right, `won` only the second
    (McNemar 1947, Psychometrika 12; exact form: binomial with a chance of one half)."""
    total, fewer = lost + won, min(lost, won)
    if total == 0:
        return 1.0
    # In logarithms: 2^-total is no number from 1075 on.
    tail = sum(math.exp(_log_binomial(total, k) - total * math.log(2.0)) for k in range(fewer + 1))
    return min(1.0, 2.0 * tail)


def _log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _resampled(gaps: Floats) -> tuple[float, float, float]:
    """The percentile interval of the mean of `gaps`, and twice the share of resampled means beyond 0."""
    random = np.random.default_rng(_SEED)
    values, counts = np.unique(gaps, return_counts=True)
    if len(values) <= 64:
        # Drawn by how often each value occurs: the same distribution, whatever the number of examples.
        drawn = random.multinomial(len(gaps), counts / len(gaps), size=_RESAMPLES)
        means = drawn @ values / len(gaps)
    else:
        means = np.array([gaps[random.integers(0, len(gaps), len(gaps))].mean() for _ in range(_RESAMPLES)])
    return _interval(means)


def bootstrap_difference(
    difference: Callable[[npt.NDArray[np.int64]], float], count: int, *, resamples: int = 400
) -> Difference:
    """Of a metric that is no mean: `difference` gives it for the examples at the given places, which may repeat; of
    `count` examples (Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13)."""
    random = np.random.default_rng(_SEED)
    value = difference(np.arange(count))
    drawn: list[float] = []
    for _ in range(resamples):
        one = difference(random.integers(0, count, count))
        if math.isfinite(one):
            drawn.append(one)
    if not drawn:
        return Difference(value, -math.inf, math.inf, 1.0)
    low, high, p_value = _interval(np.asarray(drawn))
    return Difference(value, low, high, p_value)


def _interval(drawn: Floats) -> tuple[float, float, float]:
    tail = (1.0 - _CONFIDENCE) / 2.0
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    beyond = min(float((drawn <= 0.0).mean()), float((drawn >= 0.0).mean()))
    return float(low), float(high), min(1.0, 2.0 * max(beyond, 1.0 / len(drawn)))


def needed_samples(difference: Difference, count: int, *, drop: float, least: float = 0.0) -> int:
    """How many examples a paired comparison needs to tell a loss of `drop` from none, at a level of 5 % and a power of
    80 %: z^2 * variance / drop^2, the variance of a pair's difference taken from the interval over `count` examples. Of
    rights and wrongs that variance is the share judged differently (Connor 1987, Biometrics 43, without its term of
    second order); where none of them is, the next one may be: `least` is the variance that is taken then. 0 where
    `drop` is."""
    if drop <= 0.0 or not math.isfinite(difference.high - difference.low):
        return 0
    standard_error = (difference.high - difference.low) / _Z_INTERVAL
    return math.ceil(_Z_TOTAL**2 * max(standard_error**2 * count, least) / drop**2)


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """A 95 % interval of the median, from the values' own order (the k-th smallest and largest, by the binomial
    distribution; Conover 1999, Practical Nonparametric Statistics, section 3.2). Of fewer than six values, all."""
    ordered = sorted(values)
    n = len(ordered)
    if n == 0:
        return -math.inf, math.inf
    below, k = 0.5**n, 0
    while k + 1 <= n // 2 and 2.0 * (below + math.comb(n, k + 1) * 0.5**n) <= _LEVEL:
        k += 1
        below += math.comb(n, k) * 0.5**n
    # P(the median lies outside the (k+1)-th smallest and largest) = 2 * P(at most k of n below it).
    return ordered[k], ordered[n - 1 - k]
