"""The postprocessing that a package declares: from `--postprocess`, or what the task and the outputs suggest."""

from typing import Any, Literal

import msgspec
import numpy as np

from edgeinfer.quantize.evaluate import scores_itself
from edgeinfer.quantize.preprocessing import parse_spec, read_spec
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import ConfigError
from edgeinfer.runtime.manifest import AnomalyPost, ClassifyPost, DetectPost, Postprocess, Task, TensorSpec

__all__ = ["declare_post", "is_probabilities"]

_SSD_OUTPUTS = 4
_SUM_TOLERANCE = 0.05
_NEGATIVE_TOLERANCE = 1e-3


def is_probabilities(rows: Array, *, step: float = 0.0) -> bool:
    """Whether each row of (N, classes) is within 0..1 and sums to 1. `step` is the scale of an integer output,
    whose rounding adds up over the classes."""
    inside = bool(rows.min() >= -_NEGATIVE_TOLERANCE and rows.max() <= 1.0 + _NEGATIVE_TOLERANCE)
    tolerance = _SUM_TOLERANCE + step * rows.shape[1] / 2
    return inside and bool(np.abs(rows.sum(axis=1) - 1.0).max() <= tolerance)


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
    found = fields.pop("kind", task)
    if found != task:
        raise ConfigError(f"--postprocess: expected kind {task}, as the task is, found {found!r}")
    if task == "classification":
        return _classify(fields, outputs, scores)
    if task == "anomaly":
        return _anomaly(fields, outputs, threshold)
    if "format" not in fields:
        fields["format"] = _detect_format(outputs)
    return parse_spec(fields, DetectPost, origin="--postprocess")


def _classify(fields: dict[str, Any], outputs: tuple[TensorSpec, ...], scores: Array | None) -> ClassifyPost:
    post = parse_spec(fields, ClassifyPost, origin="--postprocess")
    if not 0 <= post.output < len(outputs):
        raise ConfigError(f"--postprocess: expected an output of 0 to {len(outputs) - 1}, found {post.output}")
    if scores is None or "activation" in fields:
        return post
    step = outputs[post.output].scale or 0.0
    activation: Literal["none", "softmax"] = "none" if is_probabilities(scores, step=step) else "softmax"
    return msgspec.structs.replace(post, activation=activation)


def _anomaly(fields: dict[str, Any], outputs: tuple[TensorSpec, ...], threshold: float | None) -> AnomalyPost:
    if threshold is not None:
        fields.setdefault("threshold", threshold)
    if "threshold" not in fields:
        raise ConfigError(
            "--postprocess: expected a threshold for the task anomaly, found none",
            hint="--postprocess threshold=0.5, or --data with labelled samples",
        )
    fields.setdefault("score", "output" if scores_itself(outputs) else "mse")
    return parse_spec(fields, AnomalyPost, origin="--postprocess")


def _detect_format(outputs: tuple[TensorSpec, ...]) -> str:
    if len(outputs) == _SSD_OUTPUTS:
        return "tflite_ssd"
    if len(outputs) == 1 and len(outputs[0].shape) == 4:  # batch, channels, rows, columns
        return "fastestdet"
    if len(outputs) == 1 and len(outputs[0].shape) == 3:  # batch, boxes, terms
        return "yolo"
    raise ConfigError(
        f"expected a detector of a known output format, found {len(outputs)} outputs of shapes "
        f"{[spec.shape for spec in outputs]}",
        hint="--postprocess format=tflite_ssd, fastestdet or yolo",
    )
