"""Golden vectors: some inputs, and what each variant answered to them where the package was made."""

import io
from collections.abc import Mapping

import numpy as np

from edgeinfer.quantize.evaluate import infer_one
from edgeinfer.quantize.rows import Rows, spread, stacked
from edgeinfer.runtime.engines import Engine
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.manifest import DetectPost, Postprocess, SegmentPost, Tolerance

__all__ = ["GOLDEN_COUNT", "golden_vectors", "names_classes", "pick_inputs", "tolerance_for"]

GOLDEN_COUNT = 6
# Float kernels differ in the last bits; integer ones by up to a quarter of the range in single outputs,
# because the same model runs through other kernels on another CPU. A wrong model differs in its mean.
_FLOAT_SHARE, _FLOAT_FLOOR = 1e-3, 1e-4
_INTEGER_MAX_SHARE, _INTEGER_MEAN_SHARE = 0.35, 0.05
_MIN_RANGE = 1e-3


def pick_inputs(x: Rows, *, count: int = GOLDEN_COUNT) -> Array:
    """At most `count` rows of `x`, at equal distances: float32 (count, *shape)."""
    return stacked(x.picked(spread(count, len(x))))


def golden_vectors(
    engines: Mapping[str, Engine], inputs: Array, *, integer: Mapping[str, bool], categorical: bool = False
) -> tuple[bytes, dict[str, Tolerance]]:
    """The `.npz` with `input` and per variant `{variant}/{i}`, real values as float32, and the tolerances.

    `integer` tells the variants that compute in integers from those that compute in floats; `categorical` outputs name
    classes, which are near or far from each other by no measure.
    """
    arrays: dict[str, Array] = {"input": inputs}
    tolerance: dict[str, Tolerance] = {}
    for variant, engine in engines.items():
        answers = [infer_one(engine, inputs[i : i + 1]) for i in range(len(inputs))]
        outputs = [np.stack([_without_batch(answer[k]) for answer in answers]) for k in range(len(engine.outputs))]
        arrays |= {f"{variant}/{index}": output for index, output in enumerate(outputs)}
        tolerance[variant] = tolerance_for(outputs, integer=integer[variant], categorical=categorical)
    archive = io.BytesIO()
    # numpy's own parameter names must not swallow a key: the arrays go in as one mapping of plain names.
    np.savez(archive, allow_pickle=False, **arrays)
    return archive.getvalue(), tolerance


def names_classes(post: Postprocess) -> bool:
    """Whether a model's outputs name classes, as those do that have decided already."""
    if isinstance(post, DetectPost):
        return post.format in {"tflite_ssd", "yolov10"}
    return isinstance(post, SegmentPost) and post.layout == "map"


def tolerance_for(outputs: list[Array], *, integer: bool, categorical: bool = False) -> Tolerance:
    """How far a device's outputs may lie from these, from the range that they span."""
    spread = max((float(output.max() - output.min()) for output in outputs if output.size), default=0.0)
    spread = max(spread, _MIN_RANGE)
    if categorical:
        # Another class here or there, where two were as likely, is no fault; another one in many places is.
        return Tolerance(max_abs=spread, mean_abs=_INTEGER_MEAN_SHARE * spread)
    if integer:
        return Tolerance(max_abs=_INTEGER_MAX_SHARE * spread, mean_abs=_INTEGER_MEAN_SHARE * spread)
    limit = _FLOAT_SHARE * spread + _FLOAT_FLOOR
    return Tolerance(max_abs=limit, mean_abs=limit)


def _without_batch(output: Array) -> Array:
    real = output.astype(np.float32)
    return real[0] if real.ndim > 0 and real.shape[0] == 1 else real
