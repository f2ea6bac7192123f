"""This machine as a target, with the clock replaced."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.quantize import latency
from edgeinfer.quantize.candidate import Candidate
from edgeinfer.quantize.latency import Block, Round
from edgeinfer.quantize.targets.local import LocalTarget
from edgeinfer.runtime.errors import ModelError

SAMPLE = np.zeros((1, 1, 8, 8), np.float32)


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """What the next calls will find, round by round, in milliseconds."""
    planned: list[dict[str, float]] = []

    def run(engines: Mapping[str, object], _sample: object, *, count: int, **_: float) -> list[Round]:
        done = [{name: Block(one[name] / 1e3, one[name] / 1e3) for name in engines} for one in planned[:count]]
        del planned[:count]
        return done

    monkeypatch.setattr(latency, "run_rounds", run)
    return planned


def candidates(path: Path, *names: str) -> list[Candidate]:
    return [Candidate(name, "onnx", "fp32", path, quantized=False) for name in names]


def test_ratios_are_of_the_same_round(make_model: Callable[..., Path], rounds: list[dict[str, float]]) -> None:
    """What slows the machine slows both: the ratio of the medians would be another."""
    rounds += [{"a": 1.0, "b": 0.5}, {"a": 10.0, "b": 5.0}, {"a": 2.0, "b": 1.2}]
    found = LocalTarget().time(candidates(make_model(), "a", "b"), sample=SAMPLE, reference="a", rough=True)
    assert found["a"].ratio == 1.0
    assert found["b"].ratio == pytest.approx(0.5)
    assert [found["b"].ratio_low, found["b"].ratio_high] == pytest.approx([0.5, 0.6])
    assert found["b"].rough
    assert found["b"].latency_us == pytest.approx(1200.0)
    assert found["b"].cpu_us == pytest.approx(1200.0)


def test_all_calls_count_together_and_narrow_the_interval(
    make_model: Callable[..., Path], rounds: list[dict[str, float]]
) -> None:
    target, both = LocalTarget(), candidates(make_model(), "a", "b")
    rounds += [{"a": 1.0, "b": 0.2}, {"a": 1.0, "b": 0.9}, {"a": 1.0, "b": 0.5}]
    first = target.time(both, sample=SAMPLE, reference="a", rough=True)["b"]
    rounds += [{"a": 1.0, "b": 0.49 + 0.002 * index} for index in range(9)]
    second = target.time(both, sample=SAMPLE, reference="a")["b"]
    assert second.ratio_high - second.ratio_low < first.ratio_high - first.ratio_low
    leads = target.leads(["a", "b"])
    assert set(leads) == {("a", "b"), ("b", "a")}
    low, high = leads["a", "b"]
    assert low < 2.0 < high


def test_those_that_never_ran_together_are_not_compared(
    make_model: Callable[..., Path], rounds: list[dict[str, float]]
) -> None:
    target, (a, b, c) = LocalTarget(), candidates(make_model(), "a", "b", "c")
    for pair in ([a, b], [a, c]):
        rounds += [{"a": 1.0, "b": 0.5, "c": 0.5}] * 3
        target.time(pair, sample=SAMPLE, reference="a", rough=True)
    assert target.leads(["b", "c"])["c", "b"] == (0.0, np.inf)


def test_of_a_single_round_not_even_a_range_is_known(
    make_model: Callable[..., Path], rounds: list[dict[str, float]]
) -> None:
    rounds += [{"a": 1.0, "b": 0.5}]
    both = candidates(make_model(), "a", "b")
    found = LocalTarget().time(both, sample=SAMPLE, reference="a", rough=True, time_s=0.0)["b"]
    assert (found.ratio, found.ratio_low, found.ratio_high, found.rough) == (0.5, 0.0, 0.0, True)


def test_of_few_rounds_nothing_is_sure(make_model: Callable[..., Path], rounds: list[dict[str, float]]) -> None:
    """Of three rounds one in four has the median outside all of them."""
    target, both = LocalTarget(), candidates(make_model(), "a", "b")
    rounds += [{"a": 1.0, "b": 0.5}] * 3
    target.time(both, sample=SAMPLE, reference="a", rough=True)
    assert target.leads(["a", "b"])["b", "a"] == (0.0, np.inf)
    rounds += [{"a": 1.0, "b": 0.5}] * 3
    target.time(both, sample=SAMPLE, reference="a", rough=True)
    assert target.leads(["a", "b"])["b", "a"] == (0.5, 0.5)


def test_what_cannot_be_opened_has_an_error_and_no_figures(
    make_model: Callable[..., Path], rounds: list[dict[str, float]], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    rounds += [{"a": 1.0}] * 3
    both = [*candidates(make_model(), "a"), *candidates(broken, "b")]
    found = LocalTarget().time(both, sample=SAMPLE, reference="a", rough=True)
    assert found["a"].error == ""
    assert found["b"].error
    assert found["b"].ratio == 0.0


def test_what_cannot_be_run_on_the_sample_has_an_error_and_the_others_their_figures(
    make_model: Callable[..., Path], rounds: list[dict[str, float]], tmp_path: Path
) -> None:
    path = make_model()
    other = tmp_path / "other.onnx"
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(path))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 4
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.zeros((2, 32), np.float32), "weight"))
    onnx.save(model, str(other))
    rounds += [{"a": 1.0}] * 3
    both = [*candidates(path, "a"), *candidates(other, "b")]
    found = LocalTarget().time(both, sample=SAMPLE, reference="a", rough=True)
    assert found["b"].error
    assert found["a"].ratio == 1.0


def test_without_the_reference_nothing_has_a_ratio(make_model: Callable[..., Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    both = [*candidates(broken, "a"), *candidates(make_model(), "b")]
    with pytest.raises(ModelError, match="a cannot be timed"):
        LocalTarget().time(both, sample=SAMPLE, reference="a")


def test_real_rounds_give_figures(make_model: Callable[..., Path]) -> None:
    found = LocalTarget().time(candidates(make_model(), "a", "b"), sample=SAMPLE, reference="a", rough=True)
    assert all(one.latency_us > 0 and one.ratio_low <= one.ratio <= one.ratio_high for one in found.values())
