"""Static quantization: weights and activations in integers, with ranges learnt from calibration rows.

The graph is written by ONNX Runtime's quantizer in QDQ form (quantize and dequantize operations around float ones,
which the engine joins to integer kernels); the ranges are our own (`ranges`).

u8 x s8 kernels on CPUs without VNNI add pairs of products in 16 bits. With 8-bit weights that saturates, and a model
can lose nearly all its accuracy on one machine while it keeps it on another; with 7 bits (`reduced`) it cannot.
u8 x u8 kernels widen before they multiply, and may have all 8 bits: more exact, and slower on x86.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer.quantize.schemes.base import Calibration, Plan, Precision
from edgeinfer.quantize.schemes.onnx.census import no_op, saturation
from edgeinfer.quantize.schemes.onnx.clipping import Histogram
from edgeinfer.quantize.schemes.onnx.modelproto import copied, save, wrapped_errors
from edgeinfer.quantize.schemes.onnx.preparation import prepared
from edgeinfer.quantize.schemes.onnx.ranges import Range, statistics_of
from edgeinfer.quantize.schemes.onnx.weighted import put_in_order, swept, taken_by, weighted_operations

if TYPE_CHECKING:
    import onnx

__all__ = ["Static"]

# In integers it is slower, and rounds what often is the whole result.
_FLOAT_OPS = {"Softmax"}
# Their integer kernels can give float results.
_FLOAT_MAKERS = {"Gemm", "MatMul"}


@dataclass(frozen=True, slots=True)
class Static:
    """A way of static quantization; a `Make`.

    `activations` and `weights` name ONNX Runtime's QuantType. `choose` makes a range of a histogram; without it all
    values seen lie inside. `spare_depthwise` leaves depthwise convolutions float: their integer kernels are slower.
    """

    activations: str = "QUInt8"
    weights: str = "QInt8"
    reduced: bool = False
    per_channel: bool = True
    choose: Callable[[Histogram], Range] | None = None
    spare_depthwise: bool = False

    def __call__(self, source: Path, target: Path, calibration: Calibration, plan: Plan) -> str:
        model = prepared(source).model
        spared = {name for name, precision in plan.items() if precision is Precision.FLOAT}
        if self.spare_depthwise:
            spared |= {operation.name for operation in weighted_operations(model.graph) if operation.depthwise}
        with wrapped_errors():
            statistics = statistics_of(model, calibration)
            ranges = statistics.clipped(self.choose) if self.choose else statistics.extremes()
            made = self._quantizer(model, ranges, spared).quantize_model()
            _leave_ends_float(made.graph)
            put_in_order(made.graph)
        save(made, target)
        return no_op(made.graph) or (saturation(made.graph) if self.reduced else "")

    def _quantizer(self, model: "onnx.ModelProto", ranges: Mapping[str, Range], spared: set[str]) -> Any:
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
        from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

        data = {
            name: TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
            for name, (low, high) in ranges.items()
        }
        return QDQQuantizer(
            copied(model),
            self.per_channel,
            self.reduced,
            QuantType[self.weights],
            QuantType[self.activations],
            TensorsData(CalibrationMethod.MinMax, data),
            [],
            sorted(spared),
            sorted({*QLinearOpsRegistry, *QDQRegistry} - _FLOAT_OPS),
            {"WeightSymmetric": True},
        )


def _leave_ends_float(graph: "onnx.GraphProto") -> None:
    """Do not round what a matrix operation gives to the graph's outputs, or to operations that compute in float."""
    makers = {output: node for node in graph.node for output in node.output}
    takers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in taken_by(node):
            takers.setdefault(name, []).append(node)
    for last in [node for node in graph.node if node.op_type == "DequantizeLinear"]:
        first = makers.get(last.input[0])
        maker = makers.get(first.input[0]) if first is not None and first.op_type == "QuantizeLinear" else None
        if first is None or maker is None or maker.op_type not in _FLOAT_MAKERS:
            continue
        end = last.output[0]
        alone = len(takers[maker.output[0]]) == 1 and len(takers[first.output[0]]) == 1
        if alone and all(taker.op_type in _FLOAT_OPS for taker in takers.get(end, [])):
            maker.output[0] = end
            graph.node.remove(first)
            graph.node.remove(last)
    swept(graph)
