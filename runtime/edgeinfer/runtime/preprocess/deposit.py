"""How real numbers get into the model's input: computed in place where it holds float32, else by way of a buffer."""

import numpy as np

from edgeinfer.runtime.engines.base import cast_limits
from edgeinfer.runtime.manifest import TensorSpec
from edgeinfer.runtime.preprocess.contract import Array

__all__ = ["Deposit"]


class Deposit:
    """`room` is where to compute the real values, of `shape`; `settle` puts them into the model's input as
    `edgeinfer.runtime.engines.base.quantize_input` would: q = clip(rint(x / scale) + zero_point), or cast, to
    integers clipped, too."""

    def __init__(self, spec: TensorSpec, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._buffer = None if spec.dtype == "float32" else np.empty(shape, dtype=np.float32)
        self._scale = self._zero_point = self._limits = None
        dtype = np.dtype(spec.dtype)
        if spec.scale is not None and spec.zero_point is not None:
            self._scale, self._zero_point = np.float32(spec.scale), np.float32(spec.zero_point)
        if dtype.kind in "iu":
            self._limits = cast_limits(dtype)

    def room(self, target: Array) -> Array:
        return target.reshape(self._shape) if self._buffer is None else self._buffer

    def settle(self, target: Array) -> None:
        values = self._buffer
        if values is None:
            return
        if self._scale is not None and self._zero_point is not None:
            np.divide(values, self._scale, out=values)
            np.rint(values, out=values)
            np.add(values, self._zero_point, out=values)
        if self._limits is not None:
            np.maximum(values, self._limits[0], out=values)
            np.minimum(values, self._limits[1], out=values)
        np.copyto(target.reshape(self._shape), values, casting="unsafe")
