"""`(x - mean) / std` in float32 and without temporaries, exactly as packages are evaluated when they are made."""

from collections.abc import Sequence

import numpy as np

from edgeinfer.runtime.preprocess.contract import Array

__all__ = ["Standardize"]

_SHORT_ROW = 64


class Standardize:
    """`mean` and `std` hold one number, or one for each entry of the last axis. What changes nothing is left out."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.channels = max(len(mean), len(std))
        self._lengths = {len(mean), len(std)}
        self._mean = _number_or_row(mean)
        self._std = _number_or_row(std)
        self._shifts = bool(np.any(self._mean))
        self._scales = bool(np.any(self._std != 1.0))

    def fit(self, shape: tuple[int, ...]) -> bool:
        """Make ready for data of this shape; False where it has another number of channels."""
        if not self._lengths <= {1, shape[-1] if shape else 1}:
            return False
        if self.channels <= _SHORT_ROW:
            # An operation over short rows spends its time between them.
            self._mean, self._std = _spread(self._mean, shape), _spread(self._std, shape)
        return True

    def __call__(self, data: Array, out: Array) -> None:
        """Data of any number type into `out` float32 of its shape."""
        if data.dtype != np.float32:
            # Casting while subtracting is slower, by way of buffers of numpy's own.
            np.copyto(out, data, casting="unsafe")
            data = out
        if self._shifts:
            np.subtract(data, self._mean, out=out)
        elif data is not out:
            np.copyto(out, data)
        if self._scales:
            np.divide(out, self._std, out=out)


def _number_or_row(values: Sequence[float]) -> Array:
    row = np.array(values, dtype=np.float32)
    return row[0] if len(set(values)) == 1 else row


def _spread(values: Array, shape: tuple[int, ...]) -> Array:
    if values.ndim == 0:
        return values
    row = values.reshape(-1, values.shape[-1])[0]
    return np.ascontiguousarray(np.broadcast_to(row, shape))
