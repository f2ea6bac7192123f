"""Every task from a model file to what a person sees: `package create`, `run`, `results`, on real models and data."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from detector_outputs import FORMATS, Object, constant_model, encode
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.manifest import ImagePre, RawPost, SegmentPost, SsdAnchors, WindowPre
from edgeinfer.runtime.model import LoadedModel
from edgeinfer.runtime.postprocess.segment import Segment
from edgeinfer.runtime.results import Item, Kind
from edgeinfer.runtime.store import Store
from packages import identity_model, make_package
from packed_runs import PackedRun, edgeinfer, linear_window_model
from ssd_models import without_postprocess

Array = npt.NDArray[Any]


@pytest.fixture
def run(tmp_path: Path) -> PackedRun:
    return PackedRun(tmp_path)


@pytest.mark.data
def test_keypoints(run: PackedRun, data_dir: Path) -> None:
    """Measured apart on the same picture: 0.0145 away from the reference on average, 0.0303 at most."""
    labels = run.folder / "points.txt"
    labels.write_text("".join(f"point {number}\n" for number in range(17)))
    package = run.pack(data_dir / "models" / "movenet_lightning_ptq.tflite", "keypoints", "--labels", str(labels))
    (result,) = run.results(package, run.pictures(data_dir / "images" / "squat.png"))
    with (data_dir / "images" / "squat_movenet_reference.csv").open() as file:
        wanted = np.array([(float(row["keypoint_x"]), float(row["keypoint_y"])) for row in csv.DictReader(file)])
    assert (result.kind, len(result.items)) == (Kind.KEYPOINTS, 17)
    found = np.array([item.box for item in result.items])
    assert (found[:, :2] == found[:, 2:]).all()
    away = np.linalg.norm(found[:, :2] - wanted, axis=1)
    assert away.mean() == pytest.approx(0.0145, abs=0.001)
    assert away.max() < 0.04
    (line,) = [line for line in run.shown() if " keypoints " in line]
    assert f"point 0:{result.items[0].score:.3f}@{found[0, 0]:.3f},{found[0, 1]:.3f} " in line


@pytest.mark.data
def test_segmentation(run: PackedRun, data_dir: Path) -> None:
    """Measured apart: 0.9606 of the pixels right, and 0.8188 of the bird."""
    import cv2

    model, picture = data_dir / "models" / "deeplabv3_mnv2_dm05_pascal_quant.tflite", data_dir / "images"
    package = run.pack(
        model, "segmentation", "--labels", str(data_dir / "labels" / "pascal_voc_segmentation_labels.txt")
    )
    (result,) = run.results(package, run.pictures(picture / "bird_segmentation.png"))
    assert result.kind is Kind.SEGMENTATION
    bird = result.items[0]
    loaded = LoadedModel(Store(run.folder / "other").install(package))
    shown, truth = (
        cv2.imread(str(picture / name), -1) for name in ("bird_segmentation.png", "bird_segmentation_mask.png")
    )
    assert shown is not None
    assert truth is not None
    prepared = loaded.prepare(Frame(shown, 0, 0, 0))
    outputs = loaded.infer(prepared).outputs
    mask = Segment(SegmentPost(), loaded.variant.outputs).mask(
        outputs, prepared.region, (truth.shape[0], truth.shape[1])
    )
    assert np.mean(mask == truth) == pytest.approx(0.9606, abs=0.002)
    overlap = np.sum((mask == 3) & (truth == 3)) / np.sum((mask == 3) | (truth == 3))
    assert overlap == pytest.approx(0.8188, abs=0.005)
    assert bird.label == 3
    assert bird.score == pytest.approx(np.mean(mask == 3), abs=1e-3)
    assert bird.box is not None
    rows, columns = np.nonzero(mask == 3)
    height, width = mask.shape
    around = (columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height)
    assert bird.box == pytest.approx(around, abs=0.01)
    assert f" segmentation frame=0 latency_us={result.latency_us} bird:{bird.score:.3f}" in run.shown()[0]


@pytest.mark.data
def test_faces(run: PackedRun, data_dir: Path) -> None:
    faces = data_dir / "images" / "faces"
    measured = json.loads((faces / "measured.json").read_text())
    package = run.pack(
        data_dir / "models" / "face_rfb_320.onnx",
        "detection",
        *("--preprocess", "kind=image,mean=127,std=128"),
        *("--postprocess", "format=boxes,coordinates=unit,score_threshold=0.7,nms_iou=0.3"),
    )
    found = run.results(package, f'kind = "images"\npath = "{faces}"')
    assert [len(result.items) for result in found] == [len(measured[name]["rfb320"]) for name in sorted(measured)]
    assert {item.label for result in found for item in result.items} == {0}


def away(item: Item, other: Item) -> float:
    """How far the sides of two boxes are apart at most."""
    return float(np.abs(np.array(item.box) - np.array(other.box)).max())


@pytest.mark.data
def test_ssd_without_its_operator(run: PackedRun, data_dir: Path) -> None:
    """Over the pictures of COCO the same boxes as with the operator, and with anchors by the recipe nearly the same."""
    whole = data_dir / "models" / "ssd_mobilenet_v1_coco_quant.tflite"
    anchors = without_postprocess(whole, run.folder / "raw.tflite")
    np.savez(run.folder / "anchors.npz", anchors=anchors)
    source = f'kind = "images"\npath = "{data_dir}/images/coco"'
    shown = "kind=image,interpolation=area,mean=128,std=128"
    like_the_operator = "format=ssd,nms_iou=0.6,class_agnostic=true,max_boxes=10"
    found: dict[str, list[tuple[Item, ...]]] = {}
    for name, model, spec in (
        ("operator", whole, "format=tflite_ssd"),
        ("arrays", run.folder / "raw.tflite", f"{like_the_operator},arrays={run.folder}/anchors.npz"),
        ("recipe", run.folder / "raw.tflite", like_the_operator),
    ):
        (run.folder / name).mkdir()
        inner = PackedRun(run.folder / name)
        package = inner.pack(model, "detection", "--preprocess", shown, "--postprocess", spec)
        found[name] = [result.items for result in inner.results(package, source)]
    assert sum(map(len, found["operator"])) == pytest.approx(36, abs=2)
    assert found["arrays"] == found["operator"]
    matched = sum(
        any(other.label == item.label and away(other, item) < 0.02 for other in theirs)
        for items, theirs in zip(found["recipe"], found["operator"], strict=True)
        for item in items
    )
    assert matched >= 0.95 * sum(map(len, found["operator"]))


@pytest.mark.parametrize("form", FORMATS)
def test_yolo_and_nanodet(run: PackedRun, form: str) -> None:
    """A model that always says the same, over a picture that is letterboxed into its input."""
    import cv2

    objects = [Object(2, 0.9, (0.1, 0.3, 0.4, 0.7)), Object(0, 0.8, (0.5, 0.4, 0.9, 0.6))]
    outputs = encode(form, objects, height=320, width=320, classes=3)
    model = constant_model(run.folder / "m.onnx", outputs, input_shape=(1, 3, 320, 320))
    declared = {
        "yolov5": "format=yolov5",
        "yolov8": "score_threshold=0.5",  # the layout follows from the shape
        "yolov10": "score_threshold=0.5",
        "nanodet": "format=nanodet",
        "nanodet_plus": "format=nanodet,shift=0,strides=8,16,32,64",
    }.get(form, "format=yolo_dfl")
    package = run.pack(
        model, "detection", "--preprocess", "kind=image,resize=letterbox,std=255", "--postprocess", declared
    )
    (run.folder / "pictures").mkdir()
    cv2.imwrite(str(run.folder / "pictures" / "a.png"), np.zeros((200, 400, 3), np.uint8))
    (result,) = run.results(package, f'kind = "images"\npath = "{run.folder}/pictures"')
    # The picture is the middle half of the input.
    for item, thing in zip(result.items, objects, strict=True):
        x1, y1, x2, y2 = thing.box
        assert item.label == thing.label
        assert item.box == pytest.approx((x1, (y1 - 0.25) * 2, x2, (y2 - 0.25) * 2), abs=1e-3)


@pytest.mark.data
def test_keywords(run: PackedRun, data_dir: Path) -> None:
    """Words of four frames between silences: each is reported once, where the model knows it."""
    silence, unknown = 10, 11
    with (
        np.load(data_dir / "tiny" / "kws_samples.npz") as samples,
        np.load(data_dir / "tiny" / "expected_outputs.npz") as expected,
    ):
        x, y = samples["x"].astype(np.float32), samples["y"]
        answers = expected["kws.onnx|onnxruntime 1.31.1"].argmax(axis=1)
    x = (x - 83) * np.float32(0.5847029089927673)
    quiet = x[(answers == silence) & (y == silence)][0]
    spoken = np.flatnonzero(y < silence)[::10][:30]
    frames = [quiet] * 8
    for place in spoken:
        frames += [x[place]] * 4 + [quiet] * 12
    package = run.pack(
        data_dir / "tiny" / "kws.onnx",
        "classification",
        *("--preprocess", "kind=tensor"),
        *("--postprocess", f"kind=keywords,average=4,min_count=2,threshold=0.6,suppress=4,quiet={silence},{unknown}"),
    )
    found = run.results(package, run.tensors(np.stack(frames)))
    assert {result.kind for result in found} == {Kind.CLASSIFICATION}
    said = [(result.frame, item.label) for result in found for item in result.items]
    # In each word's own frames, or in the four behind them that its average reaches into.
    per_word = [[label for at, label in said if 8 + 16 * n <= at < 16 + 16 * n] for n in range(len(spoken))]
    assert sum(map(len, per_word)) == len(said)
    assert all(len(labels) <= 1 for labels in per_word)
    known = [n for n, place in enumerate(spoken) if answers[place] == y[place]]
    assert len(known) > 20
    right = sum(per_word[n] == [y[spoken[n]]] for n in known)
    assert right >= 0.9 * len(known)


@pytest.mark.data
@pytest.mark.parametrize(("model", "worst"), [("hello_world_float", 0.039), ("hello_world_int8", 0.113)])
def test_regression(run: PackedRun, data_dir: Path, model: str, worst: float) -> None:
    """sin(x) in percent: largest errors measured apart, 0.039 and 0.113."""
    x = np.linspace(0, 6.28, 50, dtype=np.float32)
    spec = "scale=100,offset=0.5,unit=%"
    package = run.pack(
        data_dir / "models" / f"{model}.tflite", "regression", "--preprocess", "kind=tensor", "--postprocess", spec
    )
    found = run.results(package, run.tensors(x[:, None]))
    errors = [abs((result.items[0].score - 0.5) / 100 - np.sin(value)) for result, value in zip(found, x, strict=True)]
    assert max(errors) == pytest.approx(worst, abs=0.001)
    assert f" regression frame=0 latency_us={found[0].latency_us} 0:{found[0].items[0].score:.5g}%" in run.shown()[0]
    assert {document["unit"] for document in run.documents() if document["result"]["kind"] == "regression"} == {"%"}


def test_columns_are_the_channels_that_the_package_names(run: PackedRun) -> None:
    package = run.folder / "p.edgepkg"
    model = identity_model(run.folder / "m.onnx", features=2)
    make_package(package, model, name="m", pre=WindowPre(1, channels=("b", "a")), post=RawPost())
    (run.folder / "s.csv").write_text("a,b,other\n1,2,9\n3,4,9\n")
    found = run.results(package, f'kind = "csv"\npath = "{run.folder}/s.csv"')
    assert [[item.score for item in result.items] for result in found] == [[2, 1], [4, 3]]


@pytest.mark.data
@pytest.mark.parametrize("task", ["embedding", "raw"])
def test_values_as_they_are(run: PackedRun, data_dir: Path, task: str) -> None:
    """The outputs of a small network, against ONNX Runtime itself."""
    import cv2
    import onnxruntime as ort

    pictures = sorted((data_dir / "images" / "mnist").glob("*.png"))
    digits = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in pictures]
    x = np.stack([digit.astype(np.float32)[None] for digit in digits if digit is not None])
    session = ort.InferenceSession(str(data_dir / "models" / "mnist.onnx"), providers=["CPUExecutionProvider"])
    wanted = np.concatenate([session.run(None, {"Input3": row[None]})[0] for row in x])
    spec = "normalize=true" if task == "embedding" else "max_values=7"
    package = run.pack(data_dir / "models" / "mnist.onnx", task, "--preprocess", "kind=tensor", "--postprocess", spec)
    found = run.results(package, run.tensors(x))
    scores = np.array([[item.score for item in result.items] for result in found])
    if task == "embedding":
        wanted = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
    assert scores == pytest.approx(wanted[:, : scores.shape[1]], rel=1e-4, abs=1e-4)
    assert scores.shape == (10, 10 if task == "embedding" else 7)
    assert {result.kind for result in found} == {Kind[task.upper()]}


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        ("keypoints", (), "(1, points, 3)"),
        ("segmentation", ("--postprocess", "layout=nhwc"), "for the layout"),
        ("anomaly", ("--postprocess", "kind=forecast"), "expected a threshold"),
        ("anomaly", ("--postprocess", "kind=distance,threshold=1"), "expected the centres"),
        ("anomaly", ("--postprocess", "kind=distance,threshold=1,arrays=none.npz"), "no such file of arrays"),
        ("anomaly", ("--postprocess", "kind=keypoints"), "expected kind anomaly or forecast or distance"),
        ("detection", (), "known output format"),
        ("regression", ("--postprocess", "scale=1,2"), "1 or 8 numbers for scale"),
        ("embedding", ("--postprocess", "output=2"), "output"),
    ],
)
def test_a_declaration_that_does_not_fit_is_refused(
    run: PackedRun, task: str, options: tuple[str, ...], said: str
) -> None:
    model = linear_window_model(run.folder / "m.onnx", np.eye(8), np.zeros(8), shape=(8,))
    named = ("--name", "x", "--version", "1.0.0", "--task", task, "-o", str(run.folder / "x.edgepkg"))
    assert said in edgeinfer("package", "create", str(model), *named, *options, status=2)
    assert not (run.folder / "x.edgepkg").exists()


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        ("anomaly", ("--postprocess", "kind=forecast,threshold=1"), "candidates cannot be measured"),
        ("anomaly", ("--postprocess", "kind=distance"), "candidates cannot be measured"),
    ],
)
def test_what_cannot_be_measured_is_not_quantized(
    run: PackedRun, task: str, options: tuple[str, ...], said: str
) -> None:
    model = linear_window_model(run.folder / "m.onnx", np.eye(8), np.zeros(8), shape=(8,))
    np.savez(run.folder / "x.npz", x=np.random.default_rng(0).random((20, 8)), y=np.arange(20) % 2)
    named = ("--name", "x", "--version", "1.0.0", "--task", task, "-o", str(run.folder / "x.edgepkg"))
    text = edgeinfer("quantize", str(model), "--data", str(run.folder / "x.npz"), *named, *options, status=2)
    assert said in text
    assert "package create" in text


def test_a_package_whose_arrays_are_missing_is_refused_when_it_is_loaded(run: PackedRun) -> None:
    """A recipe that does not give as many anchors as the model has boxes: found at load, before any frame."""
    from edgeinfer.runtime.errors import ModelError
    from edgeinfer.runtime.manifest import DetectPost

    outputs = [np.zeros((1, 50, 4), np.float32), np.zeros((1, 50, 3), np.float32)]
    model = constant_model(run.folder / "m.onnx", outputs, input_shape=(1, 3, 64, 64))
    post = DetectPost("ssd", anchors=SsdAnchors(layers=2))
    make_package(run.folder / "p.edgepkg", model, name="x", pre=ImagePre(64, 64, layout="nchw"), post=post)
    with pytest.raises(ModelError, match="an anchor for each of 50 boxes"):
        LoadedModel(Store(run.folder / "state").install(run.folder / "p.edgepkg"))
