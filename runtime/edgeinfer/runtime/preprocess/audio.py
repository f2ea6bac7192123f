"""Sound: samples as they are, or their log-mel spectra or MFCCs."""

import numpy as np

from edgeinfer.runtime.errors import ModelError, SourceError
from edgeinfer.runtime.features import Features
from edgeinfer.runtime.manifest import AudioPre, TensorSpec
from edgeinfer.runtime.preprocess.contract import WHOLE, Array, Region
from edgeinfer.runtime.preprocess.deposit import Deposit
from edgeinfer.runtime.preprocess.standardize import Standardize

__all__ = ["AudioPrepare"]


class AudioPrepare:
    """Data (length,) of samples in -1..1."""

    def __init__(self, declared: AudioPre, spec: TensorSpec) -> None:
        size = int(np.prod(declared.shape))
        if int(np.prod(spec.shape)) != size:
            raise ModelError(
                f"the package declares sound that gives {declared.shape}, the model's input is {spec.shape}"
            )
        self._declared = declared
        self._data_shape = (declared.length,)
        self._target_shape = spec.shape
        self._dtype = np.dtype(spec.dtype)
        self._deposit = Deposit(spec, declared.shape)
        self._scale: Array = np.array(declared.scale, dtype=np.float32)
        self._features = Features(declared) if declared.features != "raw" else None
        shape = declared.shape if self._features is None else self._features.shape
        turned = declared.layout == "bins_first" and self._features is not None
        self._columns = np.empty(shape, dtype=np.float32) if turned else None
        self._standardize = Standardize(declared.mean, declared.std)
        # The samples of raw sound have no columns: one mean for all.
        if not self._standardize.fit(shape if self._features is not None else (1,)):
            raise ModelError(f"expected 1 or {shape[-1]} numbers for mean and std, found {self._standardize.channels}")

    def new_target(self) -> Array:
        return np.zeros(self._target_shape, dtype=self._dtype)

    def __call__(self, data: Array, target: Array) -> Region:
        if data.shape != self._data_shape:
            raise SourceError(
                f"expected {self._declared.length} samples, found shape {data.shape}",
                hint=f"set the source's window = {self._declared.length} and rate_hz = {self._declared.rate_hz}",
            )
        room = self._deposit.room(target)
        columns = room if self._columns is None else self._columns
        if self._features is None:
            np.multiply(data, self._factor(data), out=columns, casting="unsafe")
        else:
            np.multiply(data, self._factor(data), out=self._features.samples, casting="unsafe")
            self._features(columns)
        self._standardize(columns, columns)
        if self._columns is not None:
            np.copyto(room, self._columns.T)
        self._deposit.settle(target)
        return WHOLE

    def _factor(self, data: Array) -> Array:
        """Gain and scale in one number, float32."""
        if self._declared.gain == "none":
            return self._scale
        loudest = data.max()
        return self._scale / np.float32(loudest) if loudest > 0 else self._scale
