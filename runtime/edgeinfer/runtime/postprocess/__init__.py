"""Postprocessing, compiled once from the package's declaration: outputs become items."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt

from edgeinfer.runtime.manifest import AnomalyPost, ClassifyPost, DetectPost, Postprocess, TensorSpec
from edgeinfer.runtime.preprocess import Region
from edgeinfer.runtime.results import Item, Kind

__all__ = ["Interpret", "compile_postprocess", "result_kind"]

Array = npt.NDArray[Any]
Interpret = Callable[[Array, Sequence[Array], Region], tuple[Item, ...]]


def compile_postprocess(declared: Postprocess, *, model_input: TensorSpec, outputs: Sequence[TensorSpec]) -> Interpret:
    """A function of (the engine's input, its outputs, the region shown) that gives the items of a result.

    Raises ModelError where the declaration does not fit the model's outputs.
    """
    match declared:
        case ClassifyPost():
            from edgeinfer.runtime.postprocess.classify import Classify

            return Classify(declared, outputs)
        case DetectPost():
            from edgeinfer.runtime.postprocess.detect import compile_detector

            return compile_detector(declared, model_input, outputs)
        case AnomalyPost():
            from edgeinfer.runtime.postprocess.anomaly import Anomaly

            return Anomaly(declared, model_input, outputs)


def result_kind(declared: Postprocess) -> Kind:
    """The kind of result that a postprocessing makes."""
    match declared:
        case ClassifyPost():
            return Kind.CLASSIFICATION
        case DetectPost():
            return Kind.DETECTION
        case AnomalyPost():
            return Kind.ANOMALY
