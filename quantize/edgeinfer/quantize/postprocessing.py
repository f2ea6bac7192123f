"""The postprocessing that a package declares: from `--postprocess`, or what the task and the outputs suggest.

A task may be read in more than one way, each a `kind`: `kind=keywords` is a classification, `kind=forecast` and
`kind=distance` look for anomalies. Without one, the kind is the task. `arrays=FILE` names an `.npz` for what needs one.
"""

from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from edgeinfer.quantize.evaluate import scores_itself
from edgeinfer.quantize.spec import parse_spec, read_spec
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import ConfigError
from edgeinfer.runtime.manifest import (
    AnomalyPost,
    ClassifyPost,
    DetectPost,
    DistancePost,
    EmbedPost,
    ForecastPost,
    KeypointsPost,
    KeywordsPost,
    Postprocess,
    RawPost,
    RegressPost,
    SegmentPost,
    Task,
    TensorSpec,
)

__all__ = ["TASKS", "declare_post", "is_probabilities", "named_arrays"]

# The task of each way of reading outputs.
TASKS: dict[type[Postprocess], Task] = {
    ClassifyPost: "classification",
    KeywordsPost: "classification",
    DetectPost: "detection",
    KeypointsPost: "keypoints",
    SegmentPost: "segmentation",
    EmbedPost: "embedding",
    RegressPost: "regression",
    RawPost: "raw",
    AnomalyPost: "anomaly",
    ForecastPost: "anomaly",
    DistancePost: "anomaly",
}
_KINDS: dict[str, type[Postprocess]] = {str(type_.__struct_config__.tag): type_ for type_ in TASKS}
_LISTS = ("scale", "offset", "scales", "strides", "quiet", "columns")
_SSD_OUTPUTS = 4
_NANODET_BINS = 8
_FINISHED_YOLO = (300, 6)
_SUM_TOLERANCE = 0.05
_NEGATIVE_TOLERANCE = 1e-3


def is_probabilities(rows: Array, *, step: float = 0.0) -> bool:
    """Whether each row of (N, classes) is within 0..1 and sums to 1. `step` is the scale of an integer output,
    whose rounding adds up over the classes."""
    inside = bool(rows.min() >= -_NEGATIVE_TOLERANCE and rows.max() <= 1.0 + _NEGATIVE_TOLERANCE)
    tolerance = _SUM_TOLERANCE + step * rows.shape[1] / 2
    return inside and bool(np.abs(rows.sum(axis=1) - 1.0).max() <= tolerance)


def named_arrays(spec: str) -> Path | None:
    """The file of arrays that a declaration names, if any."""
    path = read_spec(spec).get("arrays") if spec else None
    return Path(str(path)) if path is not None else None


def declare_post(
    spec: str,
    task: Task,
    outputs: tuple[TensorSpec, ...],
    *,
    scores: Array | None = None,
    threshold: float | None = None,
) -> Postprocess:
    """The declaration that `spec` gives, completed from the task and the outputs. Raises ConfigError.

    `scores` (N, classes) of some inputs tell whether a classifier needs a softmax yet; `threshold` is the
    anomaly's where `spec` gives none.
    """
    fields = read_spec(spec) if spec else {}
    fields.pop("arrays", None)
    kind = str(fields.pop("kind", task))
    known = [name for name, type_ in _KINDS.items() if TASKS[type_] == task]
    if kind not in known:
        raise ConfigError(f"--postprocess: expected kind {' or '.join(known)}, as the task is, found {kind!r}")
    fields |= {key: [fields[key]] for key in _LISTS if key in fields and not isinstance(fields[key], list)}
    type_ = _KINDS[kind]
    _complete(fields, type_, outputs, threshold)
    post = parse_spec(fields, type_, origin="--postprocess")
    _check_output(post, outputs)
    if isinstance(post, ClassifyPost | KeywordsPost) and scores is not None and "activation" not in fields:
        return _with_activation(post, outputs, scores)
    return post


def _complete(
    fields: dict[str, Any], type_: type[Postprocess], outputs: tuple[TensorSpec, ...], threshold: float | None
) -> None:
    """What follows from the outputs, where `fields` do not say it."""
    if TASKS[type_] == "anomaly":
        _complete_anomaly(fields, type_, outputs, threshold)
    elif type_ is DetectPost:
        if "format" not in fields:
            fields["format"] = _detect_format(outputs)
        if fields["format"] == "nanodet":
            fields.setdefault("bins", _NANODET_BINS)
    elif type_ is SegmentPost and "layout" not in fields:
        fields["layout"] = _layout(outputs, fields.get("output", 0))


def _check_output(post: Postprocess, outputs: tuple[TensorSpec, ...]) -> None:
    chosen = getattr(post, "output", 0)
    if not 0 <= chosen < len(outputs):
        raise ConfigError(f"--postprocess: expected an output of 0 to {len(outputs) - 1}, found {chosen}")


def _with_activation(
    post: ClassifyPost | KeywordsPost, outputs: tuple[TensorSpec, ...], scores: Array
) -> ClassifyPost | KeywordsPost:
    if scores.shape[1] == 1:  # a single score is one of its own: its softmax is always 1
        return post
    step = outputs[post.output].scale or 0.0
    activation: Literal["none", "softmax"] = "none" if is_probabilities(scores, step=step) else "softmax"
    return msgspec.structs.replace(post, activation=activation)


def _complete_anomaly(
    fields: dict[str, Any], type_: type[Postprocess], outputs: tuple[TensorSpec, ...], threshold: float | None
) -> None:
    # A forecast is judged by the rows that follow, which samples do not hold.
    if threshold is not None and type_ is not ForecastPost:
        fields.setdefault("threshold", threshold)
    if "threshold" not in fields:
        raise ConfigError(
            "--postprocess: expected a threshold for the task anomaly, found none",
            hint="--postprocess threshold=0.5, or, where a sample can be judged alone, --data with labelled samples",
        )
    if type_ is AnomalyPost:
        fields.setdefault("score", "output" if scores_itself(outputs) else "mse")


def _detect_format(outputs: tuple[TensorSpec, ...]) -> str:
    ranks = {len(spec.shape) for spec in outputs}
    if len(outputs) == _SSD_OUTPUTS and ranks != {4}:
        return "tflite_ssd"
    if len(outputs) == 1 and ranks == {4}:  # batch, channels, rows, columns
        return "fastestdet"
    if len(outputs) == 1 and ranks == {3}:  # batch, boxes, terms
        return "yolov10" if outputs[0].shape[1:] == _FINISHED_YOLO else "yolo"
    raise ConfigError(
        f"expected a detector of a known output format, found {len(outputs)} outputs of shapes "
        f"{[spec.shape for spec in outputs]}",
        hint="--postprocess format=ssd (boxes encoded against anchors), boxes (decoded ones), tflite_ssd, fastestdet, "
        "yolov5, yolov8, yolov10, yolo_dfl or nanodet",
    )


def _layout(outputs: tuple[TensorSpec, ...], chosen: object) -> str:
    """Channels are the shorter one of the two axes where they can be."""
    place = int(str(chosen)) if str(chosen).isdigit() else 0
    spec = outputs[min(place, len(outputs) - 1)]
    is_map = len(spec.shape) != 4 or (1 in {spec.shape[1], spec.shape[3]} and spec.dtype.startswith("int"))
    if is_map:
        return "map"
    return "nhwc" if spec.shape[3] <= spec.shape[1] else "nchw"
