"""The decision, as data: who is chosen, who is refused, and what is packed."""

import msgspec
import pytest

from edgeinfer.quantize.search import Decision, Measured, decide, variants_to_pack

FLOAT = Measured(
    variant="onnx-fp32",
    engine="onnx",
    precision="fp32",
    quantized=False,
    bytes=1000,
    metric_value=0.90,
    agreement=1.0,
    latency_us=100.0,
    latency_ratio=1.0,
)
INT8 = Measured(
    variant="onnx-u8s8",
    engine="onnx",
    precision="int8",
    quantized=True,
    bytes=300,
    metric_value=0.895,
    agreement=0.99,
    latency_us=60.0,
    latency_ratio=0.6,
)
LITERT = Measured(
    variant="litert-fp32",
    engine="litert",
    precision="fp32",
    quantized=False,
    bytes=990,
    metric_value=0.90,
    agreement=1.0,
    latency_us=80.0,
    latency_ratio=0.8,
)


def _decide(*measured: Measured, max_drop: float = 1.0) -> Decision:
    return decide(measured, reference="onnx-fp32", max_drop=max_drop)


def _verdicts(decision: Decision) -> dict[str, str]:
    return {entry.variant: entry.verdict for entry in decision.candidates}


def test_the_fastest_within_the_budget_is_chosen_and_its_float_model_lies_beside_it() -> None:
    decision = _decide(FLOAT, LITERT, INT8)
    assert _verdicts(decision) == {"onnx-fp32": "accepted", "litert-fp32": "accepted", "onnx-u8s8": "chosen"}
    assert variants_to_pack(decision) == ["onnx-u8s8", "onnx-fp32"]


def test_a_drop_of_exactly_the_budget_is_allowed() -> None:
    exact = msgspec.structs.replace(INT8, metric_value=0.89)
    assert _verdicts(_decide(FLOAT, exact))["onnx-u8s8"] == "chosen"


def test_a_larger_drop_is_refused_with_its_size() -> None:
    worse = msgspec.structs.replace(INT8, metric_value=0.87)
    decision = _decide(FLOAT, worse)
    assert decision.chosen is None
    assert variants_to_pack(decision) == []
    assert decision.candidates[1].reason == "loses 3.00 points, more than the 1 allowed"


def test_without_any_quantized_candidate_nothing_is_chosen() -> None:
    broken = Measured(
        variant="onnx-u8s8", engine="onnx", precision="int8", quantized=True, bytes=0, refused="nothing was quantized"
    )
    decision = _decide(FLOAT, LITERT, broken)
    assert decision.chosen is None
    assert decision.candidates[2].reason == "nothing was quantized"
    assert decision.candidates[2].verdict == "refused"


def test_a_second_float_model_that_is_faster_does_not_save_a_search_without_any_quantized_one() -> None:
    decision = _decide(FLOAT, LITERT, msgspec.structs.replace(INT8, metric_value=0.5))
    assert decision.chosen is None
    assert variants_to_pack(decision) == []


def test_a_float_model_that_is_fastest_stays_first_with_the_best_quantized_one_beside() -> None:
    slow = msgspec.structs.replace(INT8, latency_ratio=1.3, latency_us=130.0)
    decision = _decide(FLOAT, slow)
    assert decision.chosen is not None
    assert decision.chosen.variant == "onnx-fp32"
    assert variants_to_pack(decision) == ["onnx-fp32", "onnx-u8s8"]
    assert decision.candidates[1].reason == "slower than onnx-fp32 by 1.30"


def test_among_equally_fast_ones_the_smallest_is_chosen() -> None:
    even = msgspec.structs.replace(INT8, latency_ratio=1.04)
    decision = _decide(FLOAT, even)
    assert decision.chosen is not None
    assert decision.chosen.variant == "onnx-u8s8"
    assert decision.candidates[0].reason == "as fast as onnx-u8s8, but larger"


def test_among_equally_fast_and_small_ones_the_one_closest_to_the_float_model_is_chosen() -> None:
    # A few bytes smaller and better on these samples by luck, but it says something else more often.
    other = msgspec.structs.replace(INT8, variant="onnx-other", bytes=298, metric_value=0.899, agreement=0.95)
    decision = _decide(FLOAT, other, INT8)
    assert decision.chosen is not None
    assert decision.chosen.variant == "onnx-u8s8"
    assert decision.candidates[1].reason.startswith("like onnx-u8s8 in speed and size")


@pytest.mark.parametrize(
    ("value", "said"), [(0.90, "loses nothing"), (0.895, "loses 0.50 points"), (0.91, "gains 1.00 points")]
)
def test_the_reason_says_what_was_lost(value: float, said: str) -> None:
    decision = _decide(FLOAT, msgspec.structs.replace(INT8, metric_value=value))
    assert decision.chosen is not None
    assert decision.chosen.reason == f"fastest within the budget, {said}"
