"""Detectors of every layout: objects that are known, encoded apart, run through the real engine and decoded."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from detector_outputs import FORMATS, Object, constant_model, encode
from edgeinfer.runtime.engines import load_engine
from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.manifest import DetectPost, SsdAnchors, TensorSpec
from edgeinfer.runtime.postprocess import compile_postprocess
from edgeinfer.runtime.postprocess.anchors import ssd_anchors
from edgeinfer.runtime.preprocess import Region
from edgeinfer.runtime.results import Item
from ssd_models import without_postprocess

Array = npt.NDArray[Any]
WHOLE = Region(0.0, 0.0, 1.0, 1.0)
NONE = np.zeros((1, 1), dtype=np.float32)
HEIGHT, WIDTH, CLASSES = 192, 320, 6
PICTURE = TensorSpec("x", (1, 3, HEIGHT, WIDTH), "float32")
OBJECTS = [
    Object(0, 0.95, (0.10, 0.20, 0.35, 0.80)),
    Object(5, 0.90, (0.60, 0.10, 0.95, 0.55)),
    Object(2, 0.80, (0.42, 0.65, 0.52, 0.85)),
    Object(2, 0.70, (0.70, 0.70, 0.78, 0.81)),
]
DECLARED: dict[str, DetectPost] = {
    "yolov5": DetectPost("yolov5"),
    "yolov8": DetectPost("yolov8"),
    "yolov10": DetectPost("yolov10"),
    "yolo_dfl": DetectPost("yolo_dfl"),
    "yolo_dfl_last": DetectPost("yolo_dfl"),
    "yolo_dfl_apart": DetectPost("yolo_dfl"),
    "nanodet": DetectPost("nanodet", bins=8),
    "nanodet_plus": DetectPost("nanodet", bins=8, shift=0.0, strides=(8, 16, 32, 64)),
}


def spec_of(output: Array) -> TensorSpec:
    return TensorSpec("y", output.shape, output.dtype.name)


def decode(declared: DetectPost, outputs: list[Array], **arrays: Array) -> tuple[Item, ...]:
    specs = [spec_of(output) for output in outputs]
    return compile_postprocess(declared, model_input=PICTURE, outputs=specs, arrays=arrays)(NONE, outputs, WHOLE)


def check(found: tuple[Item, ...], *, within: float = 1e-4) -> None:
    assert [item.label for item in found] == [thing.label for thing in OBJECTS]
    for item, thing in zip(found, OBJECTS, strict=True):
        assert item.score == pytest.approx(thing.score, abs=max(1e-3, within))
        assert item.box == pytest.approx(thing.box, abs=within)


@pytest.mark.parametrize("form", FORMATS)
def test_known_objects_through_the_engine(tmp_path: Path, form: str) -> None:
    outputs = encode(form, OBJECTS, height=HEIGHT, width=WIDTH, classes=CLASSES)
    engine = load_engine("onnx", constant_model(tmp_path / "m.onnx", outputs, input_shape=PICTURE.shape))
    read = compile_postprocess(DECLARED[form], model_input=engine.inputs[0], outputs=engine.outputs)
    picture = np.zeros(PICTURE.shape, dtype=np.float32)
    check(read(picture, engine.run([picture]), WHOLE))
    engine.close()


@pytest.mark.parametrize(("form", "generic"), [("yolov5", "yolo"), ("yolov8", "yolo")])
def test_the_layout_follows_from_the_shape(form: str, generic: str) -> None:
    outputs = encode(form, OBJECTS, height=HEIGHT, width=WIDTH, classes=CLASSES)
    assert decode(msgspec.structs.replace(DECLARED[form], format=generic), list(outputs)) == decode(
        DECLARED[form], list(outputs)
    )


@pytest.mark.parametrize("form", ["yolov5", "yolov8", "yolov10"])
@pytest.mark.parametrize("coordinates", ["auto", "unit"])
def test_boxes_in_0_to_1(form: str, coordinates: str) -> None:
    """As TFLite exports have them."""
    outputs = encode(form, OBJECTS, height=1, width=1, classes=CLASSES)
    check(decode(msgspec.structs.replace(DECLARED[form], coordinates=coordinates), list(outputs)))


@pytest.mark.parametrize("form", ["yolov8", "yolov5", "nanodet", "yolo_dfl"])
def test_quantized_outputs(form: str) -> None:
    outputs, specs = [], []
    for output in encode(form, OBJECTS, height=HEIGHT, width=WIDTH, classes=CLASSES):
        low, high = float(output.min()), float(output.max())
        scale = (high - low) / 65_000
        zero_point = round(-low / scale) - 32_500
        outputs.append(np.rint(output / scale + zero_point).clip(-32_768, 32_767).astype(np.int16))
        specs.append(TensorSpec("y", output.shape, "int16", scale, zero_point))
    read = compile_postprocess(DECLARED[form], model_input=PICTURE, outputs=specs)
    check(read(NONE, outputs, WHOLE), within=5e-3)


def test_objectness_alone_is_no_object() -> None:
    outputs = encode("yolov5", OBJECTS, height=HEIGHT, width=WIDTH, classes=CLASSES)
    outputs[0][0, 0, 5:] = 0.1
    assert [item.label for item in decode(DECLARED["yolov5"], list(outputs))] == [5, 2, 2]


def test_heads_in_any_order() -> None:
    outputs = encode("yolo_dfl_apart", OBJECTS, height=HEIGHT, width=WIDTH, classes=CLASSES)
    check(decode(DECLARED["yolo_dfl"], [outputs[i] for i in (5, 0, 3, 4, 1, 2)]))


class TestSeparateBoxes:
    def outputs(self) -> tuple[Array, Array]:
        boxes, scores = np.zeros((1, 8, 4), dtype=np.float32), np.zeros((1, 8, CLASSES + 1), dtype=np.float32)
        scores[..., 0] = 0.99
        for place, thing in enumerate(OBJECTS):
            boxes[0, place], scores[0, place, 0] = thing.box, 0.0
            scores[0, place, 1 + thing.label] = thing.score
        return boxes, scores

    def test_in_either_order_with_a_background(self) -> None:
        boxes, scores = self.outputs()
        check(decode(DetectPost("boxes"), [boxes, scores]))
        check(decode(DetectPost("boxes"), [scores, boxes]))

    def test_without_a_background_and_in_pixels(self) -> None:
        boxes, scores = self.outputs()
        pixels = (boxes * (WIDTH, HEIGHT, WIDTH, HEIGHT)).astype(np.float32)
        check(decode(DetectPost("boxes", background=False), [pixels, scores[..., 1:]]))

    @pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
    def test_logits(self, activation: str) -> None:
        boxes, scores = self.outputs()
        probable = scores.clip(1e-6, 1 - 1e-6)
        if activation == "softmax":
            probable[0, : len(OBJECTS), 0] = [1 - thing.score for thing in OBJECTS]
            probable[0, len(OBJECTS) :, 0] = 1.0
        logits = np.log(probable if activation == "softmax" else probable / (1 - probable)).astype(np.float32)
        post = msgspec.structs.replace(DetectPost("boxes"), activation=activation)
        check(decode(post, [boxes, logits]))

    def test_four_classes_look_like_boxes(self) -> None:
        boxes, scores = self.outputs()
        few = np.ascontiguousarray(scores[..., :4])
        specs = [TensorSpec("scores", few.shape, "float32"), TensorSpec("boxes", boxes.shape, "float32")]
        read = compile_postprocess(DetectPost("boxes"), model_input=PICTURE, outputs=specs)
        assert [item.label for item in read(NONE, [few, boxes], WHOLE)] == [0, 2, 2]


class TestAnchors:
    def test_the_recipe_of_ssd_mobilenet(self) -> None:
        anchors = ssd_anchors(SsdAnchors(), height=300, width=300)
        assert anchors.shape == (1917, 4)
        # Written down from the recipe: the first cell of 19 x 19, the first of 10 x 10, and the last box of all.
        assert anchors[0] == pytest.approx([0.5 / 19, 0.5 / 19, 0.1, 0.1])
        assert anchors[1] == pytest.approx([0.5 / 19, 0.5 / 19, 0.2 / 2**0.5, 0.2 * 2**0.5])
        assert anchors[3] == pytest.approx([0.5 / 19, 1.5 / 19, 0.1, 0.1])
        assert anchors[19 * 19 * 3] == pytest.approx([0.05, 0.05, 0.35, 0.35])
        assert anchors[19 * 19 * 3 + 5] == pytest.approx([0.05, 0.05, (0.35 * 0.5) ** 0.5, (0.35 * 0.5) ** 0.5])
        assert anchors[-1] == pytest.approx([0.5, 0.5, 0.95**0.5, 0.95**0.5])

    def test_a_box_that_is_not_square_in_an_input_that_is_not(self) -> None:
        anchors = ssd_anchors(SsdAnchors(layers=2), height=320, width=640)
        sizes = anchors[:, 2:] * (320, 640)
        assert sizes[0, 0] == pytest.approx(sizes[0, 1])
        assert len(anchors) == 20 * 40 * 3 + 10 * 20 * 6

    def test_encoded_boxes_come_back(self) -> None:
        """Encoded as the box coder of TensorFlow does."""
        anchors = ssd_anchors(SsdAnchors(), height=HEIGHT, width=WIDTH)
        encoded = np.zeros((1, len(anchors), 4), dtype=np.float32)
        scores = np.zeros((1, len(anchors), CLASSES + 1), dtype=np.float32)
        for thing in OBJECTS:
            x1, y1, x2, y2 = thing.box
            y, x, height, width = (y1 + y2) / 2, (x1 + x2) / 2, y2 - y1, x2 - x1
            place = int(np.abs(anchors - (y, x, height, width)).sum(axis=1).argmin())
            at = anchors[place]
            encoded[0, place] = (
                (y - at[0]) / at[2] * 10,
                (x - at[1]) / at[3] * 10,
                np.log(height / at[2]) * 5,
                np.log(width / at[3]) * 5,
            )
            scores[0, place, 1 + thing.label] = thing.score
        check(decode(DetectPost("ssd"), [encoded, scores]))
        check(decode(DetectPost("ssd"), [scores, encoded], anchors=anchors))

    @pytest.mark.parametrize("anchors", [np.zeros((3, 4)), np.zeros((5, 3)), np.full((5, 4), np.nan)])
    def test_anchors_that_do_not_fit_are_refused(self, anchors: Array) -> None:
        with pytest.raises(ModelError, match="anchor"):
            decode(
                DetectPost("ssd"), [np.zeros((1, 5, 4), np.float32), np.zeros((1, 5, 3), np.float32)], anchors=anchors
            )


@pytest.mark.data
def test_ssd_without_its_operator_finds_what_the_operator_finds(data_dir: Path, tmp_path: Path) -> None:
    """The operator suppresses over all classes at 0.6 and gives ten boxes; scores near none are in, too."""
    import cv2

    model = data_dir / "models" / "ssd_mobilenet_v1_coco_quant.tflite"
    anchors = without_postprocess(model, tmp_path / "raw.tflite")
    whole, raw = load_engine("litert", model), load_engine("litert", tmp_path / "raw.tflite")
    assert [spec.shape for spec in raw.outputs] == [(1, 1917, 4), (1, 1917, 91)]
    finished = compile_postprocess(DetectPost(score_threshold=0.1), model_input=whole.inputs[0], outputs=whole.outputs)
    post = DetectPost("ssd", score_threshold=0.1, nms_iou=0.6, max_boxes=10, class_agnostic=True)
    decoded = compile_postprocess(post, model_input=raw.inputs[0], outputs=raw.outputs, arrays={"anchors": anchors})
    compared = 0
    for picture in sorted((data_dir / "images" / "coco").glob("*.jpg")):
        read = cv2.imread(str(picture))
        assert read is not None
        shown = cv2.resize(cv2.cvtColor(read, cv2.COLOR_BGR2RGB), (300, 300))[None]
        wanted = finished(shown, whole.run([shown]), WHOLE)
        found = decoded(shown, raw.run([shown]), WHOLE)
        assert [(item.label, item.score) for item in found] == [(item.label, item.score) for item in wanted]
        for ours, theirs in zip(found, wanted, strict=True):
            assert ours.box == pytest.approx(theirs.box, abs=1e-6)
        compared += len(wanted)
    assert compared > 60
    # The model's own anchors are those of the recipe, in steps of 1/155.
    assert np.abs(ssd_anchors(SsdAnchors(), height=300, width=300) - anchors).max() < 0.5 * 0.0065


class TestFinishedSsd:
    def test_the_order_of_tensorflow_2(self) -> None:
        boxes = np.array([[[0.2, 0.1, 0.6, 0.5]]], dtype=np.float32)
        outputs = [np.array([[0.9]], np.float32), boxes, np.array([1], np.float32), np.array([[4]], np.float32)]
        (item,) = decode(DetectPost(), outputs)
        assert item.label == 4
        assert item.box == pytest.approx((0.1, 0.2, 0.5, 0.6))

    @pytest.mark.parametrize("count", [float("nan"), float("inf"), -5.0, 1e30])
    def test_a_count_that_lies(self, count: float) -> None:
        boxes = np.array([[[0.2, 0.1, 0.6, 0.5]]], dtype=np.float32)
        outputs = [boxes, np.array([[4]], np.float32), np.array([[0.9]], np.float32), np.array([count], np.float32)]
        assert len(decode(DetectPost(), outputs)) == (1 if count > 1 else 0)

    @pytest.mark.parametrize("label", [float("nan"), float("inf"), -1.0, 1e30])
    def test_a_class_that_is_none(self, label: float) -> None:
        boxes = np.array([[[0.2, 0.1, 0.6, 0.5]]], dtype=np.float32)
        outputs = [boxes, np.array([[label]], np.float32), np.array([[0.9]], np.float32), np.array([1], np.float32)]
        assert decode(DetectPost(), outputs) == ()


@pytest.mark.parametrize(
    ("declared", "shapes", "said"),
    [
        (DetectPost("yolov5"), [(1, 100, 5)], "more than 5 terms"),
        (DetectPost("yolov8"), [(1, 4, 100)], "more than 4 terms"),
        (DetectPost("yolov8"), [(1, 84, 100), (1, 32, 40, 40)], "expected one output"),
        (DetectPost("yolov10"), [(1, 300, 7)], "x1 y1 x2 y2 score class"),
        (DetectPost("nanodet", bins=8), [(1, 999, 112)], "strides and bins"),
        (DetectPost("nanodet", bins=8), [(1, 1260, 32)], "strides and bins"),
        (DetectPost("nanodet", strides=()), [(1, 1260, 112)], "at least one stride"),
        (DetectPost("yolo_dfl"), [(1, 144, 24, 40), (1, 144, 12, 20)], "a grid of 6 x 10"),
        (DetectPost("yolo_dfl"), [(1, 64, 24, 40), (1, 144, 12, 20), (1, 144, 6, 10)], "a grid of 24 x 40"),
        (DetectPost("ssd"), [(1, 100, 4)], "two outputs"),
        (DetectPost("boxes"), [(1, 100, 4), (1, 99, 2)], "as many boxes"),
        (DetectPost("boxes"), [(1, 100, 5), (1, 100, 2)], "two outputs"),
        (DetectPost(), [(1, 10, 5), (1, 10), (1, 10), (1,)], "a count"),
    ],
)
def test_other_outputs_are_refused_when_the_model_is_loaded(
    declared: DetectPost, shapes: list[tuple[int, ...]], said: str
) -> None:
    specs = [TensorSpec("y", shape, "float32") for shape in shapes]
    with pytest.raises(ModelError) as caught:
        compile_postprocess(declared, model_input=PICTURE, outputs=specs)
    assert said in f"{caught.value.message} {caught.value.hint.replace('are ', '')}"


def test_a_detector_of_no_picture_is_refused() -> None:
    with pytest.raises(ModelError, match="a model of pictures"):
        compile_postprocess(
            DetectPost("yolov8"),
            model_input=TensorSpec("x", (1, 640), "float32"),
            outputs=[TensorSpec("y", (1, 84, 100), "float32")],
        )
