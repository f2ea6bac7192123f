"""One run of ai-edge-quantizer, and the proof that it did what it was told."""

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeinfer.quantize.schemes.base import Calibration, Layer, Plan, Precision
from edgeinfer.quantize.schemes.litert import flatbuffer
from edgeinfer.quantize.schemes.litert.fitting import with_fitted
from edgeinfer.quantize.schemes.litert.graph import FOUR_BIT, layers_of, precisions
from edgeinfer.quantize.schemes.litert.ranges import learnt
from edgeinfer.quantize.schemes.litert.recipe import Way, rules
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import DependencyError, ModelError

__all__ = ["check_prepared", "quantized"]


def quantized(source: Path, target: Path, *, way: Way, plan: Plan, calibration: Calibration) -> str:
    """Write the quantized model at `target`; "" or why it is of no use.

    Without calibration inputs weights are not fitted. Raises ModelError where the quantizer fails, for a plan that
    names no layer, and for a result that LiteRT cannot prepare; DependencyError.
    """
    content = flatbuffer.normalized(source.read_bytes())
    layers = layers_of(flatbuffer.parse(content))
    unknown = sorted(set(plan) - {layer.name for layer in layers})
    if unknown:
        raise ModelError(f"expected a plan for layers of the model, found {unknown[0]!r}, which is none")
    statistics: dict[str, Mapping[str, Array]] = {}
    if way.statistic is not None:
        ranges = learnt(content, calibration, way.statistic)
        statistics = {name: _statistics(np.array([low]), np.array([high])) for name, (low, high) in ranges.items()}
    if way.fitted and len(calibration) > 0:
        complete = {layer.name: plan.get(layer.name, way.weights) for layer in layers}
        content, bounds = with_fitted(content, _with_kernels(complete, layers), calibration)
        statistics |= {name: _statistics(-bound, bound) for name, bound in bounds.items()}
    result = flatbuffer.slimmed(_run(content, rules(way, plan), statistics))
    refused = _nothing_done(result, way) or _plan_missed(result, layers, plan)
    if not refused:
        check_prepared(result)
        target.write_bytes(result)
    return refused


def _with_kernels(plan: Plan, layers: Sequence[Layer]) -> Plan:
    """The plan as the quantizer will follow it: what has no int4 kernel becomes int8."""
    without = {layer.name for layer in layers if layer.op not in FOUR_BIT}
    return {name: Precision.INT8 if kept is Precision.INT4 and name in without else kept for name, kept in plan.items()}


def _nothing_done(result: bytes, way: Way) -> str:
    if way.half:
        return "" if flatbuffer.half_weights(result) else "nothing was changed: no weight tensor became a float16 one"
    if flatbuffer.integer_weights(result) == 0:
        return "nothing was quantized: no weight tensor became an integer one"
    return ""


def _plan_missed(result: bytes, layers: Sequence[Layer], plan: Plan) -> str:
    """The quantizer falls back without a word where a kernel lacks: what it wrote is looked at."""
    for layer, kept in zip(layers, precisions(flatbuffer.parse(result)), strict=True):
        if plan.get(layer.name, kept) is not kept:
            return f"{layer.op} {layer.name!r} cannot be {plan[layer.name]}: it became {kept}"
    return ""


def _run(content: bytes, recipe: list[dict[str, Any]], statistics: Mapping[str, Any]) -> bytes:
    with _quiet(), _wrapped_errors():
        from ai_edge_quantizer import quantizer

        result = quantizer.Quantizer(content, recipe).quantize(
            statistics or None, enable_progress_bar=False, enable_progress_report=False
        )
        return bytes(result.quantized_model)


def _statistics(low: Array, high: Array) -> Mapping[str, Array]:
    return {"min": low.astype(np.float32), "max": high.astype(np.float32)}


def check_prepared(content: bytes, *, about: str = "the quantized model") -> None:
    """Raises ModelError for what LiteRT cannot prepare: kernels lack for some of what the quantizer writes."""
    from ai_edge_litert.interpreter import Interpreter

    try:
        Interpreter(model_content=content, num_threads=1).allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"LiteRT cannot prepare {about}: {_first_line(error)}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The library warns about a debugging option that it sets itself, and draws progress bars of its own."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _wrapped_errors() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise DependencyError("ai-edge-quantizer is not installed", hint="pip install 'edgeinfer[quantize]'") from error
    except Exception as error:  # the quantizer raises whatever its parts raise
        raise ModelError(f"LiteRT quantization failed: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).split("\n", maxsplit=1)[0][:300]
