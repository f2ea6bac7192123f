"""Tensors: the source already hands over what the model takes."""

import math

import numpy as np

from edgeinfer.runtime.errors import SourceError
from edgeinfer.runtime.manifest import TensorSpec
from edgeinfer.runtime.preprocess.contract import WHOLE, Array, Region
from edgeinfer.runtime.preprocess.deposit import Deposit

__all__ = ["TensorPrepare"]


class TensorPrepare:
    """Data of the input's own dtype is copied as it is; anything else is taken as real numbers."""

    def __init__(self, spec: TensorSpec) -> None:
        self._shape = spec.shape
        self._size = math.prod(spec.shape)
        self._dtype = np.dtype(spec.dtype)
        self._deposit = Deposit(spec, spec.shape)

    def new_target(self) -> Array:
        return np.zeros(self._shape, dtype=self._dtype)

    def __call__(self, data: Array, target: Array) -> Region:
        if data.size != self._size:
            raise SourceError(f"expected {self._size} values for an input {self._shape}, found shape {data.shape}")
        if data.dtype == self._dtype:
            target[...] = data.reshape(self._shape)
        else:
            np.copyto(self._deposit.room(target), data.reshape(self._shape), casting="unsafe")
            self._deposit.settle(target)
        return WHOLE
