"""Samples: what is refused, and how calibration samples are set apart."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeinfer.quantize.dataset import SampleOptions, Samples, load_samples, prepared, split
from edgeinfer.quantize.preprocessing import declare
from edgeinfer.quantize.rows import ArrayRows, fit_to_model, stacked
from edgeinfer.runtime.errors import SamplesError, UsageError
from edgeinfer.runtime.manifest import TensorSpec


def _write(path: Path, **arrays: Any) -> Path:
    file = path / "samples.npz"
    np.savez(file, **arrays)
    return file


def _samples(y: list[int], *, group: list[int] | None = None) -> Samples:
    labels = np.array(y, np.int64)
    return Samples(
        x=ArrayRows(np.arange(len(y), dtype=np.float32)[:, np.newaxis]),
        y=labels,
        group=None if group is None else np.array(group, np.int64),
        calibration=None,
        sha256="",
    )


def test_reads_what_numpy_wrote(tmp_path: Path) -> None:
    path = _write(tmp_path, x=np.zeros((4, 3)), y=[0, 0, 1, 1], x_calibration=np.zeros((2, 3)), group=[7, 7, 9, 9])
    read = load_samples(path, task="anomaly")
    assert isinstance(read.x, np.ndarray)
    assert read.x.shape == (4, 3)
    assert read.group is not None
    assert read.group.tolist() == [0, 0, 1, 1]


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such samples file"):
        load_samples(tmp_path / "none.npz", task="classification")


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04cut short"])
def test_bytes_that_are_no_archive_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "samples.npz"
    path.write_bytes(content)
    with pytest.raises(SamplesError, match=r"expected an \.npz archive"):
        load_samples(path, task="classification")


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path, x=np.zeros((40, 30)), y=np.zeros(40))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(SamplesError, match=r"expected an \.npz archive"):
        load_samples(path, task="classification")


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    path = _write(tmp_path, x=np.array([{"a": 1}], dtype=object), y=[0])
    with pytest.raises(SamplesError, match="plain arrays") as refused:
        load_samples(path, task="classification")
    (tmp_path / "samples.npz").write_bytes(b"neither an archive nor an array")
    with pytest.raises(SamplesError, match="plain arrays") as no_archive:
        load_samples(path, task="classification")
    assert "allow_pickle" not in str(no_archive.value) + str(refused.value)  # advice that nobody should follow


def test_a_single_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "samples.npy"
    np.save(path, np.zeros((2, 2)))
    with pytest.raises(SamplesError, match="found a single array"):
        load_samples(path, task="classification")


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"y": [0]}, "expected the key 'x'"),
        ({"X_test": np.zeros((2, 3)), "y": [0, 1]}, r"the key 'x', found \['X_test', 'y'\]"),
        ({"x": np.zeros((2, 3)), "labels": [0, 1]}, r"each sample, found \['labels', 'x'\]"),
        ({"x": [[0, 1], [0, np.inf], [np.nan, 1]], "y": [0, 1, 1]}, "in 2 of 3 samples, the first at index 1"),
        ({"x": np.zeros((2, 3))}, "expected the key 'y'"),
        ({"x": np.zeros((0, 3)), "y": []}, "expected samples in 'x'"),
        ({"x": np.zeros((2, 3)), "y": [0, 1, 2]}, "expected 2 integer labels"),
        ({"x": np.zeros((2, 3)), "y": [0.5, 1.0]}, "expected 2 integer labels"),
        ({"x": np.zeros((2, 3)), "y": ["a", "b"]}, "expected numbers in 'y'"),
        ({"x": np.full((2, 3), np.nan), "y": [0, 1]}, "expected finite numbers"),
        ({"x": np.zeros((2, 3)), "y": [0, 1], "x_calibration": np.zeros((2, 4))}, "like 'x'"),
        ({"x": np.zeros((2, 3)), "y": [0, 1], "group": [1]}, "expected 'group'"),
    ],
)
def test_samples_that_do_not_hold_together_are_refused(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    with pytest.raises(SamplesError, match=said):
        load_samples(_write(tmp_path, **arrays), task="classification")


def test_anomaly_needs_both_labels(tmp_path: Path) -> None:
    with pytest.raises(SamplesError, match="both 0"):
        load_samples(_write(tmp_path, x=np.zeros((2, 3)), y=[0, 0]), task="anomaly")


def test_a_group_of_mixed_labels_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path, x=np.zeros((5, 3)), y=[0, 1, 0, 1, 1], group=[7, 9, 7, 9, 7])
    with pytest.raises(SamplesError, match=r"one label for all rows of a group, found \[0, 1\] in group 7 \(1 of 2"):
        load_samples(path, task="anomaly")


def test_detection_needs_no_labels(tmp_path: Path) -> None:
    assert load_samples(_write(tmp_path, x=np.zeros((2, 3))), task="detection").y.tolist() == [0, 0]


def test_split_takes_of_each_class_and_never_evaluates_on_what_it_took() -> None:
    parts = split(_samples([0] * 50 + [1] * 10), task="classification")
    assert parts.calibration is not None
    taken = stacked(parts.calibration)[:, 0].astype(int).tolist()
    kept = stacked(parts.x)[:, 0].astype(int).tolist()
    assert sorted(taken + kept) == list(range(60))
    assert sum(index < 50 for index in taken) == 10
    assert sum(index >= 50 for index in taken) == 2


def test_split_is_deterministic() -> None:
    first, second = (split(_samples([0, 1, 2] * 30), task="classification") for _ in range(2))
    assert first.calibration is not None
    assert second.calibration is not None
    assert np.array_equal(stacked(first.calibration), stacked(second.calibration))


def test_split_for_anomalies_takes_whole_normal_groups() -> None:
    group = np.repeat(np.arange(20), 5).tolist()
    y = np.repeat([0] * 15 + [1] * 5, 5).tolist()
    parts = split(_samples(y, group=group), task="anomaly")
    assert parts.calibration is not None
    taken = np.unique(stacked(parts.calibration)[:, 0].astype(int) // 5)
    assert len(parts.calibration) == 5 * len(taken)
    assert max(taken) < 15
    assert parts.group is not None
    assert set(parts.group.tolist()).isdisjoint(taken.tolist())


def test_given_calibration_samples_leave_all_others_to_evaluate() -> None:
    given = Samples(ArrayRows(np.zeros((4, 1))), np.array([0, 1, 0, 1]), None, ArrayRows(np.ones((900, 1))), "")
    parts = split(given, task="classification")
    assert len(parts.x) == 4
    assert parts.calibration is not None
    assert len(parts.calibration) == 256


def test_one_sample_of_each_class_cannot_be_split() -> None:
    with pytest.raises(SamplesError, match="found 2 examples"):
        split(_samples([0, 1]), task="classification")


@pytest.mark.parametrize(
    ("found", "shape"),
    [((3, 8, 8), (1, 8, 8)), ((3, 1, 8, 8), (1, 8, 8)), ((3, 16, 5), (80,))],
)
def test_shapes_that_fit(found: tuple[int, ...], shape: tuple[int, ...]) -> None:
    fitted = fit_to_model(np.zeros(found), shape, where="here")
    assert fitted.shape == (3, *shape)


@pytest.mark.parametrize(("found", "shape"), [((3, 8, 9), (8, 8)), ((3, 8, 8, 3), (3, 8, 8))])
def test_shapes_that_do_not_fit_are_both_named(found: tuple[int, ...], shape: tuple[int, ...]) -> None:
    with pytest.raises(SamplesError, match=r"here: expected samples of shape .* found \(") as caught:
        fit_to_model(np.zeros(found), shape, where="here")
    assert ("layout" in caught.value.hint) == (sorted(found[1:]) == sorted(shape))


def test_targets_of_a_regression_may_be_several_numbers(tmp_path: Path) -> None:
    read = load_samples(_write(tmp_path, x=np.zeros((4, 3)), y=np.arange(8).reshape(4, 2) / 2), task="regression")
    assert read.y.dtype == np.float32
    assert read.y[3].tolist() == [3.0, 3.5]
    with pytest.raises(SamplesError, match="expected 4 finite targets"):
        load_samples(_write(tmp_path, x=np.zeros((4, 3)), y=[1.0, 2.0, np.nan, 0.0]), task="regression")


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
def test_calibration_rows_from_an_archive_of_their_own(tmp_path: Path, dtype: str) -> None:
    """A row is the same one also where it is stored in another dtype."""
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    samples = _write(tmp_path, x=x, y=[0, 1, 0, 1])
    other = tmp_path / "calibration.npz"
    np.savez(other, x=np.concatenate([x[2:3], x + 100]).astype(dtype))
    loaded = load_samples(samples, task="classification", options=SampleOptions(calibration=str(other)))
    model = TensorSpec("x", (1, 3), "float32")
    made = prepared(loaded, declare("kind=tensor", model), model, where="here")
    assert made.calibration is not None
    assert stacked(made.calibration)[1].tolist() == [100.0, 101.0, 102.0]
    assert made.warnings == (
        "1 of 4 samples to evaluate with are also among those to calibrate with: what is measured on them is too good",
    )
    np.savez(other, y=np.zeros(3))
    with pytest.raises(SamplesError, match="expected the key 'x', found"):
        load_samples(samples, task="classification", options=SampleOptions(calibration=str(other)))
    np.savez(other, x=np.zeros((3, 4)))
    with pytest.raises(SamplesError, match=r"calibration: expected samples of shape \(3\) for the model, found \(4\)"):
        prepared(
            load_samples(samples, task="classification", options=SampleOptions(calibration=str(other))),
            declare("kind=tensor", model), model, where="here",
        )  # fmt: skip


def test_sequences_stay_whole_where_a_model_remembers() -> None:
    group = np.repeat(np.arange(40), 50).tolist()
    parts = split(_samples([0] * 2000, group=group), task="raw", in_sequence=True)
    assert parts.calibration is not None
    assert parts.calibration_group is not None
    rows = stacked(parts.calibration)[:, 0].astype(int)
    assert len(rows) <= 256
    for name in np.unique(parts.calibration_group):
        own = rows[parts.calibration_group == name]
        assert own.tolist() == list(range(int(name) * 50, int(name) * 50 + len(own)))
