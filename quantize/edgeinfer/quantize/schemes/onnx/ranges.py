"""The ranges that a model's tensors take over calibration rows, in memory that does not grow with the rows.

ONNX Runtime's own calibrators keep what every row gives in every tensor. Here a first pass asks the model itself for
each tensor's smallest and largest value; a second, over at most 64 of the rows, counts values between those into
histograms, which percentiles, squared error and entropy share.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer.quantize.schemes.base import Calibration
from edgeinfer.quantize.schemes.onnx.clipping import Histogram
from edgeinfer.quantize.schemes.onnx.modelproto import copied, open_session
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import ModelError

if TYPE_CHECKING:
    import onnx

__all__ = ["Range", "Statistics", "statistics_of"]

Range = tuple[float, float]

_BINS = 2048
_HISTOGRAM_ROWS = 64
# Of larger tensors only every n-th value is counted. n is odd, to go round through channels and columns.
_COUNTED_VALUES = 1 << 17
_CACHED = 2
_FLOAT32 = 1  # TensorProto.FLOAT


@dataclass(slots=True, eq=False)
class Statistics:
    """What calibration rows showed of a model's tensors, looked at when first asked for."""

    model: "onnx.ModelProto"
    calibration: Calibration
    _extremes: dict[str, Range] | None = None
    _histograms: dict[str, Histogram] | None = None
    _chosen: dict[str, dict[str, Range]] = field(default_factory=dict)

    def extremes(self) -> Mapping[str, Range]:
        """The smallest and largest value of each float tensor, at least from 0 to 0. Raises ModelError."""
        if self._extremes is None:
            self._extremes = _extremes(self.model, self.calibration)
        return self._extremes

    def clipped(self, choose: Callable[[Histogram], Range]) -> Mapping[str, Range]:
        """The ranges that `choose` makes of the histograms. Raises ModelError."""
        if self._histograms is None:
            self._histograms = _histograms(self.model, self.calibration, self.extremes())
        ranges = self._chosen.get(choose.__name__)
        if ranges is None:
            ranges = {name: choose(histogram) for name, histogram in self._histograms.items()}
            self._chosen[choose.__name__] = ranges
        return ranges


_recent: list[Statistics] = []


def statistics_of(model: "onnx.ModelProto", calibration: Calibration) -> Statistics:
    """Those of a prepared model. The same two objects, which many schemes and plans share, are looked at once."""
    for known in _recent:
        if known.model is model and known.calibration is calibration:
            return known
    made = Statistics(model, calibration)
    _recent.insert(0, made)
    del _recent[_CACHED:]
    return made


def _extremes(model: "onnx.ModelProto", calibration: Calibration) -> dict[str, Range]:
    from onnx import helper

    names = _float_tensors(model)
    asking = copied(model)
    wanted: list[str] = []
    for index, name in enumerate(names):
        for op in ("ReduceMin", "ReduceMax"):
            wanted.append(f"{op}~{index}")
            asking.graph.node.append(helper.make_node(op, [name], [wanted[-1]], keepdims=0))
            asking.graph.output.append(helper.make_tensor_value_info(wanted[-1], _FLOAT32, []))
    session = open_session(asking)
    lows, highs = np.zeros(len(names)), np.zeros(len(names))
    count = 0
    for row in _feeds(session, calibration):
        values = np.array(session.run(wanted, row), np.float64)
        lows, highs = np.minimum(lows, values[0::2]), np.maximum(highs, values[1::2])
        count += 1
    if not count:
        raise ModelError("ONNX calibration: expected rows to learn ranges from, found none")
    _check_finite(names, lows, highs)
    return {name: (float(low), float(high)) for name, low, high in zip(names, lows, highs, strict=True)}


def _check_finite(names: list[str], lows: Array, highs: Array) -> None:
    bad = [name for name, finite in zip(names, np.isfinite(lows) & np.isfinite(highs), strict=True) if not finite]
    if bad:
        raise ModelError(
            f"ONNX calibration: expected finite values, found others in {len(bad)} tensors, the first {bad[0]}",
            hint="do the samples hold NaN, or does the model divide by zero on them?",
        )


def _histograms(
    model: "onnx.ModelProto", calibration: Calibration, extremes: Mapping[str, Range]
) -> dict[str, Histogram]:
    from onnx import helper

    asking = copied(model)
    present = {output.name for output in asking.graph.output} | {value.name for value in asking.graph.input}
    for name in extremes:
        if name not in present:
            asking.graph.output.append(helper.make_tensor_value_info(name, _FLOAT32, None))
    inputs = {value.name for value in asking.graph.input}
    computed = [name for name in extremes if name not in inputs]
    counts = {name: np.zeros(_BINS, np.int64) for name in extremes}
    session = open_session(asking)
    stride = max(1, len(calibration) // _HISTOGRAM_ROWS)
    for row in _feeds(session, calibration, stride=stride):
        tensors = dict(zip(computed, session.run(computed, row), strict=True)) | row
        for name in extremes:
            counts[name] += _counted(tensors[name], *extremes[name])
    return {name: Histogram(*extremes[name], bins) for name, bins in counts.items()}


def _counted(values: Array, low: float, high: float) -> Array:
    """int64 (bins,)"""
    if high <= low:
        return np.zeros(_BINS, np.int64)
    stride = values.size // _COUNTED_VALUES
    flat = values.ravel()[:: stride | 1]
    places = ((flat - low) * (_BINS / (high - low))).astype(np.int64)
    return np.bincount(np.clip(places, 0, _BINS - 1), minlength=_BINS)


def _feeds(session: Any, calibration: Calibration, *, stride: int = 1) -> Iterator[dict[str, Array]]:
    names = [node.name for node in session.get_inputs()]
    for index, row in enumerate(calibration):
        if len(row) != len(names):
            raise ModelError(f"ONNX calibration: expected {len(names)} inputs a row, found {len(row)}")
        if index % stride == 0:
            yield dict(zip(names, row, strict=True))


def _float_tensors(model: "onnx.ModelProto") -> list[str]:
    """What operations make and take, but for constants, as far as it is known to be float32."""
    graph = model.graph
    constants = {initializer.name for initializer in graph.initializer}
    values = [*graph.input, *graph.value_info, *graph.output]
    known = {value.name for value in values if value.type.tensor_type.elem_type == _FLOAT32}
    touched = dict.fromkeys(name for node in graph.node for name in (*node.input, *node.output))
    return [name for name in touched if name in known and name not in constants]
