"""YOLO exports of versions 5 to 11, decoded by the model itself.

Sources: the export code of ultralytics/yolov5 (versions 5 to 7: objectness beside the classes, a row a box) and of
ultralytics/ultralytics (8, 9, 11: no objectness, a column a box; 10: the best boxes, suppressed).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.engines.base import dequantize
from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.manifest import DetectPost, TensorSpec
from edgeinfer.runtime.postprocess.boxes import Floats, Labels, around, in_unit, items_of, suppressed
from edgeinfer.runtime.postprocess.outputs import input_size, only
from edgeinfer.runtime.postprocess.scores import Chosen, ClassScores
from edgeinfer.runtime.preprocess import Region
from edgeinfer.runtime.results import Item

__all__ = ["Yolo", "YoloEndToEnd"]

Array = npt.NDArray[Any]
_AXES = 3
_BOX = 4
_FINISHED_TERMS = 6
_MAX_CLASS = 1e6


class Yolo:
    """(1, n, 5 + classes) with objectness, or (1, 4 + classes, n) without; the longer axis is that of the boxes."""

    def __init__(self, declared: DetectPost, model_input: TensorSpec, outputs: Sequence[TensorSpec]) -> None:
        shape = outputs[0].shape
        if len(outputs) != 1 or len(shape) != _AXES:
            found = [spec.shape for spec in outputs]
            raise ModelError(f"expected one output (1, n, 5 + classes) or (1, 4 + classes, n), found {found}")
        self._declared = declared
        self._spec = outputs[0]
        self._columns = shape[2] < 0 or 0 <= shape[1] < shape[2]
        self._objectness = declared.format == "yolov5" or (declared.format == "yolo" and not self._columns)
        before_classes = _BOX + int(self._objectness)
        terms = shape[1] if self._columns else shape[2]
        if terms <= before_classes:
            raise ModelError(f"expected one output with more than {before_classes} terms a box, found {shape}")
        self._size = input_size(model_input)
        activation = "none" if self._objectness else ""
        self._scores = ClassScores(declared, self._spec, classes_first=self._columns, activation=activation)

    def __call__(self, model_input: Array, outputs: Sequence[Array], region: Region) -> tuple[Item, ...]:
        with np.errstate(all="ignore"):
            raw = only(outputs[0])
            places, scores, classes = self._choose_by_objectness(raw) if self._objectness else self._choose(raw)
            if not len(places):
                return ()
            boxes = raw[:_BOX, places].T if self._columns else raw[places, :_BOX]
            x, y, width, height = in_unit(self._real(boxes), self._size, self._declared).T
            return suppressed(around(x, y, width, height), scores, classes, region, self._declared)

    def _choose(self, raw: Array) -> Chosen:
        return self._scores.choose(raw[_BOX:] if self._columns else raw[:, _BOX:])

    def _choose_by_objectness(self, raw: Array) -> Chosen:
        """A score is objectness * class, each at most 1: without enough objectness no class needs a look."""
        rows = raw.T if self._columns else raw
        threshold = self._declared.score_threshold
        objectness = self._real(rows[:, _BOX])
        places = np.flatnonzero(objectness >= threshold)
        per_class = self._real(rows[places, _BOX + 1 :]) * objectness[places, None]
        scores = per_class.max(axis=1)
        good = scores >= threshold
        return places[good], scores[good], per_class[good].argmax(axis=1)

    def _real(self, values: Array) -> Floats:
        return dequantize(values, self._spec).astype(np.float32, copy=False)


class YoloEndToEnd:
    """(1, n, 6): x1 y1 x2 y2, score, class; the model has suppressed overlaps already."""

    def __init__(self, declared: DetectPost, model_input: TensorSpec, outputs: Sequence[TensorSpec]) -> None:
        shape = outputs[0].shape
        if len(outputs) != 1 or len(shape) != _AXES or shape[2] != _FINISHED_TERMS:
            found = [spec.shape for spec in outputs]
            raise ModelError(f"expected one output (1, n, 6) x1 y1 x2 y2 score class, found {found}")
        self._declared = declared
        self._spec = outputs[0]
        self._size = input_size(model_input)

    def __call__(self, model_input: Array, outputs: Sequence[Array], region: Region) -> tuple[Item, ...]:
        with np.errstate(all="ignore"):
            rows = dequantize(only(outputs[0]), self._spec).astype(np.float32, copy=False)
            scores, classes = rows[:, _BOX], rows[:, _BOX + 1]
            found = (scores >= self._declared.score_threshold) & (classes >= 0) & (classes < _MAX_CLASS)
            places = np.flatnonzero(found)
            if not len(places):
                return ()
            places = places[np.argsort(-scores[places], kind="stable")][: self._declared.max_boxes]
            corners = in_unit(rows[places, :_BOX], self._size, self._declared)
            labels: Labels = classes[places].astype(np.int64)
            return items_of(corners, scores[places], labels, region, self._declared)
