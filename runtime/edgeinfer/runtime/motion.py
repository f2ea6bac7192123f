"""The motion gate: frames in which nothing changes are not inferred.

Pictures are compared with a slowly adapting background, as a small grey picture. One channel is taken as grey: green
carries most of the light, and to take it out of the picture costs next to nothing. Sensor windows and sound are
compared by the mean and the deviation of each channel.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.frame import Frame, FrameState
from edgeinfer.runtime.rules.geometry import Polygon
from edgeinfer.runtime.rules.settings import MotionConfig

__all__ = ["MotionGate"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

_SECOND_NS = 1_000_000_000
_PICTURE_AXES = 3
_WINDOW_AXES = 2  # (length, channels)
_GREEN = 1
# About so many columns are left of a picture: a person who fills a hundredth of it still covers dozens of pixels.
_WIDTH = 96
# Averaging over 3 x 3 of them takes two thirds of the sensor's noise away.
_BLUR = (3, 3)


class MotionGate:
    """Called in the capturing thread. `enabled` may be set by any thread: a gate that is not lets every frame pass,
    and learns its background anew once it is."""

    def __init__(self, config: MotionConfig, *, enabled: bool = True) -> None:
        self.enabled = enabled
        self._config = config
        self._adapt_ns = config.adapt_s * _SECOND_NS
        self._hold_ns = int(config.hold_s * _SECOND_NS)
        self._refresh_ns = int(config.refresh_s * _SECOND_NS)
        self._background: _Picture | _Window | None = None
        self._seen_ns = 0
        self._moved_ns = 0
        self._passed_ns = 0

    def __call__(self, frame: Frame) -> FrameState | None:
        if not self.enabled:
            self._background = None
            return None
        now_ns, background = frame.clock_ns, self._background
        if background is None or not background.fits(frame.data):
            self._background = _background_of(frame.data, self._config)
            self._moved_ns = now_ns - self._hold_ns  # what comes first is inferred, but nothing has moved yet
        elif background.differs(frame.data, self._share(now_ns)):
            self._moved_ns = now_ns
        elif now_ns - self._moved_ns >= self._hold_ns and not self._is_due(now_ns):
            self._seen_ns = now_ns
            return FrameState.MOTION_SKIPPED
        self._seen_ns = self._passed_ns = now_ns
        return None

    def _share(self, now_ns: int) -> float:
        """What a frame has in the background: after `adapt_s`, 63 % of it is new, at any frame rate."""
        return -math.expm1(min(0, self._seen_ns - now_ns) / self._adapt_ns)

    def _is_due(self, now_ns: int) -> bool:
        return self._refresh_ns > 0 and now_ns - self._passed_ns >= self._refresh_ns


class _Picture:
    """The background of pictures (H, W, 3) uint8 of one size."""

    def __init__(self, picture: Array, config: MotionConfig) -> None:
        from edgeinfer.runtime.sources.pictures import opencv

        self._cv2 = opencv()
        self._shape = picture.shape
        step = max(1, picture.shape[1] // _WIDTH)
        self._every = (slice(step // 2, None, step), slice(step // 2, None, step), _GREEN)
        grey = np.ascontiguousarray(picture[self._every])
        self._threshold = config.threshold
        self._least = max(1, math.ceil(config.min_area * grey.size))
        self._blurred = self._cv2.blur(grey, _BLUR)
        self._mean: Floats = self._blurred.astype(np.float32)
        self._rounded = self._blurred.copy()
        self._changed = np.empty_like(grey)
        self._ignored = _filled(self._cv2, grey.shape, config.mask) if config.mask else None

    def fits(self, data: Array) -> bool:
        return data.shape == self._shape and data.dtype == np.uint8

    def differs(self, picture: Array, share: float) -> bool:
        cv2 = self._cv2
        cv2.blur(np.ascontiguousarray(picture[self._every]), _BLUR, self._blurred)
        cv2.convertScaleAbs(self._mean, self._rounded)
        cv2.absdiff(self._blurred, self._rounded, self._changed)
        cv2.threshold(self._changed, self._threshold, 255, cv2.THRESH_BINARY, self._changed)
        if self._ignored is not None:
            self._changed[self._ignored] = 0
        cv2.accumulateWeighted(self._blurred, self._mean, share)
        return bool(cv2.countNonZero(self._changed) >= self._least)


class _Window:
    """The background of windows (length, channels), or of samples (n,): what mean and deviation usually are."""

    def __init__(self, window: Array, config: MotionConfig) -> None:
        self._shape = window.shape
        self._change = config.change
        self._mean, self._deviation = _moments(window)

    def fits(self, data: Array) -> bool:
        return data.shape == self._shape and bool(np.isfinite(self._mean).all())

    def differs(self, window: Array, share: float) -> bool:
        mean, deviation = _moments(window)
        if not (np.isfinite(mean).all() and np.isfinite(deviation).all()):
            return True
        limit = self._change * self._deviation
        still = (np.abs(mean - self._mean) <= limit) & (np.abs(deviation - self._deviation) <= limit)
        self._mean += share * (mean - self._mean)
        self._deviation += share * (deviation - self._deviation)
        return not bool(still.all())


def _background_of(data: Array, config: MotionConfig) -> _Picture | _Window:
    is_picture = data.dtype == np.uint8 and data.ndim == _PICTURE_AXES and data.shape[-1] == _PICTURE_AXES
    return _Picture(data, config) if is_picture else _Window(data, config)


def _moments(window: Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and standard deviation of each channel. A single channel for what is no (length, channels)."""
    rows = window if window.ndim == _WINDOW_AXES else window.reshape(-1, 1)
    return rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)


def _filled(cv2: Any, shape: tuple[int, ...], polygons: Sequence[Polygon]) -> npt.NDArray[np.bool_]:
    """Which pixels of a picture of `shape` (H, W) lie in one of the polygons (corners in 0..1)."""
    height, width = shape
    canvas = np.zeros((height, width), np.uint8)
    for polygon in polygons:
        corners = np.array([(round(x * (width - 1)), round(y * (height - 1))) for x, y in polygon], np.int32)
        cv2.fillPoly(canvas, [corners], 255)
    found: npt.NDArray[np.bool_] = canvas > 0
    return found
