"""The metrics, against independent implementations and by hand."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, top_k_accuracy_score

from edgeinfer.quantize.candidate import Candidate
from edgeinfer.quantize.dataset import Samples, load_samples, prepared
from edgeinfer.quantize.evaluate import Scored, score_rows
from edgeinfer.quantize.metrics import METRICS, Metric, agreement, agreements, choose_metric, default_metric
from edgeinfer.quantize.metrics.detections import average_precision
from edgeinfer.quantize.metrics.ranking import area_under_roc
from edgeinfer.quantize.preprocessing import declare
from edgeinfer.quantize.rows import ArrayRows
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import SamplesError, UsageError
from edgeinfer.runtime.manifest import DetectPost, TensorSpec
from edgeinfer.runtime.results import Item


def samples_of(y: Any, group: list[int] | None = None, **fields: Any) -> Samples:
    labels = np.array(y)
    groups = None if group is None else np.array(group)
    return Samples(ArrayRows(np.zeros((len(labels), 1))), labels, groups, None, "", **fields)


def metric_of(name: str, task: Any, samples: Samples | None = None) -> Metric:
    return choose_metric(name, task, samples or samples_of([0, 1]))


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_that_of_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, 200)
    scores = np.round(random.normal(labels, 1.0), 1)  # rounded: with ties
    assert area_under_roc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    judged = metric_of("auc", "anomaly").judge(Scored(scores), Scored(scores), samples_of(labels))
    places = random.integers(0, 200, 200)
    assert judged.resample(places) == pytest.approx(roc_auc_score(labels[places], scores[places]), abs=1e-12)
    assert judged.per_example is None
    assert np.isnan(judged.resample(np.flatnonzero(labels == 0)))


def test_auc_needs_both_kinds() -> None:
    with pytest.raises(SamplesError, match="found 3 and 0"):
        area_under_roc(np.arange(3), np.zeros(3, np.int64))


def test_auc_of_two_classes_and_of_more() -> None:
    scores = np.array([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]])
    judged = metric_of("auc", "classification").judge(Scored(scores), Scored(scores), samples_of([0, 1, 0]))
    assert judged.value == 1.0
    with pytest.raises(SamplesError, match="expected one score a sample for auc, or two classes, found 3"):
        metric_of("auc", "classification").judge(Scored(np.eye(3)), Scored(np.eye(3)), samples_of([0, 1, 0]))


def test_anomaly_scores_are_averaged_over_groups() -> None:
    # By rows the anomaly's 0.0 would rank below everything; by groups it is above.
    scored = Scored(np.array([1.0, 1.0, 0.0, 9.0]))
    judged = metric_of("", "anomaly").judge(scored, scored, samples_of([0, 0, 1, 1], group=[4, 4, 2, 2]))
    assert (judged.value, judged.count) == (1.0, 2)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_is_that_of_scikit_learn(k: int) -> None:
    random = np.random.default_rng(k)
    labels, scores = random.integers(0, 8, 300), random.normal(size=(300, 8))
    judged = metric_of(f"top{k}", "classification").judge(Scored(scores), Scored(scores), samples_of(labels))
    assert judged.value == pytest.approx(top_k_accuracy_score(labels, scores, k=k), abs=1e-12)
    assert judged.per_example is not None
    assert judged.per_example.mean() == pytest.approx(judged.value)
    assert judged.resample(np.array([0, 0])) == judged.per_example[0]


def test_among_equal_scores_the_first_class_is_best() -> None:
    """As argmax has it: a model that gives NaN or the same everywhere is not right by it."""
    scores = np.array([[0.5, 0.5], [0.5, 0.5], [np.nan, 1.0], [1.0, np.nan]])
    labels = [0, 1, 1, 0]
    judged = metric_of("top1", "classification").judge(Scored(scores), Scored(scores), samples_of(labels))
    assert judged.per_example is not None
    assert judged.per_example.tolist() == (scores.argmax(axis=1) == labels).astype(float).tolist()


def test_accuracy_and_agreement() -> None:
    ours = Scored(np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]]))
    theirs = Scored(np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.7, 0.3]]))
    samples = samples_of([0, 1, 1, 0])
    assert metric_of("", "classification", samples).judge(ours, theirs, samples).value == 0.75
    assert agreement(ours, theirs, samples, task="classification") == 0.75


def test_labels_beyond_the_classes_are_refused() -> None:
    scored = Scored(np.zeros((2, 3)))
    with pytest.raises(SamplesError, match="expected labels of 0 to 2"):
        metric_of("top1", "classification").judge(scored, scored, samples_of([0, 3]))


def test_mean_squared_error() -> None:
    metric = metric_of("mse", "regression")
    scored = Scored(np.array([[1.0, 2.0], [3.0, 4.0]]))
    judged = metric.judge(scored, scored, samples_of([[1.0, 0.0], [3.0, 5.0]]))
    assert judged.per_example is not None
    assert (judged.value, judged.per_example.tolist()) == (1.25, [2.0, 0.5])
    assert (metric.higher_is_better, metric.unit) == (False, "percent")
    with pytest.raises(SamplesError, match="expected 2 targets a sample, as the model gives values, found 1"):
        metric.judge(scored, scored, samples_of([1.0, 0.0]))


def test_values_are_close_where_they_differ_by_little_of_their_spread() -> None:
    theirs = Scored(np.array([[0.0, 100.0], [2.0, 300.0]]))  # standard deviations 1 and 100
    ours = Scored(np.array([[0.1, 100.0], [2.0, 280.0]]))
    judged = metric_of("output_closeness", "regression").judge(ours, theirs, samples_of([0, 0]))
    assert judged.per_example is not None
    assert judged.per_example.tolist() == pytest.approx([0.95, 0.9])
    assert agreements(ours, theirs, samples_of([0, 0]), task="regression").tolist() == [1.0, 0.5]
    broken = Scored(np.full((2, 2), np.nan))
    assert metric_of("", "raw").judge(broken, theirs, samples_of([0, 0])).value == 0.0


def test_embeddings_points_and_masks_against_the_float_model() -> None:
    two = samples_of([0, 0])
    embedded = metric_of("", "embedding").judge(
        Scored(np.array([[1.0, 0.0], [1.0, 1.0]])), Scored(np.array([[2.0, 0.0], [0.0, 1.0]])), two
    )
    assert embedded.value == pytest.approx((1.0 + 0.5**0.5) / 2)
    points = np.full((2, 2, 3), 0.5)
    moved, lost = points.copy(), points.copy()
    moved[0, 0, 0] = 0.6
    lost[1, 1] = np.nan
    metric = metric_of("", "keypoints")
    assert metric.judge(Scored(moved), Scored(points), two).value == pytest.approx(1 - 0.1 / 4)
    assert metric.judge(Scored(lost), Scored(points), two).value == pytest.approx(0.75)
    assert metric.judge(Scored(lost), Scored(lost), two).value == 1.0
    assert agreements(Scored(moved), Scored(points), two, task="keypoints").tolist() == [0.5, 1.0]
    mask = np.zeros((2, 4, 4), np.uint16)
    other = mask.copy()
    other[0, 0] = 3
    assert metric_of("", "segmentation").judge(Scored(other), Scored(mask), two).value == pytest.approx(0.875)


def boxes(*found: tuple[int, float, float]) -> tuple[Item, ...]:
    """Class, score, and where the left side of a box of 0.1 x 1 is."""
    return tuple(Item(label, score, (left, 0.0, left + 0.1, 1.0)) for label, score, left in found)


def test_mean_average_precision_by_hand() -> None:
    """Class 0: three wanted; found in the order right, wrong, right: precision 1, 1/2, 2/3; recall 1/3, 1/3, 2/3.
    All points: 1/3 * 1 + 1/3 * 2/3 = 5/9. Class 1: one wanted, found late behind a double: 1/3 * 1 at 1: 1.
    Class 2 is nowhere wanted and does not count; class 3 is never found: 0."""
    wanted = (boxes((0, 1, 0.0), (0, 1, 0.2)), boxes((0, 1, 0.0), (1, 1, 0.5), (3, 1, 0.8)))
    found = (boxes((0, 0.9, 0.0), (0, 0.8, 0.6), (2, 0.9, 0.4)), boxes((0, 0.7, 0.02), (1, 0.6, 0.5), (1, 0.5, 0.51)))
    samples = samples_of([0, 0], boxes=wanted)
    metric = metric_of("", "detection", samples)
    assert metric.name == "box_map50"
    judged = metric.judge(Scored(np.zeros(2), found), Scored(np.zeros(2)), samples)
    assert judged.value == pytest.approx((5 / 9 + 1.0 + 0.0) / 3)
    assert judged.resample(np.array([0, 0])) == pytest.approx(average_precision(
        [(0.9, True), (0.9, True), (0.8, False), (0.8, False)], wanted=4))  # fmt: skip
    assert metric.judge(Scored(np.zeros(2), wanted), Scored(np.zeros(2)), samples).value == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_against_scikit_learn(seed: int) -> None:
    """scikit-learn takes precision as it is where all points take the best one to the right: at least as much, and the
    same where precision only falls. What was never found is ranked last there, and takes nothing off here."""
    random = np.random.default_rng(seed)
    right = random.random(60) < 0.5
    scores = random.permutation(60) / 60.0
    ours = average_precision(list(zip(scores.tolist(), right.tolist(), strict=True)), wanted=int(right.sum()))
    assert ours >= average_precision_score(right, scores) - 1e-12
    falling = np.arange(60) < 20
    ordered = [(1.0 - at / 60, bool(hit)) for at, hit in enumerate(falling)]
    assert average_precision(ordered, wanted=20) == pytest.approx(
        average_precision_score(falling, [s for s, _ in ordered])
    )
    order = np.argsort(-scores)
    precision = np.cumsum(right[order]) / np.arange(1, 61)
    best = [precision[at:].max() for at in range(60)]
    assert ours == pytest.approx(np.mean(np.array(best)[right[order]]))


def test_boxes_without_labels_are_held_against_the_float_model() -> None:
    samples = samples_of([0, 0], labelled=False)
    metric = default_metric("detection", samples)
    assert metric.name == "box_f1"
    theirs = Scored(np.zeros(2), (boxes((0, 0.9, 0.0)), boxes((0, 0.9, 0.0), (0, 0.1, 0.5))), threshold=0.5)
    ours = Scored(np.zeros(2), (boxes((0, 0.9, 0.0), (0, 0.8, 0.4)), boxes((0, 0.9, 0.0))), threshold=0.5)
    judged = metric.judge(ours, theirs, samples)
    assert judged.value == pytest.approx(4 / 5)
    assert judged.resample(np.array([1, 1])) == 1.0
    assert agreement(ours, theirs, samples, task="detection") == 0.5
    with pytest.raises(SamplesError, match="expected samples with labelled boxes for box_map50, found none"):
        metric_of("box_map50", "detection").judge(ours, theirs, samples)


def test_what_is_chosen() -> None:
    assert [default_metric(task, samples_of([0, 1])).name for task in METRICS] == [
        "top1_accuracy", "auc", "box_f1", "mse", "point_closeness", "pixel_agreement", "cosine_similarity",
        "output_closeness",
    ]  # fmt: skip
    assert default_metric("regression", samples_of([0], labelled=False)).name == "output_closeness"
    assert choose_metric("top7_accuracy", "classification", samples_of([0])).name == "top7_accuracy"
    with pytest.raises(UsageError, match="expected one for the task anomaly \\(auc, agreement\\), found 'top5'"):
        choose_metric("top5", "anomaly", samples_of([0]))


OWN = """
import numpy as np

def share(outputs, labels):
    return (outputs[0].argmax(axis=1) == labels).astype(float)

def whole(outputs, labels):
    return float(share(outputs, labels).mean())

def error(outputs, labels):
    return np.abs(outputs[0][:, 0] - labels)
error.higher_is_better = False

def broken(outputs, labels):
    return outputs[7]

def leaves(outputs, labels):
    raise SystemExit(0)

def strange(outputs, labels):
    return "much"

def wide(outputs, labels):
    return np.zeros((2, 2))

def short(outputs, labels):
    return np.zeros(1)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_metrics.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_metrics", raising=False)
    return "own_metrics"


def test_a_function_of_the_users(own: str) -> None:
    outputs: tuple[Array, ...] = (np.array([[0.9, 0.1], [0.8, 0.2]], np.float32),)
    scored, samples = Scored(outputs[0], outputs=outputs), samples_of([0, 1])
    share = metric_of(f"{own}:share", "classification")
    judged = share.judge(scored, scored, samples)
    assert judged.per_example is not None
    assert (judged.value, judged.per_example.tolist(), share.outputs) == (0.5, [1.0, 0.0], True)
    whole = metric_of(f"{own}:whole", "raw").judge(scored, scored, samples)
    assert (whole.value, whole.per_example, whole.resample(np.array([0, 0]))) == (0.5, None, 1.0)
    error = metric_of(f"{own}:error", "classification")
    assert (error.higher_is_better, error.unit) == (False, "percent")


def test_an_installed_function_has_a_name(own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "own-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(f"[edgeinfer.metrics]\nown_share = {own}:share\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    scored = Scored(np.eye(2), outputs=(np.eye(2),))
    judged = metric_of("own_share", "classification").judge(scored, scored, samples_of([0, 0]))
    assert judged.value == 0.5
    with pytest.raises(UsageError, match=r"\(auc, agreement, own_share\), found 'own_shore'"):
        metric_of("own_shore", "anomaly")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("broken", "the function own_metrics:broken failed: IndexError"),
        ("strange", "the function own_metrics:strange failed: ValueError"),
        ("leaves", "the function own_metrics:leaves failed: SystemExit"),
        ("wide", r"to return a number, or one for each sample, found an array of shape \(2, 2\)"),
        ("short", "found 1 figures for 2 samples"),
        ("none", "expected a function 'none' in the module 'own_metrics', found none"),
    ],
)
def test_what_goes_wrong_in_it_is_said_to_be_its_own(own: str, name: str, said: str) -> None:
    outputs: tuple[Array, ...] = (np.zeros((2, 2), np.float32),)
    with pytest.raises(UsageError, match=said):
        metric_of(f"{own}:{name}", "raw").judge(
            Scored(outputs[0], outputs=outputs), Scored(outputs[0]), samples_of([0, 1])
        )


def test_a_module_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="the module of 'nowhere:f' cannot be imported: ModuleNotFoundError"):
        metric_of("nowhere:f", "raw")


@pytest.mark.data
@pytest.mark.parametrize(
    ("model", "engine", "spec", "preprocess", "post", "labels", "about"),
    [
        ("FastestDet.onnx", "onnx", (1, 3, 352, 352), "kind=image,color=bgr,std=255,interpolation=area,layout=nchw",
         DetectPost(format="fastestdet", score_threshold=0.65), "coco_names_80.txt", 0.25),
        ("ssd_mobilenet_v1_coco_quant.tflite", "litert", (1, 300, 300, 3), "kind=image,mean=127.5,std=127.5",
         DetectPost(format="tflite_ssd", label_offset=1), "coco_labels_91.txt", 0.3),
    ],
)  # fmt: skip
def test_detectors_on_labelled_pictures(
    data_dir: Path, model: str, engine: str, spec: tuple[int, ...], preprocess: str, post: DetectPost, labels: str,
    about: float,
) -> None:  # fmt: skip
    """Nine pictures are a smoke test; the recall of the reported boxes is what the folder's own file says."""
    names = tuple((data_dir / "labels" / labels).read_text().splitlines())
    loaded = load_samples(data_dir / "images" / "coco", task="detection", labels=names)
    tensor = TensorSpec("x", spec, "float32")
    samples = prepared(loaded, declare(preprocess, tensor), tensor, where="coco")
    metric = default_metric("detection", samples)
    candidate = Candidate("m", engine, "fp32", data_dir / "models" / model, quantized=False)
    scored = score_rows(candidate, samples.x, post=post, lowest=metric.lowest)
    assert samples.boxes is not None
    assert sum(map(len, samples.boxes)) == 46
    value = metric.judge(scored, scored, samples).value
    assert about < value < 0.75
    assert agreement(scored, scored, samples, task="detection") == 1.0
    assert 20 <= sum(map(len, scored.shown)) <= 40 < sum(map(len, scored.found))


def test_agreement_is_a_metric_of_its_own() -> None:
    scored, reference = Scored(np.eye(3, dtype=np.float32)), Scored(np.eye(3, dtype=np.float32)[[0, 1, 1]])
    samples = Samples(ArrayRows(np.zeros((3, 1))), np.zeros(3, np.int64), group=None, calibration=None, sha256="")
    metric = choose_metric("agreement", "classification", samples)
    assert not metric.labelled
    assert metric.judge(scored, reference, samples).value == pytest.approx(2 / 3)
