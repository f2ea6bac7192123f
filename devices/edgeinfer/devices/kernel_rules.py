"""The rules of `edgeinfer.devices.kernels` as data: each has its source. No I/O.

The measured ones are single models of MLPerf Tiny (ResNet8: dense; DS-CNN and MobileNetV1 0.25: depthwise too; an
autoencoder: matrix products on single rows), one thread, ONNX Runtime 1.31.1 and ai-edge-litert 2.3.0; their ranges are
drawn wider than the measurements. Those of ARM are derived from what others have published or from what an instruction
does, and are wider still.
"""

import enum
import math
from dataclasses import dataclass
from typing import NamedTuple

from edgeinfer.devices.profile import Library

__all__ = ["BLANK", "RULES", "MachineClass", "Range", "Rule"]


class MachineClass(enum.StrEnum):
    """Processors by what their int8 kernels are made of."""

    VNNI = "x86-64 with VNNI"
    AVX2 = "x86-64 without VNNI"
    I8MM = "Armv8.6 with i8mm"
    DOTPROD = "Armv8.2 with dotprod"
    NEON = "Armv8.0 with NEON only"
    NEON32 = "Armv7 with NEON"
    PLAIN = "a processor without known kernels"


class Range(NamedTuple):
    """Ratios of latency to ONNX Runtime's float32."""

    low: float
    high: float

    @property
    def middle(self) -> float:
        """Of ratios that is the geometric mean: twice as fast and half as fast are the same way off."""
        return math.sqrt(self.low * self.high)


@dataclass(frozen=True, slots=True)
class Rule:
    """What a library makes of a precision on some machines, for each kind of operation."""

    library: Library
    precision: str
    machines: tuple[MachineClass, ...]
    dense: Range
    depthwise: Range
    gemm: Range
    why: str
    source: str


_AVX2, _VNNI = (MachineClass.AVX2,), (MachineClass.VNNI,)
_X86 = (MachineClass.AVX2, MachineClass.VNNI)
_NEON, _DOTPROD, _I8MM = (MachineClass.NEON,), (MachineClass.DOTPROD,), (MachineClass.I8MM,)
_ARM64 = (MachineClass.NEON, MachineClass.DOTPROD, MachineClass.I8MM)
_NEON32 = (MachineClass.NEON32,)
_ANY = tuple(MachineClass)

_ZEN3 = "measured: MLPerf Tiny on Zen 3 (AVX2, no VNNI)"
_ICE = "measured: MLPerf Tiny on a server with AVX512-VNNI"
_XNNPACK_PI = "XNNPACK's README: MobileNet v1 and v2, FP32 against INT8, on Raspberry Pi 2, 3+ and 4 (February 2022)"
_SDOT = "Arm Architecture Reference Manual: SDOT does 16 multiply-accumulates where FMLA does 4"
_SMMLA = "Arm Architecture Reference Manual: SMMLA does 32 multiply-accumulates where FMLA does 4"
_FP16 = "Arm Architecture Reference Manual: FMLA does 8 half precision multiply-accumulates where it does 4 single ones"
_GUESS = "not measured: wide on purpose"
_INT16 = "TensorFlow Lite's guide to 16x8 quantization: its kernels are not optimized, delegates do not take them"

_ONE = Range(1.0, 1.0)
BLANK = Rule(
    "onnxruntime",
    "",
    _ANY,
    dense=Range(0.25, 4.0),
    depthwise=Range(0.25, 4.0),
    gemm=Range(0.25, 4.0),
    why="no rule is known",
    source=_GUESS,
)


def _rule(
    library: Library,
    precision: str,
    machines: tuple[MachineClass, ...],
    ranges: tuple[tuple[float, float], tuple[float, float], tuple[float, float]],
    *,
    why: str,
    source: str,
) -> Rule:
    """`ranges` are those of dense convolution, depthwise convolution and matrix product."""
    dense, depthwise, gemm = (Range(*one) for one in ranges)
    return Rule(library, precision, machines, dense, depthwise, gemm, why, source)


_ONNX = (
    _rule("onnxruntime", "fp32", _ANY, (_ONE,) * 3, why="what the others are compared with", source="definition"),
    _rule(
        "onnxruntime", "int8", _AVX2, ((0.37, 0.85), (1.3, 3.0), (0.26, 1.1)),
        why="int8 without VNNI: wins in dense convolution, loses in depthwise", source=_ZEN3,
    ),
    _rule(
        "onnxruntime", "int8", _VNNI, ((0.4, 0.75), (1.2, 2.6), (0.25, 1.15)),
        why="int8 with VNNI: four products an instruction", source=_ICE,
    ),
    _rule(
        "onnxruntime", "int8", _NEON, ((0.45, 1.0), (0.8, 1.8), (0.4, 1.0)),
        why="int8 with NEON only: products are widened first", source=_XNNPACK_PI,
    ),
    _rule(
        "onnxruntime", "int8", _DOTPROD, ((0.25, 0.7), (0.7, 1.8), (0.25, 0.7)),
        why="int8 with dotprod: four times the products of float", source=_SDOT,
    ),
    _rule(
        "onnxruntime", "int8", _I8MM, ((0.15, 0.6), (0.7, 1.8), (0.15, 0.6)),
        why="int8 with i8mm: eight times the products of float", source=_SMMLA,
    ),
    _rule(
        "onnxruntime", "int8-dynamic", _AVX2, ((1.2, 1.7), (9.0, 22.0), (0.8, 1.1)),
        why="dynamic int8: ranges are found at every call, depthwise has no kernel", source=_ZEN3,
    ),
    _rule(
        "onnxruntime", "int8-dynamic", _VNNI, ((1.2, 1.8), (8.0, 22.0), (0.2, 1.0)),
        why="dynamic int8: ranges are found at every call, depthwise has no kernel", source=_ICE,
    ),
    _rule(
        "onnxruntime", "int8-dynamic", _ARM64, ((0.8, 2.0), (3.0, 20.0), (0.3, 1.1)),
        why="dynamic int8: ranges are found at every call, depthwise has no kernel", source=_GUESS,
    ),
    _rule(
        "onnxruntime", "int8-weights", _ANY, ((0.95, 1.3), (0.95, 1.3), (0.6, 1.3)),
        why="weights of int8: less memory is read, the arithmetic stays float", source=_GUESS,
    ),
    _rule(
        "onnxruntime", "int4-weights", _ANY, ((0.95, 1.3), (0.95, 1.3), (0.4, 2.0)),
        why="weights of 4 bit in matrix products: less memory is read, each is unpacked", source=_GUESS,
    ),
    _rule(
        "onnxruntime", "fp16", _X86, ((1.0, 2.0), (1.0, 2.0), (1.0, 2.0)),
        why="half precision is cast to float and back", source=_GUESS,
    ),
    _rule(
        "onnxruntime", "fp16", _ARM64, ((0.5, 1.1), (0.6, 1.3), (0.5, 1.1)),
        why="half precision arithmetic: twice the products of float", source=_FP16,
    ),
    _rule(
        "onnxruntime", "int16", _ANY, ((1.5, 6.0), (1.5, 6.0), (1.5, 6.0)),
        why="int16 has no kernels: it is dequantized and computed in float", source=_GUESS,
    ),
)  # fmt: skip
_LITERT_FLOAT = {
    _AVX2: (((0.7, 0.9), (0.5, 1.2), (0.55, 0.75)), _ZEN3),
    _VNNI: (((0.9, 1.25), (0.4, 1.0), (0.55, 0.75)), _ICE),
    _ARM64: (((0.65, 1.2), (0.5, 1.1), (0.5, 1.1)), _GUESS),
}
_LITERT = (
    *(
        _rule("ai-edge-litert", "fp32", machines, ranges, why="float through XNNPACK", source=source)
        for machines, (ranges, source) in _LITERT_FLOAT.items()
    ),
    *(
        _rule(
            "ai-edge-litert", precision, machines, ranges,
            why="weights are unpacked once, when it is loaded: as float through XNNPACK", source=source,
        )
        for precision in ("int8-weights", "fp16")
        for machines, (ranges, source) in _LITERT_FLOAT.items()
    ),
    _rule(
        "ai-edge-litert", "int8", _AVX2, ((0.75, 1.25), (1.1, 3.5), (0.2, 0.4)),
        why="int8 without VNNI: wins in matrix products, loses in depthwise", source=_ZEN3,
    ),
    _rule(
        "ai-edge-litert", "int8", _VNNI, ((0.28, 0.6), (0.9, 2.0), (0.17, 0.35)),
        why="int8 with VNNI: four products an instruction", source=_ICE,
    ),
    _rule(
        "ai-edge-litert", "int8", _NEON, ((0.25, 0.6), (0.35, 1.0), (0.25, 0.6)),
        why="int8 with NEON only: 0.31 to 0.49 of float there", source=_XNNPACK_PI,
    ),
    _rule(
        "ai-edge-litert", "int8", _DOTPROD, ((0.16, 0.45), (0.35, 1.0), (0.16, 0.45)),
        why="int8 with dotprod: four times the products of float", source=_SDOT,
    ),
    _rule(
        "ai-edge-litert", "int8", _I8MM, ((0.1, 0.4), (0.35, 1.0), (0.1, 0.4)),
        why="int8 with i8mm: eight times the products of float", source=_SMMLA,
    ),
    _rule(
        "ai-edge-litert", "int8-dynamic", _AVX2, ((0.8, 1.6), (0.8, 3.5), (0.2, 0.6)),
        why="dynamic int8: as int8, and ranges are found at every call", source=_GUESS,
    ),
    _rule(
        "ai-edge-litert", "int8-dynamic", (*_VNNI, *_ARM64), ((0.3, 1.1), (0.6, 2.5), (0.15, 0.6)),
        why="dynamic int8: as int8, and ranges are found at every call", source=_GUESS,
    ),
    _rule(
        "ai-edge-litert", "int4-weights", _X86, ((2.0, 3.2), (1.8, 3.2), (0.7, 0.9)),
        why="weights of 4 bit are unpacked at every call", source=_ZEN3,
    ),
    _rule(
        "ai-edge-litert", "int4-weights", _ARM64, ((1.0, 3.5), (1.0, 3.5), (0.6, 1.5)),
        why="weights of 4 bit are unpacked at every call", source=_GUESS,
    ),
    _rule(
        "ai-edge-litert", "int16", (*_X86, *_ARM64), ((3.0, 20.0), (3.0, 20.0), (2.0, 20.0)),
        why="int16 activations run in plain kernels", source=_INT16,
    ),
)  # fmt: skip
# There is no ONNX Runtime beside it: what counts is only how its own files compare.
_TFLITE = (
    *(
        _rule("tflite-runtime", precision, _NEON32, ((1.0, 1.0),) * 3, why=why, source=_XNNPACK_PI)
        for precision, why in (("fp32", "float: what the others are compared with"), ("fp16", "unpacked to float"))
    ),
    _rule(
        "tflite-runtime", "int8", _NEON32, ((0.35, 0.8), (0.4, 1.1), (0.35, 0.8)),
        why="int8 with NEON only: 0.42 and 0.43 of float on a Cortex-A7", source=_XNNPACK_PI,
    ),
    _rule(
        "tflite-runtime", "int8-weights", _NEON32, ((0.95, 1.3), (0.95, 1.3), (0.6, 1.3)),
        why="weights of int8: unpacked, the arithmetic stays float", source=_GUESS,
    ),
    _rule(
        "tflite-runtime", "int8-dynamic", _NEON32, ((0.4, 1.2), (0.6, 2.0), (0.4, 1.0)),
        why="dynamic int8: as int8, and ranges are found at every call", source=_GUESS,
    ),
    _rule(
        "tflite-runtime", "int16", _NEON32, ((3.0, 20.0), (3.0, 20.0), (2.0, 20.0)),
        why="int16 activations run in plain kernels", source=_INT16,
    ),
)  # fmt: skip

RULES: tuple[Rule, ...] = (*_ONNX, *_LITERT, *_TFLITE)
