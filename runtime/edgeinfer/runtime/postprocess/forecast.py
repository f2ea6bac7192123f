"""Forecast residual: how far what came is from what the model said would come."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.engines.base import dequantize
from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.manifest import ForecastPost, TensorSpec
from edgeinfer.runtime.postprocess.anomaly import verdict
from edgeinfer.runtime.postprocess.outputs import choose_output
from edgeinfer.runtime.preprocess import Region, concrete_shape
from edgeinfer.runtime.results import Item

__all__ = ["Forecast"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
_WINDOW_AXES = 3


class Forecast:
    """No item for the first window of a stream, and for one that does not follow on the one before: the rows that two
    windows share tell."""

    def __init__(self, declared: ForecastPost, model_input: TensorSpec, outputs: Sequence[TensorSpec]) -> None:
        self._declared = declared
        self._input = model_input
        self._output = choose_output(outputs, declared.output)
        given, made = (int(np.prod(concrete_shape(spec))) for spec in (model_input, self._output))
        predicted, rest = divmod(made, declared.horizon)
        if rest or not predicted:
            raise ModelError(f"expected {declared.horizon} rows in a forecast of {made} values")
        self._channels = self._count_channels(model_input, predicted)
        self._predicted = predicted
        self._length, rest = divmod(given, self._channels)
        if rest or declared.stride > self._length:
            raise ModelError(
                f"expected windows of {self._channels} channels and at least {declared.stride} rows, "
                f"found an input {model_input.shape}"
            )
        self._columns = list(declared.columns) or list(range(self._channels))
        if len(self._columns) != predicted or max(self._columns) >= self._channels:
            raise ModelError(
                f"expected a forecast of {len(self._columns)} of {self._channels} channels, found {predicted} in an "
                f"output {self._output.shape} of {declared.horizon} rows",
                hint="name the channels that are forecast as columns",
            )
        self._compared = min(declared.stride, declared.horizon)
        self.reset()

    def _count_channels(self, model_input: TensorSpec, predicted: int) -> int:
        shape = concrete_shape(model_input)
        if len(shape) >= _WINDOW_AXES:
            return int(np.prod(shape[2:]))
        return predicted  # a flat window

    def reset(self) -> None:
        """Another stream begins."""
        self._window: Floats | None = None
        self._forecast: Floats | None = None

    def __call__(self, model_input: Array, outputs: Sequence[Array], region: Region) -> tuple[Item, ...]:
        made = dequantize(outputs[self._declared.output], self._output)
        if made.size != self._declared.horizon * self._predicted:
            raise ModelError(f"expected a forecast of {self._declared.horizon} rows, found {made.shape}")
        window = dequantize(model_input, self._input).reshape(self._length, self._channels)
        score = self._residual(window)
        # Both arrays are written again: the input with the next window, the output with the next forecast.
        self._window = window.copy()
        self._forecast = made.reshape(self._declared.horizon, self._predicted).copy()
        return () if score is None else verdict(score, self._declared.threshold)

    def _residual(self, window: Floats) -> float | None:
        """The mean squared error over the rows that came since the last window."""
        before, forecast, stride = self._window, self._forecast, self._declared.stride
        if before is None or forecast is None or not np.array_equal(before[stride:], window[: self._length - stride]):
            return None
        start = self._length - stride
        came = window[start : start + self._compared, self._columns]
        with np.errstate(all="ignore"):
            difference = (forecast[: self._compared] - came).reshape(-1)
            return float(np.dot(difference, difference)) / difference.size
