"""What a report warns of, and what it says of classes and layers."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from edgeinfer.quantize.dataset import Samples
from edgeinfer.quantize.metrics import choose_metric
from edgeinfer.quantize.report.document import Report
from edgeinfer.quantize.reporting import Told, make_report
from edgeinfer.quantize.rows import ArrayRows
from edgeinfer.quantize.search.entry import Entry, Judged, Screened, Timing
from edgeinfer.quantize.search.goal import Goal
from edgeinfer.quantize.search.ladder import Found, Rung, Tried
from edgeinfer.quantize.search.mixing import LayerCost
from edgeinfer.quantize.search.statistics import Difference
from edgeinfer.quantize.search.verdicts import choose, judge
from edgeinfer.runtime.engines.base import Array

GIVEN = ("onnx-fp32",)
LABELS = np.array([0, 0, 1, 1, 2, 2])


@dataclass
class NamedTarget:
    name: str = "local"
    machine: str = "a machine"
    measured: bool = True
    repeats: bool = True
    cuts_pairs: bool = False
    engines: tuple[str, ...] = ("onnx",)

    def time(self, *_: object, **__: object) -> dict[str, Timing]:
        return {}

    def close(self) -> None: ...


def entry(name: str, *, ratio: float, lost: float = 0.0, high: float = 0.0, samples: int = 100) -> Entry:
    return Entry(
        name,
        "onnx",
        "int8",
        quantized=name not in GIVEN,
        bytes=1000,
        screened=Screened(1.0, 0.0, 24),
        judged=Judged(0.9 - lost, 1.0, Difference(lost, lost - (high - lost), high, 0.5), samples),
        timing=Timing(100.0 * ratio, ratio, ratio, ratio),
    )


def report(*entries: Entry, goal: Goal | None = None, found: Found | None = None, **told: object) -> Report:
    goal = goal or Goal(1.0)
    found = found or Found({one.id: one for one in entries})
    samples = Samples(ArrayRows(np.zeros((6, 2), np.float32)), LABELS, None, None, sha256="")
    said: dict[str, Array] = {
        "onnx-fp32": np.array([0, 0, 1, 1, 2, 2]),
        "onnx-a": np.array([0, 1, 1, 1, 2, 0]),
    }
    chosen = choose(found.entries, goal, given=GIVEN, cut_short=found.cut_short)
    verdicts = judge(found.entries, goal, chosen=chosen, given=GIVEN)
    metric = choose_metric("", "classification", samples)
    given = Told(goal, metric, NamedTarget(), samples, "classification", GIVEN, classes=3)
    return make_report(found, verdicts, replace(given, **told), said, seconds=1.0)  # type: ignore[arg-type]  # by name


FLOAT = entry("onnx-fp32", ratio=1.0)


def test_classes_are_counted_of_the_float_model_and_the_chosen_one() -> None:
    made = report(FLOAT, entry("onnx-a", ratio=0.5))
    assert made.confusion is not None
    assert made.confusion.labels == ("0", "1", "2")
    assert made.confusion.reference == ((2, 0, 0), (0, 2, 0), (0, 0, 2))
    assert made.confusion.chosen == ((1, 1, 0), (0, 2, 0), (1, 0, 1))


def test_too_few_samples_are_warned_of_with_how_many_are_needed() -> None:
    made = report(FLOAT, entry("onnx-a", ratio=0.5, high=0.03))
    assert "100 samples are too few to tell a loss of 1 point from none: about 1900 are needed" in made.warnings
    assert not report(FLOAT, entry("onnx-a", ratio=0.5, high=0.001, samples=5000)).warnings


def test_the_best_of_many_on_the_same_samples_is_warned_of() -> None:
    many = [entry(f"onnx-{letter}", ratio=0.5 + 0.1 * place, high=0.03) for place, letter in enumerate("abc")]
    assert (
        "the loss may be as much as 3.00 points (95 %), and this is the best of 3 candidates on the same"
        in " ".join(report(FLOAT, *many).warnings)
    )
    assert "the best of" not in " ".join(report(FLOAT, many[0]).warnings)
    sure = [entry(f"onnx-{letter}", ratio=0.5, high=0.005) for letter in "abc"]
    assert "the best of" not in " ".join(report(FLOAT, *sure).warnings)


def test_an_engine_that_the_packaged_service_forbids_is_warned_of() -> None:
    chosen = replace(entry("openvino-int8", ratio=0.5), engine="openvino")
    said = "MemoryDenyWriteExecute=no"
    assert said in " ".join(report(FLOAT, chosen).warnings)
    assert said not in " ".join(report(FLOAT, chosen, target=NamedTarget("device:press-4")).warnings)
    assert said not in " ".join(report(FLOAT, entry("onnx-a", ratio=0.5)).warnings)


def test_the_answer_itself_says_where_samples_are_too_few_to_say_anything() -> None:
    few = report(FLOAT, entry("onnx-a", ratio=0.5, samples=7)).answer
    assert few.startswith("Not proven yet: onnx-a, 2.00 times as fast as the float model, ")
    assert few.endswith("loses nothing on 7 samples. 7 samples cannot tell that: judge it on more before it ships.")
    assert "cannot tell" not in report(FLOAT, entry("onnx-a", ratio=0.5, samples=20)).answer
    assert "cannot tell" not in report(FLOAT, entry("onnx-a", ratio=2.0, samples=7)).answer  # the float model


def test_nothing_to_ship_is_said_of_what_there_was_time_for() -> None:
    broke = entry("onnx-a", ratio=0.5, lost=0.05)
    goal = Goal(1.0, max_bytes=10, time_s=5.0)
    short = report(found=Found({"onnx-fp32": FLOAT, "onnx-a": broke}, cut_short=True), goal=goal)
    assert short.answer == (
        "Nothing to ship: no candidate keeps the budget, that it loses at most 1 point and has at most 10 bytes, of "
        "those that there was time to look at. The smallest, onnx-a, has 1000 bytes, more than the 10 allowed."
    )


def test_a_float_model_that_is_shipped_for_want_of_time_says_so() -> None:
    goal = Goal(1.0, time_s=1.0)
    untried = report(found=Found({"onnx-fp32": FLOAT}, cut_short=True), goal=goal).answer
    assert untried == "Ship the float model as it is (onnx-fp32): the time was up before anything was tried."
    slow = {"onnx-fp32": FLOAT, "onnx-a": entry("onnx-a", ratio=1.5)}
    assert report(found=Found(slow, cut_short=True), goal=goal).answer == (
        "Ship the float model as it is (onnx-fp32): nothing better was found before the time was up."
    )


@pytest.mark.parametrize(
    ("spent_s", "said"),
    [
        (1.0, ""),
        (61.2, " (61 s went on reading the samples and judging the float models on all of them)"),
    ],
)
def test_time_that_went_on_the_float_models_is_said(spent_s: float, said: str) -> None:
    rungs = [Rung("float models", 1, 1, spent_s), Rung("schemes, rung 0", 1, 1, 99.0)]
    found = Found({"onnx-fp32": FLOAT}, rungs=rungs, cut_short=True)
    warning = f"not everything was tried in the 5 s that were given: more time might find more{said}"
    assert report(found=found, goal=Goal(1.0, time_s=5.0)).warnings == (warning,)


def test_a_search_cut_short_and_an_estimate_are_said_to_be_so() -> None:
    found = Found({"onnx-fp32": FLOAT}, cut_short=True)
    warnings = report(found=found, goal=Goal(1.0, time_s=5.0), target=NamedTarget("rpi4", measured=False)).warnings
    assert warnings[0].startswith("not everything was tried in the 5 s that were given")
    assert "estimated by rules for rpi4" in warnings[1]


@pytest.mark.parametrize(("precision", "others"), [("float", "int8"), ("int4", "int8"), ("int8", "int4")])
def test_layers_say_their_precision_where_some_were_taken(precision: str, others: str) -> None:
    layers = tuple(LayerCost(name, "Conv", 10, 0.1, 5) for name in ("first", "second"))
    tried = Tried("onnx-a", precision, layers, ("second",), "onnx-a-mixed-1", "said")
    (sensitivity,) = report(found=Found({"onnx-fp32": FLOAT}, tried=[tried])).sensitivity
    assert [layer.precision for layer in sensitivity.layers] == [others, precision]
    none = Tried("onnx-a", precision, layers, (), "", "said")
    (sensitivity,) = report(found=Found({"onnx-fp32": FLOAT}, tried=[none])).sensitivity
    assert [layer.precision for layer in sensitivity.layers] == ["", ""]


def test_steps_say_how_long_each_took() -> None:
    found = Found({"onnx-fp32": FLOAT}, rungs=[Rung("one", 2, 2, 1.5), Rung("two", 5, 1, 4.0)])
    assert [(step.name, step.seconds, step.looked_at) for step in report(found=found).steps] == [
        ("one", 1.5, 2),
        ("two", 2.5, 5),
    ]
