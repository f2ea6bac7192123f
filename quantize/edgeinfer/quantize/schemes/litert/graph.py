"""The layers of a TFLite model, and what their weights are kept in."""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from edgeinfer.quantize.schemes.base import Layer, Precision
from edgeinfer.quantize.schemes.litert.flatbuffer import data_of

__all__ = ["FOUR_BIT", "custom_operations", "layers_of", "precisions", "weighted"]

# Operations with weights, all of which have them as their second input.
_WEIGHTED = (
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "FULLY_CONNECTED",
    "TRANSPOSE_CONV",
    "BATCH_MATMUL",
    "EMBEDDING_LOOKUP",
)
_WEIGHTS = 1
# Of these, the ones that AEQ's policy for LiteRT's kernels allows 4-bit weights.
FOUR_BIT = frozenset({"CONV_2D", "FULLY_CONNECTED"})


def weighted(model: Any) -> Iterator[tuple[str, str, Any, Any]]:
    """Of each operation with constant weights: its name (that of its output), what it is, the operator itself and the
    tensor of its weights, in the order of the file."""
    for graph, operator in _operators(model):
        kind = _kind(model, operator)
        if kind in _WEIGHTED and len(operator.inputs) > _WEIGHTS:
            weights = _stored(model, graph, int(operator.inputs[_WEIGHTS]))
            if weights is not None:
                yield _text(graph.tensors[operator.outputs[0]].name), kind, operator, weights


def _operators(model: Any) -> Iterator[tuple[Any, Any]]:
    for graph in model.subgraphs:
        for operator in graph.operators:
            yield graph, operator


def _stored(model: Any, graph: Any, index: int) -> Any:
    """The constant behind tensor `index`, also through the DEQUANTIZE that weight-only quantization puts there."""
    tensor = graph.tensors[index]
    if data_of(model, tensor) is not None:
        return tensor
    for operator in graph.operators:
        if index in operator.outputs and _kind(model, operator) == "DEQUANTIZE":
            source = graph.tensors[operator.inputs[0]]
            return source if data_of(model, source) is not None else None
    return None


def layers_of(model: Any) -> tuple[Layer, ...]:
    return tuple(Layer(name, kind, int(np.prod(weights.shape))) for name, kind, _, weights in weighted(model))


def precisions(model: Any) -> list[Precision]:
    """What the weights of each layer are kept in, in the order of the file, which quantizers leave as it is."""
    from ai_edge_litert import schema_py_generated as schema

    kept = {
        schema.TensorType.INT4: Precision.INT4,
        schema.TensorType.INT8: Precision.INT8,
        schema.TensorType.INT16: Precision.INT16,
    }
    return [kept.get(weights.type, Precision.FLOAT) for *_, weights in weighted(model)]


def custom_operations(model: Any) -> tuple[str, ...]:
    """The names of the operations that TFLite itself does not have."""
    return tuple(_text(code.customCode) for code in model.operatorCodes if code.customCode)


def _kind(model: Any, operator: Any) -> str:
    code = model.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    return _builtin_names().get(number, str(number))


@functools.cache
def _builtin_names() -> dict[int, str]:
    from ai_edge_litert import schema_py_generated as schema

    return {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}


def _text(name: bytes | str | None) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else name or ""
