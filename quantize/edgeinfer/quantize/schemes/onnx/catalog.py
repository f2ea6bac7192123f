"""The ONNX schemes there are, and the layers that their plans may name.

Rungs and one-liners rest on measurements of the four MLPerf Tiny models and MobileNet on x86-64; what holds on
another machine is measured there.
"""

from collections.abc import Iterator
from pathlib import Path

from edgeinfer.quantize.schemes.base import Layer, Make, Precision, Scheme
from edgeinfer.quantize.schemes.onnx.blocks import BlockedWeights
from edgeinfer.quantize.schemes.onnx.clipping import entropy_range, mse_range, percentile_range
from edgeinfer.quantize.schemes.onnx.dynamic import Dynamic
from edgeinfer.quantize.schemes.onnx.floating import half, slim
from edgeinfer.quantize.schemes.onnx.preparation import prepared
from edgeinfer.quantize.schemes.onnx.static import Static
from edgeinfer.quantize.schemes.onnx.storage import HalfWeights, StoredWeights
from edgeinfer.quantize.schemes.onnx.weighted import Weighted, weighted_operations

__all__ = ["layers", "rearranged", "schemes"]

_SPARING = frozenset({Precision.FLOAT})
# Matrices with less than this share of the weights are not what a run waits for.
_MATRIX_SHARE = 0.5


def layers(model: Path) -> tuple[Layer, ...]:
    """The operations with weights of the prepared model, in its order. Raises ModelError."""
    return tuple(
        Layer(one.name, one.node.op_type, one.size) for one in weighted_operations(prepared(model).model.graph)
    )


def rearranged(model: Path) -> bool:
    """Whether all schemes begin with a graph that the engine runs by other kernels than the file's, or by fewer. Raises
    ModelError."""
    return prepared(model).rearranged


def schemes(model: Path) -> tuple[Scheme, ...]:
    """Those that can do anything to the model, in the order in which they are worth trying. Raises ModelError."""
    operations = list(weighted_operations(prepared(model).model.graph))
    return tuple(sorted(_offered(operations), key=lambda scheme: scheme.rung))


def _offered(operations: list[Weighted]) -> Iterator[Scheme]:
    matrices = sum(one.size for one in operations if one.node.op_type in {"MatMul", "Gemm"})
    share = matrices / max(sum(one.size for one in operations), 1)
    depthwise = [one.depthwise for one in operations]
    yield from _floating()
    yield from _stored()
    if matrices:
        yield from _matrices(rung=0 if share > _MATRIX_SHARE else 2, mixed=share < 1.0)
    yield from _static(tensor_rung=1 if share > _MATRIX_SHARE else 2)
    if any(depthwise) and not all(depthwise):
        about = "u8s8 with depthwise convolutions left float: where their integer kernels are slow (no VNNI)"
        yield _calibrated("onnx-u8s8-dense", about, Static(reduced=True, spare_depthwise=True), rung=1)
    about = "uint8 weights, activations quantized at each run: no calibration; for large matrices"
    yield Scheme(
        "onnx-int8-dynamic",
        "onnx",
        "int8-dynamic",
        about,
        Dynamic(),
        rung=0 if share > _MATRIX_SHARE else 1,
        mixes=_SPARING,
    )


def _floating() -> Iterator[Scheme]:
    about = "folded, leftovers removed, 1-D convolutions as 2-D: the same results from fewer operations or faster ones"
    yield Scheme("onnx-fp32-slim", "onnx", "fp32", about, slim, own=Precision.FLOAT, quantizes=False)
    about = "computed in half precision: wins on CPUs with such arithmetic (ARMv8.2 and newer)"
    yield Scheme("onnx-fp16", "onnx", "fp16", about, half, rung=1, own=Precision.FLOAT)
    about = "weights stored in half precision, computed as float: half the file, the same speed"
    yield Scheme("onnx-fp16-weights", "onnx", "fp16-weights", about, HalfWeights(), rung=1, own=Precision.FLOAT)


def _stored() -> Iterator[Scheme]:
    about = "weights stored as int8, computed as float: a quarter of the file, the same speed, hardly any loss"
    mixes = frozenset({Precision.FLOAT, Precision.INT4})
    yield Scheme("onnx-int8-weights", "onnx", "int8-weights", about, StoredWeights(Precision.INT8), mixes=mixes)
    about = "weights stored as int4 in blocks, computed as float: an eighth of the file; some layers may need 8 bits"
    mixes = frozenset({Precision.FLOAT, Precision.INT8})
    make = StoredWeights(Precision.INT4)
    yield Scheme("onnx-int4-weights", "onnx", "int4-weights", about, make, rung=1, own=Precision.INT4, mixes=mixes)


def _matrices(*, rung: int, mixed: bool) -> Iterator[Scheme]:
    about = "matrices multiplied in blocks of 8-bit weights: less memory, for large matrices; needs no calibration"
    mixes = frozenset({Precision.FLOAT, Precision.INT4})
    make: Make = BlockedWeights(Precision.INT8)
    yield Scheme("onnx-int8-blocks", "onnx", "int8-weights", about, make, rung=rung, mixes=mixes)
    about = "the same in 4 bits"
    mixes, make = frozenset({Precision.FLOAT, Precision.INT8}), BlockedWeights(Precision.INT4)
    yield Scheme(
        "onnx-int4-blocks", "onnx", "int4-weights", about, make, rung=max(rung, 1), own=Precision.INT4, mixes=mixes
    )
    if mixed:
        about = "dynamic quantization of the matrices alone: convolutions keep their float kernels"
        make = Dynamic(("MatMul", "LSTM"))
        yield Scheme("onnx-int8-dynamic-matmul", "onnx", "int8-dynamic", about, make, rung=rung, mixes=_SPARING)


def _static(*, tensor_rung: int) -> Iterator[Scheme]:
    """Matrix kernels run a third faster with one scale a tensor; those of convolutions do not."""
    for name, rung, about, make in (
        ("u8s8", 0, "int8 arithmetic, 7-bit weights: safe on every CPU, fast for dense layers", Static(reduced=True)),
        (
            "u8s8-full",
            1,
            "the same with 8-bit weights: for CPUs with VNNI or dot product; saturates on others",
            Static(),
        ),
        ("u8s8-percentile", 1, "u8s8 with the rarest values clipped", Static(reduced=True, choose=percentile_range)),
        ("u8s8-mse", 1, "u8s8 with ranges of least squared error", Static(reduced=True, choose=mse_range)),
        ("u8s8-entropy", 2, "u8s8 with ranges of least relative entropy", Static(reduced=True, choose=entropy_range)),
        (
            "u8s8-tensor",
            tensor_rung,
            "u8s8 with one scale a tensor: for engines without scales per channel",
            Static(reduced=True, per_channel=False),
        ),
        (
            "u8u8",
            1,
            "int8 arithmetic, unsigned 8-bit weights: never saturates, slower on x86",
            Static(weights="QUInt8"),
        ),
        ("u8u8-tensor", tensor_rung, "u8u8 with one scale a tensor", Static(weights="QUInt8", per_channel=False)),
        ("s8s8", 1, "signed throughout: for ARM", Static(activations="QInt8")),
        ("s8s8-tensor", tensor_rung, "s8s8 with one scale a tensor", Static(activations="QInt8", per_channel=False)),
    ):
        yield _calibrated(f"onnx-{name}", about, make, rung=rung)


def _calibrated(name: str, about: str, make: Make, *, rung: int) -> Scheme:
    return Scheme(name, "onnx", "int8", about, make, rung=rung, calibrates=True, mixes=_SPARING)
