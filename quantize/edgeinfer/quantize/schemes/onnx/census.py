"""What a made file holds, counted: whether it is quantized at all, and whether its sums may saturate."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.quantize.schemes.onnx.modelproto import load
from edgeinfer.quantize.schemes.onnx.weighted import WEIGHTED_OPS

if TYPE_CHECKING:
    import onnx

__all__ = ["may_saturate", "no_op", "quantized_nodes", "saturation"]

_QUANTIZATION_OPS = {
    "ConvInteger",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "MatMulNBits",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
}
# TensorProto.DataType of weights that are small: UINT8, INT8, UINT4, INT4; and FLOAT16.
_INTEGERS = frozenset({2, 3, 21, 22})
_HALF = 10
_INT8 = 3
# What lies between a small constant and the operation that takes it.
_WIDENERS = {"Cast", "DequantizeLinear", "Mul", "Reshape", "Sub", "Transpose"}
_MULTIPLIES_INTEGERS = {"ConvInteger", "DequantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul"}
# Two products of 255 and 64 fit into 16 bits, of 255 and 65 they do not.
_MAX_SIGNED_WEIGHT = 64


def quantized_nodes(path: Path) -> int:
    """How many nodes of the model only quantized models have. Raises ModelError."""
    return sum(node.op_type in _QUANTIZATION_OPS for node in load(path).graph.node)


def no_op(graph: "onnx.GraphProto", *, half: bool = False) -> str:
    """Why the model is quantized in name only: no operation takes its weights as integers (or halves). "" if one does.

    >>> no_op(load(path).graph)
    'nothing was quantized: 0 of 3 operations with weights have integer ones'
    """
    small = {
        init.name for init in graph.initializer if init.data_type in _INTEGERS or (half and init.data_type == _HALF)
    }
    constants = {init.name for init in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    total = quantized = 0
    for node in graph.node:
        if node.op_type in {"ConvInteger", "MatMulInteger", "MatMulNBits", "DynamicQuantizeLSTM"}:
            total, quantized = total + 1, quantized + 1
        elif node.op_type in WEIGHTED_OPS and len(node.input) > 1:
            origin = _origin(node.input[1], makers)
            total += origin in constants
            quantized += origin in small
    kind = "half-precision" if half else "integer"
    return "" if quantized else f"nothing was quantized: 0 of {total} operations with weights have {kind} ones"


def _origin(name: str, makers: "dict[str, onnx.NodeProto]") -> str:
    """The tensor that `name` is a wider form of."""
    while name in makers and makers[name].op_type in _WIDENERS:
        name = makers[name].input[0]
    return name


def may_saturate(path: Path) -> str:
    """Why sums of products may not fit into 16 bits on CPUs that add pairs there (AVX2 without VNNI); "" if they fit.

    An arithmetic bound: whether they do depends on the values, and is seen only by running it there.
    """
    return saturation(load(path).graph)


def saturation(graph: "onnx.GraphProto") -> str:
    """The same of a graph."""
    from onnx import numpy_helper

    multiplied = {name for node in graph.node if node.op_type in _MULTIPLIES_INTEGERS for name in node.input}
    for initializer in graph.initializer:
        if initializer.data_type != _INT8 or not initializer.dims or initializer.name not in multiplied:
            continue  # a zero point has no dimension
        largest = int(np.abs(numpy_helper.to_array(initializer).astype(np.int16)).max(initial=0))
        if largest > _MAX_SIGNED_WEIGHT:
            return f"may saturate on CPUs without VNNI: weight {largest} in {initializer.name}, more than 7 bits"
    return ""
