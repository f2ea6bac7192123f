"""The decision: which candidate is chosen, what is said of the others, and what goes into the package."""

import dataclasses

import pytest

from edgeinfer.quantize.search.entry import Entry, Judged, Screened, Timing
from edgeinfer.quantize.search.goal import Goal, Objective
from edgeinfer.quantize.search.statistics import Difference
from edgeinfer.quantize.search.verdicts import answer, choose, judge, variants_to_pack

GIVEN = ["onnx-fp32"]


def entry(
    name: str,
    ratio: float,
    *,
    size: int = 500,
    lost: float = 0.0,
    agreement: float = 1.0,
    p_value: float = 0.5,
    refused: str = "",
) -> Entry:
    return Entry(
        name,
        name.split("-", maxsplit=1)[0],
        "int8",
        quantized=name not in GIVEN,
        bytes=size,
        refused=refused,
        screened=Screened(agreement, 0.0, 24),
        judged=Judged(0.9 - lost, agreement, Difference(lost, lost - 0.01, lost + 0.01, p_value), 400),
        timing=Timing(100.0 * ratio, ratio, ratio - 0.01, ratio + 0.01),
    )


def known(*entries: Entry) -> dict[str, Entry]:
    return {one.id: one for one in (entry("onnx-fp32", 1.0, size=1000), *entries)}


@pytest.mark.parametrize("objective", ["latency", "size"])
def test_what_the_target_cannot_run_is_never_chosen(objective: Objective) -> None:
    """Nor a given model, nor a smaller one."""
    fails = Timing(estimated=True, error="Board has no onnx")
    entries = {
        "onnx-fp32": dataclasses.replace(entry("onnx-fp32", 1.0, size=90), timing=fails),
        "litert-fp32": entry("litert-fp32", 1.0, size=1000),
    }
    goal, given = Goal(1.0, objective=objective), ["onnx-fp32", "litert-fp32"]
    chosen = choose(entries, goal, given=given)
    assert chosen is not None
    assert chosen.id == "litert-fp32"
    rows = judge(entries, goal, chosen=chosen, given=given).rows
    assert (rows[0].verdict, rows[0].reason) == ("refused", "Board has no onnx")
    assert choose({"onnx-fp32": entries["onnx-fp32"]}, goal, given=given) is None


def test_estimates_that_are_alike_are_not_said_to_differ_by_noise() -> None:
    rules = Timing(ratio=0.5, ratio_low=0.3, ratio_high=0.9, estimated=True)
    pair = (dataclasses.replace(entry(name, 0.5, size=size), timing=rules) for name, size in (("a", 400), ("b", 500)))
    entries = known(*pair)
    verdicts = judge(entries, Goal(1.0), chosen=choose(entries, Goal(1.0), given=GIVEN), given=GIVEN)
    said = {row.variant: row.reason for row in verdicts.rows}
    assert said["a"] == "fastest within the budget"
    assert said["b"] == "estimated as fast as a, but its file is larger"


def test_the_fastest_within_the_budget_and_what_is_said_of_the_others() -> None:
    entries = known(
        entry("onnx-a", 0.5, lost=0.004),
        entry("onnx-b", 0.3, lost=0.05),
        entry("onnx-c", 0.6),
        entry("onnx-d", 0.2, refused="may saturate"),
    )
    goal = Goal(1.0)
    verdicts = judge(entries, goal, chosen=choose(entries, goal, given=GIVEN), given=GIVEN)
    rows = {row.variant: row for row in verdicts.rows}
    assert verdicts.chosen is rows["onnx-a"]
    assert (rows["onnx-a"].verdict, rows["onnx-a"].reason) == ("chosen", "fastest within the budget")
    assert rows["onnx-b"].verdict == "refused"
    assert rows["onnx-b"].reason == "loses 5.00 points, more than the 1 allowed"
    assert rows["onnx-c"].reason == "1.20 times slower than onnx-a"
    assert rows["onnx-d"].reason == "may saturate"
    assert rows["onnx-a"].drop == pytest.approx(0.4)
    assert rows["onnx-a"].drop_low == pytest.approx(-0.6)
    assert rows["onnx-a"].drop_high == pytest.approx(1.4)
    said = answer(verdicts, goal, given=GIVEN)
    assert said == (
        "Ship onnx-a: 2.00 times as fast as the float model, 50 % of its size; "
        "loses 0.40 points, no significant difference."
    )


def test_a_significant_loss_is_not_called_insignificant() -> None:
    entries = known(entry("onnx-a", 0.5, lost=0.009, p_value=0.01))
    goal = Goal(1.0)
    verdicts = judge(entries, goal, chosen=entries["onnx-a"], given=GIVEN)
    assert "loses 0.90 points." in answer(verdicts, goal, given=GIVEN)


def test_nothing_is_chosen_where_every_candidate_breaks_the_budget() -> None:
    entries = known(entry("onnx-a", 0.5, lost=0.05))
    goal = Goal(1.0)
    assert choose(entries, goal, given=GIVEN) is None
    verdicts = judge(entries, goal, chosen=None, given=GIVEN)
    assert verdicts.chosen is None
    assert answer(verdicts, goal, given=GIVEN).startswith("Nothing to ship")


def test_the_float_model_is_shipped_where_nothing_is_better() -> None:
    goal = Goal(1.0)
    slower = known(entry("onnx-a", 1.4))
    chosen = choose(slower, goal, given=GIVEN)
    assert chosen is not None
    assert chosen.id == "onnx-fp32"
    said = answer(judge(slower, goal, chosen=chosen, given=GIVEN), goal, given=GIVEN)
    assert said == "Ship the float model as it is (onnx-fp32): nothing that keeps the budget is better."
    none = known(entry("onnx-a", 0.5, refused="nothing was quantized"))
    chosen = choose(none, goal, given=GIVEN)
    assert chosen is not None
    assert chosen.id == "onnx-fp32", "nothing could be made"


def test_another_format_of_the_float_model_may_be_the_best() -> None:
    given = ["onnx-fp32", "litert-fp32"]
    entries = known(dataclasses.replace(entry("litert-fp32", 0.6, size=990), quantized=False), entry("onnx-a", 0.9))
    goal = Goal(1.0)
    chosen = choose(entries, goal, given=given)
    assert chosen is not None
    verdicts = judge(entries, goal, chosen=chosen, given=given)
    assert answer(verdicts, goal, given=given) == (
        "Ship the float model litert-fp32: 1.67 times as fast as onnx-fp32, 99 % of its size. "
        "Quantizing gains nothing more within the budget."
    )


def test_agreement_is_part_of_the_budget_where_it_is_asked_for() -> None:
    entries = known(entry("onnx-a", 0.5, agreement=0.985), entry("onnx-b", 0.8, agreement=0.99))
    assert choose(entries, Goal(1.0), given=GIVEN) is entries["onnx-a"]
    strict = Goal(1.0, min_agreement=0.99)
    assert choose(entries, strict, given=GIVEN) is entries["onnx-b"]
    assert strict.misses(entries["onnx-a"]) == "agrees with the float model on 0.9850, less than 0.99"


def test_exactly_the_budget_is_within_it() -> None:
    assert not Goal(1.0).misses(entry("onnx-a", 0.5, lost=0.91 - 0.90))


def test_a_metric_without_a_bound_loses_per_cent_of_the_float_models() -> None:
    goal = Goal(5.0, percent=True, base=2.0)
    assert not goal.misses(entry("onnx-a", 0.5, lost=0.1))
    assert goal.misses(entry("onnx-a", 0.5, lost=0.12)) == "loses 6.00 per cent, more than the 5 allowed"
    assert Goal(5.0, percent=True, base=0.0).misses(entry("onnx-a", 0.5, lost=1e-9))
    assert not Goal(5.0, percent=True, base=0.0).misses(entry("onnx-a", 0.5, lost=-0.1))


def test_of_one_speed_the_smaller_and_of_one_size_the_one_that_agrees_more() -> None:
    entries = known(
        entry("onnx-a", 0.500, size=900),
        entry("onnx-b", 0.508, size=500, agreement=0.98),
        entry("onnx-c", 0.509, size=510, agreement=0.99),
        entry("onnx-d", 0.53, size=100),
    )
    assert choose(entries, Goal(1.0), given=GIVEN) is entries["onnx-c"]


def noisy(name: str, ratio: float, low: float, high: float, *, size: int = 500, **more: object) -> Entry:
    made = entry(name, ratio, size=size, **more)  # type: ignore[arg-type]  # by name
    return dataclasses.replace(made, timing=Timing(100.0 * ratio, ratio, low, high))


def test_what_cannot_be_told_from_the_fastest_is_chosen_for_its_size() -> None:
    """As on a machine with busy neighbours. Once the rounds have told them apart, the faster one is chosen."""
    entries = known(
        noisy("litert-int8-mse-first-1", 0.64, 0.55, 0.72, size=510),
        noisy("litert-int8", 0.70, 0.61, 0.80, size=450),
    )
    pair = ("litert-int8", "litert-int8-mse-first-1")
    goal = Goal(1.0)
    leads = {pair: (0.97, 1.18), pair[::-1]: (0.85, 1.03)}
    chosen = choose(entries, goal, given=GIVEN, leads=leads)
    assert chosen is entries["litert-int8"]
    rows = {row.variant: row for row in judge(entries, goal, chosen=chosen, given=GIVEN, leads=leads).rows}
    assert rows["litert-int8"].reason == (
        "as fast as litert-int8-mse-first-1 within the noise (0.97 to 1.18 of its latency); chosen for its size"
    )
    assert rows["litert-int8-mse-first-1"].reason == (
        "as fast as litert-int8 within the noise (0.85 to 1.03 of its latency), but its file is larger"
    )
    settled = {pair: (1.05, 1.18), pair[::-1]: (0.85, 0.95)}
    assert choose(entries, goal, given=GIVEN, leads=settled) is entries["litert-int8-mse-first-1"]


def test_without_common_rounds_their_own_intervals_tell_them_apart() -> None:
    over = known(noisy("onnx-a", 0.60, 0.55, 0.66, size=900), noisy("onnx-b", 0.66, 0.64, 0.70, size=450))
    assert choose(over, Goal(1.0), given=GIVEN) is over["onnx-b"]
    apart = known(noisy("onnx-a", 0.60, 0.58, 0.62, size=900), noisy("onnx-b", 0.66, 0.64, 0.70, size=450))
    assert choose(apart, Goal(1.0), given=GIVEN) is apart["onnx-a"]


def test_what_seems_far_slower_is_not_called_as_fast_for_want_of_rounds() -> None:
    entries = known(noisy("onnx-a", 0.50, 0.30, 0.90, size=900), noisy("onnx-b", 0.65, 0.30, 0.95, size=450))
    assert choose(entries, Goal(1.0), given=GIVEN) is entries["onnx-a"]


def test_estimates_are_compared_as_they_are() -> None:
    entries = known(noisy("onnx-a", 0.50, 0.30, 0.90, size=900), noisy("onnx-b", 0.55, 0.30, 0.95, size=450))
    guessed = {
        name: dataclasses.replace(one, timing=dataclasses.replace(one.timing, estimated=True))  # type: ignore[type-var]  # all have one
        for name, one in entries.items()
    }
    assert choose(guessed, Goal(1.0), given=GIVEN) is guessed["onnx-a"]


def test_of_one_size_and_agreement_the_plainest() -> None:
    mixed = dataclasses.replace(noisy("litert-int8-first-1", 0.5, 0.49, 0.51), plan={"conv": "float"})
    entries = known(
        mixed,
        noisy("litert-int8-pruned", 0.5, 0.49, 0.51),
        noisy("onnx-u8s8-cle", 0.5, 0.49, 0.51),
        noisy("onnx-u8s8", 0.505, 0.49, 0.52),
    )
    chosen = choose(entries, Goal(1.0), given=GIVEN)
    assert chosen is entries["onnx-u8s8"]
    row = judge(entries, Goal(1.0), chosen=chosen, given=GIVEN).chosen
    assert row is not None
    assert row.reason.startswith("as fast as litert-int8-first-1 within the noise (")
    assert row.reason.endswith("; chosen for being plainer")


@pytest.mark.parametrize(
    ("ratio", "low", "high", "said"),
    [
        (0.93, 0.80, 1.01, "as fast as the float model within the noise (0.80 to 1.01 of its latency)"),
        (1.00, 0.61, 1.15, "as fast as the float model within the noise (0.61 to 1.15 of its latency)"),
        (1.00, 0.995, 1.005, "as fast as the float model,"),
        (0.50, 0.40, 0.625, "1.60 to 2.50 times as fast as the float model"),
        (0.50, 0.49, 0.51, "2.00 times as fast as the float model"),
        (1.20, 1.10, 1.30, "1.10 to 1.30 times as slow as the float model"),
    ],
)
def test_no_more_speed_is_stated_than_the_interval_bears_out(ratio: float, low: float, high: float, said: str) -> None:
    entries = known(noisy("onnx-a", ratio, low, high))
    goal = Goal(1.0, objective="size")
    shipped = judge(entries, goal, chosen=entries["onnx-a"], given=GIVEN)
    assert f"Ship onnx-a: {said}" in answer(shipped, goal, given=GIVEN)


def test_which_came_nearest_to_the_budget_is_named() -> None:
    entries = known(
        entry("onnx-a", 0.5, lost=0.05),
        entry("onnx-b", 0.9, lost=0.02),
        entry("onnx-c", 0.9, lost=0.01, refused="may saturate"),
        entry("onnx-d", 0.9, lost=0.0, size=600),
    )

    def nearest(goal: Goal) -> str:
        return judge(entries, goal, chosen=None, given=GIVEN).nearest

    assert nearest(Goal(1.0, max_bytes=550)) == "The nearest, onnx-b, loses 2.00 points, more than the 1 allowed"
    assert nearest(Goal(1.0, max_bytes=10)) == "The smallest, onnx-a, has 500 bytes, more than the 10 allowed"
    assert judge(known(), Goal(1.0, max_bytes=10), chosen=None, given=GIVEN).nearest == ""


def test_the_float_model_is_not_tested_against_itself() -> None:
    reference = judge(known(), Goal(1.0), chosen=None, given=GIVEN).reference
    assert (reference.drop, reference.drop_low, reference.significant) == (0.0, None, None)


def test_a_few_rounds_have_no_interval_to_state() -> None:
    rough = dataclasses.replace(entry("onnx-a", 0.5), timing=Timing(50.0, 0.5, 0.4, 0.6, rough=True))
    (_, row) = judge(known(rough), Goal(1.0), chosen=rough, given=GIVEN).rows
    assert (row.latency_ratio, row.ratio_low, row.ratio_high) == (0.5, None, None)
    near = dataclasses.replace(entry("onnx-a", 0.9), timing=Timing(90.0, 0.9, 0.8, 0.95, rough=True))
    said = answer(judge(known(near), Goal(1.0), chosen=near, given=GIVEN), Goal(1.0), given=GIVEN)
    assert said.startswith("Ship onnx-a: as fast as the float model, as far as few rounds can tell, 50 % of its size;")


def test_a_float_model_is_shipped_where_the_time_was_up_before_all_were_looked_at() -> None:
    entries = known(entry("onnx-a", 0.5, lost=0.05))
    assert choose(entries, Goal(1.0), given=GIVEN) is None
    chosen = choose(entries, Goal(1.0), given=GIVEN, cut_short=True)
    assert chosen is entries["onnx-fp32"]
    too_large = Goal(1.0, max_bytes=10)
    assert choose(entries, too_large, given=GIVEN, cut_short=True) is None


def test_the_package_carries_a_float_model_and_for_an_unknown_device_several_variants() -> None:
    given = ["onnx-fp32", "litert-fp32"]
    names = {"litert-a": 0.3, "litert-like-a": 0.31, "onnx-b": 0.4, "onnx-like-b": 0.45}
    others = {"litert-c": "int8-dynamic", "onnx-d": "int8-weights", "onnx-e": "fp16"}
    floats = dataclasses.replace(entry("litert-fp32", 0.8, size=990), quantized=False)
    made = [entry(name, ratio) for name, ratio in names.items()]
    made += [
        dataclasses.replace(entry(name, 0.5 + 0.1 * index), precision=precision)
        for index, (name, precision) in enumerate(others.items())
    ]
    entries = known(floats, *made)
    goal = Goal(1.0)
    verdicts = judge(entries, goal, chosen=entries["litert-a"], given=given)
    assert verdicts.chosen is not None
    packed = variants_to_pack(verdicts.chosen, verdicts.rows, given=given, measured=True)
    assert packed == ["litert-a", "litert-fp32"]
    packed = variants_to_pack(verdicts.chosen, verdicts.rows, given=given, measured=False)
    assert packed == ["litert-a", "onnx-b", "litert-c", "onnx-d", "litert-fp32"], "one of each kind"


def test_what_was_not_looked_at_is_not_called_good() -> None:
    unseen = dataclasses.replace(entry("onnx-a", 0.5), judged=None)
    entries = known(unseen)
    chosen = choose(entries, Goal(1.0), given=GIVEN)
    rows = {row.variant: row for row in judge(entries, Goal(1.0), chosen=chosen, given=GIVEN).rows}
    assert (rows["onnx-a"].verdict, rows["onnx-a"].drop) == ("refused", None)


def test_what_could_not_be_kept_is_named() -> None:
    entries = known(entry("onnx-a", 0.5, lost=0.05))

    def said(goal: Goal) -> str:
        return answer(judge(entries, goal, chosen=None, given=GIVEN), goal, given=GIVEN)

    assert said(Goal(1.0)) == (
        "Nothing to ship: no candidate keeps within 1 point of the float model. "
        "The nearest, onnx-a, loses 5.00 points, more than the 1 allowed."
    )
    assert "keeps within 0.5 per cent of" in said(Goal(0.5, percent=True))
    assert said(Goal(2.0, min_agreement=0.99, max_bytes=10_000)) == (
        "Nothing to ship: no candidate keeps the budget, that it loses at most 2 points, agrees with the float model "
        "on 0.99 of the samples and has at most 10,000 bytes. "
        "The nearest, onnx-a, loses 5.00 points, more than the 2 allowed."
    )
