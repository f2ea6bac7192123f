"""The table of a report: what it says, and that it fits."""

from pathlib import Path

import msgspec
import pytest

from edgeinfer.quantize.report.document import Report, Row
from edgeinfer.quantize.report.gain import Verdict, answer, headline_figures, verdict
from edgeinfer.quantize.report.table import render
from reports import hostile_report, kws_report, refused_report


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
@pytest.mark.parametrize(
    "report", [kws_report(), refused_report(), hostile_report()], ids=["kws", "refused", "hostile"]
)
def test_every_line_fits(report: Report, width: int) -> None:
    shown = render(report, width=width)
    assert max(len(line) for line in shown.splitlines()) <= width
    assert shown.endswith("\n")


def test_order_is_chosen_then_float_then_accepted_then_refused_with_why() -> None:
    shown = render(kws_report(), width=100)
    parts = [
        "Yes: ship",
        "\nchosen\n",
        "\nfloat model, the reference\n",
        "\naccepted\n",
        "\nrefused\n",
        "\n! 392 samples",
    ]
    positions = [shown.index(part) for part in parts]
    assert positions == sorted(positions)
    line = next(line for line in shown.splitlines() if line.startswith("  onnx-weights4"))
    assert "nothing was quantized: it holds no MatMul" in line


def test_what_was_not_made_takes_a_line_and_the_answer_is_still_in_sight_at_the_end() -> None:
    base = kws_report()
    row = Row(
        variant="onnx-s8s8",
        engine="onnx",
        precision="int8",
        quantized=True,
        bytes=0,
        verdict="refused",
        reason="not made: 1.99 times slower than litert-int8-weights, which keeps the budget",
    )
    rows = tuple(msgspec.structs.replace(row, variant=f"onnx-s8s8-{number}") for number in range(20))
    lines = render(
        msgspec.structs.replace(base, candidates=(*base.candidates, *rows)), package=Path("kws.edgepkg"), width=100
    ).splitlines()
    at = lines.index("not made")
    assert lines.index("refused") < at
    shown = [line.split(maxsplit=1) for line in lines[at:] if line.startswith("  onnx-s8s8-")]
    assert shown[0] == ["onnx-s8s8-0", "1.99 times slower than litert-int8-weights, which keeps the budget"]
    assert len(shown) == len(rows)
    assert lines[-1] == "package: kws.edgepkg"
    assert lines[0] in lines[-4:]
    few = msgspec.structs.replace(base, candidates=base.candidates[:1], warnings=(), sensitivity=())
    assert render(few, width=100).count(lines[0]) == 1


def test_wide_shows_intervals_and_narrow_keeps_what_decides() -> None:
    wide, narrow = render(kws_report(), width=160), render(kws_report(), width=60)
    assert "(-0.70 to 1.00)" in wide
    assert "(0.63 to 0.65)" in wide
    assert "81.3 us" in wide
    head = next(line for line in narrow.splitlines() if line.startswith("variant"))
    assert head.split() == ["variant", "top-1", "drop", "pt", "ratio"]


def test_paired_tests_are_told_and_explained() -> None:
    shown = render(kws_report(), width=120)
    chosen = next(line for line in shown.splitlines() if line.startswith("  litert-int8-weights "))
    assert "n.s." in chosen
    assert "p<0.001" in next(line for line in shown.splitlines() if line.startswith("  onnx-u8s8 "))
    assert "n.s.: no significant difference" in shown


def test_nothing_in_it_steers_a_terminal() -> None:
    shown = render(hostile_report(), width=100)
    assert [c for c in shown if not c.isprintable() and c != "\n"] == []


def test_estimates_are_marked() -> None:
    base = kws_report()
    rows = tuple(msgspec.structs.replace(row, estimated=row.latency_ratio is not None) for row in base.candidates)
    shown = render(msgspec.structs.replace(base, candidates=rows, chosen=rows[0]), width=100)
    assert "~0.64" in shown
    assert "estimated by rules" in shown


def test_energy_has_a_column_where_it_is_the_objective() -> None:
    assert "us CPU" in render(kws_report(objective="energy"), width=140)


def test_verdicts() -> None:
    base = kws_report()
    assert verdict(base) is Verdict.SHIP
    assert verdict(refused_report()) is Verdict.REFUSED
    assert verdict(msgspec.structs.replace(base, chosen=base.reference)) is Verdict.FLOAT
    assert base.chosen is not None
    few = msgspec.structs.replace(base.chosen, samples=19)
    assert verdict(msgspec.structs.replace(base, chosen=few)) is Verdict.UNPROVEN, "so few prove nothing"


def test_answer_follows_from_the_figures_where_the_report_has_none() -> None:
    silent = kws_report(answer="")
    said = answer(silent)
    assert said == (
        "Yes: litert-int8-weights, 1.56 times as fast, 55% smaller, "
        "loses 0.20 points (no significant difference)."
    )  # fmt: skip
    assert answer(msgspec.structs.replace(silent, chosen=None)).startswith("No: ")
    assert "stays first" in answer(msgspec.structs.replace(silent, chosen=silent.reference))


def test_headline_figures() -> None:
    speed, size, loss, same = headline_figures(kws_report())
    assert (speed.value[:4], speed.good) == ("1.56", True)
    assert "94 KiB" in size.detail or "94.0 KiB" in size.detail
    assert "loss -0.70 to 1.00" in loss.detail
    assert same.value == "99.6%"
    assert headline_figures(refused_report()) == []


def test_a_speed_that_is_noise_is_no_gain() -> None:
    base = kws_report()
    assert base.chosen is not None
    tied = msgspec.structs.replace(base.chosen, latency_ratio=0.99, ratio_low=0.86, ratio_high=1.04)
    speed = headline_figures(msgspec.structs.replace(base, chosen=tied))[0]
    assert (speed.value, speed.good) == ("the same", None)
    assert speed.detail == "the speed of onnx-fp32 (0.96 to 1.16), measured: no difference that is not noise"
    rough = msgspec.structs.replace(base.chosen, ratio_low=None, ratio_high=None)
    speed = headline_figures(msgspec.structs.replace(base, chosen=rough))[0]
    assert (speed.detail, speed.good) == ("the speed of onnx-fp32, measured in few rounds", None)


def test_the_float_model_loses_nothing_against_itself() -> None:
    base = kws_report()
    shown = headline_figures(msgspec.structs.replace(base, chosen=base.reference))
    assert (shown[2].value, shown[2].detail) == ("0.9163", "it is what losses are counted from")


def test_a_loss_without_a_bound_is_in_per_cent() -> None:
    base = kws_report(metric="mse", higher_is_better=False, unit="percent")
    rows = tuple(msgspec.structs.replace(row, drop=None) for row in base.candidates)
    shown = render(msgspec.structs.replace(base, candidates=rows, chosen=rows[0]), width=100)
    assert "drop %" in shown
    # 0.9143 after 0.9163 is less of an error.
    assert "-0.22" in next(line for line in shown.splitlines() if line.startswith("  litert-int8-weights "))
