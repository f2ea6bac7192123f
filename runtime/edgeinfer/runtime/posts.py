"""What follows the model, as a package's manifest declares it: one struct a way of reading outputs.

`edgeinfer.runtime.manifest` gives these names out; `edgeinfer.runtime.postprocess` compiles them. Where a declaration
names an `output`, it is its place among the model's outputs, from 0.
"""

from typing import Annotated, Literal

import msgspec

__all__ = [
    "AnomalyPost",
    "ClassifyPost",
    "DetectPost",
    "DistancePost",
    "EmbedPost",
    "ForecastPost",
    "KeypointsPost",
    "KeywordsPost",
    "Postprocess",
    "RawPost",
    "RegressPost",
    "SegmentPost",
    "SsdAnchors",
    "Task",
]

Task = Literal[
    "classification", "detection", "anomaly", "keypoints", "segmentation", "embedding", "regression", "raw"
]  # fmt: skip
Output = Annotated[int, msgspec.Meta(ge=0, le=1000)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1000)]
Frames = Annotated[int, msgspec.Meta(ge=1, le=10_000)]
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Positive = Annotated[float, msgspec.Meta(gt=0.0, le=1e6)]
Activation = Literal["none", "sigmoid", "softmax"]


class ClassifyPost(msgspec.Struct, frozen=True, tag="classification", tag_field="kind", omit_defaults=True):
    """Scores (classes,) of output `output`; `softmax` applies it first. The best `top_k` are reported."""

    output: Output = 0
    activation: Literal["none", "softmax"] = "none"
    top_k: Count = 3


class KeywordsPost(msgspec.Struct, frozen=True, tag="keywords", tag_field="kind", omit_defaults=True):
    """Keywords in a stream: a word is reported once, in the frame that it is recognised in.

    The scores of the last `average` frames are averaged; with fewer than `min_count` of them nothing is said. The
    best class is recognised where its mean is above `threshold`, where it is not the one recognised last, and where
    more than `suppress` frames have passed since that one. Classes in `quiet` (silence, unknown words) are recognised
    like others, but never reported, and suppress nothing after them.

    The defaults are those of the published recipe, at ten frames a second: one second, 1.5 seconds, 200 of 255.
    """

    output: Output = 0
    activation: Literal["none", "softmax"] = "none"
    average: Count = 10
    min_count: Count = 3
    threshold: Share = 200 / 255
    suppress: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 15
    quiet: Annotated[tuple[int, ...], msgspec.Meta(max_length=1000)] = ()

    def __post_init__(self) -> None:
        if self.min_count > self.average:
            raise ValueError(f"min_count: expected at most average, which is {self.average}, found {self.min_count}")


class SsdAnchors(msgspec.Struct, frozen=True, omit_defaults=True):
    """The default boxes of an SSD, by the recipe of TensorFlow's Object Detection API (`create_ssd_anchors`).

    `layers` grids, the first of ceil(input / `first_stride`) cells a side, each further one half of that before it,
    rounded up. Scales rise in equal steps from `min_scale` to `max_scale`. `reduced`: the first grid has three boxes
    a cell, of which the smallest has the scale 0.1.
    """

    layers: Annotated[int, msgspec.Meta(ge=2, le=16)] = 6
    first_stride: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 16
    min_scale: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 0.2
    max_scale: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 0.95
    aspect_ratios: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=1, max_length=16)] = (
        1.0, 2.0, 1.0 / 2.0, 3.0, 1.0 / 3.0,
    )  # fmt: skip
    reduced: bool = True


class DetectPost(msgspec.Struct, frozen=True, tag="detection", tag_field="kind", omit_defaults=True):
    """Boxes above `score_threshold`, after non-maximum suppression at IoU `nms_iou` where the model has none.

    `tflite_ssd`: outputs boxes (1, n, 4) ymin xmin ymax xmax, classes, scores, count.
    `ssd`: box encodings (1, n, 4) and class scores (1, n, classes), in either order, over anchors: those of the
    package's arrays under the name `anchors`, (n, 4) centre y, centre x, height, width in 0..1, else by `anchors`.
    `boxes`: boxes (1, n, 4) x1 y1 x2 y2 and class scores (1, n, classes), in either order.
    `fastestdet`: one output (1, 5 + classes, rows, columns): objectness, 4 box terms, class scores.
    `yolov5`: one output (1, n, 5 + classes): cx cy w h, objectness, class scores. Versions 5 to 7.
    `yolov8`: one output (1, 4 + classes, n): cx cy w h, class scores. Versions 8, 9, 11 and later.
    `yolo`: one of these two, told apart by which of the two axes is the longer one.
    `yolov10`: one output (1, n, 6): x1 y1 x2 y2, score, class; suppressed by the model.
    `yolo_dfl`: the heads before decoding, a grid a stride: (1, 4 * bins + classes, rows, columns) or two outputs with
    these channels apart, or channels last; sides are distributions over bins, classes are logits.
    `nanodet`: one output (1, n, classes + 4 * bins), the grids one after the other.

    `label_offset` is added to the class index before it is looked up in the labels. `class_agnostic`: boxes of other
    classes are suppressed, too. `activation` makes scores of class outputs (`ssd`, `boxes`, `yolov8`). `background`:
    the first class is none, and is not counted (`ssd`, `boxes`). `coordinates`: of `boxes`, `yolov5`, `yolov8` and
    `yolov10`, in 0..1 or in pixels of the input; `auto` takes what is beyond 2 for pixels. `strides`, `bins` and
    `shift` (where in its cell a box is measured from; NanoDet-Plus has 0) are those of `yolo_dfl` and `nanodet`;
    `scales` (y, x, height, width) of `ssd`.
    """

    format: Literal[
        "tflite_ssd", "ssd", "boxes", "fastestdet", "yolo", "yolov5", "yolov8", "yolov10", "yolo_dfl", "nanodet"
    ] = "tflite_ssd"
    score_threshold: float = 0.5
    nms_iou: float = 0.45
    max_boxes: Count = 100
    label_offset: int = 0
    class_agnostic: bool = False
    activation: Activation = "none"
    background: bool = True
    coordinates: Literal["auto", "unit", "pixels"] = "auto"
    strides: Annotated[tuple[Annotated[int, msgspec.Meta(ge=1, le=1024)], ...], msgspec.Meta(max_length=8)] = (
        8, 16, 32,
    )  # fmt: skip
    bins: Annotated[int, msgspec.Meta(ge=2, le=64)] = 16
    shift: Share = 0.5
    scales: tuple[Positive, Positive, Positive, Positive] = (10.0, 10.0, 5.0, 5.0)
    anchors: SsdAnchors = SsdAnchors()


class KeypointsPost(msgspec.Struct, frozen=True, tag="keypoints", tag_field="kind", omit_defaults=True):
    """One point a keypoint: an output whose last axis is (y, x, score) or, by `order`, (x, y, score).

    `coordinates`: in 0..1 or in pixels of the input. Points with a score below `score_threshold` are left out.
    """

    output: Output = 0
    order: Literal["yx", "xy"] = "yx"
    coordinates: Literal["unit", "pixels"] = "unit"
    score_threshold: float = 0.0


class SegmentPost(msgspec.Struct, frozen=True, tag="segmentation", tag_field="kind", omit_defaults=True):
    """The classes that a picture holds, from one class index a cell, or from a score a class and cell.

    `layout`: `map` is (1, rows, columns) of class indices; `nhwc` and `nchw` have a score a class, the highest wins;
    a single channel of scores is class 1 where it is above `score_threshold`, else class 0. Reported are the classes
    with at least `min_share` of the picture, without `background` (-1: every class is one).
    """

    output: Output = 0
    layout: Literal["map", "nhwc", "nchw"] = "map"
    background: Annotated[int, msgspec.Meta(ge=-1, le=1_000_000)] = 0
    min_share: Share = 0.001
    score_threshold: float = 0.5


class RegressPost(msgspec.Struct, frozen=True, tag="regression", tag_field="kind", omit_defaults=True):
    """Each value of an output as `value * scale + offset`, in `unit`; `scale` and `offset` have one entry, or one a
    value."""

    output: Output = 0
    scale: Annotated[tuple[float, ...], msgspec.Meta(min_length=1, max_length=1000)] = (1.0,)
    offset: Annotated[tuple[float, ...], msgspec.Meta(min_length=1, max_length=1000)] = (0.0,)
    unit: Annotated[str, msgspec.Meta(max_length=32)] = ""


class EmbedPost(msgspec.Struct, frozen=True, tag="embedding", tag_field="kind", omit_defaults=True):
    """Each value of an output; `normalize` divides them by their Euclidean length."""

    output: Output = 0
    normalize: bool = False


class RawPost(msgspec.Struct, frozen=True, tag="raw", tag_field="kind", omit_defaults=True):
    """The first `max_values` values of all outputs, in their order, flat."""

    max_values: Count = 100


class AnomalyPost(msgspec.Struct, frozen=True, tag="anomaly", tag_field="kind", omit_defaults=True):
    """Score: mean over the elements of (input - output)^2 (`mse`), or the model's own output (`output`).

    An input is anomalous when its score is above `threshold`.
    """

    threshold: float
    score: Literal["mse", "output"] = "mse"


class ForecastPost(msgspec.Struct, frozen=True, tag="forecast", tag_field="kind", omit_defaults=True):
    """Score: mean of (forecast - what came)^2 over the rows that came since the last frame.

    The input is a window (1, length, channels) that moves on by `stride` rows from frame to frame; output `output`
    forecasts the `horizon` rows behind it, of all channels or of `columns`, scaled as the input is. A frame that does
    not follow on the one before has no score. Anomalous is a score above `threshold`.
    """

    threshold: float
    output: Output = 0
    horizon: Frames = 1
    stride: Frames = 1
    columns: Annotated[tuple[Output, ...], msgspec.Meta(max_length=1000)] = ()


class DistancePost(msgspec.Struct, frozen=True, tag="distance", tag_field="kind", omit_defaults=True):
    """Score: distance of the embedding in output `output` to the nearest centre; anomalous above `threshold`.

    The package's arrays hold `centres` (k, dimensions) and, for `mahalanobis`, `covariance` (dimensions, dimensions),
    which all centres share. `normalize`: embeddings are divided by their Euclidean length first.
    """

    threshold: float
    output: Output = 0
    metric: Literal["euclidean", "mahalanobis"] = "euclidean"
    normalize: bool = False


Postprocess = (
    ClassifyPost
    | KeywordsPost
    | DetectPost
    | KeypointsPost
    | SegmentPost
    | RegressPost
    | EmbedPost
    | RawPost
    | AnomalyPost
    | ForecastPost
    | DistancePost
)
