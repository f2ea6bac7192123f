"""A count of what a model file holds, by operation and by the type of its weights, before and after quantizing.

Quantizers that do nothing say nothing: the file they write loads, runs and is as accurate as the float model, since it
is the float model. The types of its weights give it away.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer.quantize.transforms.flatfile import FlatFile
from edgeinfer.quantize.transforms.graph import load_model

if TYPE_CHECKING:
    import onnx

__all__ = ["Census", "Weights", "census", "difference", "nothing_changed"]

# Weights of fewer bits than float32, of which quantizing makes more.
_FLOATS = {"float32", "float64"}
# Shapes, axes, indices: integers in float models too.
_INDICES = {"bool", "int32", "int64", "string", "uint32", "uint64"}


@dataclass(frozen=True, slots=True)
class Weights:
    """Constants of one type with two dimensions or more."""

    tensors: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Census:
    """`operations`: count by kind. `weights`: by type, named as numpy does."""

    bytes: int
    operations: Mapping[str, int]
    weights: Mapping[str, Weights]


def census(path: Path) -> Census:
    """Of an ONNX or TFLite file, with what lies in branches and loops. Raises ModelError, DependencyError."""
    if path.suffix.lower() == ".tflite":
        operations, constants = _litert(path)
    else:
        operations, constants = _onnx(path)
    weights: dict[str, Weights] = {}
    for dtype, size in constants:
        known = weights.get(dtype, Weights(0, 0))
        weights[dtype] = Weights(known.tensors + 1, known.bytes + size)
    return Census(path.stat().st_size, dict(operations), weights)


def nothing_changed(before: Census, after: Census) -> str:
    """Why the model counted in `after` is not a quantized one of that in `before`, "" where it is one: more of its
    weights are of a type with less than 32 bits."""
    if _small(after).bytes > _small(before).bytes:
        return ""
    held = _sum(weights for dtype, weights in after.weights.items() if dtype in _FLOATS)
    return (
        f"nothing was quantized: {_tensors(held.tensors)} of {_size(held.bytes)} are float as before, "
        f"the file has {_size(after.bytes)}, the float one {_size(before.bytes)}"
    )


def difference(before: Census, after: Census) -> str:
    """What changed, in a line: types of weights, operations, size; "nothing" where nothing did."""
    parts = []
    for dtype in sorted({*before.weights, *after.weights}):
        old, new = before.weights.get(dtype, Weights(0, 0)), after.weights.get(dtype, Weights(0, 0))
        if old != new:
            parts.append(f"{dtype} weights {old.tensors} ({_size(old.bytes)}) -> {new.tensors} ({_size(new.bytes)})")
    changed = Counter(after.operations)
    changed.subtract(before.operations)
    counts = [f"{count:+d} {kind}" for kind, count in sorted(changed.items(), key=lambda item: -item[1]) if count]
    if counts:
        parts.append(f"operations {', '.join(counts)}")
    if before.bytes != after.bytes:
        parts.append(f"file {_size(before.bytes)} -> {_size(after.bytes)}")
    return "; ".join(parts) or "nothing"


def _small(found: Census) -> Weights:
    return _sum(weights for dtype, weights in found.weights.items() if dtype not in _FLOATS | _INDICES)


def _sum(weights: Iterator[Weights]) -> Weights:
    every = list(weights)
    return Weights(sum(w.tensors for w in every), sum(w.bytes for w in every))


def _tensors(count: int) -> str:
    return f"{count} weight tensor{'s' if count != 1 else ''}"


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def _onnx(path: Path) -> tuple[Counter[str], list[tuple[str, int]]]:
    operations: Counter[str] = Counter()
    constants: list[tuple[str, int]] = []
    for graph in _graphs(load_model(path).graph):
        operations.update(node.op_type for node in graph.node if node.op_type != "Constant")
        held = [item.t for node in graph.node if node.op_type == "Constant" for item in node.attribute]
        constants += [_described(item) for item in (*graph.initializer, *held) if len(item.dims) > 1]
    return operations, constants


def _graphs(graph: "onnx.GraphProto") -> "Iterator[onnx.GraphProto]":
    """The graph and those of its branches and loops."""
    yield graph
    for node in graph.node:
        for item in node.attribute:
            if item.HasField("g"):
                yield from _graphs(item.g)


def _described(tensor: "onnx.TensorProto") -> tuple[str, int]:
    """Type and bytes. Types of 4 bits are stored two to a byte."""
    from onnx import TensorProto, helper

    name = TensorProto.DataType.Name(tensor.data_type).lower()
    elements = int(np.prod(tensor.dims, dtype=np.int64))
    if name.endswith("int4") or name.startswith("float4"):
        return name, (elements + 1) // 2
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return {"float": "float32", "double": "float64"}.get(name, name), elements * dtype.itemsize


def _litert(path: Path) -> tuple[Counter[str], list[tuple[str, int]]]:
    file = FlatFile(path)
    names = _type_names()
    operations: Counter[str] = Counter()
    constants: list[tuple[str, int]] = []
    for graph in file.model.subgraphs:
        operations.update(file.kind(operation) for operation in graph.operators)
        for tensor in graph.tensors:
            data = file.model.buffers[tensor.buffer].data
            if data is not None and len(data) and tensor.shape is not None and len(tensor.shape) > 1:
                constants.append((names.get(tensor.type, "unknown"), len(data)))
    return operations, constants


def _type_names() -> dict[Any, str]:
    from ai_edge_litert import schema_py_generated as schema

    return {code: name.lower() for name, code in vars(schema.TensorType).items() if isinstance(code, int)}
