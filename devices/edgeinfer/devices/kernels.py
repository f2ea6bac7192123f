"""How much faster a precision makes a model on a processor: rules for ranking where nothing can be measured.

    mix = OpMix(dense=0.8, depthwise=0.15, gemm=0.05)
    estimate("int8", library="ai-edge-litert", machine=MachineClass.VNNI, mix=mix).ratio      # about 0.6

A ratio is the latency over that of ONNX Runtime with float32 on the same processor, with one thread. The rules are
wide on purpose: they put candidates in an order and say why; what a device then does, it measures itself.
No I/O.
"""

import enum
import math
from collections.abc import Collection
from dataclasses import dataclass, replace

from edgeinfer.devices.kernel_rules import BLANK, RULES, MachineClass, Range, Rule
from edgeinfer.devices.profile import Architecture, Library

__all__ = ["EVEN", "Estimate", "MachineClass", "Op", "OpMix", "cuts_pairs", "estimate", "machine_class"]

# A multiply-accumulate of a depthwise convolution takes about as long as three of a dense one: it is used once where
# those are used again and again. With 3 the rules give back what was measured on DS-CNN and MobileNet.
_DEPTHWISE_COST = 3.0


class Op(enum.StrEnum):
    """The kinds of operation that nearly all multiply-accumulates are in."""

    DENSE = "dense convolution"
    DEPTHWISE = "depthwise convolution"
    GEMM = "matrix product"


@dataclass(frozen=True, slots=True)
class OpMix:
    """Which part of a model's multiply-accumulates each kind of operation has: shares that sum to 1."""

    dense: float
    depthwise: float
    gemm: float

    def __post_init__(self) -> None:
        shares = (self.dense, self.depthwise, self.gemm)
        if min(shares) < 0.0 or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
            raise ValueError(f"expected shares that sum to 1, found {shares}")

    def times(self) -> dict[Op, float]:
        """Which part of the time of float32 each kind has: shares that sum to 1."""
        costs = {Op.DENSE: self.dense, Op.DEPTHWISE: self.depthwise * _DEPTHWISE_COST, Op.GEMM: self.gemm}
        total = sum(costs.values())
        return {op: cost / total for op, cost in costs.items()}


# For a model of which nothing is known.
EVEN = OpMix(1 / 3, 1 / 3, 1 / 3)


@dataclass(frozen=True, slots=True)
class Estimate:
    """The ratio to ONNX Runtime's float32, from `low` to `high`; why, in a line; and where that is from."""

    ratio: float
    low: float
    high: float
    reason: str
    source: str


def cuts_pairs(arch: str, features: Collection[str]) -> bool:
    """Whether a processor is known to keep the sum of two products of 8 bits in 16, and to cut it off where it does not
    fit: x86 before VNNI (Intel 64 Software Developer's Manual, VPMADDUBSW)."""
    return arch == "x86_64" and "vnni" not in features


def machine_class(arch: Architecture, features: Collection[str]) -> MachineClass:
    """What the processor's kernels for int8 are made of. Of a processor that nothing is known of, the slowest kind."""
    if arch == "x86_64":
        return MachineClass.VNNI if "vnni" in features else MachineClass.AVX2
    if arch == "aarch64":
        if "i8mm" in features:
            return MachineClass.I8MM
        return MachineClass.DOTPROD if "dotprod" in features else MachineClass.NEON
    if arch == "armv7l" and "neon" in features:
        return MachineClass.NEON32
    return MachineClass.PLAIN


def estimate(precision: str, *, library: Library, machine: MachineClass, mix: OpMix) -> Estimate:
    """What `precision` (fp32, fp16, int8, int8-dynamic, int8-weights, int4-weights, int16, or anything mixed of them)
    comes to there. What no rule is known for is put between a quarter and four times."""
    rule = _rule(precision, library, machine)
    ranges = {Op.DENSE: rule.dense, Op.DEPTHWISE: rule.depthwise, Op.GEMM: rule.gemm}
    times = mix.times()
    low = sum(share * ranges[op].low for op, share in times.items())
    high = sum(share * ranges[op].high for op, share in times.items())
    ratio = sum(share * ranges[op].middle for op, share in times.items())
    main = max(times, key=lambda op: times[op])
    reason = f"{rule.why}; {times[main]:.0%} of the time in {main}"
    return Estimate(ratio, low, high, reason, rule.source)


def _rule(precision: str, library: Library, machine: MachineClass) -> Rule:
    known = {(rule.library, rule.precision): rule for rule in RULES if machine in rule.machines}
    found = known.get((library, precision))
    if found is not None:
        return found
    int8, fp32 = known.get((library, "int8")), known.get((library, "fp32"))
    if precision.endswith("-weights") and fp32 is not None:
        return replace(fp32, precision=precision, why="weights are unpacked once, when it is loaded: float arithmetic")
    if int8 is None or fp32 is None:
        return BLANK
    return Rule(
        library,
        precision,
        (machine,),
        dense=_between(int8.dense, fp32.dense),
        depthwise=_between(int8.depthwise, fp32.depthwise),
        gemm=_between(int8.gemm, fp32.gemm),
        why=f"{precision}: between int8 and fp32, which it is made of",
        source=int8.source,
    )


def _between(one: Range, other: Range) -> Range:
    return Range(min(one.low, other.low), max(one.high, other.high))
