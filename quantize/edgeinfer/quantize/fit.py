"""Whether declarations fit a model: compiled as the device will compile them, and held against the labels."""

import math
from pathlib import Path
from typing import Protocol

from edgeinfer.runtime.errors import ConfigError, DependencyError, ModelError, UsageError
from edgeinfer.runtime.manifest import ClassifyPost, Postprocess, Preprocess, TensorSpec
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
    path: Path, model: Tensors, preprocess: Preprocess, postprocess: Postprocess, *, labels: bytes | None
) -> None:
    """Raises ConfigError for a declaration that the device would refuse or that makes no sense of the outputs of
    the model at `path`, UsageError for a labels file with another number of labels than it has classes."""
    try:
        _compile_preprocess(preprocess, model.inputs[0])
        compile_postprocess(postprocess, model_input=model.inputs[0], outputs=model.outputs)
    except ModelError as error:
        raise ConfigError(
            f"{path}: the declaration does not fit the model: {error.message}",
            hint="is the task right? else declare it with --preprocess and --postprocess",
        ) from error
    if isinstance(postprocess, ClassifyPost):
        _check_classes(path, model.outputs[postprocess.output], labels)


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
    if labels is None or any(size < 0 for size in sizes):
        return
    classes, found = math.prod(sizes), len(parse_labels(labels))
    if found != classes:
        raise UsageError(
            f"{path}: expected {classes} labels, one for each class of the output {output.name!r}, found {found}",
            hint="one label a line, in the order of the classes, with a line for the background where it is a class",
        )
