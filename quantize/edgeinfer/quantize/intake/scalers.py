"""Scalers of classical pipelines, written with operators that every scheme knows."""

from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.quantize.intake.graphs import all_nodes

if TYPE_CHECKING:
    import onnx

__all__ = ["plain_scalers"]


def plain_scalers(model: "onnx.ModelProto") -> list[str]:
    """ai.onnx.ml's Scaler, (x - offset) * scale, as Sub and Mul: no sizes are inferred through it, without which the
    layers behind it are not quantized. Only where it takes a float32 input of the model: it casts others."""
    from onnx import TensorProto

    floats = {value.name for value in model.graph.input if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    scalers = [
        node
        for node in model.graph.node
        if node.op_type == "Scaler" and node.domain == "ai.onnx.ml" and node.input[0] in floats
    ]
    for node in scalers:
        _replace(model, node)
    return [f"{len(scalers)} Scaler written as Sub and Mul"] if scalers else []


def _replace(model: "onnx.ModelProto", node: "onnx.NodeProto") -> None:
    from onnx import helper, numpy_helper

    values = {attribute.name: np.array(attribute.floats, np.float32) for attribute in node.attribute}
    taken = {name for other in all_nodes(model) for name in (*other.input, *other.output)}
    # Quantizers call what they add to a tensor "<its name>_scale": that must be free.
    parts = ("subtracted", "centred", "multiplied")
    offset, centred, scale = (_free(f"{node.output[0]}/{part}", taken) for part in parts)
    model.graph.initializer.append(numpy_helper.from_array(values.get("offset", np.zeros(1, np.float32)), offset))
    model.graph.initializer.append(numpy_helper.from_array(values.get("scale", np.ones(1, np.float32)), scale))
    place = list(model.graph.node).index(node)
    steps = [
        helper.make_node("Sub", [node.input[0], offset], [centred], name=centred),
        helper.make_node("Mul", [centred, scale], [node.output[0]], name=node.name),
    ]
    model.graph.node.remove(node)
    for index, step in enumerate(steps):
        model.graph.node.insert(place + index, step)


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name
