"""Constants of an ONNX model as quantizers and engines want them: no inputs, none that nothing reads, flat biases."""

from collections import Counter
from typing import TYPE_CHECKING

from edgeinfer.quantize.intake.graphs import all_nodes

if TYPE_CHECKING:
    import onnx

__all__ = ["drop_unread", "flatten_biases", "out_of_inputs"]


def out_of_inputs(model: "onnx.ModelProto") -> list[str]:
    """Initializers that are inputs too could be replaced by a caller: nothing may be folded or quantized then."""
    constants = {tensor.name for tensor in model.graph.initializer}
    listed = [value for value in model.graph.input if value.name in constants]
    for value in listed:
        model.graph.input.remove(value)
    return [f"{len(listed)} constants taken out of the inputs"] if listed else []


def drop_unread(model: "onnx.ModelProto") -> None:
    """Remove initializers that nothing reads: ONNX Runtime warns of each."""
    read = {name for node in all_nodes(model) for name in node.input} | {value.name for value in model.graph.output}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in read]:
        model.graph.initializer.remove(tensor)


def flatten_biases(model: "onnx.ModelProto") -> list[str]:
    """Biases of shape (1, N), as scikit-learn's networks have them, become (N): broadcast they are the same, and
    ONNX Runtime's quantizer fails on the first with one scale a channel.

    Only what is read once is changed, and only where the product that it is added to has two dimensions or more.
    """
    reads = Counter(name for node in all_nodes(model) for name in node.input)
    wide = _products(model)
    flat = 0
    for tensor in model.graph.initializer:
        is_row = len(tensor.dims) == 2 and tensor.dims[0] == 1
        if is_row and reads[tensor.name] == 1 and any(_is_bias(node, tensor.name, wide) for node in model.graph.node):
            del tensor.dims[0]
            flat += 1
    return [f"{flat} bias{'es' * (flat > 1)} made flat"] if flat else []


def _is_bias(node: "onnx.NodeProto", name: str, wide: set[str]) -> bool:
    if node.op_type == "Gemm":
        return list(node.input[2:]) == [name]
    others = [read for read in node.input if read != name]
    return node.op_type == "Add" and len(others) == 1 and name in node.input and others[0] in wide


def _products(model: "onnx.ModelProto") -> set[str]:
    """Results of matrix products that have two dimensions or more."""
    import onnx

    made = {name for node in model.graph.node if node.op_type in {"MatMul", "Gemm"} for name in node.output}
    try:
        inferred = onnx.shape_inference.infer_shapes(model).graph
    except Exception:  # what the model is worth, the engine says
        return set()
    values = (*inferred.value_info, *inferred.output)
    return {value.name for value in values if value.name in made and len(value.type.tensor_type.shape.dim) > 1}
