"""SSD and its kin: boxes and class scores in outputs of their own.

Sources of the decodings: TFLite's operator `TFLite_Detection_PostProcess` (kernels/detection_postprocess.cc); its
box coder is that of Faster R-CNN: centre = anchor + encoding / 10 * size, size = exp(encoding / 5) * size.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.engines.base import dequantize
from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.manifest import DetectPost, TensorSpec
from edgeinfer.runtime.postprocess.anchors import ssd_anchors
from edgeinfer.runtime.postprocess.boxes import Floats, around, in_unit, items_of, suppressed
from edgeinfer.runtime.postprocess.outputs import input_size, only
from edgeinfer.runtime.postprocess.scores import ClassScores
from edgeinfer.runtime.preprocess import Region
from edgeinfer.runtime.results import Item

__all__ = ["AnchoredSsd", "FinishedSsd", "SeparateBoxes"]

Array = npt.NDArray[Any]
_OUTPUTS = 4
_CORNERS = 4
_BOX_AXES = 3
_MAX_CLASS = 1e6


class FinishedSsd:
    """Reads what the model's own postprocessing left: it has suppressed overlaps already."""

    def __init__(self, declared: DetectPost, outputs: Sequence[TensorSpec]) -> None:
        if len(outputs) != _OUTPUTS:
            raise ModelError(f"expected 4 outputs (boxes, classes, scores, count), found {len(outputs)}")
        self._declared = declared
        # TensorFlow 2 exports scores, boxes, count, classes. Some models do not tell the shapes of these outputs.
        order = (1, 3, 0, 2) if _are_boxes(outputs[1]) else (0, 1, 2, 3)
        self._boxes, self._classes, self._scores, self._count = order
        if outputs[self._boxes].shape and not _are_boxes(outputs[self._boxes]):
            found = [spec.shape for spec in outputs]
            raise ModelError(f"expected boxes (1, n, 4), classes (1, n), scores (1, n) and a count, found {found}")

    def __call__(self, model_input: Array, outputs: Sequence[Array], region: Region) -> tuple[Item, ...]:
        declared = self._declared
        scores, classes = outputs[self._scores].reshape(-1), outputs[self._classes].reshape(-1)
        corners = outputs[self._boxes].reshape(-1)
        # Where a model did not tell the shape, there may be a rest.
        boxes = corners[: corners.size // _CORNERS * _CORNERS].reshape(-1, _CORNERS)
        valid = min(_count(outputs[self._count]), len(scores), len(classes), len(boxes))
        scores, classes = scores[:valid], classes[:valid]
        found = (scores >= declared.score_threshold) & (classes >= 0) & (classes < _MAX_CLASS)
        if not found.any():
            return ()
        chosen = np.flatnonzero(found)[: declared.max_boxes]
        return items_of(
            boxes[chosen][:, [1, 0, 3, 2]], scores[chosen], classes[chosen].astype(np.int64), region, declared
        )


class AnchoredSsd:
    """Boxes as they leave the network: encoded against anchors, and overlapping."""

    def __init__(
        self,
        declared: DetectPost,
        model_input: TensorSpec,
        outputs: Sequence[TensorSpec],
        arrays: Mapping[str, Array],
    ) -> None:
        self._declared = declared
        self._boxes, self._classes = _boxes_and_scores(outputs)
        self._spec = outputs[self._boxes]
        self._scores = ClassScores(declared, outputs[self._classes], skip=int(declared.background))
        self._anchors = _anchors(declared, model_input, arrays)
        boxes = self._spec.shape[1]
        if boxes not in {-1, len(self._anchors)}:
            raise ModelError(
                f"expected an anchor for each of {boxes} boxes, found {len(self._anchors)}",
                hint="put them into the package as the array 'anchors', or declare the recipe they were made by",
            )
        self._scales = np.array(declared.scales, dtype=np.float32)

    def __call__(self, model_input: Array, outputs: Sequence[Array], region: Region) -> tuple[Item, ...]:
        with np.errstate(all="ignore"):
            encoded = outputs[self._boxes].reshape(-1, _CORNERS)
            raw = only(outputs[self._classes])
            count = min(len(encoded), len(self._anchors), len(raw))
            places, scores, classes = self._scores.choose(raw[:count])
            if not len(places):
                return ()
            corners = self._decode(encoded[places], self._anchors[places])
            return suppressed(corners, scores, classes, region, self._declared)

    def _decode(self, encoded: Array, anchors: Floats) -> Floats:
        terms = dequantize(encoded, self._spec).astype(np.float32, copy=False) / self._scales
        centres = terms[:, :2] * anchors[:, 2:] + anchors[:, :2]
        sizes = np.exp(terms[:, 2:]) * anchors[:, 2:]
        return around(centres[:, 1], centres[:, 0], sizes[:, 1], sizes[:, 0])


class SeparateBoxes:
    """Boxes that are decoded, and overlap: x1 y1 x2 y2 in one output, class scores in the other."""

    def __init__(self, declared: DetectPost, model_input: TensorSpec, outputs: Sequence[TensorSpec]) -> None:
        self._declared = declared
        self._boxes, self._classes = _boxes_and_scores(outputs)
        self._spec = outputs[self._boxes]
        self._scores = ClassScores(declared, outputs[self._classes], skip=int(declared.background))
        self._size = (1, 1) if declared.coordinates == "unit" else input_size(model_input)

    def __call__(self, model_input: Array, outputs: Sequence[Array], region: Region) -> tuple[Item, ...]:
        with np.errstate(all="ignore"):
            boxes = outputs[self._boxes].reshape(-1, _CORNERS)
            raw = only(outputs[self._classes])
            places, scores, classes = self._scores.choose(raw[: len(boxes)])
            if not len(places):
                return ()
            corners = dequantize(boxes[places], self._spec).astype(np.float32, copy=False)
            corners = in_unit(corners, self._size, self._declared)
            return suppressed(corners, scores, classes, region, self._declared)


def _anchors(declared: DetectPost, model_input: TensorSpec, arrays: Mapping[str, Array]) -> Floats:
    given = arrays.get("anchors")
    if given is None:
        height, width = input_size(model_input)
        return ssd_anchors(declared.anchors, height=height, width=width)
    if given.ndim != 2 or given.shape[1] != _CORNERS or not np.isfinite(given).all():
        raise ModelError(f"expected anchors (n, 4) of finite numbers, found an array {given.shape}")
    return given.astype(np.float32)


def _are_boxes(spec: TensorSpec) -> bool:
    return len(spec.shape) == _BOX_AXES and spec.shape[2] == _CORNERS


def _boxes_and_scores(outputs: Sequence[TensorSpec]) -> tuple[int, int]:
    """Which of the two outputs holds boxes, and which class scores. With four classes the boxes are the first, or what
    is called so."""
    shapes = [spec.shape for spec in outputs]
    fits = [place for place, spec in enumerate(outputs) if _are_boxes(spec)]
    if len(outputs) != 2 or not fits or any(len(shape) != _BOX_AXES for shape in shapes):
        raise ModelError(f"expected two outputs, boxes (1, n, 4) and scores (1, n, classes), found {shapes}")
    first, second = shapes
    if first[1] != second[1] and -1 not in {first[1], second[1]}:
        raise ModelError(f"expected as many boxes as class scores, found {shapes}")
    named = [place for place in fits if "box" in outputs[place].name.lower()]
    boxes = (named or fits)[0]
    return boxes, 1 - boxes


def _count(output: Array) -> int:
    """What the model says of how many boxes it has found; none where that is no number."""
    values = output.reshape(-1)
    count = float(values[0]) if values.size else 0.0
    return int(min(count, 1e6)) if count > 0.0 else 0
