"""What is told of a frame in a few numbers: of what the model said, and of what it was given.

    scores = score_statistics(Kind.CLASSIFICATION)(items)          # {"score": 0.93, "label": 2.0, "margin": 0.9}
    inputs = InputStatistics(manifest.preprocess, frame_inputs(manifest.variants))(target)
                                                                   # {"brightness": ..., "contrast": ..., ...}

The same functions make a package's reference and watch its pipelines, so that the two can be compared. Inputs are
looked at as the engine gets them, in real values (scale * (q - zero point)), whatever the variant's precision.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.manifest import ImagePre, Preprocess, TensorSpec, Variant, WindowPre
from edgeinfer.runtime.results import Item, Kind

__all__ = ["InputStatistics", "ScoreStatistics", "Values", "frame_inputs", "score_statistics"]

Array = npt.NDArray[Any]
Values = dict[str, float]
ScoreStatistics = Callable[[tuple[Item, ...]], Values]

# A picture is looked at in this many of its rows: edges along them tell sharpness.
_ROWS = 24
# Of more channels than these, or of more output values, only the whole is told.
_MAX_CHANNELS = 16
_MAX_VALUES = 8


def score_statistics(kind: Kind) -> ScoreStatistics:
    """The function that tells what a result of this kind says."""
    return _BY_KIND.get(kind, _of_values)


def _of_classes(items: tuple[Item, ...]) -> Values:
    if not items:
        return {}
    best = items[0]
    values = {"score": best.score, "label": float(best.label)}
    if len(items) > 1:
        values["margin"] = best.score - items[1].score
    return values


def _of_boxes(items: tuple[Item, ...]) -> Values:
    if not items:
        return {"count": 0.0}
    best = max(items, key=lambda item: item.score)
    return {"count": float(len(items)), "score": best.score, "label": float(best.label)}


def _of_anomaly(items: tuple[Item, ...]) -> Values:
    return {"score": items[0].score} if items else {}


def _of_points(items: tuple[Item, ...]) -> Values:
    return {"score": sum(item.score for item in items) / len(items)} if items else {}


def _of_embedding(items: tuple[Item, ...]) -> Values:
    return {"norm": math.sqrt(sum(item.score * item.score for item in items))} if items else {}


def _of_values(items: tuple[Item, ...]) -> Values:
    return {f"value_{index}": item.score for index, item in enumerate(items[:_MAX_VALUES])}


_BY_KIND: dict[Kind, ScoreStatistics] = {
    Kind.CLASSIFICATION: _of_classes,
    Kind.DETECTION: _of_boxes,
    Kind.ANOMALY: _of_anomaly,
    Kind.KEYPOINTS: _of_points,
    Kind.SEGMENTATION: _of_classes,
    Kind.EMBEDDING: _of_embedding,
}


class InputStatistics:
    """Called with the engine's input for a frame; some tens of microseconds.

    `tensors` are those that a frame may be written to: which variant is loaded may change while a pipeline runs. An
    array is that of the first with its dtype and shape, else of the first with its dtype.

    Pictures: `brightness` (mean), `contrast` (standard deviation) and `sharpness` (mean absolute difference of
    neighbours along a row). Windows: `mean_i` and `std_i` of each channel, `mean` and `std` where there are many.
    """

    def __init__(self, declared: Preprocess, tensors: Sequence[TensorSpec]) -> None:
        self._tensors = {spec.dtype: spec for spec in reversed(tensors)}
        self._shaped = {(spec.dtype, _sizes(spec)): spec for spec in reversed(tensors)}
        self._measure: Callable[[Array], Values] = _of_whole
        if isinstance(declared, ImagePre):
            channels = 1 if declared.color == "gray" else 3
            planes = declared.layout == "nchw" and channels > 1
            self._shape = (channels, declared.height, declared.width)
            if not planes:
                self._shape = (declared.height, declared.width, channels)
            self._measure = self._of_planes if planes else self._of_picture
        elif isinstance(declared, WindowPre):
            self._length = declared.length
            self._measure = self._of_window

    def __call__(self, target: Array) -> Values:
        return self._real(self._measure(target), target)

    def _real(self, values: Values, target: Array) -> Values:
        """From the tensor's own numbers to real ones: places are moved and scaled, distances only scaled."""
        dtype = target.dtype.name
        spec = self._shaped.get((dtype, target.shape)) or self._tensors.get(dtype)
        if spec is None or spec.scale is None or spec.zero_point is None:
            return values
        scale, zero_point = spec.scale, spec.zero_point
        return {
            name: (value - zero_point) * scale if name.startswith(("brightness", "mean")) else value * scale
            for name, value in values.items()
        }

    def _of_picture(self, target: Array) -> Values:
        return _of_rows(target.reshape(self._shape)[:: max(1, self._shape[0] // _ROWS)], along=1)

    def _of_planes(self, target: Array) -> Values:
        return _of_rows(target.reshape(self._shape)[:, :: max(1, self._shape[1] // _ROWS)], along=2)

    def _of_window(self, target: Array) -> Values:
        if target.size % self._length or target.size // self._length > _MAX_CHANNELS:
            return _of_whole(target)
        channels = target.reshape(self._length, -1).astype(np.float32, copy=False)
        values = {f"mean_{index}": mean for index, mean in enumerate(channels.mean(axis=0).tolist())}
        return values | {f"std_{index}": std for index, std in enumerate(channels.std(axis=0).tolist())}


def _of_rows(rows: Array, *, along: int) -> Values:
    reals = rows.astype(np.float32)
    return {
        "brightness": float(reals.mean()),
        "contrast": float(reals.std()),
        "sharpness": float(np.abs(np.diff(reals, axis=along)).mean()) if reals.shape[along] > 1 else 0.0,
    }


def _of_whole(target: Array) -> Values:
    reals = target.astype(np.float32, copy=False)
    return {"mean": float(reals.mean()), "std": float(reals.std())}


def _sizes(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(1 if size < 0 else size for size in spec.shape)


def frame_inputs(variants: Iterable[Variant]) -> list[TensorSpec]:
    """The inputs of all variants that take the frame: neither states nor constants."""
    found = []
    for variant in variants:
        others = {state.input for state in variant.states} | {constant.input for constant in variant.constants}
        found += [spec for spec in variant.inputs if spec.name not in others]
    return found
