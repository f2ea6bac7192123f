"""Segmentation: the classes that a picture holds, how much of it each of them takes, and where; and the mask itself."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.engines.base import dequantize
from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.manifest import SegmentPost, TensorSpec
from edgeinfer.runtime.postprocess.outputs import choose_output, only
from edgeinfer.runtime.preprocess import Region
from edgeinfer.runtime.results import Item

__all__ = ["Segment"]

Array = npt.NDArray[Any]
ClassMap = npt.NDArray[np.uint16]
_MAP_AXES, _SCORE_AXES = 3, 4
# No class, in a map: what a model cannot mean, and what is outside of the picture.
_NONE = np.iinfo(np.uint16).max
_MAX_ITEMS = 1000


class Segment:
    """An item a class: its share of the picture, and the box around all of it, the largest first."""

    def __init__(self, declared: SegmentPost, outputs: Sequence[TensorSpec]) -> None:
        self._declared = declared
        self._spec = spec = choose_output(outputs, declared.output)
        shape = spec.shape
        if declared.layout == "map":
            fits = len(shape) == _MAP_AXES or (len(shape) == _SCORE_AXES and 1 in {shape[1], shape[3]})
            expected = "(1, rows, columns)"
        else:
            fits = len(shape) == _SCORE_AXES
            expected = "(1, rows, columns, classes)" if declared.layout == "nhwc" else "(1, classes, rows, columns)"
        if not fits:
            raise ModelError(
                f"expected an output {expected} for the layout {declared.layout!r}, found {shape}",
                hint="--postprocess layout=map, nhwc or nchw",
            )

    def __call__(self, model_input: Array, outputs: Sequence[Array], region: Region) -> tuple[Item, ...]:
        classes = self._class_map(outputs[self._declared.output])
        if not classes.size:
            return ()
        inside, cell_width, cell_height, left, top = _within_picture(classes, region)
        counts = np.bincount(inside.reshape(-1), minlength=1)
        shares = counts * (cell_width * cell_height)
        found = np.flatnonzero((counts > 0) & (shares >= self._declared.min_share))
        found = found[(found != _NONE) & (found != self._declared.background)]
        largest = found[np.argsort(-shares[found], kind="stable")][:_MAX_ITEMS]
        return tuple(
            Item(label, min(1.0, float(shares[label])), _box(inside == label, cell_width, cell_height, left, top))
            for label in largest.tolist()
        )

    def mask(self, outputs: Sequence[Array], region: Region, size: tuple[int, int]) -> ClassMap:
        """The class of each pixel of a source picture of `size` (height, width), by the nearest cell; 65535 where the
        model has not looked."""
        classes = self._class_map(outputs[self._declared.output])
        rows = _cells(size[0], classes.shape[0], region.y, region.height)
        columns = _cells(size[1], classes.shape[1], region.x, region.width)
        made = np.full(size, _NONE, dtype=np.uint16)
        seen_rows, seen_columns = np.flatnonzero(rows >= 0), np.flatnonzero(columns >= 0)
        made[np.ix_(seen_rows, seen_columns)] = classes[np.ix_(rows[seen_rows], columns[seen_columns])]
        return made

    def _class_map(self, output: Array) -> ClassMap:
        """(rows, columns) of class indices."""
        entry = only(output)
        if self._declared.layout == "map":
            has_last_one = entry.ndim == _MAP_AXES and entry.shape[2] == 1
            return _as_classes(entry.reshape(entry.shape[:2] if has_last_one else entry.shape[-2:]))
        axis = 2 if self._declared.layout == "nhwc" else 0
        if not entry.size:
            return np.zeros((0, 0), dtype=np.uint16)
        if entry.shape[axis] == 1:
            scores = dequantize(entry.squeeze(axis), self._spec)
            return _as_classes(np.where(np.isfinite(scores), scores > self._declared.score_threshold, -1))
        return _winners(entry, axis)


def _winners(scores: Array, axis: int) -> ClassMap:
    """The class with the highest score in each cell. Integers are compared as they are: their order is the same."""
    best = scores.argmax(axis=axis)
    made: ClassMap = best.astype(np.uint16)
    if scores.dtype.kind == "f":
        highest = np.take_along_axis(scores, np.expand_dims(best, axis), axis).squeeze(axis)
        made[~np.isfinite(highest)] = _NONE
    return made


def _as_classes(found: Array) -> ClassMap:
    known = (found >= 0) & (found < _NONE)
    made: ClassMap = (found if known.all() else np.where(known, found, _NONE)).astype(np.uint16)
    return made


def _within_picture(classes: ClassMap, region: Region) -> tuple[ClassMap, float, float, float, float]:
    """The cells whose middle is in the picture, the size of a cell, and where the first one begins, in 0..1 of it."""
    rows, columns = classes.shape
    height, width = region.height / rows, region.width / columns
    y, x = region.y + (np.arange(rows) + 0.5) * height, region.x + (np.arange(columns) + 0.5) * width
    first_row, last_row = np.searchsorted(y, (0.0, 1.0)).tolist()
    first_column, last_column = np.searchsorted(x, (0.0, 1.0)).tolist()
    inside = classes[first_row:last_row, first_column:last_column]
    return inside, width, height, region.x + first_column * width, region.y + first_row * height


def _box(
    where: npt.NDArray[np.bool_], width: float, height: float, left: float, top: float
) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(where.any(axis=1)), np.flatnonzero(where.any(axis=0))
    x1, x2 = left + int(columns[0]) * width, left + (int(columns[-1]) + 1) * width
    y1, y2 = top + int(rows[0]) * height, top + (int(rows[-1]) + 1) * height
    return max(0.0, x1), max(0.0, y1), min(1.0, x2), min(1.0, y2)


def _cells(pixels: int, cells: int, start: float, length: float) -> npt.NDArray[np.int64]:
    """For each pixel of a side the cell that shows it, or -1."""
    place = np.floor(((np.arange(pixels) + 0.5) / pixels - start) / length * cells)
    return np.where((place >= 0) & (place < cells), place, -1).astype(np.int64)
