"""Reports come out of packages from strangers: whole, of former versions, or refused."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.quantize.report import reading
from edgeinfer.quantize.report.reading import read_report
from edgeinfer.quantize.report.table import render
from edgeinfer.runtime.errors import PackageError
from reports import kws_report, many_classes

FORMER: dict[str, Any] = {
    "metric": "accuracy",
    "max_drop": 1.0,
    "float": {
        "variant": "onnx-fp32", "engine": "onnx", "precision": "fp32", "quantized": False, "bytes": 9000,
        "metric_value": 0.97, "agreement": 1.0, "latency_us": 20.0, "latency_ratio": 1.0, "verdict": "accepted",
        "reason": "the float model itself",
    },
    "chosen": {
        "variant": "onnx-u8s8", "engine": "onnx", "precision": "int8", "quantized": True, "bytes": 4000,
        "metric_value": 0.96, "agreement": 0.99, "latency_us": 10.0, "latency_ratio": 0.5, "verdict": "chosen",
        "reason": "fastest within the budget",
    },
    "candidates": [],
    "samples": 300,
    "calibration_samples": 60,
    "seconds": 2.5,
}  # fmt: skip


def _read(document: object) -> Any:
    return read_report(json.dumps(document).encode(), where="p.edgepkg: report.json")


def test_a_report_comes_back_as_it_was() -> None:
    report = kws_report(confusion=many_classes(60))
    assert read_report(msgspec.json.encode(report), where="x") == report


def test_figures_that_are_no_numbers_come_back_as_none() -> None:
    base = kws_report()
    layer = msgspec.structs.replace(base.sensitivity[0].layers[0], divergence=float("inf"))
    sensitivity = msgspec.structs.replace(base.sensitivity[0], layers=(layer,))
    read = read_report(msgspec.json.encode(kws_report(sensitivity=(sensitivity,))), where="x")
    assert read.sensitivity[0].layers[0].divergence is None


def test_one_of_a_former_version_says_what_it_says() -> None:
    report = _read(FORMER)
    shown = render(report, width=100)
    assert shown.startswith("Yes: onnx-u8s8, 2.00 times as fast")
    assert report.chosen is not None
    assert "1.00" in next(line for line in shown.splitlines() if line.startswith("  onnx-u8s8"))


def test_one_of_a_later_version_is_read_as_far_as_it_is_known() -> None:
    assert _read({**FORMER, "carbon": {"grams": 3}}).samples == 300


@pytest.mark.parametrize(
    "changes",
    [
        {"float": None},
        {"candidates": 7},
        {"candidates": [[]]},
        {"samples": "many"},
        {"seconds": 1e300},
        {"float": {**FORMER["float"], "bytes": -1}},
        {"float": {**FORMER["float"], "latency_us": 1e200}},
        {"warnings": ["x" * (reading.MAX_TEXT + 1)]},
        {"warnings": ["x"] * (reading.MAX_ROWS + 1)},
        {"candidates": [FORMER["float"]] * (reading.MAX_ROWS + 1)},
        {"confusion": {"labels": ["a", "b"], "float": [[1, 2]], "chosen": [[1, 2], [3, 4]]}},
        {"confusion": {"labels": ["a"], "float": [[-1]], "chosen": [[1]]}},
        {"confusion": {"labels": ["a"] * 2001, "float": [], "chosen": []}},
    ],
)
def test_what_is_no_report_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(PackageError, match=r"^p\.edgepkg: report\.json: expected"):
        _read({**FORMER, **changes})


@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b"\xff", b"[" * 200_000, b'{"a":' * 100_000, b" " * (17 << 20)])
def test_what_is_no_document_is_refused(raw: bytes) -> None:
    with pytest.raises(PackageError, match=r"^p: expected"):
        read_report(raw, where="p")


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from([*FORMER, "sensitivity", "confusion", "steps", "target"]), _JSON, max_size=3))
def test_any_other_value_is_read_or_refused(changes: dict[str, Any]) -> None:
    try:
        report = _read({**FORMER, **changes})
    except PackageError:
        return
    render(report, width=80)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(list(FORMER["float"])), _JSON, max_size=4))
def test_any_other_row_is_read_or_refused(changes: dict[str, Any]) -> None:
    try:
        report = _read({**FORMER, "chosen": {**FORMER["chosen"], **changes}})
    except PackageError:
        return
    render(report, width=80)
