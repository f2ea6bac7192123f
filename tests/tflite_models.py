"""Small TFLite models, put together from the FlatBuffer schema."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeinfer.runtime.engines.base import Array

TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int32": schema.TensorType.INT32,
}


@dataclass
class Builder:
    """Adds tensors and operations one after the other; `written` gives the file."""

    tensors: list[Any] = field(default_factory=list)
    buffers: list[Any] = field(default_factory=lambda: [schema.BufferT()])
    operators: list[Any] = field(default_factory=list)
    codes: list[Any] = field(default_factory=list)

    def tensor(self, name: str, shape: Sequence[int], *, data: Array | None = None, dtype: str = "float32") -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape = name, list(shape)
        tensor.type = TYPES[dtype if data is None else str(data.dtype)]
        tensor.buffer = 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            self.buffers.append(buffer)
            tensor.buffer = len(self.buffers) - 1
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def constant(self, name: str, data: Array) -> int:
        return self.tensor(name, data.shape, data=data)

    def operation(self, kind: str, inputs: Sequence[int], output: int, options: Any = None, custom: str = "") -> int:
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = 1
        code.customCode = custom or None
        self.codes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self.codes) - 1
        operator.inputs, operator.outputs = list(inputs), [output]
        if options is not None:
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self.operators.append(operator)
        return output

    def written(self, inputs: Sequence[int], outputs: Sequence[int], *, description: str = "") -> bytes:
        from ai_edge_litert.tools import flatbuffer_utils

        graph = schema.SubGraphT()
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs, graph.outputs = list(inputs), list(outputs)
        model = schema.ModelT()
        model.version = 3
        model.description = description or None
        model.subgraphs, model.buffers, model.operatorCodes = [graph], self.buffers, self.codes
        return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def convolution(*, stride: int = 1, relu: bool = True, depthwise: bool = False) -> Any:
    options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
    options.padding = schema.Padding.SAME
    options.strideH = options.strideW = stride
    options.dilationHFactor = options.dilationWFactor = 1
    if depthwise:
        options.depthMultiplier = 1
    relu_code = schema.ActivationFunctionType.RELU
    options.fusedActivationFunction = relu_code if relu else schema.ActivationFunctionType.NONE
    return options


def small_net(*, half: bool = False) -> bytes:
    """(1, 8, 8, 3) by a convolution, a depthwise one and a dense layer to (1, 4). With `half` the convolution's weights
    are float16, widened by a DEQUANTIZE. One name has characters that mean something in a regular expression, and is
    the beginning of another."""
    random = np.random.default_rng(1)

    def normal(*shape: int) -> Array:
        return random.normal(0.0, 0.4, shape).astype(np.float32)

    build = Builder()
    x = build.tensor("x", (1, 8, 8, 3))
    weights = normal(16, 3, 3, 3)
    if half:
        stored = build.constant("conv/half", weights.astype(np.float16))
        kernel = build.operation("DEQUANTIZE", [stored], build.tensor("conv/weights", weights.shape))
    else:
        kernel = build.constant("conv/weights", weights)
    first = build.tensor("net/conv(1)+relu", (1, 4, 4, 16))
    build.operation("CONV_2D", [x, kernel, build.constant("conv/bias", normal(16))], first, convolution(stride=2))
    second = build.tensor("net/conv(1)+relu;depth", (1, 4, 4, 16))
    depth = [first, build.constant("depth/weights", normal(1, 3, 3, 16)), build.constant("depth/bias", normal(16))]
    build.operation("DEPTHWISE_CONV_2D", depth, second, convolution(depthwise=True))
    flat = build.tensor("flat", (1, 256))
    shape = build.constant("shape", np.array([1, 256], np.int32))
    build.operation("RESHAPE", [second, shape], flat, schema.ReshapeOptionsT())
    dense = [flat, build.constant("dense/weights", normal(4, 256)), build.constant("dense/bias", normal(4))]
    out = build.operation("FULLY_CONNECTED", dense, build.tensor("out", (1, 4)), schema.FullyConnectedOptionsT())
    build.constant("nobody reads this", np.zeros(5000, np.float32))
    return build.written([x], [out], description="a net " * 50)


def two_inputs() -> bytes:
    """(1, 8) and (1, 4), of very different ranges, each by a dense layer to (1, 16), added and by a last one to (1, 2);
    the graph lists the second input first."""
    random = np.random.default_rng(2)
    build = Builder()
    sides = []
    for name, width in (("wide", 8), ("narrow", 4)):
        source = build.tensor(name, (1, width))
        weights = build.constant(f"{name}/weights", random.normal(0.0, 1.0, (16, width)).astype(np.float32))
        side = build.tensor(f"{name}/dense", (1, 16))
        build.operation("FULLY_CONNECTED", [source, weights, -1], side, schema.FullyConnectedOptionsT())
        sides.append((source, side))
    total = build.tensor("sum", (1, 16))
    build.operation("ADD", [sides[0][1], sides[1][1]], total, schema.AddOptionsT())
    last = build.constant("last/weights", random.normal(0.0, 1.0, (2, 16)).astype(np.float32))
    out = build.tensor("out", (1, 2))
    build.operation("FULLY_CONNECTED", [total, last, -1], out, schema.FullyConnectedOptionsT())
    return build.written([sides[1][0], sides[0][0]], [out])


def with_unknown_operation() -> bytes:
    build = Builder()
    x, y = build.tensor("x", (1, 4)), build.tensor("y", (1, 4))
    build.operation("CUSTOM", [x], y, custom="NobodysOperation")
    return build.written([x], [y])


def without_weights() -> bytes:
    build = Builder()
    x, y = build.tensor("x", (1, 4)), build.tensor("y", (1, 4))
    build.operation("RELU", [x], y)
    return build.written([x], [y])
