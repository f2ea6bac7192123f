"""Whether declarations fit a model: compiled as the device will compile them, and held against the labels."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import ConfigError, DependencyError, ModelError, UsageError
from edgeinfer.runtime.manifest import (
    ClassifyPost,
    KeypointsPost,
    KeywordsPost,
    Postprocess,
    Preprocess,
    RegressPost,
    SegmentPost,
    TensorSpec,
)
from edgeinfer.runtime.package import parse_labels
from edgeinfer.runtime.postprocess import compile_postprocess
from edgeinfer.runtime.preprocess import compile_preprocess

__all__ = ["Tensors", "check_fit"]


class Tensors(Protocol):
    """What a model takes and gives: an engine, or a model file that was opened."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...


def check_fit(
    path: Path,
    model: Tensors,
    preprocess: Preprocess,
    postprocess: Postprocess,
    *,
    labels: bytes | None,
    arrays: Mapping[str, Array] | None = None,
) -> None:
    """Raises ConfigError for a declaration that the device would refuse or that makes no sense of the outputs of
    the model at `path`, UsageError for a labels file with another number of labels than it has classes, keypoints or
    values."""
    try:
        _compile_preprocess(preprocess, model.inputs[0])
        compile_postprocess(postprocess, model_input=model.inputs[0], outputs=model.outputs, arrays=arrays)
    except ModelError as error:
        raise ConfigError(
            f"{path}: the declaration does not fit the model: {error.message}",
            hint="is the task right? else declare it with --preprocess and --postprocess",
        ) from error
    if isinstance(postprocess, ClassifyPost | KeywordsPost):
        _check_classes(path, model.outputs[postprocess.output], labels)
    elif isinstance(postprocess, KeypointsPost | SegmentPost | RegressPost):
        _check_labels(path, model.outputs[postprocess.output], _named(postprocess, model), labels)


def _compile_preprocess(preprocess: Preprocess, model_input: TensorSpec) -> None:
    try:
        compile_preprocess(preprocess, model_input)
    except DependencyError:
        # Pictures need OpenCV, which a workstation that only quantizes may lack; sizes were checked when declared.
        return


def _check_classes(path: Path, output: TensorSpec, labels: bytes | None) -> None:
    sizes = output.shape[1:]
    if sum(size != 1 for size in sizes) > 1:
        raise ConfigError(
            f"{path}: expected one axis of classes after the batch for the task classification, "
            f"found the output {output.name!r} of shape {output.shape}",
            hint="choose another output with --postprocess output=N, or another task",
        )
    # An open size is only known once the model has run: the device then shows a bare number for what has no label.
    _check_labels(path, output, 0 if any(size < 0 for size in sizes) else math.prod(sizes), labels)


def _named(post: KeypointsPost | SegmentPost | RegressPost, model: Tensors) -> int:
    """How many keypoints, classes or values an output has; 0 where its shape does not tell."""
    shape = model.outputs[post.output].shape
    match post:
        case KeypointsPost():
            return max(0, shape[-2])
        case SegmentPost():
            # A class map may name classes that no label is known for; a single channel means two.
            channels = 0 if post.layout == "map" else shape[3 if post.layout == "nhwc" else 1]
            return 2 if channels == 1 else max(0, channels)
        case RegressPost():
            return max(0, math.prod(shape[1:]))


def _check_labels(path: Path, output: TensorSpec, expected: int, labels: bytes | None) -> None:
    found = len(parse_labels(labels)) if labels is not None else 0
    if labels is not None and expected and found != expected:
        raise UsageError(
            f"{path}: expected {expected} labels, one for each class of the output {output.name!r}, found {found}",
            hint="one label a line, in the order of the classes, with a line for the background where it is a class",
        )
