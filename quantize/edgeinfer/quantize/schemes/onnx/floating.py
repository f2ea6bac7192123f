"""Schemes that compute in floating point all through: the prepared graph itself, and half precision."""

from collections import Counter
from pathlib import Path

from edgeinfer.quantize.schemes.base import Calibration, Plan
from edgeinfer.quantize.schemes.onnx.census import no_op
from edgeinfer.quantize.schemes.onnx.modelproto import copied, save, wrapped_errors
from edgeinfer.quantize.schemes.onnx.preparation import prepared

__all__ = ["half", "slim"]


def slim(source: Path, target: Path, calibration: Calibration, plan: Plan) -> str:
    """Write the prepared model. Of no use where it has the same operations as the source."""
    del calibration, plan
    ready = prepared(source)
    save(ready.model, target)
    if ready.before == Counter(node.op_type for node in ready.model.graph.node):
        return f"nothing was slimmed: it has the same {ready.before.total()} operations"
    return ""


def half(source: Path, target: Path, calibration: Calibration, plan: Plan) -> str:
    """Compute in float16, with inputs and outputs as they were. An engine without such kernels casts back and forth."""
    del calibration, plan
    with wrapped_errors():
        from onnxruntime.transformers.float16 import convert_float_to_float16

        made = convert_float_to_float16(copied(prepared(source).model), keep_io_types=True)
    save(made, target)
    return no_op(made.graph, half=True)
