"""The ranges that activations take: learnt by running the float model over calibration inputs, one at a time.

AEQ's own calibrator lists all inputs before it starts, and averages ranges unless told otherwise; here an input is
let go once it has run, and the ways to sum up are three.
"""

import enum
import hashlib
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeinfer.quantize.schemes.base import Calibration
from edgeinfer.quantize.schemes.litert.clipping import BINS, best_range
from edgeinfer.quantize.schemes.litert.flatbuffer import data_of, parse
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import ModelError

__all__ = ["Ranges", "Statistic", "learnt", "watched"]

# A tensor's name to its lowest and highest value.
Ranges = dict[str, tuple[float, float]]

# The weight of what was seen before, as AEQ (qsv_utils.moving_average_update) has it.
_SMOOTHING = 0.95
# Beyond it lie stand-ins for infinity, as padding of a maximum has them (AEQ excludes the same).
_LARGEST = 3e38
# Plans of one model over one calibration set share its ranges; of others only the last few are kept.
_REMEMBERED = 8


class Statistic(enum.Enum):
    """How ranges of many inputs become one.

    MIN_MAX keeps the rarest large value, which an autoencoder's score is about. AVERAGE cuts rare ones off by an
    exponential average. MSE cuts off where the squared error of int8 values is smallest.
    """

    MIN_MAX = "min-max"
    AVERAGE = "moving average"
    MSE = "mean squared error"


@dataclass(slots=True)
class _Seen:
    """What is known of one tensor: the extremes so far, their moving average, and the histogram of a second pass."""

    low: float = np.inf
    high: float = -np.inf
    average: tuple[float, float] | None = None
    counts: Array = field(default_factory=lambda: np.zeros(BINS))

    def add(self, values: Array) -> None:
        if values.size == 0:
            return
        low, high = float(values.min()), float(values.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        before = self.average or (low, high)
        self.average = (
            _SMOOTHING * before[0] + (1.0 - _SMOOTHING) * low,
            _SMOOTHING * before[1] + (1.0 - _SMOOTHING) * high,
        )

    def count(self, values: Array) -> None:
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        if high > low:
            self.counts += np.histogram(values[values != 0.0], bins=BINS, range=(low, high))[0]


@dataclass(slots=True)
class _Learnt:
    """Of one model and one calibration set, which is held so that its identity stays its own."""

    calibration: Calibration
    seen: dict[str, _Seen]
    clipped: Ranges | None = None


_memory: OrderedDict[tuple[bytes, int], _Learnt] = OrderedDict()


def learnt(content: bytes, calibration: Calibration, statistic: Statistic) -> Ranges:
    """The ranges of all float tensors that the model computes or is given, by their names.

    What was learnt of a model and a calibration set is remembered: many plans cost one calibration. Raises ModelError
    for a model that does not run on these inputs, or whose values are no numbers.
    """
    found = _recall(content, calibration)
    if statistic is Statistic.MIN_MAX:
        return {name: (tensor.low, tensor.high) for name, tensor in found.seen.items()}
    if statistic is Statistic.AVERAGE:
        return {name: tensor.average or (tensor.low, tensor.high) for name, tensor in found.seen.items()}
    if found.clipped is None:
        _run(content, calibration, found.seen, _Seen.count)
        found.clipped = {name: best_range(one.counts, one.low, one.high) for name, one in found.seen.items()}
    return found.clipped


def _recall(content: bytes, calibration: Calibration) -> _Learnt:
    key = (hashlib.sha256(content).digest(), id(calibration))
    found = _memory.get(key)
    if found is None:
        found = _Learnt(calibration, {})
        _run(content, calibration, found.seen, _Seen.add)
        _memory[key] = found
    _memory.move_to_end(key)
    while len(_memory) > _REMEMBERED:
        _memory.popitem(last=False)
    return found


def _run(
    content: bytes, calibration: Calibration, seen: dict[str, _Seen], note: Callable[[_Seen, Array], None]
) -> None:
    tensors = _computed(parse(content))
    for values in watched(content, calibration, list(tensors)):
        for index, name in tensors.items():
            note(seen.setdefault(name, _Seen()), _numbers(values[index], name))


def watched(content: bytes, calibration: Calibration, tensors: Sequence[int]) -> Iterator[dict[int, Array]]:
    """Of each calibration input, what the model gives the tensors of these indices. Raises ModelError."""
    if len(calibration) == 0:
        raise ModelError("expected calibration inputs, found none")
    interpreter = _interpreter(content)
    inputs = [int(detail["index"]) for detail in interpreter.get_input_details()]
    for row in calibration:
        if len(row) != len(inputs):
            raise ModelError(f"expected {len(inputs)} inputs to calibrate with, found {len(row)}")
        try:
            for index, value in zip(inputs, row, strict=True):
                interpreter.set_tensor(index, value)
            interpreter.invoke()
            values = {index: interpreter.get_tensor(index) for index in tensors}
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"calibration failed: {_first_line(error)}") from error
        yield values


def _interpreter(content: bytes) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it says that keeping all tensors is for debugging
            interpreter = Interpreter(model_content=content, num_threads=1, experimental_preserve_all_tensors=True)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"LiteRT cannot prepare the model for calibration: {_first_line(error)}") from error
    return interpreter


def _computed(model: Any) -> dict[int, str]:
    """The float tensors of the main graph that are inputs or results."""
    from ai_edge_litert import schema_py_generated as schema

    graph = model.subgraphs[0]
    produced = {int(index) for operator in graph.operators for index in operator.outputs}
    return {
        index: graph.tensors[index].name.decode()
        for index in sorted(produced | {int(index) for index in graph.inputs})
        if graph.tensors[index].type == schema.TensorType.FLOAT32 and data_of(model, graph.tensors[index]) is None
    }


def _numbers(values: Array, name: str) -> Array:
    if np.isnan(values).any():
        raise ModelError(f"calibration failed: {name} is not a number for some input")
    return values[np.abs(values) < _LARGEST] if np.abs(values).max(initial=0.0) >= _LARGEST else values


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0][:300]
