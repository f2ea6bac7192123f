"""What a model's work is made of: its multiply-accumulates by kind of operation, read from the file.

    work = count_work(Path("kws.onnx"))
    work.mix.depthwise      # 0.1

They are counted for a batch of one, each open dimension as 1: for the mix only the proportions matter. What has no
shape that could be inferred (loops, custom operations) is left out.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeinfer.devices.kernels import EVEN, Op, OpMix
from edgeinfer.runtime.errors import ModelError

if TYPE_CHECKING:
    import onnx

__all__ = ["Work", "count_work"]

Shape = Sequence[int]

_CONVOLUTIONS = {"Conv", "ConvInteger", "QLinearConv", "FusedConv"}
_PRODUCTS = {"MatMul", "Gemm", "MatMulInteger", "QLinearMatMul", "FusedMatMul", "DynamicQuantizeMatMul"}
_RECURRENT = {"LSTM": 4, "GRU": 3, "RNN": 1}  # gates


@dataclass(frozen=True, slots=True)
class Work:
    """Multiply-accumulates of one inference by kind, and how many operations they are in."""

    macs: Mapping[Op, int]
    operations: int

    @property
    def total(self) -> int:
        return sum(self.macs.values())

    @property
    def mix(self) -> OpMix:
        """In thirds where nothing could be counted."""
        if not self.total:
            return EVEN
        dense, depthwise, gemm = (self.macs.get(op, 0) / self.total for op in (Op.DENSE, Op.DEPTHWISE, Op.GEMM))
        return OpMix(dense, depthwise, gemm)


def count_work(model: Path) -> Work:
    """Read an `.onnx` or `.tflite` file, float or quantized. Raises ModelError, DependencyError."""
    counted = _tflite(model) if model.suffix.lower() == ".tflite" else _onnx(model)
    macs = dict.fromkeys(Op, 0)
    operations = 0
    for op, count in counted:
        macs[op] += count
        operations += 1
    return Work(macs, operations)


def _onnx(path: Path) -> Iterator[tuple[Op, int]]:
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
        _close_dimensions(model)
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception as error:  # protobuf and the checker raise classes without a common base
        raise ModelError(f"{path}: is no ONNX model: {error}") from error
    shapes = _onnx_shapes(graph)
    for node in graph.node:
        counted = _node_work(node, shapes)
        if counted is not None:
            yield counted


def _close_dimensions(model: "onnx.ModelProto") -> None:
    """Every open dimension of an input becomes 1; what was noted of those that follow from it is inferred anew."""
    del model.graph.value_info[:]
    for value in model.graph.input:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_value <= 0:
                dimension.dim_value = 1


def _onnx_shapes(graph: "onnx.GraphProto") -> dict[str, Shape]:
    """By tensor name, those that are known whole; a dimension that is still open counts as 1."""
    shapes: dict[str, Shape] = {
        value.name: [max(1, dimension.dim_value) for dimension in value.type.tensor_type.shape.dim]
        for values in (graph.value_info, graph.output, graph.input)
        for value in values
        if value.type.tensor_type.HasField("shape")
    }
    return shapes | {tensor.name: list(tensor.dims) for tensor in graph.initializer}


def _node_work(node: "onnx.NodeProto", shapes: Mapping[str, Shape]) -> tuple[Op, int] | None:
    inputs = [shapes.get(name) for name in node.input]
    output = shapes.get(node.output[0])
    if node.op_type in _CONVOLUTIONS:
        return _convolution(inputs[_weight_place(node)], output, groups=_attribute(node, "group", 1))
    if node.op_type == "ConvTranspose":  # each input value is multiplied by a whole kernel
        return _dense(inputs[0], inputs[1])
    if node.op_type in _PRODUCTS and inputs[0] and output:
        depth = inputs[0][0] if _attribute(node, "transA", 0) else inputs[0][-1]
        return Op.GEMM, math.prod(output) * depth
    if node.op_type == "MatMulNBits" and output:
        return Op.GEMM, math.prod(output) * _attribute(node, "K", 1)
    if node.op_type in _RECURRENT and inputs[0] and len(inputs[0]) == len(("steps", "batch", "features")):
        hidden = _attribute(node, "hidden_size", 1)
        steps, batch, features = inputs[0]
        return Op.GEMM, steps * batch * _RECURRENT[node.op_type] * hidden * (features + hidden)
    return None


def _weight_place(node: "onnx.NodeProto") -> int:
    return 3 if node.op_type == "QLinearConv" else 1


def _attribute(node: "onnx.NodeProto", name: str, default: int) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), default)


def _convolution(weight: Shape | None, output: Shape | None, *, groups: int) -> tuple[Op, int] | None:
    """`weight` is (channels out, channels in / groups, *kernel), `output` (batch, channels out, *places)."""
    if not weight or not output:
        return None
    kind = Op.DEPTHWISE if groups > 1 and weight[1] == 1 else Op.DENSE
    return kind, math.prod(output) * math.prod(weight[1:])


def _dense(values: Shape | None, weight: Shape | None) -> tuple[Op, int] | None:
    """Every one of `values` is multiplied with all of `weight` (channels in, channels out / groups, *kernel) but its
    first dimension."""
    return (Op.DENSE, math.prod(values) * math.prod(weight[1:])) if values and weight else None


def _tflite(path: Path) -> Iterator[tuple[Op, int]]:
    from edgeinfer.quantize.schemes.litert.flatbuffer import parse

    try:
        model = parse(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    if not model.subgraphs:
        return
    graph = model.subgraphs[0]
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        inputs = [_tflite_shape(graph, index) for index in operator.inputs]
        outputs = [_tflite_shape(graph, index) for index in operator.outputs]
        counted = _operator_work(max(code.builtinCode, code.deprecatedBuiltinCode), inputs, outputs)
        if counted is not None:
            yield counted


def _tflite_shape(graph: Any, index: int) -> Shape:
    """Of a tensor of the generated classes, which have no types; empty where it is left out or a scalar."""
    shape = graph.tensors[index].shape if index >= 0 else None
    return [] if shape is None else [max(1, int(size)) for size in shape]


def _operator_work(code: int, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> tuple[Op, int] | None:
    """Weights are (channels out, height, width, channels in); of depthwise ones (1, height, width, channels)."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator as Code

    if len(inputs) <= 1 or not outputs:
        return None
    size, weight = math.prod(outputs[0]), inputs[1]
    if code == Code.CONV_2D:
        return Op.DENSE, size * math.prod(weight[1:])
    if code == Code.DEPTHWISE_CONV_2D:
        return Op.DEPTHWISE, size * math.prod(weight[1:-1])
    if code == Code.FULLY_CONNECTED and weight:
        return Op.GEMM, size * weight[-1]
    if code == Code.BATCH_MATMUL and inputs[0]:
        return Op.GEMM, size * inputs[0][-1]
    if code == Code.TRANSPOSE_CONV and len(inputs) > 2:
        return Op.DENSE, math.prod(inputs[2]) * math.prod(weight[:-1])
    return None
