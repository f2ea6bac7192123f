"""What a declaration of postprocessing is completed with, what goes with it into a package, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from detector_outputs import constant_model
from edgeinfer.cli.shared import TaskName
from edgeinfer.quantize.arrays import encode_arrays, normal_arrays
from edgeinfer.quantize.commands import create_package, quantize_model
from edgeinfer.quantize.golden import names_classes, tolerance_for
from edgeinfer.quantize.postprocessing import TASKS, declare_post
from edgeinfer.runtime.errors import ConfigError, UsageError
from edgeinfer.runtime.manifest import (
    ClassifyPost,
    DetectPost,
    DistancePost,
    ForecastPost,
    KeypointsPost,
    KeywordsPost,
    Postprocess,
    RegressPost,
    SegmentPost,
    SsdAnchors,
    Task,
    TensorSpec,
)
from edgeinfer.runtime.package import PackageFile
from edgeinfer.runtime.postprocess import read_arrays, result_kind


def outputs(*shapes: tuple[int, ...], dtype: str = "float32") -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec("y", shape, dtype) for shape in shapes)


def test_every_declaration_has_a_task_a_kind_and_a_command_line_name() -> None:
    types = set(get_args(Postprocess))
    assert set(TASKS) == types
    assert set(TASKS.values()) == set(get_args(Task)) == {name.value for name in TaskName}
    for type_ in types:
        post = type_(threshold=1.0) if type_.__struct_fields__[0] == "threshold" else type_()
        assert result_kind(post).name.lower() == TASKS[type_]


@pytest.mark.parametrize(
    ("spec", "task", "shapes", "post"),
    [
        ("", "segmentation", [(1, 513, 513)], SegmentPost()),
        ("", "segmentation", [(1, 513, 513, 21)], SegmentPost(layout="nhwc")),
        ("", "segmentation", [(1, 21, 128, 128)], SegmentPost(layout="nchw")),
        ("layout=map", "segmentation", [(1, 1, 8, 8)], SegmentPost()),
        ("", "keypoints", [(1, 1, 17, 3)], KeypointsPost()),
        ("", "detection", [(1, 300, 6)], DetectPost("yolov10")),
        ("", "detection", [(1, 84, 8400)], DetectPost("yolo")),
        ("", "detection", [(1, 85, 22, 22)], DetectPost("fastestdet")),
        ("", "detection", [(1, 10, 4), (1, 10), (1, 10), (1,)], DetectPost("tflite_ssd")),
        ("format=nanodet", "detection", [(1, 2125, 112)], DetectPost("nanodet", bins=8)),
        ("format=nanodet,bins=4,strides=8", "detection", [(1, 9, 112)], DetectPost("nanodet", bins=4, strides=(8,))),
        ("format=ssd,scales=5,5,10,10", "detection", [(1, 9, 4)] * 2, DetectPost("ssd", scales=(5.0, 5.0, 10.0, 10.0))),
        ("format=ssd,arrays=a.npz", "detection", [(1, 9, 4)] * 2, DetectPost("ssd")),
        ("unit=mm,scale=2,offset=1,2", "regression", [(1, 2)], RegressPost(scale=(2.0,), offset=(1.0, 2.0), unit="mm")),
        ("kind=keywords,quiet=10,11", "classification", [(1, 12)], KeywordsPost(quiet=(10, 11))),
        ("kind=forecast,threshold=2,columns=0,3", "anomaly", [(1, 2)], ForecastPost(2.0, columns=(0, 3))),
        ("kind=distance,threshold=2", "anomaly", [(1, 2)], DistancePost(2.0)),
    ],
)  # fmt: skip
def test_completed_from_the_outputs(spec: str, task: Task, shapes: list[tuple[int, ...]], post: Postprocess) -> None:
    assert declare_post(spec, task, outputs(*shapes)) == post


def test_a_file_may_hold_what_a_line_cannot(tmp_path: Path) -> None:
    path = tmp_path / "post.toml"
    path.write_text('format = "ssd"\nstrides = 8\n[anchors]\nlayers = 5\nreduced = false\n')
    assert declare_post(str(path), "detection", outputs((1, 9, 4), (1, 9, 4))) == DetectPost(
        "ssd", strides=(8,), anchors=SsdAnchors(layers=5, reduced=False)
    )


def test_classes_of_integers_in_one_channel_are_a_map() -> None:
    for shape in ((1, 1, 64, 64), (1, 64, 64, 1)):
        assert declare_post("", "segmentation", outputs(shape, dtype="int64")) == SegmentPost()
        assert declare_post("", "segmentation", outputs(shape)).layout != "map"  # type: ignore[union-attr]  # it is a SegmentPost


@pytest.mark.parametrize(
    ("spec", "task", "said"),
    [
        ("kind=keywords", "detection", "expected kind detection, as the task is, found 'keywords'"),
        ("kind=forecast", "anomaly", "expected a threshold"),
        ("min_count=9,average=2,kind=keywords", "classification", "min_count"),
        ("output=1", "keypoints", "expected an output of 0 to 0"),
        ("treshold=1", "segmentation", "treshold"),
        ("max_values=0", "raw", "max_values"),
    ],
)
def test_what_is_refused(spec: str, task: Task, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        declare_post(spec, task, outputs((1, 17, 3)), threshold=0.0)


@pytest.mark.parametrize(
    ("task", "spec", "shape", "labels", "fits"),
    [
        ("keypoints", "", (1, 5, 3), 5, True),
        ("keypoints", "", (1, 5, 3), 4, False),
        ("segmentation", "layout=nchw", (1, 3, 8, 8), 3, True),
        ("segmentation", "layout=nchw", (1, 3, 8, 8), 2, False),
        ("segmentation", "layout=nchw", (1, 1, 8, 8), 2, True),
        ("segmentation", "layout=map", (1, 8, 8), 99, True),
        ("regression", "", (1, 2), 2, True),
        ("regression", "", (1, 2), 3, False),
    ],
)
def test_labels_are_as_many_as_there_are_things(
    tmp_path: Path, task: Task, spec: str, shape: tuple[int, ...], labels: int, fits: bool
) -> None:
    model = constant_model(tmp_path / "m.onnx", [np.zeros(shape, np.float32)], input_shape=(1, 3, 16, 16))
    (tmp_path / "labels.txt").write_text("".join(f"thing {number}\n" for number in range(labels)))

    def create() -> None:
        create_package(
            [model],
            task=task,
            name="x",
            version="1.0.0",
            output=tmp_path / "x.edgepkg",
            labels=tmp_path / "labels.txt",
            postprocess=spec,
        )

    if fits:
        create()
        return
    with pytest.raises(UsageError, match=f"found {labels}"):
        create()


def test_arrays_go_into_the_package_and_are_hashed(tmp_path: Path) -> None:
    model = constant_model(tmp_path / "m.onnx", [np.ones((1, 4), np.float32)], input_shape=(1, 8))
    np.savez(tmp_path / "a.npz", centres=np.eye(4))
    digests = [
        create_package(
            [model],
            task="anomaly",
            name="x",
            version="1.0.0",
            output=tmp_path / f"{name}.edgepkg",
            postprocess=f"kind=distance,threshold=1,arrays={tmp_path}/a.npz",
        )
        for name in ("first", "second")
    ]
    contents = []
    for name in ("first", "second"):
        with PackageFile(tmp_path / f"{name}.edgepkg") as package:
            package.verify_files()
            assert package.manifest.arrays is not None
            assert package.manifest.arrays[0] in package.files()
            contents.append(package.read(package.manifest.arrays[0]))
    assert len(digests) == 2
    assert contents[0] == contents[1]
    (tmp_path / "out.npz").write_bytes(contents[0])
    assert (read_arrays(tmp_path / "out.npz")["centres"] == np.eye(4)).all()


class TestNormal:
    def test_one_direction_without_any_spread(self) -> None:
        rows = np.random.default_rng(0).normal(size=(50, 3)) * (1.0, 5.0, 0.0)
        arrays = normal_arrays(rows, DistancePost(1.0, metric="mahalanobis"))
        assert arrays["centres"] == pytest.approx(rows.mean(axis=0, keepdims=True), abs=1e-6)
        assert (np.linalg.eigvalsh(arrays["covariance"]) > 0).all()
        assert encode_arrays(arrays) == encode_arrays(dict(reversed(arrays.items())))

    def test_all_the_same_and_one_dimension(self) -> None:
        for rows in (np.ones((5, 3)), np.ones((5, 1)), np.ones((1, 4))):
            arrays = normal_arrays(rows, DistancePost(1.0, metric="mahalanobis"))
            assert np.isfinite(np.linalg.inv(arrays["covariance"])).all()

    def test_at_length_one(self) -> None:
        rows = np.array([[3.0, 4.0], [0.0, 0.0]])
        arrays = normal_arrays(rows, DistancePost(1.0, normalize=True))
        assert arrays["centres"] == pytest.approx(np.array([[0.3, 0.4]]))
        assert set(arrays) == {"centres"}


def test_classes_are_not_compared_by_their_distance() -> None:
    classes = [np.array([[0.0, 20.0, 3.0]])]
    assert tolerance_for(classes, integer=True, categorical=True).max_abs == 20.0
    assert tolerance_for(classes, integer=True).max_abs < 20.0
    assert names_classes(SegmentPost())
    assert names_classes(DetectPost())
    assert not names_classes(SegmentPost(layout="nhwc"))
    assert not names_classes(DetectPost("yolov8"))
    assert not names_classes(ClassifyPost())


def test_a_keyword_model_is_measured_as_a_classifier(
    make_model: Callable[..., Path], samples: Path, tmp_path: Path
) -> None:
    output = tmp_path / "x.edgepkg"
    quantize_model(
        [make_model()],
        data=samples,
        task="classification",
        name="x",
        version="1.0.0",
        output=output,
        max_drop=100.0,
        postprocess="kind=keywords,average=4",
    )
    with PackageFile(output) as package:
        assert package.manifest.postprocess == KeywordsPost(average=4, activation="softmax")
