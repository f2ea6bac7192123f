"""CSV tables: windows, rows and their labels, and what is refused by file and line."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.quantize.dataset import Loaded, SampleOptions, load_samples, prepared, split
from edgeinfer.quantize.dataset.tables import Windows
from edgeinfer.quantize.preprocessing import declare
from edgeinfer.quantize.rows import stacked
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import SamplesError
from edgeinfer.runtime.manifest import TensorSpec

SENSOR = """time;heat;force;fault
2020-01-01 00:00:00;1;10;0
2020-01-01 00:00:01;2;20;1

2020-01-01 00:00:02;3;30;0
2020-01-01 00:00:03;4;40;0
2020-01-01 00:00:04;5;50;0
"""


def load(path: Path, *, task: Any = "anomaly", **options: Any) -> Loaded:
    return load_samples(path, task=task, options=SampleOptions(**options))


def written(folder: Path, text: str, name: str = "a.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def values(loaded: Loaded) -> Array:
    assert isinstance(loaded.x, Windows)
    return np.stack([loaded.x[index] for index in range(len(loaded.x))])


def test_windows_with_the_largest_or_the_last_label(tmp_path: Path) -> None:
    path = written(tmp_path, SENSOR)
    loaded = load(path, window=2, stride=1, label_column="fault")
    assert values(loaded).shape == (4, 2, 2)
    assert values(loaded)[1].tolist() == [[2.0, 20.0], [3.0, 30.0]]
    assert loaded.y.tolist() == [1, 1, 0, 0]
    assert "share 1 of 2 rows" in loaded.warnings[0]
    assert load(path, window=2, stride=1, label_column="fault", window_label="last").y.tolist() == [1, 0, 0, 0]
    assert load(path, window=2, label_column="fault").y.tolist() == [1, 0]


def test_rows_are_samples_of_their_own(tmp_path: Path) -> None:
    loaded = load(written(tmp_path, SENSOR), columns=("force",), label_column="fault")
    assert values(loaded).tolist() == [[10.0], [20.0], [30.0], [40.0], [50.0]]
    assert loaded.y.tolist() == [0, 1, 0, 0, 0]


def test_columns_in_the_order_that_is_asked_for_and_text_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, "kind,b,a,label\nM,1,2,0\nL,3,4,1\n")
    assert values(load(path, columns=("a", "b"))).tolist() == [[2.0, 1.0], [4.0, 3.0]]
    assert load(path).warnings == ("columns without numbers are left out: kind",)


def test_windows_lie_within_a_file_and_files_may_be_groups(tmp_path: Path) -> None:
    for name, label in (("a", 0), ("b", 1), ("c", 0)):
        written(tmp_path, "v,label\n" + f"1,{label}\n" * 5, f"{name}.csv")
    loaded = load(tmp_path, window=2, group="file")
    assert loaded.y.tolist() == [0, 0, 1, 1, 0, 0]
    assert loaded.group is not None
    assert loaded.group.tolist() == [0, 0, 1, 1, 2, 2]


def test_targets_of_a_regression_are_numbers(tmp_path: Path) -> None:
    loaded = load(written(tmp_path, "v,label\n1,0.5\n2,-3\n"), task="regression")
    assert loaded.y.tolist() == [0.5, -3.0]
    assert not load(written(tmp_path, "v\n1\n2\n", "b.csv"), task="regression").labelled


def test_a_calibration_folder_of_tables(tmp_path: Path) -> None:
    written(tmp_path, SENSOR)
    (tmp_path / "calibration").mkdir()
    written(tmp_path / "calibration", SENSOR.replace(";fault", ";other"))
    with pytest.raises(SamplesError, match=r"expected a column 'power', found none"):
        split_samples(tmp_path, columns=("heat", "power"), label_column="fault")
    samples = split_samples(tmp_path, columns=("heat", "force"), label_column="fault")
    assert samples.warnings == (
        "5 of 5 samples to evaluate with are also among those to calibrate with: what is measured on them is too good",
    )


def split_samples(folder: Path, **options: Any) -> Any:
    model = TensorSpec("x", (1, 2), "float32")
    return prepared(load(folder, **options), declare("kind=window,length=1", model), model, where=str(folder))


def test_the_declared_scaling_is_applied(tmp_path: Path) -> None:
    model = TensorSpec("x", (1, 2, 2), "float32")
    declared = declare("kind=window,length=2,mean=1,10,std=2,10", model)
    samples = prepared(load(written(tmp_path, SENSOR), window=2, label_column="fault"), declared, model, where="h")
    assert stacked(samples.x)[0].tolist() == [[0.0, 0.0], [0.5, 1.0]]


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("", {}, "expected a first line that names the columns"),
        ("a,label\n", {}, "expected columns of numbers"),
        ("a,a\n1,2\n", {}, "line 1: expected each column once, found 'a' more often"),
        ("a,b\n1,2\n", {}, "expected a column 'label' with a label for each row, found a, b"),
        ("a,label\n1,0\nx,1\n", {}, "line 3: expected a number in the column 'a', found 'x'"),
        ("a,label\n1,0\nnan,1\n", {}, "line 3: expected a number in the column 'a', found 'nan'"),
        ("a,label\n1,0\n1e39,1\n", {}, "line 3: expected a number"),
        ("a,label\n1,0\n1\n", {}, "line 3: expected 2 columns, found 1"),
        ("a,label\n1,0\n1,\n", {}, "line 3|line 2"),
        ("a,label\n1,0\n1,1\n", {"window": 3}, "expected tables with a window of 3 rows, found 2 at most"),
        ("a,label\n1,0\n1,0\n", {}, r"both 0 \(normal\) and 1 \(anomaly\), found \[0\]"),
        ("a,label\n1,0\n1,1\n", {"columns": ("b",)}, "expected a column 'b', found none"),
        ('a,label\n1,"0\n', {}, "line 2: expected separated values"),
    ],
)
def test_tables_that_are_wrong_are_refused(tmp_path: Path, text: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(SamplesError, match=said):
        load(written(tmp_path, text), **options)


def test_tables_of_a_folder_have_the_same_columns(tmp_path: Path) -> None:
    written(tmp_path, "a,label\n1,0\n", "a.csv")
    written(tmp_path, "b,label\n1,1\n", "b.csv")
    with pytest.raises(SamplesError, match=r"b.csv: line 1: expected the columns of the first file, a, label; found b"):
        load(tmp_path)


def test_windows_are_kept_once_however_much_they_overlap(tmp_path: Path) -> None:
    path = written(tmp_path, "v,label\n" + "".join(f"{i},{i % 2}\n" for i in range(3000)))
    loaded = load(path, window=1000, stride=1, window_label="last")
    assert isinstance(loaded.x, Windows)
    assert loaded.x.shape == (2001, 1000, 1)
    assert loaded.x[5].base is loaded.x[6].base


@given(st.one_of(st.binary(max_size=200), st.text(alphabet='a1,;\t"\n\r-.e lbn', max_size=200).map(str.encode)))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_samples_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    for task in ("anomaly", "regression"):
        with contextlib.suppress(SamplesError):
            loaded = load(path, task=task, window=2, stride=1)
            assert len(loaded.x) == len(loaded.y) > 0


@pytest.mark.data
def test_sensors_as_they_come(data_dir: Path) -> None:
    skab = load(data_dir / "sensors" / "skab" / "valve1" / "0.csv", window=60, stride=30, label_column="anomaly",
                columns=("Accelerometer1RMS", "Accelerometer2RMS", "Current", "Pressure"))  # fmt: skip
    assert values(skab).shape == (37, 60, 4)
    assert 0 < skab.y.sum() < 37
    rows = load(data_dir / "sensors" / "skab" / "valve1" / "0.csv", label_column="anomaly")
    assert (len(rows.x), rows.y.sum()) == (1147, 401)
    plant = load(data_dir / "sensors" / "ai4i2020_part.csv", label_column="Machine failure")
    assert (values(plant).shape, plant.y.sum()) == ((5000, 5), 235)
    assert plant.warnings == ("columns without numbers are left out: Type",)
    nab = load(data_dir / "sensors" / "nab" / "realTraffic", task="regression", window=48)
    assert values(nab).shape == (2380 // 48, 48, 1)
    model = TensorSpec("x", (1, 48, 1), "float32")
    samples = split(prepared(nab, declare("", model), model, where="nab"), task="regression")
    assert samples.calibration is not None
    assert len(samples.calibration) + len(samples.x) == 2380 // 48
