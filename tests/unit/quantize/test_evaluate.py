"""The metrics, against independent implementations, and boxes against each other."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from edgeinfer.quantize import boxes
from edgeinfer.quantize.dataset import Samples
from edgeinfer.quantize.evaluate import Scored, agreement, area_under_roc, metric_value, threshold
from edgeinfer.quantize.golden import pick_inputs, tolerance_for
from edgeinfer.runtime.errors import SamplesError
from edgeinfer.runtime.results import Item


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_that_of_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, 200)
    scores = np.round(random.normal(labels, 1.0), 1)  # rounded: with ties
    assert area_under_roc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_auc_needs_both_kinds() -> None:
    with pytest.raises(SamplesError, match="found 3 and 0"):
        area_under_roc(np.arange(3), np.zeros(3, np.int64))


def _samples(y: list[int], group: list[int] | None = None) -> Samples:
    return Samples(np.zeros((len(y), 1)), np.array(y), None if group is None else np.array(group), np.zeros((1, 1)), "")


def test_anomaly_scores_are_averaged_over_groups() -> None:
    # By rows the anomaly's 0.0 would rank below everything; by groups it is above.
    scored = Scored(np.array([1.0, 1.0, 0.0, 9.0]))
    samples = _samples([0, 0, 1, 1], group=[4, 4, 2, 2])
    assert metric_value(scored, scored, samples, task="anomaly") == 1.0


def test_accuracy_and_agreement() -> None:
    ours = Scored(np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]]))
    theirs = Scored(np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.7, 0.3]]))
    samples = _samples([0, 1, 1, 0])
    assert metric_value(ours, theirs, samples, task="classification") == 0.75
    assert agreement(ours, theirs, samples, task="classification") == 0.75


def test_labels_beyond_the_classes_are_refused() -> None:
    scored = Scored(np.zeros((2, 3)))
    with pytest.raises(SamplesError, match="expected labels of 0 to 2"):
        metric_value(scored, scored, _samples([0, 3]), task="classification")


def test_the_threshold_is_over_normal_rows() -> None:
    scored = Scored(np.concatenate([np.arange(101.0), [1e6]]))
    assert threshold(scored, _samples([0] * 101 + [1])) == pytest.approx(99.0)


BOX = Item(1, 0.9, (0.1, 0.1, 0.5, 0.5))
NEAR = Item(1, 0.8, (0.12, 0.1, 0.5, 0.5))
OTHER_CLASS = Item(2, 0.9, (0.1, 0.1, 0.5, 0.5))
FAR = Item(1, 0.7, (0.6, 0.6, 0.9, 0.9))


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
    picked = pick_inputs(np.arange(60).reshape(60, 1))
    assert picked.dtype == np.float32
    assert picked[:, 0].tolist() == [0, 10, 20, 30, 40, 50]


def test_tolerances_follow_the_outputs_range() -> None:
    outputs = [np.array([-1.0, 3.0], np.float32)]
    integer, real = tolerance_for(outputs, integer=True), tolerance_for(outputs, integer=False)
    assert (integer.max_abs, integer.mean_abs) == pytest.approx((1.4, 0.2))
    assert real.max_abs == pytest.approx(0.0041)
