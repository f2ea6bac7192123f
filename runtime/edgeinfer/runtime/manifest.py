"""The manifest of a model package: what one version of one model needs to be run, as frozen values.

Schema version 1. A reader refuses another major version and ignores fields that it does not know, so that
a newer minor version stays readable.
"""

from typing import Annotated, Any, Literal

import msgspec

__all__ = [
    "SCHEMA_VERSION",
    "AnomalyPost",
    "ClassifyPost",
    "Constant",
    "DetectPost",
    "Golden",
    "ImagePre",
    "Manifest",
    "Postprocess",
    "Preprocess",
    "Provenance",
    "Signature",
    "StateTensor",
    "Task",
    "TensorPre",
    "TensorSpec",
    "Tolerance",
    "Variant",
    "WindowPre",
]

SCHEMA_VERSION = 1

Task = Literal["classification", "detection", "anomaly"]
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}\Z")]
SemVer = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})(-[0-9A-Za-z.-]{1,64})?(\+[0-9A-Za-z.-]{1,64})?\Z"
    ),
]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
FileName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")]
Size = Annotated[int, msgspec.Meta(ge=0, le=4 << 30)]
Side = Annotated[int, msgspec.Meta(ge=1, le=16_384)]
Means = Annotated[tuple[float, ...], msgspec.Meta(min_length=1, max_length=65_536)]
Deviations = Annotated[
    tuple[Annotated[float, msgspec.Meta(gt=0.0)], ...], msgspec.Meta(min_length=1, max_length=65_536)
]


class ImagePre(msgspec.Struct, frozen=True, tag="image", tag_field="kind", omit_defaults=True):
    """A picture (H, W, 3) uint8 BGR from a source becomes the float model's input.

    The centre `crop` of the short side is kept (1.0 is all), resized to `width` x `height` by `resize`,
    put in `color` order, then each channel becomes `(x - mean) / std` with x in 0..255, in `layout`.
    """

    width: Side
    height: Side
    resize: Literal["stretch", "letterbox", "crop"] = "stretch"
    interpolation: Literal["bilinear", "area", "nearest"] = "bilinear"
    color: Literal["rgb", "bgr", "gray"] = "rgb"
    layout: Literal["nhwc", "nchw"] = "nhwc"
    mean: Means = (0.0,)
    std: Deviations = (1.0,)
    crop: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 1.0


class WindowPre(msgspec.Struct, frozen=True, tag="window", tag_field="kind", omit_defaults=True):
    """A sensor window (length, channels) float32 becomes `(x - mean) / std`, reshaped to the model's input.

    `mean` and `std` have one entry, or one a channel. `channels` names them, in order; empty: any.
    """

    length: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    channels: tuple[str, ...] = ()
    mean: Means = (0.0,)
    std: Deviations = (1.0,)


class TensorPre(msgspec.Struct, frozen=True, tag="tensor", tag_field="kind", omit_defaults=True):
    """The source already hands over the float model's input; any size-preserving shape is accepted."""


Preprocess = ImagePre | WindowPre | TensorPre


class ClassifyPost(msgspec.Struct, frozen=True, tag="classification", tag_field="kind", omit_defaults=True):
    """Scores (classes,) of output `output`; `softmax` applies it first. The best `top_k` are reported."""

    output: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    activation: Literal["none", "softmax"] = "none"
    top_k: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 3


class DetectPost(msgspec.Struct, frozen=True, tag="detection", tag_field="kind", omit_defaults=True):
    """Boxes above `score_threshold`, after non-maximum suppression at IoU `nms_iou` where the model has none.

    `tflite_ssd`: outputs boxes (1, n, 4) ymin xmin ymax xmax, classes, scores, count.
    `fastestdet`: one output (1, 5 + classes, rows, columns): objectness, 4 box terms, class scores.
    `yolo`: one output (1, n, 5 + classes) or (1, 4 + classes, n), boxes cx cy w h in input pixels.
    `label_offset` is added to the class index before it is looked up in the labels.
    """

    format: Literal["tflite_ssd", "fastestdet", "yolo"] = "tflite_ssd"
    score_threshold: float = 0.5
    nms_iou: float = 0.45
    max_boxes: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    label_offset: int = 0


class AnomalyPost(msgspec.Struct, frozen=True, tag="anomaly", tag_field="kind", omit_defaults=True):
    """Score: mean over the elements of (input - output)^2 (`mse`), or the model's own output (`output`).

    An input is anomalous when its score is above `threshold`.
    """

    threshold: float
    score: Literal["mse", "output"] = "mse"


Postprocess = ClassifyPost | DetectPost | AnomalyPost


class TensorSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One input or output of a variant: real = scale * (q - zero_point) where `scale` is given.

    `shape` includes the batch dimension; -1 where the model leaves it open.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


class StateTensor(msgspec.Struct, frozen=True):
    """An input that is fed with what the last inference gave for `output`; zeros at the start of a source. Both are
    named as the model names them."""

    input: str
    output: str


class Constant(msgspec.Struct, frozen=True):
    """An input that always has this value in every element, for instance a sampling rate."""

    input: str
    value: float


class Variant(msgspec.Struct, frozen=True, omit_defaults=True):
    """One file of the package: an engine and a precision.

    `metrics` holds figures per profile, for instance `{"local": {"latency_us": 812.0}}`. A model of several inputs
    says which of them are `states` and which `constants`: exactly one is left for the frame.
    """

    id: Name
    engine: Literal["onnx", "litert", "openvino"]
    file: FileName
    sha256: Sha256
    bytes: Size
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    requires: tuple[str, ...] = ()
    metrics: dict[str, dict[str, float]] = {}
    states: tuple[StateTensor, ...] = ()
    constants: tuple[Constant, ...] = ()


class Tolerance(msgspec.Struct, frozen=True):
    """How far a variant's dequantized outputs may lie from its golden ones, in units of the output."""

    max_abs: float
    mean_abs: float


class Golden(msgspec.Struct, frozen=True):
    """Golden vectors: an `.npz` with `input` (count, *input shape without batch) float32, as the
    preprocessing hands it to the float model, and per variant `{variant}/{i}` (count, *output i)."""

    file: FileName
    sha256: Sha256
    count: int
    tolerance: dict[str, Tolerance]


class Provenance(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the package comes from: hashes of what went in, versions of the tools, the search's table."""

    created: str
    tools: dict[str, str] = {}
    source_sha256: dict[str, str] = {}
    calibration_sha256: str = ""
    evaluation_sha256: str = ""
    search: list[dict[str, Any]] = []


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that a package says of itself. `variants` is in order of preference: the first that the device
    can run is used."""

    schema_version: int
    name: Name
    version: SemVer
    task: Task
    preprocess: Preprocess
    postprocess: Postprocess
    variants: tuple[Variant, ...]
    labels: tuple[FileName, Sha256] | None = None
    golden: Golden | None = None
    report: tuple[FileName, Sha256] | None = None
    provenance: Provenance | None = None


class Signature(msgspec.Struct, frozen=True):
    """Ed25519 over the exact bytes of manifest.json (RFC 8032); `keyid` is the sha256 of the raw public
    key, both in hex."""

    keyid: str
    sig: str
