"""FastestDet: one box a cell.

Source: its reference decoder. Score = objectness^0.6 * class^0.4, centre = (cell + tanh) / grid, size = sigmoid.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.engines.base import dequantize
from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.manifest import DetectPost, TensorSpec
from edgeinfer.runtime.postprocess.boxes import around, suppressed
from edgeinfer.runtime.postprocess.outputs import only
from edgeinfer.runtime.postprocess.scores import sigmoid
from edgeinfer.runtime.preprocess import Region, concrete_shape
from edgeinfer.runtime.results import Item

__all__ = ["FastestDet"]

Array = npt.NDArray[Any]
_AXES = 4
_BEFORE_CLASSES = 5


class FastestDet:
    """Channels: objectness, x, y, width, height, then a score a class."""

    def __init__(self, declared: DetectPost, outputs: Sequence[TensorSpec]) -> None:
        shape = concrete_shape(outputs[0])
        if len(outputs) != 1 or len(shape) != _AXES or shape[1] <= _BEFORE_CLASSES:
            found = [spec.shape for spec in outputs]
            raise ModelError(f"expected one output (1, 5 + classes, rows, columns), found {found}")
        self._declared = declared
        self._spec = outputs[0]

    def __call__(self, model_input: Array, outputs: Sequence[Array], region: Region) -> tuple[Item, ...]:
        with np.errstate(all="ignore"):
            grid = dequantize(only(outputs[0]), self._spec)
            best = grid[_BEFORE_CLASSES:].max(axis=0)
            scores = np.maximum(grid[0], 0.0) ** 0.6 * np.maximum(best, 0.0) ** 0.4
            rows, columns = np.nonzero(scores >= self._declared.score_threshold)
            if not len(rows):
                return ()
            x, y, width, height = grid[1:_BEFORE_CLASSES, rows, columns]
            cells_y, cells_x = scores.shape
            corners = around(
                (columns + np.tanh(x)) / cells_x, (rows + np.tanh(y)) / cells_y, sigmoid(width), sigmoid(height)
            )
            classes = grid[_BEFORE_CLASSES:, rows, columns].argmax(axis=0)
            return suppressed(corners, scores[rows, columns], classes, region, self._declared)
