"""Outputs of detectors, encoded from objects that are known: the way back of what `postprocess` decodes, written apart
from it, cell by cell. And a model that gives any outputs, for the real engine.

wanted = [Object(3, 0.9, (0.1, 0.2, 0.5, 0.6))]
outputs = encode("yolov8", wanted, height=320, width=640, classes=80)
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["FORMATS", "Object", "constant_model", "encode"]

Floats = npt.NDArray[np.float32]
FORMATS = ("yolov5", "yolov8", "yolov10", "yolo_dfl", "yolo_dfl_last", "yolo_dfl_apart", "nanodet", "nanodet_plus")
_BOXES = 300
_IMPOSSIBLE = -30.0


class Object(NamedTuple):
    """A class, its score, and its box x1 y1 x2 y2 in 0..1 of the model's input."""

    label: int
    score: float
    box: tuple[float, float, float, float]


def encode(form: str, objects: Sequence[Object], *, height: int, width: int, classes: int) -> list[Floats]:
    """The outputs that a model of this form has for a picture with these objects, boxes in pixels."""
    if form == "yolov5":
        return [_rows_with_objectness(objects, height, width, classes)]
    if form == "yolov8":
        with_objectness = _rows_with_objectness(objects, height, width, classes)
        columns = np.delete(with_objectness, 4, axis=2)
        for place, thing in enumerate(objects):
            columns[0, place, 4 + thing.label] = thing.score
        return [np.ascontiguousarray(columns.transpose(0, 2, 1))]
    if form == "yolov10":
        return [_finished(objects, height, width)]
    if form.startswith("nanodet"):
        shift = 0.0 if form == "nanodet_plus" else 0.5
        strides = (8, 16, 32, 64) if form == "nanodet_plus" else (8, 16, 32)
        grids = [_grid(objects, s, height, width, classes, bins=8, shift=shift, order=strides) for s in strides]
        rows = [np.concatenate([probability, sides], axis=2).reshape(-1, classes + 32) for probability, sides in grids]
        return [np.concatenate(rows)[None]]
    return _heads(form, objects, height, width, classes)


def _rows_with_objectness(objects: Sequence[Object], height: int, width: int, classes: int) -> Floats:
    """(1, n, 5 + classes): noise below any threshold, and the objects in the first rows."""
    random = np.random.default_rng(5)
    rows = random.uniform(0.0, 0.1, (1, _BOXES, 5 + classes)).astype(np.float32)
    rows[0, :, :4] = random.uniform(0.05, 1.0, (_BOXES, 4)) * min(height, width)
    for place, thing in enumerate(objects):
        x1, y1, x2, y2 = thing.box
        rows[0, place, :4] = (x1 + x2) / 2 * width, (y1 + y2) / 2 * height, (x2 - x1) * width, (y2 - y1) * height
        rows[0, place, 4] = math.sqrt(thing.score)
        rows[0, place, 5:] = 0.0
        rows[0, place, 5 + thing.label] = math.sqrt(thing.score)
    return rows


def _finished(objects: Sequence[Object], height: int, width: int) -> Floats:
    rows = np.zeros((1, _BOXES, 6), dtype=np.float32)
    rows[0, :, 2:4] = 10.0
    for place, thing in enumerate(objects):
        x1, y1, x2, y2 = thing.box
        rows[0, place] = x1 * width, y1 * height, x2 * width, y2 * height, thing.score, thing.label
    return rows


def _heads(form: str, objects: Sequence[Object], height: int, width: int, classes: int) -> list[Floats]:
    outputs: list[Floats] = []
    strides = (8, 16, 32)
    for stride in strides:
        probability, sides = _grid(objects, stride, height, width, classes, bins=16, shift=0.5, order=strides)
        logits = np.log(probability / (1.0 - probability)).astype(np.float32)
        if form == "yolo_dfl_apart":
            outputs += [sides.transpose(2, 0, 1)[None], logits.transpose(2, 0, 1)[None]]
            continue
        both = np.concatenate([sides, logits], axis=2)
        outputs.append((both if form == "yolo_dfl_last" else both.transpose(2, 0, 1))[None])
    return [np.ascontiguousarray(output) for output in outputs]


def _grid(
    objects: Sequence[Object],
    stride: int,
    height: int,
    width: int,
    classes: int,
    *,
    bins: int,
    shift: float,
    order: tuple[int, ...],
) -> tuple[Floats, Floats]:
    """Probabilities (rows, columns, classes) and logits of the sides (rows, columns, 4 * bins) of one grid. An object
    is in the grid whose bins reach its sides."""
    rows, columns = math.ceil(height / stride), math.ceil(width / stride)
    probability = np.full((rows, columns, classes), 0.01, dtype=np.float32)
    sides = np.random.default_rng(stride).normal(size=(rows, columns, 4 * bins)).astype(np.float32)
    for thing in objects:
        x1, y1, x2, y2 = (value * side for value, side in zip(thing.box, (width, height) * 2, strict=True))
        if stride != _stride_of(max(x2 - x1, y2 - y1), bins, order):
            continue
        column, row = int((x1 + x2) / 2 / stride), int((y1 + y2) / 2 / stride)
        x, y = (column + shift) * stride, (row + shift) * stride
        probability[row, column, thing.label] = thing.score
        distances = [(x - x1) / stride, (y - y1) / stride, (x2 - x) / stride, (y2 - y) / stride]
        sides[row, column] = np.concatenate([_logits(distance, bins) for distance in distances])
    return probability, sides


def _stride_of(side: float, bins: int, order: tuple[int, ...]) -> int:
    return next(stride for stride in order if side / stride < bins - 3)


def _logits(distance: float, bins: int) -> Floats:
    """Of a distribution over two neighbouring bins, whose mean is the distance."""
    low = int(distance)
    logits = np.full(bins, _IMPOSSIBLE, dtype=np.float32)
    share = distance - low
    logits[low] = math.log(max(1.0 - share, 1e-9))
    logits[low + 1] = math.log(max(share, 1e-9))
    return logits


def constant_model(path: Path, outputs: Sequence[npt.NDArray[Any]], *, input_shape: Sequence[int]) -> Path:
    """A model that gives these outputs whatever comes in: each is a constant and nothing times its input."""
    from onnx import TensorProto, helper, numpy_helper, save

    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "nothing"], ["zero"]),
    ]
    constants = [numpy_helper.from_array(np.zeros((), np.float32), "nothing")]
    infos = []
    for place, output in enumerate(outputs):
        constants.append(numpy_helper.from_array(output, f"c{place}"))
        kind = helper.np_dtype_to_tensor_dtype(output.dtype)
        nodes.append(helper.make_node("Cast", ["zero"], [f"zero{place}"], to=kind))
        nodes.append(helper.make_node("Add", [f"c{place}", f"zero{place}"], [f"y{place}"]))
        infos.append(helper.make_tensor_value_info(f"y{place}", kind, output.shape))
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, list(input_shape))
    graph = helper.make_graph(nodes, "g", [given], infos, constants)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path
