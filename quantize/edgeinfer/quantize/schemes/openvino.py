"""Schemes that OpenVINO runs: the float ONNX model as it is, and one that NNCF made integers of.

Both are ONNX files. NNCF's control of accuracy is not used: it took minutes on a small model, and gave back a float
file larger than the one it was given; the search measures accuracy itself. That is also why what NNCF writes is counted
before it is believed.
"""

import importlib.util
import shutil
from collections.abc import Mapping
from pathlib import Path

from edgeinfer.quantize.schemes.base import Calibration, Plan, Precision, Scheme
from edgeinfer.quantize.schemes.onnx.census import no_op
from edgeinfer.quantize.schemes.onnx.modelproto import copied, save, wrapped_errors
from edgeinfer.quantize.schemes.onnx.preparation import prepared
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.engines.openvino import import_openvino
from edgeinfer.runtime.errors import DependencyError

__all__ = ["schemes"]


def schemes() -> tuple[Scheme, ...]:
    """Those whose tools are installed; none without OpenVINO."""
    if importlib.util.find_spec("openvino") is None:
        return ()
    about = "the float model as it is, run by OpenVINO: for larger models on Intel's CPUs"
    made = [Scheme("openvino-fp32", "openvino", "fp32", about, _as_it_is, own=Precision.FLOAT, quantizes=False)]
    if importlib.util.find_spec("nncf") is not None:
        about = "int8 arithmetic with biases corrected (NNCF), 7-bit weights: safe on every CPU, run by OpenVINO"
        mixes = frozenset({Precision.FLOAT})
        made.append(Scheme("openvino-int8", "openvino", "int8", about, _integers, calibrates=True, mixes=mixes))
    return tuple(made)


def _as_it_is(source: Path, target: Path, calibration: Calibration, plan: Plan) -> str:
    del calibration, plan
    shutil.copyfile(source, target)
    return ""


def _integers(source: Path, target: Path, calibration: Calibration, plan: Plan) -> str:
    """Post-training quantization. Weights get half of their range everywhere: with all of it, sums of products saturate
    on CPUs without VNNI, as they do with ONNX Runtime."""
    try:
        import_openvino()  # first, since NNCF brings the same telemetry
        import nncf
        from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix
    except ImportError as error:
        raise DependencyError("nncf is not installed", hint="pip install 'edgeinfer[openvino]'") from error
    model = copied(prepared(source).model)
    names = [value.name for value in model.graph.input]
    spared = [name for name, precision in plan.items() if precision is Precision.FLOAT]

    def by_name(inputs: list[Array]) -> Mapping[str, Array]:
        return dict(zip(names, inputs, strict=True))

    with wrapped_errors():
        made = nncf.quantize(
            model,
            nncf.Dataset(calibration, by_name),
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(calibration),
            ignored_scope=nncf.IgnoredScope(names=spared, validate=False),
            advanced_parameters=AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE),
        )
    save(made, target)
    return no_op(made.graph)
