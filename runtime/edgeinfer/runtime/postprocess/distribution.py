"""Detectors whose box sides are distributions: NanoDet, and YOLO heads of versions 8 to 11 before decoding.

For each of the four sides the network gives `bins` logits; their softmax says how far the side is from the cell's
point, in strides: distance = sum(softmax(logits) * (0 .. bins - 1)) * stride. Source: Li et al., "Generalized Focal
Loss" (GFL), whose head both have taken over; the point of a cell is (cell + shift) * stride.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.engines.base import dequantize
from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.manifest import DetectPost, TensorSpec
from edgeinfer.runtime.postprocess.boxes import Floats, Labels, suppressed
from edgeinfer.runtime.postprocess.outputs import input_size, only
from edgeinfer.runtime.postprocess.scores import ClassScores
from edgeinfer.runtime.preprocess import Region
from edgeinfer.runtime.results import Item

__all__ = ["NanoDet", "YoloHeads"]

Array = npt.NDArray[Any]
_SIDES = 4
_ROWS_AXES, _GRID_AXES = 3, 4


class _Grid(NamedTuple):
    """The cells of one stride: how many rows and columns, and their points (cells, 2) x, y and strides in 0..1."""

    rows: int
    columns: int
    points: Floats
    steps: Floats


class _Sides:
    """From the logits of the chosen cells to corners."""

    def __init__(self, declared: DetectPost, model_input: TensorSpec) -> None:
        height, width = input_size(model_input)
        if not declared.strides:
            raise ModelError("expected at least one stride, found none")
        self._bins = np.arange(declared.bins, dtype=np.float32)
        self.grids = [_grid(stride, height, width, declared.shift) for stride in declared.strides]

    def corners(self, logits: Floats, points: Floats, steps: Floats) -> Floats:
        """`logits` (m, 4 * bins) left, top, right, bottom; `points` (m, 2); `steps` (m, 2) a stride in 0..1."""
        logits = logits.reshape(-1, _SIDES, len(self._bins))
        powers = np.exp(logits - logits.max(axis=2, keepdims=True))
        distances = (powers @ self._bins) / powers.sum(axis=2)
        return np.concatenate([points - distances[:, :2] * steps, points + distances[:, 2:] * steps], axis=1)


class NanoDet:
    """One output (1, cells, classes + 4 * bins), grid by grid; class scores are probabilities."""

    def __init__(self, declared: DetectPost, model_input: TensorSpec, outputs: Sequence[TensorSpec]) -> None:
        self._declared = declared
        self._sides = _Sides(declared, model_input)
        self._points = np.concatenate([grid.points for grid in self._sides.grids])
        self._steps = np.concatenate([grid.steps for grid in self._sides.grids])
        self._spec = outputs[0]
        cells, terms = len(self._points), _SIDES * declared.bins
        shape = self._spec.shape
        if len(outputs) != 1 or len(shape) != _ROWS_AXES or shape[1] not in {-1, cells} or shape[2] <= terms:
            found = [spec.shape for spec in outputs]
            raise ModelError(
                f"expected one output (1, {cells}, classes + {terms}), found {found}",
                hint="are strides and bins those of the model?",
            )
        self._terms = terms
        self._scores = ClassScores(declared, self._spec)

    def __call__(self, model_input: Array, outputs: Sequence[Array], region: Region) -> tuple[Item, ...]:
        with np.errstate(all="ignore"):
            rows = only(outputs[0])[: len(self._points)]
            places, scores, classes = self._scores.choose(rows[:, : -self._terms])
            if not len(places):
                return ()
            logits = dequantize(rows[places, -self._terms :], self._spec).astype(np.float32, copy=False)
            corners = self._sides.corners(logits, self._points[places], self._steps[places])
            return suppressed(corners, scores, classes, region, self._declared)


class _Head(NamedTuple):
    """Where the sides and the classes of a grid lie: output, first channel and one behind the last of each."""

    grid: _Grid
    sides: tuple[int, slice]
    classes: tuple[int, slice]
    scores: ClassScores


class YoloHeads:
    """A grid a stride, in one output with 4 * bins + classes channels, or in two, sides and classes; channels first or
    last. Class scores are logits."""

    def __init__(self, declared: DetectPost, model_input: TensorSpec, outputs: Sequence[TensorSpec]) -> None:
        self._declared = declared
        self._sides = _Sides(declared, model_input)
        self._specs = tuple(outputs)
        self._channels_first = [False] * len(outputs)
        self._heads = [self._head(grid) for grid in self._sides.grids]

    def __call__(self, model_input: Array, outputs: Sequence[Array], region: Region) -> tuple[Item, ...]:
        with np.errstate(all="ignore"):
            flat = [self._cells(place, output) for place, output in enumerate(outputs)]
            found = [self._read(head, flat) for head in self._heads]
            corners, scores, classes = (np.concatenate(parts) for parts in zip(*found, strict=True))
            if not len(scores):
                return ()
            return suppressed(corners, scores, classes, region, self._declared)

    def _read(self, head: _Head, flat: list[Array]) -> tuple[Floats, Floats, Labels]:
        output, channels = head.classes
        places, scores, classes = head.scores.choose(flat[output][:, channels])
        output, channels = head.sides
        logits = dequantize(flat[output][places][:, channels], self._specs[output]).astype(np.float32, copy=False)
        corners = self._sides.corners(logits, head.grid.points[places], head.grid.steps[places])
        return corners, scores, classes

    def _cells(self, place: int, output: Array) -> Array:
        """(cells, channels) of an output."""
        if self._channels_first[place]:
            return only(output).reshape(output.shape[1], -1).T
        return only(output).reshape(-1, output.shape[3])

    def _head(self, grid: _Grid) -> _Head:
        """The one or two outputs of a grid. Raises ModelError."""
        terms = _SIDES * self._declared.bins
        found = [(place, count) for place in range(len(self._specs)) if (count := self._channels(place, grid))]
        if len(found) == 1 and found[0][1] > terms:
            place, count = found[0]
            sides, classes = (place, slice(0, terms)), (place, slice(terms, count))
        elif len(found) == 2 and terms in {count for _, count in found}:
            # Sides come first in every export, should there be as many classes.
            first = 0 if found[0][1] == terms else 1
            sides, classes = (found[first][0], slice(0, terms)), (found[1 - first][0], slice(0, found[1 - first][1]))
        else:
            shapes = [spec.shape for spec in self._specs]
            raise ModelError(
                f"expected for a grid of {grid.rows} x {grid.columns} one output with {terms} + classes channels, or "
                f"two with {terms} and classes, found {shapes}",
                hint="are strides and bins those of the model?",
            )
        scores = ClassScores(self._declared, self._specs[classes[0]], activation="sigmoid")
        return _Head(grid, sides, classes, scores)

    def _channels(self, place: int, grid: _Grid) -> int:
        """How many channels an output has for the cells of a grid; 0 where it is that of another one."""
        shape = self._specs[place].shape
        if len(shape) != _GRID_AXES:
            return 0
        if shape[2:] == (grid.rows, grid.columns):
            self._channels_first[place] = True
            return max(0, shape[1])
        return max(0, shape[3]) if shape[1:3] == (grid.rows, grid.columns) else 0


def _grid(stride: int, height: int, width: int, shift: float) -> _Grid:
    rows, columns = -(-height // stride), -(-width // stride)
    x, y = (np.arange(columns) + shift) * stride / width, (np.arange(rows) + shift) * stride / height
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(np.float32)
    steps = np.full(points.shape, (stride / width, stride / height), dtype=np.float32)
    return _Grid(rows, columns, points, steps)
