"""The gate against a frozen picture: a camera that gives the same one over and over sees nothing, and says so nowhere.

The noise of a sensor that works never comes twice. So a picture that is the last one to the last bit, for
`frozen_after_s` of the source, is called frozen: its frames end as `stale`, until one differs. Time is that of the
frames. Some pixels are compared, at a cost of microseconds; only where all of them have been the same for half of that
time are whole pictures compared, so that what moves between those pixels is seen.
"""

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.frame import Frame, FrameState

__all__ = ["FrozenGate"]

logger = logging.getLogger(__name__)

_PIXELS_A_SIDE = 48
_PICTURE_AXES = 2


class FrozenGate:
    """`frozen_s`: for how long the picture has been frozen, in seconds; 0 where it is not."""

    def __init__(self, pipeline: str, after_s: float) -> None:
        self._pipeline = pipeline
        self._after_ns = int(after_s * 1e9)
        self._sample = b""
        # The first picture of those that look the same. Nobody writes into a frame's data, so it need not be copied.
        self._first: Frame | None = None
        self.frozen_s = 0.0

    @property
    def trouble(self) -> str:
        """What the status should say; empty where all is well."""
        return "the camera's picture is frozen: its frames are stale" if self.frozen_s else ""

    def __call__(self, frame: Frame) -> FrameState | None:
        if frame.data.ndim < _PICTURE_AXES or not frame.data.size:
            return None  # what could not be decoded says nothing of the camera
        sample, first = _sample(frame.data), self._first
        if first is None or sample != self._sample:
            self._begin(frame, sample)
            return None
        same_ns = frame.mono_ns - first.mono_ns
        if same_ns < self._after_ns // 2:
            return None
        if not np.array_equal(frame.data, first.data):
            self._begin(frame, sample)
            return None
        if same_ns < self._after_ns:
            return None
        if not self.frozen_s:
            logger.warning("event=picture_frozen pipeline=%s seconds=%.0f", self._pipeline, same_ns / 1e9)
        self.frozen_s = same_ns / 1e9
        return FrameState.STALE

    def _begin(self, frame: Frame, sample: bytes) -> None:
        if self.frozen_s:
            logger.info("event=picture_moves pipeline=%s seconds=%.0f", self._pipeline, self.frozen_s)
            self.frozen_s = 0.0
        self._first, self._sample = frame, sample


def _sample(data: npt.NDArray[Any]) -> bytes:
    """Some pixels of a picture (H, W) or (H, W, C), of one channel: in green there is something of every colour."""
    grid = data[:: data.shape[0] // _PIXELS_A_SIDE + 1, :: data.shape[1] // _PIXELS_A_SIDE + 1]
    return (grid if grid.ndim == _PICTURE_AXES else grid[:, :, min(1, grid.shape[2] - 1)]).tobytes()
