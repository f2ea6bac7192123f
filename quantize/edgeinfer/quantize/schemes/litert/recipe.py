"""What ai-edge-quantizer (AEQ) is told: which precision each operation gets, the model's own first, then the plan's.

AEQ lets the last rule win that matches an operation's scope, the names of its outputs each followed by a semicolon,
and that LiteRT's kernels can follow. So an int4 model has its int8 rule first: what has no int4 kernel falls back.
"""

import enum
import re
from dataclasses import dataclass
from typing import Any

from edgeinfer.quantize.schemes.base import Plan, Precision
from edgeinfer.quantize.schemes.litert.ranges import Statistic

__all__ = ["Compute", "Way", "rules"]

_BITS = {Precision.INT4: 4, Precision.INT8: 8}
# LiteRT has no fast kernel for it with inputs that are quantized as they come (2.7 times the time of float on a
# keyword-spotting net): it computes in float, its weights are int8 all the same.
_SLOW_DYNAMIC = "DEPTHWISE_CONV_2D"


class Compute(enum.Enum):
    """What operations calculate in: float; int8 with scales measured at each call; or with ranges fixed beforehand."""

    FLOAT = "float"
    DYNAMIC = "dynamic"
    STATIC8 = "static int8"
    STATIC16 = "static int16"


@dataclass(frozen=True, slots=True)
class Way:
    """One way to quantize a whole model.

    `statistic` is how ranges are learnt where they are fixed. `fitted` weights are rounded for what their layer is
    given, others each to the nearest. `half` keeps weights as float16 and is no quantization at all.
    """

    compute: Compute
    weights: Precision = Precision.INT8
    statistic: Statistic | None = None
    fitted: bool = True
    half: bool = False


def rules(way: Way, plan: Plan) -> list[dict[str, Any]]:
    """AEQ's recipe. `plan` names layers by their output tensor; a name matches the operation that writes it alone."""
    from ai_edge_quantizer import recipe_manager
    from ai_edge_quantizer.qtyping import TFLOperationName

    manager = recipe_manager.RecipeManager()
    everything = TFLOperationName.ALL_SUPPORTED
    if way.half:
        manager.add_weight_only_config("", everything, 16, algorithm_key="float_casting")
    else:
        _add(manager, "", everything, way.compute, Precision.INT8)
        if way.weights is not Precision.INT8:
            # Another expression that matches everything: of two rules under the same one, AEQ keeps the later.
            _add(manager, ".*", everything, way.compute, way.weights)
    if way.compute is Compute.DYNAMIC:
        _add(manager, "(?:)", TFLOperationName(_SLOW_DYNAMIC), Compute.FLOAT, Precision.INT8)
    for name, precision in plan.items():
        _add(manager, rf"\A{re.escape(name)};\Z", everything, way.compute, precision)
    recipe: list[dict[str, Any]] = manager.get_quantization_recipe()
    return recipe


def _add(manager: Any, scope: str, operation: Any, compute: Compute, weights: Precision) -> None:
    if weights is Precision.FLOAT:
        manager.add_quantization_config(scope, operation, algorithm_key="no_quantize")
    elif compute is Compute.FLOAT:
        manager.add_weight_only_config(scope, operation, _BITS[weights])
    elif compute is Compute.DYNAMIC:
        manager.add_dynamic_config(scope, operation, _BITS[weights])
    else:
        bits = 16 if compute is Compute.STATIC16 else 8
        manager.add_static_config(scope, operation, bits, _BITS[weights])
