"""What a candidate says of rows, boxes against each other, and golden inputs."""

from pathlib import Path

import numpy as np
import pytest

from edgeinfer.quantize import boxes
from edgeinfer.quantize.candidate import Candidate
from edgeinfer.quantize.carrying import calibration_of
from edgeinfer.quantize.dataset import Samples
from edgeinfer.quantize.evaluate import Scored, score_rows, threshold
from edgeinfer.quantize.feeding import Feeding
from edgeinfer.quantize.golden import pick_inputs, tolerance_for
from edgeinfer.quantize.rows import ArrayRows
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import SamplesError
from edgeinfer.runtime.manifest import ClassifyPost, Constant, RawPost, RegressPost, StateTensor
from edgeinfer.runtime.results import Item
from packages import linear_model
from stateful import loudness, loudness_model

BOX = Item(1, 0.9, (0.1, 0.1, 0.5, 0.5))
NEAR = Item(1, 0.8, (0.12, 0.1, 0.5, 0.5))
OTHER_CLASS = Item(2, 0.9, (0.1, 0.1, 0.5, 0.5))
FAR = Item(1, 0.7, (0.6, 0.6, 0.9, 0.9))


def _samples(y: list[int]) -> Samples:
    return Samples(ArrayRows(np.zeros((len(y), 1))), np.array(y), None, None, "")


def test_the_threshold_is_over_normal_rows() -> None:
    scored = Scored(np.concatenate([np.arange(101.0), [1e6]]))
    assert threshold(scored, _samples([0] * 101 + [1])) == pytest.approx(99.0)


@pytest.mark.parametrize(
    ("found", "expected", "count"),
    [((BOX,), (NEAR,), 1), ((BOX,), (OTHER_CLASS,), 0), ((BOX, NEAR), (BOX,), 1), ((FAR, BOX), (NEAR, FAR), 2)],
)
def test_boxes_match_once_by_class_and_overlap(found: boxes.Boxes, expected: boxes.Boxes, count: int) -> None:
    assert boxes.matches(found, expected) == count


def test_f1_counts_missing_and_extra_boxes() -> None:
    assert boxes.f1([(BOX,), (FAR,)], [(NEAR,), ()]) == pytest.approx(2 / 3)


def test_f1_needs_something_to_find() -> None:
    with pytest.raises(SamplesError, match="found none"):
        boxes.f1([()], [()])


def test_golden_inputs_are_spread_over_all_samples() -> None:
    picked = pick_inputs(ArrayRows(np.arange(60).reshape(60, 1)))
    assert picked.dtype == np.float32
    assert picked[:, 0].tolist() == [0, 10, 20, 30, 40, 50]


def test_tolerances_follow_the_outputs_range() -> None:
    outputs = [np.array([-1.0, 3.0], np.float32)]
    integer, real = tolerance_for(outputs, integer=True), tolerance_for(outputs, integer=False)
    assert (integer.max_abs, integer.mean_abs) == pytest.approx((1.4, 0.2))
    assert real.max_abs == pytest.approx(0.0041)


def test_rows_and_outputs_of_every_sample(tmp_path: Path) -> None:
    """Each way of reading says the same of the same outputs."""
    candidate = Candidate("m", "onnx", "fp32", linear_model(tmp_path / "m.onnx", features=4), quantized=False)
    x = ArrayRows(np.random.default_rng(1).normal(size=(7, 4)).astype(np.float32))
    classes = score_rows(candidate, x, post=ClassifyPost(), keep_outputs=True)
    assert classes.rows.shape[0] == 7
    assert np.array_equal(classes.outputs[0], classes.rows)
    for post in (RawPost(), RegressPost()):
        assert np.array_equal(score_rows(candidate, x, post=post).rows, classes.rows)


def test_states_are_carried_along_a_group(tmp_path: Path) -> None:
    """The states of a sequence's rows follow from each other; the next sequence starts from zeros."""
    feeding = Feeding((StateTensor("before", "now"),), (Constant("factor", 3.0),))
    candidate = Candidate("m", "onnx", "fp32", loudness_model(tmp_path / "m.onnx"), quantized=False, feeding=feeding)
    x: Array = np.random.default_rng(1).normal(size=(6, 20)).astype(np.float32)
    group = np.array([0, 0, 0, 1, 1, 1])
    carried = score_rows(candidate, ArrayRows(x), post=RawPost(), group=group, keep_outputs=True)
    assert carried.rows[:, 0].tolist() == pytest.approx(loudness(x[:3], 3.0) + loudness(x[3:], 3.0))
    alone = score_rows(candidate, ArrayRows(x), post=RawPost())
    assert alone.rows[:, 0].tolist() == pytest.approx([loudness(x[at : at + 1], 3.0)[0] for at in range(6)])


def test_calibration_gives_all_inputs_in_the_models_order(tmp_path: Path) -> None:
    """The states are those that the rows before left behind, the constants what they always are."""
    feeding = Feeding((StateTensor("before", "now"),), (Constant("factor", 3.0),))
    candidate = Candidate("m", "onnx", "fp32", loudness_model(tmp_path / "m.onnx"), quantized=False, feeding=feeding)
    x: Array = np.random.default_rng(1).normal(size=(6, 20)).astype(np.float32)
    group = np.array([0, 0, 0, 1, 1, 1])
    calibration = calibration_of(candidate, ArrayRows(x), group=group)
    assert len(calibration) == 6
    for _ in range(2):  # any number of times
        fed = list(calibration)
        assert [before.item() for before, _, _ in fed] == pytest.approx(
            [0.0, *loudness(x[:2], 3.0), 0.0, *loudness(x[3:5], 3.0)]
        )
        assert all(factor.dtype == np.int64 and factor.item() == 3 for _, _, factor in fed)
        assert np.array_equal(np.concatenate([sound for _, sound, _ in fed]), x)
    assert all(before.item() == 0.0 for before, _, _ in calibration_of(candidate, ArrayRows(x)))
