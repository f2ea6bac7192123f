"""Layers by their channels: where the output channels of a layer are in its weights, and its input channels.

One layout for all of them: weights as (out, in, ...) of a Conv; of a Gemm or MatMul as (out, in).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.quantize.transforms.graph import Graph, attribute
from edgeinfer.runtime.engines.base import Array

if TYPE_CHECKING:
    import onnx

__all__ = ["Layer", "as_layer"]


@dataclass(frozen=True, slots=True)
class Layer:
    """A Conv, Gemm or MatMul with constant weights, which may change: nothing of them is kept here."""

    node: "onnx.NodeProto"
    graph: Graph

    @property
    def name(self) -> str:
        return str(self.node.name or self.node.output[0])

    @property
    def group(self) -> int:
        return int(attribute(self.node, "group", 1))

    @property
    def inputs(self) -> int:
        """Input channels."""
        return int(self.weights().shape[1]) * self.group

    @property
    def outputs(self) -> int:
        """Output channels."""
        return int(self.weights().shape[0])

    @property
    def depthwise(self) -> bool:
        """One filter a channel, and as many channels out as in: what it does to a channel stays in it."""
        return self.group > 1 and self.group == self.inputs == self.outputs

    @property
    def padded(self) -> bool:
        """Whether zeros beyond the border take part: a constant input then gives no constant output."""
        if self.node.op_type != "Conv":
            return False
        padding = attribute(self.node, "auto_pad", b"NOTSET")
        return any(attribute(self.node, "pads", [])) or padding not in {b"NOTSET", b"VALID"}

    def weights(self) -> Array:
        """(out, in / group, ...), a view or copy."""
        values = self.graph.constants[self.node.input[1]]
        return values.T if self._transposed else values

    def set_weights(self, values: Array) -> None:
        self.graph.replace(self.node, 1, values.T if self._transposed else values)

    @property
    def _transposed(self) -> bool:
        if self.node.op_type == "Gemm":
            return not attribute(self.node, "transB", 0)
        return self.node.op_type == "MatMul"

    def bias(self) -> Array | None:
        """(out,), None where there is none."""
        if self.node.op_type == "MatMul" or len(self.node.input) < 3 or not self.node.input[2]:
            return None
        values = self.graph.constants[self.node.input[2]]
        return np.broadcast_to(values.reshape(-1), (self.outputs,)).copy()

    def set_bias(self, values: Array) -> None:
        """`values` are float (out,). Not of a MatMul, which has none."""
        self.graph.replace(self.node, 2, values.astype(np.float32))

    @property
    def absorbs(self) -> bool:
        """Whether its bias can take what a constant input channel adds to its outputs."""
        return self.node.op_type != "MatMul" and not self.padded

    def keep_outputs(self, keep: Array) -> None:
        """Drop the output channels that are False in `keep`, bool (out,); of a depthwise layer the inputs with them."""
        depthwise, bias = self.depthwise, self.bias()
        self.set_weights(self.weights()[keep])
        if bias is not None:
            self.set_bias(bias[keep])
        if depthwise:
            next(item for item in self.node.attribute if item.name == "group").i = int(keep.sum())

    def keep_inputs(self, keep: Array) -> None:
        """Drop the input channels that are False in `keep`, bool (in,). Not of a layer with groups."""
        self.set_weights(np.compress(keep, self.weights(), axis=1))

    def filters(self) -> Array:
        """Weights as (group, out / group, in / group, rest)."""
        weights = self.weights()
        return weights.reshape(self.group, self.outputs // self.group, self.inputs // self.group, -1)


def as_layer(graph: Graph, node: "onnx.NodeProto") -> Layer | None:
    """The node as a layer, None where it is none or is not of float32 constants."""
    weights = graph.constant(node, 1)
    if node.op_type not in {"Conv", "Gemm", "MatMul"} or weights is None or weights.dtype != np.float32:
        return None
    if len(node.input) > 2 and node.input[2] and graph.constant(node, 2) is None:
        return None
    if node.op_type != "Conv" and weights.ndim != 2:
        return None
    if node.op_type == "Gemm" and not _plain_gemm(graph, node):
        return None
    return Layer(node, graph)


def _plain_gemm(graph: Graph, node: "onnx.NodeProto") -> bool:
    factors = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0), attribute(node, "transA", 0)
    bias = graph.constant(node, 2)
    return factors == (1.0, 1.0, 0) and (bias is None or bias.ndim < 2 or bias.shape[0] == 1)
