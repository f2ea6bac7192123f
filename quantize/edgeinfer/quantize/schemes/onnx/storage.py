"""Weights stored small and computed as float: the file shrinks, the speed stays.

Each weight becomes a small constant and the operations that widen it (Cast, Mul by the scale, Reshape). The engine
folds those into float weights when it loads the file, so that a run costs what it did before: DequantizeLinear, which
it does not fold, made the four MLPerf Tiny models 1.8 to 11 times slower. Convolutions are as welcome as matrices.

- int8: one scale a channel, symmetric.
- int4: one scale a channel and block of at most 64 weights, each scale the one with the least squared error.
- float16: the value itself.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.quantize.schemes.base import Calibration, Plan, Precision
from edgeinfer.quantize.schemes.onnx.census import no_op
from edgeinfer.quantize.schemes.onnx.modelproto import copied, save, wrapped_errors
from edgeinfer.quantize.schemes.onnx.preparation import MAX_IR, prepared, raised_opset
from edgeinfer.quantize.schemes.onnx.weighted import Weighted, swept, weighted_operations
from edgeinfer.runtime.engines.base import Array

if TYPE_CHECKING:
    import onnx

__all__ = ["HalfWeights", "StoredWeights", "fitted", "store", "widened"]

# The first opset whose Cast takes 4-bit integers.
INT4_OPSET = 21
_FLOAT32, _INT4 = 1, 22  # TensorProto.FLOAT, INT4
_BLOCK, _LEAST_BLOCK = 64, 16
_TRIED_SCALES = np.linspace(0.7, 1.2, 21)
# Smaller constants are not worth the operation that widens them.
_LEAST_ELEMENTS = 64
_SMALL = {Precision.INT8, Precision.INT4}


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """All weights in `own`, those of a plan in its precisions; a `Make`. Needs no calibration."""

    own: Precision

    def __call__(self, source: Path, target: Path, calibration: Calibration, plan: Plan) -> str:
        del calibration
        with wrapped_errors():
            made = copied(prepared(source).model)
            precisions = {
                operation.name: plan.get(operation.name, self.own) for operation in weighted_operations(made.graph)
            }
            made = widened(made, precisions)
            store(made.graph, [(one, precisions[one.name]) for one in weighted_operations(made.graph)])
        save(made, target)
        return no_op(made.graph)


def widened(model: "onnx.ModelProto", precisions: Plan) -> "onnx.ModelProto":
    """The model in an opset that knows these precisions."""
    if Precision.INT4 not in precisions.values():
        return model
    made = raised_opset(model, INT4_OPSET)
    made.ir_version = MAX_IR
    return made


def store(graph: "onnx.GraphProto", wanted: Sequence[tuple[Weighted, Precision]]) -> None:
    """Have operations take their weights from small constants of these precisions; FLOAT leaves one as it is."""
    known: set[str] = set()
    steps: list[onnx.NodeProto] = []
    for operation, precision in wanted:
        if precision not in _SMALL:
            continue
        name = f"{operation.initializer.name}~{precision}"
        operation.node.input[1] = f"{name}~wide"
        if name not in known:  # operations may share a weight
            known.add(name)
            steps.extend(_stored(graph, operation, precision, name))
    _put_first(graph, steps)
    swept(graph)


def _stored(
    graph: "onnx.GraphProto", operation: Weighted, precision: Precision, name: str
) -> "Iterator[onnx.NodeProto]":
    """Put the small constant `name` into the graph; the operations that widen it to `name`~wide."""
    from onnx import helper, numpy_helper

    if precision is Precision.INT8:
        whole, scale = _eight_bits(operation)
        constant = numpy_helper.from_array(whole, name)
    else:
        whole, scale = _four_bits(operation)
        constant = helper.make_tensor(name, _INT4, whole.shape, _nibbles(whole), raw=True)
    graph.initializer.extend([constant, numpy_helper.from_array(scale, f"{name}~scale")])
    shape = tuple(operation.initializer.dims)
    scaled = f"{name}~wide" if whole.shape == shape else f"{name}~blocks"
    yield helper.make_node("Cast", [name], [f"{name}~float"], to=_FLOAT32)
    yield helper.make_node("Mul", [f"{name}~float", f"{name}~scale"], [scaled])
    if whole.shape != shape:
        graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), f"{name}~shape"))
        yield helper.make_node("Reshape", [scaled, f"{name}~shape"], [f"{name}~wide"])


def _put_first(graph: "onnx.GraphProto", steps: "list[onnx.NodeProto]") -> None:
    """Whoever holds nodes of the graph holds them no longer: it takes copies."""
    for node in steps:
        node.name = node.output[0]
    nodes = [*steps, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _eight_bits(operation: Weighted) -> tuple[Array, Array]:
    """int8 of the weight's shape, and float32 scales that broadcast to it."""
    weight = operation.array()
    others = tuple(axis for axis in range(weight.ndim) if axis != operation.channel_axis)
    scale = np.abs(weight).max(axis=others, keepdims=True) / np.float32(127)
    scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
    return np.clip(np.rint(weight / scale), -127, 127).astype(np.int8), scale


def _four_bits(operation: Weighted) -> tuple[Array, Array]:
    """int8 from -8 to 7 in blocks, and float32 scales that broadcast to it; a Reshape makes the weight of them."""
    weight, axis = operation.array(), operation.channel_axis
    blocks, reduced = weight, tuple(other for other in range(weight.ndim) if other != axis)
    if axis == 0:
        size = _block(weight[0].size)
        blocks, reduced = weight.reshape(len(weight), -1, size), (2,)
    elif weight.ndim == 2:
        size = _block(len(weight))
        blocks, reduced = weight.reshape(-1, size, weight.shape[1]), (1,)
    scale = fitted(blocks, reduced)
    return np.clip(np.rint(blocks / scale), -8, 7).astype(np.int8), scale


def _block(rest: int) -> int:
    """The largest block within bounds that `rest` weights of a channel divide into, else all of them."""
    fits = (size for size in range(min(_BLOCK, rest), _LEAST_BLOCK - 1, -1) if rest % size == 0)
    return next(fits, max(rest, 1))


def fitted(blocks: Array, axes: tuple[int, ...]) -> Array:
    """For each block along `axes` the scale, float32, of whole numbers from -8 to 7 with the least squared error.

    It may be negative: -8 then stands for the largest positive value.
    """
    largest = np.abs(blocks).max(axis=axes, keepdims=True) / np.float32(8)
    largest = np.where(largest > 0, largest, np.float32(1)).astype(np.float32)
    best, least = largest, np.full(largest.shape, np.inf)
    for share, sign in itertools.product(_TRIED_SCALES, (1.0, -1.0)):
        scale = (largest * share * sign).astype(np.float32)
        rounded = np.clip(np.rint(blocks / scale), -8, 7) * scale
        error = np.square(rounded - blocks).sum(axis=axes, keepdims=True)
        best, least = np.where(error < least, scale, best), np.minimum(error, least)
    return best.astype(np.float32)


def _nibbles(values: Array) -> bytes:
    """Two values a byte, the first in the lower half (ONNX, TensorProto.INT4)."""
    flat = values.ravel()
    padded = np.append(flat, np.zeros(flat.size % 2, np.int8)).astype(np.uint8) & 0xF
    return bytes(padded[0::2] | (padded[1::2] << 4))


class HalfWeights:
    """Every large constant as float16; a `Make`. A constant that holds more than half precision can is left alone."""

    def __call__(self, source: Path, target: Path, calibration: Calibration, plan: Plan) -> str:
        del calibration, plan
        with wrapped_errors():
            made = copied(prepared(source).model)
            count = _halve(made.graph)
        save(made, target)
        return "" if count else "nothing was quantized: no constant is large enough, or none fits into half precision"


def _halve(graph: "onnx.GraphProto") -> int:
    """How many constants became float16."""
    from onnx import helper, numpy_helper

    steps = []
    for initializer in graph.initializer:
        if initializer.data_type != _FLOAT32 or np.prod(initializer.dims, dtype=np.int64) < _LEAST_ELEMENTS:
            continue
        values, name = numpy_helper.to_array(initializer), initializer.name
        if np.abs(values).max() > np.finfo(np.float16).max:
            continue
        initializer.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}~half"))
        steps.append(helper.make_node("Cast", [f"{name}~half"], [name], to=_FLOAT32))
    _put_first(graph, steps)
    return len(steps)
