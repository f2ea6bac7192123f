"""The default boxes of an SSD: fixed boxes over the picture, which the model says how to move.

The recipe is `create_ssd_anchors` of TensorFlow's Object Detection API (anchor_generators/
multiple_grid_anchor_generator.py), after Liu et al., "SSD: Single Shot MultiBox Detector", section 2.2.
"""

import math

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.manifest import SsdAnchors

__all__ = ["ssd_anchors"]

Floats = npt.NDArray[np.float32]
_SMALLEST_SCALE = 0.1  # of the first box in the first grid, where that grid is reduced


def ssd_anchors(recipe: SsdAnchors, *, height: int, width: int) -> Floats:
    """(n, 4) centre y, centre x, height, width in 0..1 of an input of that size; by grid, row, column and box."""
    scales = _scales(recipe)
    rows, columns = (math.ceil(side / recipe.first_stride) for side in (height, width))
    grids = []
    for layer in range(recipe.layers):
        shapes = _shapes(recipe, layer, scales)
        shapes *= (min(height, width) / height, min(height, width) / width)
        grids.append(_tiled(rows, columns, shapes))
        rows, columns = math.ceil(rows / 2), math.ceil(columns / 2)
    return np.concatenate(grids).astype(np.float32)


def _scales(recipe: SsdAnchors) -> list[float]:
    """One a layer in equal steps, and 1.0 behind them."""
    step = (recipe.max_scale - recipe.min_scale) / (recipe.layers - 1)
    return [recipe.min_scale + step * layer for layer in range(recipe.layers)] + [1.0]


def _shapes(recipe: SsdAnchors, layer: int, scales: list[float]) -> npt.NDArray[np.float64]:
    """(boxes, 2) heights and widths of the boxes of a cell."""
    scale = scales[layer]
    if layer == 0 and recipe.reduced:
        pairs = [(_SMALLEST_SCALE, 1.0), (scale, 2.0), (scale, 0.5)]
    else:
        # One more square, between this layer's scale and the next one's.
        pairs = [(scale, ratio) for ratio in recipe.aspect_ratios] + [(math.sqrt(scale * scales[layer + 1]), 1.0)]
    return np.array([(size / math.sqrt(ratio), size * math.sqrt(ratio)) for size, ratio in pairs])


def _tiled(rows: int, columns: int, shapes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The boxes of a cell, around the middle of each cell."""
    tiled = np.empty((rows, columns, len(shapes), 4))
    tiled[..., 0] = ((np.arange(rows) + 0.5) / rows)[:, None, None]
    tiled[..., 1] = ((np.arange(columns) + 0.5) / columns)[None, :, None]
    tiled[..., 2:] = shapes
    return tiled.reshape(-1, 4)
