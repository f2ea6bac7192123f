"""TFLite models by ai-edge-quantizer (AEQ), with its silent failures mended and its 4-bit weights made usable.

A model that carries only `deprecated_builtin_code` is quantized to nothing, silently: `normalized` fills the code in.
AEQ's calibration averages ranges, which cuts off the rare large values that an autoencoder is about: `litert-int8`
keeps the true extremes. Its weights are rounded each to the nearest: `fitting` rounds them for what their layer is
given. Its files carry names and metadata that nobody reads: `slimmed` drops them.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

from edgeinfer.quantize.schemes.base import Calibration, Layer, Plan, Precision, Scheme
from edgeinfer.quantize.schemes.litert.flatbuffer import half_weights, integer_weights, normalized, parse
from edgeinfer.quantize.schemes.litert.graph import custom_operations, layers_of
from edgeinfer.quantize.schemes.litert.quantizer import check_prepared, quantized
from edgeinfer.quantize.schemes.litert.ranges import Statistic
from edgeinfer.quantize.schemes.litert.recipe import Compute, Way

__all__ = ["half_weights", "integer_weights", "layers", "normalized", "schemes"]

_FLOAT, _INT8, _INT4 = Precision.FLOAT, Precision.INT8, Precision.INT4


def schemes(model: Path) -> tuple[Scheme, ...]:
    """The ways to quantize a float model; none of one whose weights are integers already.

    Raises ModelError for bytes that are no model, and for one whose custom operations LiteRT does not have.
    """
    content = model.read_bytes()
    custom = custom_operations(parse(content))
    if custom:
        check_prepared(content, about=f"the model with its custom operations {', '.join(custom)}")
    return () if integer_weights(content) else _SCHEMES


def layers(model: Path) -> tuple[Layer, ...]:
    """The operations with constant weights, named by the tensor that they write. Raises ModelError."""
    return layers_of(parse(normalized(model.read_bytes())))


def _make(source: Path, target: Path, calibration: Calibration, plan: Plan, *, way: Way) -> str:
    return quantized(source, target, way=way, plan=plan, calibration=calibration)


def _scheme(
    name: str, precision: str, way: Way, *, rung: int, mixes: frozenset[Precision] = frozenset(), about: str
) -> Scheme:
    return Scheme(
        id=f"litert-{name}",
        engine="litert",
        precision=precision,
        about=about,
        make=partial(_make, way=way),
        rung=rung,
        calibrates=way.fitted or way.statistic is not None,
        own=_FLOAT if way.half else way.weights,
        mixes=mixes,
        quantizes=not way.half,
        sketch=partial(_make, way=replace(way, fitted=False)) if way.fitted else None,
    )


_MIXED = frozenset({_FLOAT, _INT4})

_SCHEMES = (
    _scheme(
        "int8-dynamic",
        "int8-dynamic",
        Way(Compute.DYNAMIC),
        rung=0,
        mixes=_MIXED,
        about="int8 weights, activations quantized at each call; fast for dense layers and safe with outliers",
    ),
    _scheme(
        "int8-weights",
        "int8-weights",
        Way(Compute.FLOAT),
        rung=0,
        mixes=_MIXED,
        about="int8 weights, float arithmetic; a quarter of the size at the float model's speed and accuracy",
    ),
    _scheme(
        "int8",
        "int8",
        Way(Compute.STATIC8, statistic=Statistic.MIN_MAX),
        rung=0,
        mixes=_MIXED,
        about="int8 throughout, ranges by the extremes; keeps rare large values",
    ),
    _scheme(
        "int8-mse",
        "int8",
        Way(Compute.STATIC8, statistic=Statistic.MSE),
        rung=0,
        mixes=_MIXED,
        about="int8 throughout, ranges cut off where the squared error is smallest; for nets with rare large values",
    ),
    _scheme(
        "int8-ma",
        "int8",
        Way(Compute.STATIC8, statistic=Statistic.AVERAGE),
        rung=1,
        mixes=_MIXED,
        about="int8 throughout, ranges by moving average; cuts off outliers, also those that matter",
    ),
    _scheme(
        "int4-dynamic",
        "int4-dynamic",
        Way(Compute.DYNAMIC, weights=_INT4),
        rung=1,
        mixes=frozenset({_FLOAT, _INT8}),
        about="int4 weights, activations quantized at each call; for large fully connected layers",
    ),
    _scheme(
        "int4-weights",
        "int4-weights",
        Way(Compute.FLOAT, weights=_INT4),
        rung=1,
        mixes=frozenset({_FLOAT, _INT8}),
        about="int4 weights, float arithmetic; smallest, but unpacking costs time",
    ),
    _scheme(
        "fp16-weights",
        "fp16-weights",
        Way(Compute.FLOAT, fitted=False, half=True),
        rung=1,
        about="float16 weights, float arithmetic; half the size where no integer will do",
    ),
    _scheme(
        "int8-plain",
        "int8",
        Way(Compute.STATIC8, statistic=Statistic.MIN_MAX, fitted=False),
        rung=2,
        about="int8 throughout, each weight rounded to the nearest; what the quantizer does by itself",
    ),
    _scheme(
        "int16",
        "int16",
        Way(Compute.STATIC16, statistic=Statistic.MIN_MAX),
        rung=2,
        mixes=frozenset({_FLOAT}),
        about="int8 weights, int16 activations; exact, but without fast kernels on most CPUs",
    ),
)
