"""Which channels of a layer can go: pure decisions over what they were on calibration samples."""

from dataclasses import dataclass

import numpy as np

from edgeinfer.runtime.engines.base import Array

__all__ = ["BLOCK", "ChannelRange", "choose", "constant_channels", "merge", "range_of"]

# Kernels work on blocks of channels (8 with AVX2): measured, layers of other counts lose what pruning gains.
BLOCK = 8
# Of a tensor's largest value: what a channel may vary by and still be called constant.
_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class ChannelRange:
    """Least, greatest and mean value of each channel of a tensor, float64 (channels,), over `count` samples."""

    low: Array
    high: Array
    mean: Array
    count: int = 1


def range_of(rows: Array) -> ChannelRange:
    """Of one sample, (channels, values of each)."""
    rows = rows.astype(np.float64)
    return ChannelRange(rows.min(axis=1), rows.max(axis=1), rows.mean(axis=1))


def merge(first: ChannelRange, second: ChannelRange) -> ChannelRange:
    """Over the samples of both."""
    count = first.count + second.count
    mean = (first.mean * first.count + second.mean * second.count) / count
    return ChannelRange(np.minimum(first.low, second.low), np.maximum(first.high, second.high), mean, count)


def constant_channels(found: ChannelRange, *, absorbed: bool) -> Array:
    """Bool (channels,): those that have one value only, which must be zero unless the layer that reads them has
    `absorbed` it in its bias."""
    largest = np.maximum(np.abs(found.low), np.abs(found.high))
    noise = _TOLERANCE * max(float(largest.max(initial=0.0)), float(np.finfo(np.float32).tiny))
    constant: Array = found.high - found.low <= noise
    return constant if absorbed else constant & (largest <= noise)


def choose(dead: Array, norms: Array, *, share: float, multiple: int) -> Array:
    """Bool (channels,): those to remove. All that are `dead`, and with them as many of the least `norms` as make
    `share` of all. A multiple of `multiple` channels is left, and at least one: engines take no layer without."""
    gone = dead.copy()
    wanted = int(share * len(dead)) - int(gone.sum())
    if wanted > 0:
        gone[np.argsort(np.where(gone, np.inf, norms), kind="stable")[:wanted]] = True
    kept = int((~gone).sum())
    left = min(multiple * -(-max(kept, 1) // multiple), len(dead))
    back = np.flatnonzero(gone)
    gone[back[np.argsort(-norms[back], kind="stable")[: left - kept]]] = False
    return gone
