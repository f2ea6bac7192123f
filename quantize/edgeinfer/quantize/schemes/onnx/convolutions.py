"""Convolutions in the form that ONNX Runtime has its fastest kernels for: the same sums in other loops.

Its kernels for channels in blocks (NCHWc) take convolutions over pictures only, and more than a block of channels only
in multiples of four. For all others it unfolds the input at every call and multiplies matrices, whose kernels are slow
where there are few places. So

- a convolution along one axis becomes one over pictures of one row; pools and element-wise operations between two such
  stay in that form. Measured with onnxruntime 1.31.1 on AVX-512, one thread: 0.45 of the time for four layers of 64
  channels at 4 places, 0.8 at 16 to 1000; 0.42 for depthwise ones;
- channels are filled up with zeros where there are few places: 0.5 of the time for 129 channels at 4 places, 0.7 at 8.
  At 16 it is no faster, at 64 slower.

Source: onnxruntime, onnxruntime/core/optimizer/nchwc_transformer.cc.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.quantize.schemes.onnx.shapes import Shape, closed_shapes
from edgeinfer.quantize.schemes.onnx.weighted import Weighted, attribute, swept, weighted_operations

if TYPE_CHECKING:
    import onnx

__all__ = ["fill_channels", "make_planes"]

# The axis that a row gets: (N, C, L) becomes (N, C, 1, L).
_ROW_AXIS = 2
# What does to each element, or each channel, of a picture of one row what it does to a row.
_ALIKE = frozenset(
    {
        *("Clip", "Elu", "Erf", "Exp", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Neg", "Relu", "Sigmoid"),
        *("BatchNormalization", "GlobalAveragePool", "GlobalMaxPool", "Softplus", "Softsign", "Sqrt", "Tanh"),
    }
)
_TWO = frozenset({"Add", "Div", "Mul", "Sub"})
_POOLS = frozenset({"AveragePool", "MaxPool"})
# Attributes that have a number for each axis, 1 for that of the row.
_FOR_EACH_AXIS = frozenset({"dilations", "kernel_shape", "strides"})
# With fewer channels than make up a block, 8 or 16, more is padded and moved about than is won.
_BLOCK = 16
# What the kernels want the input channels to be a multiple of.
_MULTIPLE = 4
# With fewer input channels, or at more places, filling up costs more than it gives.
_LEAST_FILLED, _MOST_PLACES = 32, 8


def make_planes(graph: "onnx.GraphProto") -> int:
    """Let convolutions along one axis, and what lies between them, compute on pictures of one row; how many do."""
    rows = _Rows(graph)
    if not any(_fits(*one.initializer.dims) for one in rows.weights.values()):
        return 0
    nodes = [made for node in graph.node for made in rows.rewritten(node)]
    nodes += [made for value in graph.output for made in rows.flattened(value.name)]
    del graph.node[:]
    graph.node.extend(nodes)
    swept(graph)
    return len(rows.weights)


def _fits(outputs: int, inputs: int, *_kernel: int) -> bool:
    """Whether there are kernels for it that are worth it."""
    return outputs >= _BLOCK and (inputs < _BLOCK or inputs % _MULTIPLE == 0)


@dataclass(slots=True)
class _Rows:
    """`weights` has the convolutions along one axis, `planes` the tensors that there are in the form (N, C, 1, L) under
    another name, `flat` those of them that there are as they were, too."""

    graph: "onnx.GraphProto"
    weights: dict[str, Weighted] = field(init=False)
    planes: dict[str, str] = field(default_factory=dict)
    flat: set[str] = field(default_factory=set)
    _axes: str = ""

    def __post_init__(self) -> None:
        self.weights = {
            one.node.output[0]: one
            for one in weighted_operations(self.graph)
            if one.node.op_type == "Conv" and len(one.initializer.dims) == 3
        }

    def rewritten(self, node: "onnx.NodeProto") -> "Iterator[onnx.NodeProto]":
        """What takes the place of `node`. Nodes come in their order."""
        if node.output[0] in self.weights:
            yield from self._convolution(node)
        elif self._stays(node):
            yield self._on_planes(node, [self.planes.get(name, name) for name in node.input])
        else:
            for name in node.input:
                yield from self.flattened(name)
            yield node

    def flattened(self, name: str) -> "Iterator[onnx.NodeProto]":
        """What makes the tensor as it was, where it is there only as a picture."""
        from onnx import helper

        if name in self.planes and name not in self.flat:
            self.flat.add(name)
            yield helper.make_node("Squeeze", [self.planes[name], self._row_axis()], [name], name=f"{name}~flat")

    def _convolution(self, node: "onnx.NodeProto") -> "Iterator[onnx.NodeProto]":
        from onnx import helper, numpy_helper

        source, weight = node.input[0], f"{node.input[1]}~plane"
        if source not in self.planes:
            self.planes[source] = f"{source}~plane"
            self.flat.add(source)
            plane = self.planes[source]
            yield helper.make_node("Unsqueeze", [source, self._row_axis()], [plane], name=plane)
        if all(one.name != weight for one in self.graph.initializer):  # convolutions may share a weight
            values = self.weights[node.output[0]].array()[:, :, np.newaxis]
            self.graph.initializer.append(numpy_helper.from_array(values, weight))
        yield self._on_planes(node, [self.planes[source], weight, *node.input[2:]])

    def _stays(self, node: "onnx.NodeProto") -> bool:
        """Whether it does to pictures what it does to rows."""
        if node.domain not in {"", "ai.onnx"} or not node.input or node.input[0] not in self.planes:
            return False
        if node.op_type in _TWO:
            return node.input[1] in self.planes
        if node.op_type == "BatchNormalization" or node.op_type in _POOLS:
            return len(node.output) == 1
        return node.op_type in _ALIKE

    def _on_planes(self, node: "onnx.NodeProto", inputs: list[str]) -> "onnx.NodeProto":
        made = type(node)()
        made.CopyFrom(node)
        del made.input[:]
        made.input.extend(inputs)
        self.planes[node.output[0]] = made.output[0] = f"{node.output[0]}~plane"
        for entry in made.attribute if node.op_type in {"Conv", *_POOLS} else ():
            if entry.name == "pads":
                entry.ints[:] = [0, entry.ints[0], 0, entry.ints[1]]
            elif entry.name in _FOR_EACH_AXIS:
                entry.ints[:] = [1, *entry.ints]
        return made

    def _row_axis(self) -> str:
        from onnx import numpy_helper

        if not self._axes:
            taken = {one.name for one in self.graph.initializer}
            names = (f"~row{number or ''}" for number in itertools.count())
            self._axes = next(name for name in names if name not in taken)
            self.graph.initializer.append(numpy_helper.from_array(np.array([_ROW_AXIS], np.int64), self._axes))
        return self._axes


def fill_channels(graph: "onnx.GraphProto") -> int:
    """Fill the input channels of convolutions over pictures up to a multiple of four, with zeros, where that pays; of
    how many. Shapes have to be inferred."""
    shapes = closed_shapes(graph)
    odd = {one.node.output[0]: one for one in weighted_operations(graph) if _is_odd(one, shapes)}
    if not odd:
        return 0
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node.output[0] in odd:
            graph.node.append(_filled(graph, node, odd[node.output[0]]))
        graph.node.append(node)
    swept(graph)
    return len(odd)


def _is_odd(operation: Weighted, shapes: Mapping[str, Shape]) -> bool:
    node, shape = operation.node, operation.initializer.dims
    if node.op_type != "Conv" or len(shape) != 4 or attribute(node, "group", 1) != 1:
        return False
    places = math.prod(shapes.get(node.output[0], (1, 1, _MOST_PLACES + 1))[2:])
    large = shape[1] >= _LEAST_FILLED and shape[0] >= _BLOCK and math.prod(shape[2:]) > 1
    return large and shape[1] % _MULTIPLE > 0 and places <= _MOST_PLACES


def _filled(graph: "onnx.GraphProto", node: "onnx.NodeProto", operation: Weighted) -> "onnx.NodeProto":
    """Have the convolution take more channels; what fills up its input."""
    from onnx import helper, numpy_helper

    missing = -operation.initializer.dims[1] % _MULTIPLE
    source, filled = node.input[0], f"{node.output[0]}~filled"
    node.input[0], node.input[1] = filled, f"{filled}~weight"
    pads = ((0, 0), (0, missing), (0, 0), (0, 0))
    graph.initializer.append(numpy_helper.from_array(np.pad(operation.array(), pads), node.input[1]))
    behind = np.array([0, 0, 0, 0, 0, missing, 0, 0], np.int64)
    graph.initializer.append(numpy_helper.from_array(behind, f"{filled}~pads"))
    return helper.make_node("Pad", [source, f"{filled}~pads"], [filled], name=filled)
