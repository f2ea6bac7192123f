"""Small ONNX models written without any training, odd ones among them: what `edgeinfer quantize` may be given."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["dense", "forever", "save", "value"]

FLOAT = TensorProto.FLOAT
INPUTS, CLASSES = 6, 3


def value(name: str, shape: Sequence[int | str | None] | None, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def dense(
    *,
    batch: int | str | None = 1,
    features: int | str | None = INPUTS,
    dtype: Any = np.float32,
    opset: int = 17,
    change: Callable[[onnx.ModelProto], None] = lambda _model: None,
) -> onnx.ModelProto:
    """y = x @ weight, (batch, 6) to (batch, 3); `change` makes it odd."""
    weight = np.linspace(-1.0, 1.0, INPUTS * CLASSES).reshape(INPUTS, CLASSES).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"], name="dense")],
        "dense",
        [value("x", [batch, features], kind)],
        [value("y", [batch, CLASSES], kind)],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    change(model)
    return model


def forever() -> onnx.ModelProto:
    """A loop without an end."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still_going"]),
            helper.make_node("Mul", ["before", "half"], ["after"]),
        ],
        "body",
        [value("count", [], TensorProto.INT64), value("going", [], TensorProto.BOOL), value("before", None)],
        [value("still_going", [], TensorProto.BOOL), value("after", None)],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["", "yes", "x"], ["y"], name="around", body=body)],
        "forever",
        [value("x", [1, INPUTS])],
        [value("y", [1, INPUTS])],
        [numpy_helper.from_array(np.array(True), "yes"), numpy_helper.from_array(np.array(0.5, np.float32), "half")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path
