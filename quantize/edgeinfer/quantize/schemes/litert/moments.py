"""The means and second moments of what enters a layer's weights, learnt from calibration inputs one at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeinfer.runtime.engines.base import Array

__all__ = ["Moments", "Window", "patches", "window_of"]

# Of each calibration input, so many of a convolution's positions are looked at: neighbours say much the same.
_POSITIONS = 256
# So many vectors are multiplied at once: adding a large square to the sum for each of a few costs more than they do.
_TOGETHER = 64


@dataclass(slots=True)
class Moments:
    """Sums over the vectors (n, groups, inputs) that were added; of each group of outputs that has inputs of its own:
    every channel of a depthwise convolution, else one."""

    count: int
    first: Array
    second: Array
    _waiting: list[Array] = field(default_factory=list)

    @classmethod
    def of(cls, groups: int, inputs: int) -> "Moments":
        return cls(0, np.zeros((groups, inputs)), np.zeros((groups, inputs, inputs)))

    def add(self, vectors: Array) -> None:
        self.count += len(vectors)
        self.first += vectors.sum(axis=0, dtype=np.float64)
        self._waiting.append(vectors)
        if sum(len(some) for some in self._waiting) >= _TOGETHER:
            self._multiply()

    def _multiply(self) -> None:
        if not self._waiting:
            return
        vectors = np.concatenate(self._waiting)
        self._waiting.clear()
        # In one piece: of a stack of views, numpy multiplies matrices without BLAS.
        for number, group in enumerate(np.ascontiguousarray(vectors.transpose(1, 0, 2))):
            self.second[number] += group.T @ group

    def mean(self) -> Array:
        """(groups, inputs)"""
        average: Array = self.first / max(self.count, 1)
        return average

    def square(self) -> Array:
        """(groups, inputs, inputs)"""
        self._multiply()
        average: Array = self.second / max(self.count, 1)
        return average

    def covariance(self) -> Array:
        """What a layer's bias cannot make up for."""
        mean = self.mean()
        difference: Array = self.square() - mean[:, :, None] * mean[:, None, :]
        return difference


@dataclass(frozen=True, slots=True)
class Window:
    """How a convolution moves over its input; (height, width) each."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    same: bool


def window_of(operator: Any, shape: Sequence[int]) -> Window:
    """Of a convolution with weights of `shape` (outputs or 1, height, width, inputs)."""
    from ai_edge_litert import schema_py_generated as schema

    options = operator.builtinOptions
    return Window(
        kernel=(int(shape[1]), int(shape[2])),
        strides=(options.strideH, options.strideW),
        dilation=(options.dilationHFactor, options.dilationWFactor),
        same=options.padding == schema.Padding.SAME,
    )


def patches(values: Array, window: Window) -> Array:
    """What the kernel sees of `values` (1, height, width, channels) at up to _POSITIONS positions, evenly spread:
    (positions, kernel height * kernel width, channels)."""
    padded = np.pad(values[0], (*(_padding(values.shape[1 + axis], window, axis) for axis in (0, 1)), (0, 0)))
    reach = tuple((size - 1) * step + 1 for size, step in zip(window.kernel, window.dilation, strict=True))
    views = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(0, 1))
    views = views[:: window.strides[0], :: window.strides[1], :, :: window.dilation[0], :: window.dilation[1]]
    rows, columns = views.shape[:2]
    places = np.unique(np.linspace(0, rows * columns - 1, min(rows * columns, _POSITIONS)).astype(int))
    chosen = views[places // columns, places % columns]
    seen: Array = chosen.reshape(*chosen.shape[:2], -1).transpose(0, 2, 1)
    return seen


def _padding(size: int, window: Window, axis: int) -> tuple[int, int]:
    """TFLite's SAME: as many results as strides begin within the input, the odd cell at the end."""
    if not window.same:
        return 0, 0
    stride = window.strides[axis]
    reach = (window.kernel[axis] - 1) * window.dilation[axis] + 1
    total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2
