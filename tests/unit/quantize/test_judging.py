"""Judging candidates against the float model on the same samples."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeinfer.quantize.candidate import Candidate
from edgeinfer.quantize.dataset import Samples
from edgeinfer.quantize.evaluate import Scored
from edgeinfer.quantize.judging import Judge
from edgeinfer.quantize.metrics import choose_metric
from edgeinfer.quantize.rows import ArrayRows
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.manifest import ClassifyPost, Task


@pytest.fixture
def data(samples: Path) -> Samples:
    with np.load(samples) as archive:
        return Samples(ArrayRows(archive["x"]), archive["y"], None, None, sha256="")


def open_judge(data: Samples, path: Path, task: Task = "classification") -> Judge:
    judge = Judge(data, task, ClassifyPost(activation="softmax"), choose_metric("", "classification", data))
    judge.open(candidate("onnx-fp32", path))
    return judge


def candidate(name: str, path: Path) -> Candidate:
    return Candidate(name, "onnx", "fp32", path, quantized=False)


def swapped(path: Path) -> Path:
    """A model that always says the other class."""
    model = onnx.load(str(path))
    weight = numpy_helper.to_array(model.graph.initializer[0])
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight[::-1].copy(), "weight"))
    target = path.with_name("swapped.onnx")
    onnx.save(model, str(target))
    return target


def test_the_float_model_loses_nothing_to_itself(make_model: Callable[..., Path], data: Samples) -> None:
    path = make_model()
    judge = open_judge(data, path)
    judged, said = judge.judge(candidate("again", path))
    assert judged.metric_value == judge.base == 1.0
    assert judged.agreement == 1.0
    assert (judged.difference.value, judged.difference.p_value) == (0.0, 1.0)
    assert said.tolist() == data.y.tolist()


def test_one_that_is_always_wrong_is_worse_beyond_doubt(make_model: Callable[..., Path], data: Samples) -> None:
    path = make_model()
    judge = open_judge(data, path)
    other = candidate("other", swapped(path))
    judged, _ = judge.judge(other)
    assert (judged.metric_value, judged.agreement, judged.samples) == (0.0, 0.0, 60)
    assert judged.difference.value == 1.0
    assert judged.difference.significant
    assert judge.agreement_on_few(other) == 0.0


def test_few_samples_are_spread_over_all(make_model: Callable[..., Path], data: Samples) -> None:
    judge = open_judge(data, make_model())
    assert len(judge.few) == 24
    assert np.array_equal(judge.few.row(23), data.x.row(57))


@pytest.mark.parametrize(
    ("task", "rows", "kept"),
    [
        ("classification", np.eye(3), [0, 1, 2]),
        ("anomaly", np.array([0.5, 0.25]), [0.5, 0.25]),
        ("embedding", np.zeros((2, 128)), []),
        ("segmentation", np.zeros((2, 8, 8)), []),
    ],
)
def test_what_is_kept_of_each_candidate_is_small(
    make_model: Callable[..., Path], data: Samples, task: Task, rows: Array, kept: list[float]
) -> None:
    judge = open_judge(data, make_model(), task)
    assert judge.said(Scored(rows)).tolist() == kept
