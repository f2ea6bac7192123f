"""The operations with weights of a prepared model, and how their weights lie."""

import functools
import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeinfer.runtime.engines.base import Array

if TYPE_CHECKING:
    import onnx

__all__ = [
    "WEIGHTED_OPS",
    "Weighted",
    "attribute",
    "put_in_order",
    "split_gemm",
    "swept",
    "taken_by",
    "weighted_operations",
]

WEIGHTED_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_FLOAT32 = 1  # TensorProto.FLOAT


@dataclass(frozen=True, slots=True)
class Weighted:
    """An operation whose second input is a constant float32 tensor of two or more dimensions."""

    node: "onnx.NodeProto"
    initializer: "onnx.TensorProto"

    @property
    def name(self) -> str:
        return str(self.node.name)

    @property
    def size(self) -> int:
        """Elements of the weight."""
        return functools.reduce(lambda product, extent: product * extent, self.initializer.dims, 1)

    @property
    def channel_axis(self) -> int:
        """The axis of the weight that the operation's output channels go along."""
        match self.node.op_type:
            case "Conv":
                return 0
            case "Gemm":
                return 0 if attribute(self.node, "transB", 0) else 1
            case "ConvTranspose":
                return 1
        return len(self.initializer.dims) - 1

    @property
    def depthwise(self) -> bool:
        return self.node.op_type == "Conv" and attribute(self.node, "group", 1) > 1 and self.initializer.dims[1] == 1

    def array(self) -> Array:
        """float32, a copy."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self.initializer).copy()


def weighted_operations(graph: "onnx.GraphProto") -> Iterator[Weighted]:
    """In the graph's own order; those in the bodies of If and Loop are left alone."""
    constants = {
        initializer.name: initializer
        for initializer in graph.initializer
        if initializer.data_type == _FLOAT32 and len(initializer.dims) > 1
    }
    for node in graph.node:
        if node.op_type in WEIGHTED_OPS and len(node.input) > 1 and node.input[1] in constants:
            yield Weighted(node, constants[node.input[1]])


def attribute(node: "onnx.NodeProto", name: str, default: Any) -> Any:
    from onnx import helper

    found = next((entry for entry in node.attribute if entry.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def split_gemm(model: "onnx.ModelProto") -> None:
    """Make each Gemm with constant weights a MatMul of its name and an Add.

    Optimizers join the two to Gemm, which tools for MatMul then pass over without a word.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    gemms = {operation.name: operation for operation in weighted_operations(graph) if _is_plain_gemm(operation.node)}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        operation = gemms.get(node.name)
        if operation is None:
            graph.node.append(node)
            continue
        weight = f"{node.name}/weight"
        values = operation.array().T if operation.channel_axis == 0 else operation.array()
        graph.initializer.append(numpy_helper.from_array(values.copy(), weight))
        has_bias = len(node.input) > 2 and bool(node.input[2])
        product = f"{node.output[0]}/product" if has_bias else node.output[0]
        graph.node.append(helper.make_node("MatMul", [node.input[0], weight], [product], name=node.name))
        if has_bias:
            bias = helper.make_node("Add", [product, node.input[2]], [node.output[0]], name=f"{node.name}/bias")
            graph.node.append(bias)
    swept(graph)


def _is_plain_gemm(node: "onnx.NodeProto") -> bool:
    plain = attribute(node, "alpha", 1.0) == 1.0 and attribute(node, "beta", 1.0) == 1.0
    return node.op_type == "Gemm" and plain and not attribute(node, "transA", 0)


def swept(graph: "onnx.GraphProto") -> None:
    """Remove the constants that nothing takes any more."""
    used = set(_taken(graph))
    kept = [initializer for initializer in graph.initializer if initializer.name in used]
    if len(kept) < len(graph.initializer):
        del graph.initializer[:]
        graph.initializer.extend(kept)


def put_in_order(graph: "onnx.GraphProto") -> None:
    """Put each operation behind those whose results it takes, in the bodies of If and Loop too: quantizers append."""
    waiting = list(graph.node)
    made = {output for node in waiting for output in node.output}
    needs = [{name for name in taken_by(node) if name in made} for node in waiting]
    takers: dict[str, list[int]] = {}
    for index, names in enumerate(needs):
        for name in names:
            takers.setdefault(name, []).append(index)
    ready = [index for index, names in enumerate(needs) if not names]
    heapq.heapify(ready)
    ordered = []
    while ready:
        node = waiting[heapq.heappop(ready)]
        ordered.append(node)
        for name in node.output:
            for index in takers.get(name, []):
                needs[index].discard(name)
                if not needs[index]:
                    heapq.heappush(ready, index)
    del graph.node[:]
    graph.node.extend(ordered)


def taken_by(node: "onnx.NodeProto") -> Iterator[str]:
    """Also what the bodies of an operation take from around it."""
    yield from node.input
    for entry in node.attribute:
        if entry.HasField("g"):
            yield from _taken(entry.g)
        for body in entry.graphs:
            yield from _taken(body)


def _taken(graph: "onnx.GraphProto") -> Iterator[str]:
    for node in graph.node:
        yield from taken_by(node)
    for output in graph.output:
        yield output.name
