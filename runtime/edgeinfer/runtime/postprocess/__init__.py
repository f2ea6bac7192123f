"""Postprocessing, compiled once from the package's declaration: outputs become items.

What a compiled function remembers from frame to frame (averages, forecasts), its method `reset` forgets.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy.typing as npt

from edgeinfer.runtime.errors import ModelError
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
    TensorSpec,
)
from edgeinfer.runtime.postprocess.arrays import read_arrays
from edgeinfer.runtime.preprocess import Region
from edgeinfer.runtime.results import Item, Kind

__all__ = ["Interpret", "compile_postprocess", "read_arrays", "result_kind"]

Array = npt.NDArray[Any]
Interpret = Callable[[Array, Sequence[Array], Region], tuple[Item, ...]]

_KINDS: dict[type[Postprocess], Kind] = {
    ClassifyPost: Kind.CLASSIFICATION,
    KeywordsPost: Kind.CLASSIFICATION,
    DetectPost: Kind.DETECTION,
    KeypointsPost: Kind.KEYPOINTS,
    SegmentPost: Kind.SEGMENTATION,
    RegressPost: Kind.REGRESSION,
    EmbedPost: Kind.EMBEDDING,
    RawPost: Kind.RAW,
    AnomalyPost: Kind.ANOMALY,
    ForecastPost: Kind.ANOMALY,
    DistancePost: Kind.ANOMALY,
}


def compile_postprocess(
    declared: Postprocess,
    *,
    model_input: TensorSpec,
    outputs: Sequence[TensorSpec],
    arrays: Mapping[str, Array] | None = None,
) -> Interpret:
    """A function of (the engine's input, its outputs, the region shown) that gives the items of a result.

    `arrays` are those of the package (`read_arrays`). Raises ModelError where the declaration does not fit the
    model's outputs. What it makes is for one stream of frames, and for one thread at a time.
    """
    if not outputs:
        raise ModelError("expected a model with some output, found none")
    match declared:
        case ClassifyPost():
            from edgeinfer.runtime.postprocess.classify import Classify

            return Classify(declared, outputs)
        case KeywordsPost():
            from edgeinfer.runtime.postprocess.keywords import Keywords

            return Keywords(declared, outputs)
        case DetectPost():
            from edgeinfer.runtime.postprocess.detect import compile_detector

            return compile_detector(declared, model_input, outputs, arrays or {})
        case KeypointsPost():
            from edgeinfer.runtime.postprocess.keypoints import Keypoints

            return Keypoints(declared, model_input, outputs)
        case SegmentPost():
            from edgeinfer.runtime.postprocess.segment import Segment

            return Segment(declared, outputs)
        case RegressPost() | EmbedPost() | RawPost():
            return _compile_values(declared, outputs)
        case AnomalyPost() | ForecastPost() | DistancePost():
            return _compile_anomaly(declared, model_input, outputs, arrays or {})


def _compile_values(declared: RegressPost | EmbedPost | RawPost, outputs: Sequence[TensorSpec]) -> Interpret:
    from edgeinfer.runtime.postprocess import values

    match declared:
        case RegressPost():
            return values.Regress(declared, outputs)
        case EmbedPost():
            return values.Embed(declared, outputs)
        case RawPost():
            return values.Raw(declared, outputs)


def _compile_anomaly(
    declared: AnomalyPost | ForecastPost | DistancePost,
    model_input: TensorSpec,
    outputs: Sequence[TensorSpec],
    arrays: Mapping[str, Array],
) -> Interpret:
    match declared:
        case AnomalyPost():
            from edgeinfer.runtime.postprocess.anomaly import Anomaly

            return Anomaly(declared, model_input, outputs)
        case ForecastPost():
            from edgeinfer.runtime.postprocess.forecast import Forecast

            return Forecast(declared, model_input, outputs)
        case DistancePost():
            from edgeinfer.runtime.postprocess.distance import Distance

            return Distance(declared, outputs, arrays)


def result_kind(declared: Postprocess) -> Kind:
    """The kind of result that a postprocessing makes."""
    return _KINDS[type(declared)]
