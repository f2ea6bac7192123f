"""Floats of other widths: float16 and float64 become float32, which the frame's input and every scheme work in."""

from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.quantize.intake.graphs import all_graphs, all_nodes, all_tensors

if TYPE_CHECKING:
    import onnx

__all__ = ["as_float32"]

# Attributes that name a type by number.
_TYPE_ATTRIBUTES = {"to", "dtype", "stash_type", "output_dtype"}


def as_float32(model: "onnx.ModelProto", frame: str) -> tuple[str, ...]:
    """Retype the model; returns what was changed. Classical operators hold floats of their own width in attributes:
    such a model is left as it is and its input is cast."""
    from onnx import TensorProto

    other = {TensorProto.FLOAT16: "float16", TensorProto.DOUBLE: "float64", TensorProto.BFLOAT16: "bfloat16"}
    value = next(value for value in model.graph.input if value.name == frame)
    used = {tensor.data_type for tensor in all_tensors(model)} | {value.type.tensor_type.elem_type}
    found = [name for kind, name in other.items() if kind in used]
    if not found:
        return ()
    if any(node.domain not in {"", "ai.onnx"} for node in all_nodes(model)):
        kind = value.type.tensor_type.elem_type
        return _cast_input(model, value, kind, other[kind]) if kind in other else ()
    _retype(model, set(other))
    return (f"{' and '.join(found)} tensors made float32",)


def _cast_input(model: "onnx.ModelProto", value: "onnx.ValueInfoProto", kind: int, name: str) -> tuple[str, ...]:
    from onnx import TensorProto, helper

    inner = f"{value.name}_{name}"
    for node in model.graph.node:
        for place, read in enumerate(node.input):
            if read == value.name:
                node.input[place] = inner
    model.graph.node.insert(0, helper.make_node("Cast", [value.name], [inner], to=kind))
    value.type.tensor_type.elem_type = TensorProto.FLOAT
    return (f"input {value.name} is float32 and cast to {name}",)


def _retype(model: "onnx.ModelProto", kinds: set[int]) -> None:
    from onnx import TensorProto, numpy_helper

    for tensor in all_tensors(model):
        if tensor.data_type in kinds:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for node in all_nodes(model):
        for attribute in node.attribute:
            if attribute.name in _TYPE_ATTRIBUTES and attribute.i in kinds:
                attribute.i = TensorProto.FLOAT
    for graph in all_graphs(model.graph):
        for values_ in (graph.input, graph.output, graph.value_info):
            for value in values_:
                if value.type.tensor_type.elem_type in kinds:
                    value.type.tensor_type.elem_type = TensorProto.FLOAT
