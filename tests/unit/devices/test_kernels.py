"""The rules that rank precisions where nothing can be measured: each has its source, and they say what was measured."""

import itertools

import pytest

from edgeinfer.devices.kernel_rules import RULES, MachineClass, Range
from edgeinfer.devices.kernels import EVEN, Op, OpMix, estimate, machine_class
from edgeinfer.devices.profile import Architecture, Library, load_kinds

# The shares of multiply-accumulates of the four models of MLPerf Tiny (dense, depthwise, matrix product).
IC, KWS, VWW, AD = OpMix(1, 0, 0), OpMix(0.8914, 0.1084, 0.0002), OpMix(0.893, 0.107, 0), OpMix(0, 0, 1)
PRECISIONS = ("fp32", "fp16", "int8", "int8-dynamic", "int8-weights", "int4-weights", "int16", "mixed")

# Ratios to ONNX Runtime's float32 that were measured, one thread: on Zen 3, and on a server with AVX512-VNNI.
MEASURED: list[tuple[MachineClass, Library, str, dict[OpMix, float]]] = [
    (MachineClass.AVX2, "onnxruntime", "int8", {IC: 0.7, KWS: 1.0, VWW: 1.24, AD: 0.99}),
    (MachineClass.AVX2, "onnxruntime", "int8-dynamic", {IC: 1.45, KWS: 5.9, VWW: 5.1, AD: 0.97}),
    (MachineClass.AVX2, "ai-edge-litert", "fp32", {IC: 0.8, KWS: 0.76, VWW: 0.87, AD: 0.63}),
    (MachineClass.AVX2, "ai-edge-litert", "int8", {IC: 1.1, KWS: 1.7, VWW: 1.14, AD: 0.24}),
    (MachineClass.AVX2, "ai-edge-litert", "int8-weights", {IC: 0.8, KWS: 0.75, VWW: 0.85, AD: 0.63}),
    (MachineClass.AVX2, "ai-edge-litert", "int4-weights", {IC: 3.0, KWS: 2.0, VWW: 2.5, AD: 0.8}),
    (MachineClass.VNNI, "onnxruntime", "int8", {IC: 0.56, KWS: 0.82, VWW: 1.03, AD: 1.07}),
    (MachineClass.VNNI, "onnxruntime", "int8-dynamic", {IC: 1.61, KWS: 6.69, VWW: 4.3, AD: 0.91}),
    (MachineClass.VNNI, "ai-edge-litert", "fp32", {IC: 1.12, KWS: 0.94, VWW: 1.02, AD: 0.65}),
    (MachineClass.VNNI, "ai-edge-litert", "int8", {IC: 0.35, KWS: 0.7, VWW: 0.61, AD: 0.21}),
]


@pytest.mark.parametrize(
    ("machine", "library", "precision", "mix", "ratio"),
    [(*key, mix, ratio) for *key, ratios in MEASURED for mix, ratio in ratios.items()],
)
def test_what_was_measured_lies_within_the_estimate(
    machine: MachineClass, library: Library, precision: str, mix: OpMix, ratio: float
) -> None:
    found = estimate(precision, library=library, machine=machine, mix=mix)
    assert found.low <= ratio <= found.high
    assert found.low <= found.ratio <= found.high


# XNNPACK's README (February 2022): milliseconds of MobileNet v1 and v2, float and int8; both are nearly all dense.
@pytest.mark.parametrize(
    ("machine", "library", "fp32_ms", "int8_ms"),
    [
        (MachineClass.NEON32, "tflite-runtime", 302, 128),
        (MachineClass.NEON32, "tflite-runtime", 191, 82),
        (MachineClass.NEON, "ai-edge-litert", 114, 46),
        (MachineClass.NEON, "ai-edge-litert", 79, 30),
        (MachineClass.NEON, "ai-edge-litert", 77, 24),
        (MachineClass.NEON, "ai-edge-litert", 46, 17),
    ],
)
def test_what_others_published_lies_within_the_estimate(
    machine: MachineClass, library: Library, fp32_ms: int, int8_ms: int
) -> None:
    mix = OpMix(0.95, 0.05, 0.0)
    int8, fp32 = (estimate(one, library=library, machine=machine, mix=mix) for one in ("int8", "fp32"))
    assert int8.low / fp32.high <= int8_ms / fp32_ms <= int8.high / fp32.low


def test_every_rule_is_whole() -> None:
    for rule in RULES:
        assert rule.why, rule
        assert rule.source, rule
        assert rule.machines, rule
        for one in (rule.dense, rule.depthwise, rule.gemm):
            assert 0.0 < one.low <= one.high, rule


def test_no_two_rules_speak_of_the_same() -> None:
    keys = [(rule.library, rule.precision, machine) for rule in RULES for machine in rule.machines]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_kind_of_device_gets_an_estimate(precision: str) -> None:
    for kind in load_kinds():
        machine = machine_class(kind.arch, kind.features)
        for library in kind.engines.values():
            found = estimate(precision, library=library, machine=machine, mix=EVEN)
            assert 0.0 < found.low <= found.ratio <= found.high
            assert found.reason
            assert found.source


@pytest.mark.parametrize(
    ("arch", "features", "expected"),
    [
        ("x86_64", ("avx2",), MachineClass.AVX2),
        ("x86_64", ("avx2", "vnni"), MachineClass.VNNI),
        ("aarch64", ("neon",), MachineClass.NEON),
        ("aarch64", ("neon", "dotprod"), MachineClass.DOTPROD),
        ("aarch64", ("neon", "dotprod", "i8mm"), MachineClass.I8MM),
        ("armv7l", ("neon",), MachineClass.NEON32),
        ("armv7l", (), MachineClass.PLAIN),
        ("riscv64", (), MachineClass.PLAIN),
    ],
)
def test_processors_by_what_their_kernels_are_made_of(
    arch: Architecture, features: tuple[str, ...], expected: MachineClass
) -> None:
    assert machine_class(arch, features) is expected


def test_int8_gains_more_with_each_instruction_that_helps() -> None:
    classes = (MachineClass.NEON, MachineClass.DOTPROD, MachineClass.I8MM)
    for library in ("onnxruntime", "ai-edge-litert"):
        ratios = [estimate("int8", library=library, machine=one, mix=IC).ratio for one in classes]
        assert all(after < before for before, after in itertools.pairwise(ratios))


def test_depthwise_counts_more_than_its_multiplications() -> None:
    assert OpMix(0.7, 0.1, 0.2).times()[Op.DEPTHWISE] == pytest.approx(0.25)


def test_a_mix_of_precisions_lies_between_what_it_is_made_of() -> None:
    mixed, int8, fp32 = (
        estimate(one, library="onnxruntime", machine=MachineClass.VNNI, mix=IC) for one in ("mixed", "int8", "fp32")
    )
    assert (mixed.low, mixed.high) == (int8.low, fp32.high)


def test_what_no_rule_speaks_of_is_wide_open() -> None:
    found = estimate("int8", library="openvino", machine=MachineClass.PLAIN, mix=IC)
    assert (found.low, found.high) == (0.25, 4.0)


def test_the_middle_of_ratios_is_geometric() -> None:
    assert Range(0.5, 2.0).middle == pytest.approx(1.0)


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.5), (1.5, -0.5, 0.0), (0.0, 0.0, 0.0)])
def test_shares_sum_to_one(shares: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        OpMix(*shares)
