"""Dynamic quantization: uint8 weights, and activations that are quantized while the model runs.

It looks for each tensor's range again at each run, so that it does not depend on what calibration rows were at hand,
and pays where matrices are large. Convolutions get slower by it on most CPUs.
"""

from dataclasses import dataclass
from pathlib import Path

from edgeinfer.quantize.schemes.base import Calibration, Plan, Precision
from edgeinfer.quantize.schemes.onnx.census import no_op
from edgeinfer.quantize.schemes.onnx.modelproto import copied, save, wrapped_errors
from edgeinfer.quantize.schemes.onnx.preparation import prepared
from edgeinfer.quantize.schemes.onnx.weighted import put_in_order, split_gemm

__all__ = ["Dynamic"]


@dataclass(frozen=True, slots=True)
class Dynamic:
    """A way of dynamic quantization; a `Make`. `operations` are the types that it quantizes, all that it can if none
    are named. Needs no calibration."""

    operations: tuple[str, ...] = ()

    def __call__(self, source: Path, target: Path, calibration: Calibration, plan: Plan) -> str:
        del calibration
        model = copied(prepared(source).model)
        spared = sorted(name for name, precision in plan.items() if precision is Precision.FLOAT)
        with wrapped_errors():
            from onnxruntime.quantization import QuantizationMode, QuantType
            from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
            from onnxruntime.quantization.registry import IntegerOpsRegistry

            split_gemm(model)  # the quantizer would do it too, and give the parts names that no plan knows
            quantizer = ONNXQuantizer(
                model,
                False,  # one scale a tensor
                False,  # all 8 bits: u8 x u8 kernels do not saturate
                QuantizationMode.IntegerOps,
                False,  # ranges are not known beforehand
                QuantType.QUInt8,
                QuantType.QUInt8,
                None,
                [],
                spared,
                list(self.operations) or sorted(IntegerOpsRegistry),
                {"MatMulConstBOnly": True},
            )
            quantizer.quantize_model()
            made = quantizer.model.model
            put_in_order(made.graph)
        save(made, target)
        return no_op(made.graph)
