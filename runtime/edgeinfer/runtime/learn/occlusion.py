"""Which parts of an input a score comes from: each is covered in turn, and the score is taken again.

For pictures this is the occlusion map of M. D. Zeiler, R. Fergus, "Visualizing and understanding convolutional
networks", ECCV 2014; for series the same with a stretch of one channel. The score of a box that moves or shrinks is
weighed by how far it still overlaps the first one, as V. Petsiuk et al., "Black-box explanation of object detectors
via saliency maps" (D-RISE), CVPR 2021, do.

Values in, values out: `score` runs the model.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Area", "Fill", "Heat", "Score", "Tick", "cover_picture", "cover_series", "places"]

Array = npt.NDArray[Any]
Heat = npt.NDArray[np.float32]
Score = Callable[[Array], float]
Tick = Callable[[float], None]
Fill = Literal["grey", "blur", "mean", "neighbours", "shuffle"]

_SEED = 20130412
# Blurred this much of the patch's side, nothing of its size can be made out.
_BLUR = 0.5


class Area(NamedTuple):
    """A part of a picture in pixels: the rows `top` to `bottom`, the columns `left` to `right`, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int


def places(begin: int, end: int, *, size: int, stride: int) -> list[int]:
    """Where stretches of `size` begin so that they cover `begin` to `end`, the last one flush with the end."""
    last = max(begin, end - size)
    return sorted({*range(begin, last, stride), last})


def cover_picture(picture: Array, area: Area, score: Score, *, patch: int, stride: int, fill: Fill, tick: Tick) -> Heat:
    """How far the score falls where each pixel of (H, W, 3) is covered, on average over the patches that cover it;
    0 outside of `area`. `fill`: the picture's mean colour ("grey"), or itself, blurred ("blur")."""
    cover = _blurred(picture, patch) if fill == "blur" else np.broadcast_to(_mean_colour(picture), picture.shape)
    before = score(picture)
    rows = places(area.top, area.bottom, size=patch, stride=stride)
    columns = places(area.left, area.right, size=patch, stride=stride)
    heat = np.zeros(picture.shape[:2], np.float32)
    counts = np.zeros(picture.shape[:2], np.float32)
    for done, (top, left) in enumerate((top, left) for top in rows for left in columns):
        part = slice(top, min(top + patch, area.bottom)), slice(left, min(left + patch, area.right))
        covered = picture.copy()
        covered[part] = cover[part]
        heat[part] += before - score(covered)
        counts[part] += 1.0
        tick(done / (len(rows) * len(columns)))
    return np.asarray(heat / np.maximum(counts, 1.0), np.float32)


def cover_series(
    series: Array, score: Score, *, patch: int, stride: int, group: int, fill: Fill, means: Array | None, tick: Tick
) -> Heat:
    """The same for (length, channels): `patch` steps of `group` neighbouring channels at a time. `fill`: the channel's
    mean ("mean": `means` (channels,) where the package declares them, else that of the series), the line between the
    neighbours ("neighbours"), or its own steps in another order ("shuffle")."""
    before = score(series)
    average = series.mean(axis=0, dtype=np.float64) if means is None else means
    random = np.random.default_rng(_SEED)
    heat = np.zeros(series.shape, np.float32)
    counts = np.zeros(series.shape, np.float32)
    starts = places(0, len(series), size=patch, stride=stride)
    groups = range(0, series.shape[1], group)
    for done, (start, first) in enumerate((start, first) for first in groups for start in starts):
        part = slice(start, start + patch), slice(first, first + group)
        covered = series.copy()
        covered[part] = _stretch(series, part, fill, average, random)
        heat[part] += before - score(covered)
        counts[part] += 1.0
        tick(done / (len(starts) * len(groups)))
    return np.asarray(heat / np.maximum(counts, 1.0), np.float32)


def _stretch(series: Array, part: tuple[slice, slice], fill: Fill, means: Array, random: np.random.Generator) -> Array:
    """What covers a part of a series, in its dtype."""
    steps, channels = part
    inside = series[part]
    if fill == "shuffle":
        return np.asarray(random.permutation(inside, axis=0))
    if fill == "neighbours":
        before = series[max(steps.start - 1, 0), channels].astype(np.float64)
        behind = series[min(steps.stop, len(series) - 1), channels].astype(np.float64)
        weights = (np.arange(len(inside))[:, np.newaxis] + 1.0) / (len(inside) + 1.0)
        made = before + (behind - before) * weights
    else:
        made = np.broadcast_to(means[channels], inside.shape)
    return _as_dtype(made, series.dtype)


def _as_dtype(values: Array, dtype: "np.dtype[Any]") -> Array:
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return np.asarray(values, dtype)


def _mean_colour(picture: Array) -> Array:
    mean = picture.reshape(-1, picture.shape[-1]).mean(axis=0)
    return np.asarray(np.rint(mean), picture.dtype)


def _blurred(picture: Array, patch: int) -> Array:
    from edgeinfer.runtime.sources.pictures import opencv

    return np.asarray(opencv().GaussianBlur(picture, (0, 0), max(1.0, patch * _BLUR)))
