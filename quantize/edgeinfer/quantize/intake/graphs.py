"""Walking an ONNX graph: its nodes with those of the sub-graphs of control flow, and its tensors wherever they lie."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["all_graphs", "all_nodes", "all_tensors", "named", "opset", "sub_graphs"]


def sub_graphs(node: "onnx.NodeProto") -> "Iterator[onnx.GraphProto]":
    """The bodies of a control flow node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def all_graphs(graph: "onnx.GraphProto") -> "Iterator[onnx.GraphProto]":
    """The graph itself first."""
    yield graph
    for node in graph.node:
        for inner in sub_graphs(node):
            yield from all_graphs(inner)


def all_nodes(model: "onnx.ModelProto") -> "Iterator[onnx.NodeProto]":
    for graph in all_graphs(model.graph):
        yield from graph.node


def all_tensors(model: "onnx.ModelProto") -> "Iterator[onnx.TensorProto]":
    """Initializers, and what nodes carry in attributes."""
    for graph in all_graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        yield from _carried(graph.node)
    for function in model.functions:
        yield from _carried(function.node)


def _carried(nodes: "Iterator[onnx.NodeProto]") -> "Iterator[onnx.TensorProto]":
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def opset(model: "onnx.ModelProto", domain: str = "") -> int:
    """The version of a domain's operators that the model names, 0 for none. "ai.onnx" is another name of ""."""
    names = {"", "ai.onnx"} if domain in {"", "ai.onnx"} else {domain}
    return max((entry.version for entry in model.opset_import if entry.domain in names), default=0)


def named(node: "onnx.NodeProto") -> str:
    """The node for a message: its operator, and its name or what it makes."""
    return f"{node.op_type} {node.name or next(iter(node.output), '')!r}"
