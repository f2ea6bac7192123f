"""Sensor windows: standardized where the model's input lies."""

import math

import numpy as np

from edgeinfer.runtime.errors import SourceError
from edgeinfer.runtime.manifest import TensorSpec, WindowPre
from edgeinfer.runtime.preprocess.contract import WHOLE, Array, Region
from edgeinfer.runtime.preprocess.deposit import Deposit
from edgeinfer.runtime.preprocess.standardize import Standardize

__all__ = ["WindowPrepare"]


class WindowPrepare:
    def __init__(self, declared: WindowPre, spec: TensorSpec) -> None:
        self._shape = spec.shape
        self._size = math.prod(spec.shape)
        self._dtype = np.dtype(spec.dtype)
        self._deposit = Deposit(spec, spec.shape)
        self._standardize = Standardize(declared.mean, declared.std)
        self._seen: tuple[int, ...] = ()

    def new_target(self) -> Array:
        return np.zeros(self._shape, dtype=self._dtype)

    def __call__(self, data: Array, target: Array) -> Region:
        if data.shape != self._seen:
            self._check(data)
        self._standardize(data, self._deposit.room(target).reshape(data.shape))
        self._deposit.settle(target)
        return WHOLE

    def _check(self, data: Array) -> None:
        if data.size != self._size:
            raise SourceError(
                f"expected a window of {self._size} values (input {self._shape}), found {data.shape}",
                hint="set the source's window and columns as the package declares them",
            )
        if not self._standardize.fit(data.shape):
            raise SourceError(f"expected a window of {self._standardize.channels} channels, found shape {data.shape}")
        self._seen = data.shape
