"""Detection: boxes from the layouts that exporters write, in 0..1 of the source picture.

Sources of the decodings: TFLite's `TFLite_Detection_PostProcess` operator; FastestDet's reference decoder
(score obj^0.6 * cls^0.4, centre (cell + tanh) / grid, size sigmoid); YOLOv5's (cx cy w h objectness classes)
and YOLOv8's (cx cy w h classes, transposed) export layouts.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.engines.base import dequantize
from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.manifest import DetectPost, TensorSpec
from edgeinfer.runtime.preprocess import Region, concrete_shape
from edgeinfer.runtime.results import Item

__all__ = ["compile_detector"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
_BOX_TERMS = 4
_SSD_OUTPUTS = 4
_COORDINATES_IN_PIXELS = 2.0


def compile_detector(
    declared: DetectPost, model_input: TensorSpec, outputs: Sequence[TensorSpec]
) -> "SsdDetector | GridDetector | YoloDetector":
    """Raises ModelError where the outputs are not those of the declared format."""
    match declared.format:
        case "tflite_ssd":
            return SsdDetector(declared, outputs)
        case "fastestdet":
            return GridDetector(declared, outputs)
        case "yolo":
            return YoloDetector(declared, model_input, outputs)


class SsdDetector:
    """Reads what the model's own postprocessing left: it has suppressed overlaps already."""

    def __init__(self, declared: DetectPost, outputs: Sequence[TensorSpec]) -> None:
        if len(outputs) != _SSD_OUTPUTS:
            raise ModelError(f"expected 4 outputs (boxes, classes, scores, count), found {len(outputs)}")
        self._declared = declared

    def __call__(self, model_input: Array, outputs: Sequence[Array], region: Region) -> tuple[Item, ...]:
        boxes, classes, scores, count = outputs
        declared = self._declared
        valid = min(max(0, int(count.reshape(-1)[0])), scores.shape[-1], declared.max_boxes)
        found = scores[0, :valid] >= declared.score_threshold
        if not found.any():
            return ()
        chosen = np.flatnonzero(found)
        corners = boxes[0, chosen][:, [1, 0, 3, 2]]
        return _items(corners, scores[0, chosen], classes[0, chosen].astype(np.int64), region, declared)


class GridDetector:
    """FastestDet: one cell a box."""

    def __init__(self, declared: DetectPost, outputs: Sequence[TensorSpec]) -> None:
        shape = concrete_shape(outputs[0])
        if len(shape) != 4 or shape[1] <= _BOX_TERMS + 1:
            raise ModelError(f"expected one output (1, 5 + classes, rows, columns), found {shape}")
        self._declared = declared
        self._spec = outputs[0]

    def __call__(self, model_input: Array, outputs: Sequence[Array], region: Region) -> tuple[Item, ...]:
        grid = dequantize(outputs[0], self._spec)[0]
        best = grid[5:].max(axis=0)
        scores = np.maximum(grid[0], 0.0) ** 0.6 * np.maximum(best, 0.0) ** 0.4
        rows, columns = np.nonzero(scores > self._declared.score_threshold)
        if not len(rows):
            return ()
        terms = grid[1:5, rows, columns]
        height, width = scores.shape
        centre_x = (columns + np.tanh(terms[0])) / width
        centre_y = (rows + np.tanh(terms[1])) / height
        box_width, box_height = 1.0 / (1.0 + np.exp(-terms[2])), 1.0 / (1.0 + np.exp(-terms[3]))
        corners = _corners(centre_x, centre_y, box_width, box_height)
        classes = grid[5:, rows, columns].argmax(axis=0)
        return _suppressed(corners, scores[rows, columns], classes, region, self._declared)


class YoloDetector:
    """YOLO exports: (1, n, 5 + classes) with objectness, or (1, 4 + classes, n) without."""

    def __init__(self, declared: DetectPost, model_input: TensorSpec, outputs: Sequence[TensorSpec]) -> None:
        shape = concrete_shape(outputs[0])
        if len(shape) != 3:
            raise ModelError(f"expected one output (1, n, 5 + classes) or (1, 4 + classes, n), found {shape}")
        self._declared = declared
        self._spec = outputs[0]
        self._transposed = shape[1] < shape[2]
        sizes = concrete_shape(model_input)
        self._height, self._width = sizes[1:3] if sizes[-1] in {1, 3} else sizes[2:4]

    def __call__(self, model_input: Array, outputs: Sequence[Array], region: Region) -> tuple[Item, ...]:
        rows = dequantize(outputs[0], self._spec)[0]
        rows = rows.T if self._transposed else rows
        per_class = rows[:, _BOX_TERMS:] if self._transposed else rows[:, 5:] * rows[:, 4:5]
        scores = per_class.max(axis=1)
        chosen = np.flatnonzero(scores > self._declared.score_threshold)
        if not len(chosen):
            return ()
        boxes = rows[chosen, :_BOX_TERMS]
        in_pixels = boxes.max() > _COORDINATES_IN_PIXELS
        scale_x, scale_y = (self._width, self._height) if in_pixels else (1, 1)
        corners = _corners(boxes[:, 0] / scale_x, boxes[:, 1] / scale_y, boxes[:, 2] / scale_x, boxes[:, 3] / scale_y)
        return _suppressed(corners, scores[chosen], per_class[chosen].argmax(axis=1), region, self._declared)


def _corners(x: Floats, y: Floats, width: Floats, height: Floats) -> Floats:
    """Centres and sizes to (n, 4) corners x1 y1 x2 y2."""
    return np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)


def _suppressed(
    corners: Floats, scores: Floats, classes: npt.NDArray[np.int64], region: Region, declared: DetectPost
) -> tuple[Item, ...]:
    """Greedy non-maximum suppression within each class, then the best `max_boxes`."""
    from edgeinfer.runtime.sources.pictures import opencv

    boxes = corners.copy()
    boxes[:, 2:] -= boxes[:, :2]
    kept = opencv().dnn.NMSBoxesBatched(
        boxes.tolist(), scores.tolist(), classes.tolist(), declared.score_threshold, declared.nms_iou
    )
    order = np.asarray(kept, dtype=np.int64).reshape(-1)
    order = order[np.argsort(-scores[order], kind="stable")][: declared.max_boxes]
    return _items(corners[order], scores[order], classes[order], region, declared)


def _items(
    corners: Floats, scores: Floats, classes: npt.NDArray[np.int64], region: Region, declared: DetectPost
) -> tuple[Item, ...]:
    """From 0..1 of the model's input to 0..1 of the source picture, cut at its edges."""
    placed = corners * (region.width, region.height, region.width, region.height) + (region.x, region.y) * 2
    return tuple(
        Item(int(label) + declared.label_offset, float(score), (x1, y1, x2, y2))
        for (x1, y1, x2, y2), score, label in zip(np.clip(placed, 0.0, 1.0).tolist(), scores, classes, strict=True)
    )
