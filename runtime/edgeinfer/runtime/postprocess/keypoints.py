"""Keypoints: one point each, in 0..1 of the source picture. MoveNet gives (1, 1, 17, 3) y, x, score in 0..1."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.manifest import KeypointsPost, TensorSpec
from edgeinfer.runtime.postprocess.outputs import choose_output, input_size, real_values
from edgeinfer.runtime.preprocess import Region
from edgeinfer.runtime.results import Item

__all__ = ["Keypoints"]

Array = npt.NDArray[Any]
_TERMS = 3
_MAX_POINTS = 1000


class Keypoints:
    """An item a point: its index, its score, and a box that is the point, twice. Points outside of the picture lie on
    its edge."""

    def __init__(self, declared: KeypointsPost, model_input: TensorSpec, outputs: Sequence[TensorSpec]) -> None:
        self._declared = declared
        self._spec = choose_output(outputs, declared.output)
        shape = self._spec.shape
        if (
            len(shape) < 2
            or shape[-1] != _TERMS
            or shape[-2] > _MAX_POINTS
            or any(n not in {1, -1} for n in shape[:-2])
        ):
            raise ModelError(f"expected an output (1, points, 3) of at most {_MAX_POINTS} points, found {shape}")
        height, width = input_size(model_input) if declared.coordinates == "pixels" else (1, 1)
        self._y, self._x = (0, 1) if declared.order == "yx" else (1, 0)
        self._size = (height, width) if declared.order == "yx" else (width, height)

    def __call__(self, model_input: Array, outputs: Sequence[Array], region: Region) -> tuple[Item, ...]:
        points = real_values(outputs[self._declared.output], self._spec).reshape(-1, _TERMS)[:_MAX_POINTS]
        places, scores = points[:, :2].astype(np.float64) / self._size, points[:, 2]
        good = np.isfinite(points).all(axis=1) & (scores >= self._declared.score_threshold)
        x = (region.x + places[:, self._x] * region.width).clip(0.0, 1.0).tolist()
        y = (region.y + places[:, self._y] * region.height).clip(0.0, 1.0).tolist()
        return tuple(
            Item(index, score, (x[index], y[index], x[index], y[index]))
            for index, (score, is_good) in enumerate(zip(scores.tolist(), good.tolist(), strict=True))
            if is_good
        )
