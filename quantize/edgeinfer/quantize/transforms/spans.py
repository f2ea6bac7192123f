"""Spans: the way of a layer's output channels to the layers that read them, where no channel meets another.

A span ends at layers that mix channels. Where anything else mixes them (a residual sum, a concatenation, a softmax), or
a channel leaves the model, the layer has no span and its channels stay as they are.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.quantize.transforms.graph import Graph, attribute
from edgeinfer.quantize.transforms.layers import Layer, as_layer

if TYPE_CHECKING:
    import onnx

__all__ = ["Constant", "Reshaped", "Sink", "Span", "find_spans"]

# f(s x) = s f(x) for s > 0: a scale goes through them.
_HOMOGENEOUS = {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "LeakyRelu", "MaxPool", "Relu"}
# They treat each channel alone, and all alike.
_ELEMENTWISE = {"Clip", "Elu", "HardSigmoid", "HardSwish", "Selu", "Sigmoid", "Softplus", "Tanh"}
_WITH_CONSTANT = {"Add", "Div", "Mul", "PRelu", "Sub"}
_POOLS = {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the channels are: axis `axis` of `tensor`, each `block` entries wide after a flatten."""

    tensor: str
    axis: int
    block: int = 1


@dataclass(frozen=True, slots=True)
class Constant:
    """An operation of a channel with a constant of its own, which `node` reads at `slot`. `axis` of the constant is
    the channels', counted from the back; None: one number for all. `scales`: it is added, so it scales with them."""

    node: "onnx.NodeProto"
    slot: int
    axis: int | None
    scales: bool


@dataclass(frozen=True, slots=True)
class Reshaped:
    """A Reshape to a constant shape whose entry `entry` counts the channels."""

    node: "onnx.NodeProto"
    entry: int
    block: int


@dataclass(frozen=True, slots=True)
class Sink:
    """A layer that reads the channels from `tensor`: channel c is its inputs c * block .. (c + 1) * block. `axis`
    of the tensor is the channels'."""

    layer: Layer
    tensor: str
    axis: int
    block: int


@dataclass(slots=True)
class Span:
    """From `source` through depthwise layers, constants and reshapes to `sinks`. `homogeneous`: a scale of a channel
    goes through all that is between."""

    source: Layer
    depthwise: list[Layer]
    constants: list[Constant]
    reshapes: list[Reshaped]
    sinks: list[Sink]
    homogeneous: bool = True


def find_spans(graph: Graph, *, through_depthwise: bool) -> list[Span]:
    """The span of each layer that has one. `through_depthwise`: a depthwise layer is part of the way, and starts none;
    else it ends the one span and starts the next."""
    spans = []
    for node in graph.model.graph.node:
        layer = as_layer(graph, node)
        if layer is None or (through_depthwise and layer.group > 1):
            continue
        span = _span(graph, layer, through_depthwise=through_depthwise)
        if span is not None and span.sinks:
            spans.append(span)
    return spans


def _span(graph: Graph, source: Layer, *, through_depthwise: bool) -> Span | None:
    span = Span(source, [], [], [], [])
    rank = len(graph.shapes.get(source.node.output[0], ()))
    if rank < 2:
        return None
    places = [_Place(source.node.output[0], 1 if source.node.op_type == "Conv" else rank - 1)]
    while places:
        place = places.pop()
        if place.tensor in graph.outputs or not graph.shapes.get(place.tensor):
            return None
        for node in graph.readers[place.tensor]:
            layer = as_layer(graph, node)
            if layer is not None and not (through_depthwise and layer.depthwise):
                following = _end(graph, span, layer, place, mixing_only=through_depthwise)
            elif layer is not None:
                following = _pass_depthwise(span, layer, place)
            else:
                following = _pass(graph, span, node, place)
            if following is None:
                return None
            places.extend(following)
    return span


def _end(graph: Graph, span: Span, layer: Layer, place: _Place, *, mixing_only: bool) -> list[_Place] | None:
    """The span ends in `layer`, if that reads its channels as its inputs and nowhere else."""
    last = len(graph.shapes[place.tensor]) - 1
    axis = 1 if layer.node.op_type == "Conv" else last
    reads = list(layer.node.input).count(place.tensor) == 1 and layer.node.input[0] == place.tensor
    if not reads or place.axis != axis or layer.inputs != span.source.outputs * place.block:
        return None
    if layer.group > 1 and (mixing_only or place.block > 1):
        return None
    span.sinks.append(Sink(layer, place.tensor, place.axis, place.block))
    return []


def _pass_depthwise(span: Span, layer: Layer, place: _Place) -> list[_Place] | None:
    if place.axis != 1 or place.block != 1 or layer.node.input[0] != place.tensor:
        return None
    span.depthwise.append(layer)
    return [_Place(layer.node.output[0], 1)]


def _pass(graph: Graph, span: Span, node: "onnx.NodeProto", place: _Place) -> list[_Place] | None:
    """Where the channels are after `node`, None where they are mixed or lost."""
    out = replace(place, tensor=node.output[0])
    if list(node.input).count(place.tensor) != 1 or len([name for name in node.output if name]) != 1:
        return None
    if node.op_type in _HOMOGENEOUS | _ELEMENTWISE:
        if node.input[0] != place.tensor or (node.op_type in _POOLS and place.axis != 1):
            return None
        span.homogeneous &= node.op_type in _HOMOGENEOUS or _is_relu(graph, node)
        return [out]
    if node.op_type == "Transpose":
        order = list(attribute(node, "perm", []))
        return [replace(out, axis=order.index(place.axis))] if place.axis in order else None
    if node.op_type in _WITH_CONSTANT:
        return [out] if _pass_constant(graph, span, node, place) else None
    if node.op_type in {"Flatten", "Reshape", "Squeeze"}:
        return _pass_reshape(graph, span, node, place)
    return None


def _is_relu(graph: Graph, node: "onnx.NodeProto") -> bool:
    """A Clip from 0 to nothing."""
    if node.op_type != "Clip":
        return False
    low, high = graph.constant(node, 1), graph.constant(node, 2)
    open_end = len(node.input) < 3 or not node.input[2] or (high is not None and not np.isfinite(high).any())
    return low is not None and float(low) == 0.0 and open_end and not node.attribute


def _pass_constant(graph: Graph, span: Span, node: "onnx.NodeProto", place: _Place) -> bool:
    slot = 1 if node.input[0] == place.tensor else 0
    values = graph.constant(node, slot)
    rank, wide = len(graph.shapes[place.tensor]), span.source.outputs * place.block
    if values is None or values.ndim > rank or (slot == 0 and node.op_type in {"Div", "PRelu"}):
        return False
    axis = place.axis - rank  # from the back, as constants are broadcast
    size = values.shape[axis] if -axis <= values.ndim else 1
    if size not in {1, wide} or (size > 1 and place.block > 1):
        return False
    scales = node.op_type in {"Add", "Sub"}
    known = size == wide
    span.homogeneous &= known or not scales or not values.any()
    span.constants.append(Constant(node, slot, axis if known else None, scales))
    return True


def _pass_reshape(graph: Graph, span: Span, node: "onnx.NodeProto", place: _Place) -> list[_Place] | None:
    """From (N, C, H, W) to (N, C * H * W), or with sizes of 1 dropped or added behind the channels."""
    before, after = graph.shapes[place.tensor], graph.shapes.get(node.output[0], ())
    inner = before[2:]
    if place.axis != 1 or place.block != 1 or len(after) < 2 or any(size < 1 for size in inner):
        return None
    block = int(np.prod(inner, dtype=np.int64)) if len(after) == 2 else 1
    expected = span.source.outputs * block
    if after[1] != expected or any(size != 1 for size in after[2:]) or (block == 1 and any(s != 1 for s in inner)):
        return None
    if node.op_type == "Reshape":
        shape = graph.constant(node, 1)
        if shape is None or len(shape) < 2:
            return None
        span.reshapes.append(Reshaped(node, 1, block))
    return [_Place(node.output[0], 1, block)]
