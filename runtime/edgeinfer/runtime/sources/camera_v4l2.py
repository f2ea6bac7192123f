"""A camera at this machine, through V4L2.

The driver stamps a picture when its first bytes arrive, on the monotonic clock (`V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC`),
and OpenCV hands that out as its position. Where it is believable, in the past by less than five seconds, it is the
frame's time; else, with drivers that stamp otherwise or not at all, the time of arrival is.
"""

import threading
import time

from edgeinfer.runtime.errors import SourceError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.sources.camera import frame_taken
from edgeinfer.runtime.sources.pictures import opencv
from edgeinfer.runtime.sources.settings import CameraSource

__all__ = ["V4l2Camera"]

_MAX_AGE_NS = 5_000_000_000
_SLICE_NS = 250_000_000


class V4l2Camera:
    """Waits for a picture in slices of a quarter of a second, so that a stop is noticed and a silent camera given up
    after `timeout_s`. The first picture OpenCV waits for by itself, for ten seconds at most."""

    live = True

    def __init__(self, config: CameraSource, stop: threading.Event) -> None:
        self._cv2 = cv2 = opencv()
        self._name = str(config.device)
        self._stop = stop
        self._silent_ns = int(config.timeout_s * 1e9)
        device = int(self._name) if self._name.isdecimal() else self._name
        try:
            self._capture = cv2.VideoCapture(device, cv2.CAP_V4L2)
        except (cv2.error, OverflowError) as error:
            raise SourceError(f"camera {self._name}: expected a number or path of a V4L2 device") from error
        if not self._capture.isOpened():
            raise SourceError(
                f"camera {self._name}: cannot be opened", hint="is it connected, and may this user read it?"
            )
        self._set_up(config)
        self._index = 0

    def _set_up(self, config: CameraSource) -> None:
        """The format first: sizes and rates depend on it. What the camera cannot do it leaves as it is."""
        cv2 = self._cv2
        for setting, value in (
            (cv2.CAP_PROP_FOURCC, float(cv2.VideoWriter_fourcc(*config.fourcc)) if config.fourcc else 0.0),
            (cv2.CAP_PROP_FRAME_WIDTH, config.width),
            (cv2.CAP_PROP_FRAME_HEIGHT, config.height),
            (cv2.CAP_PROP_FPS, config.fps),
            (cv2.CAP_PROP_BUFFERSIZE, config.buffer),
        ):
            if value:
                self._capture.set(setting, value)

    def read(self) -> Frame | None:
        if not self._wait():
            return None
        ok, picture = self._capture.retrieve()
        now_ns = time.monotonic_ns()
        if not ok or picture is None:
            raise SourceError(f"camera {self._name}: gave no frame")
        taken_ns = int(self._capture.get(self._cv2.CAP_PROP_POS_MSEC) * 1e6)
        if not 0 <= now_ns - taken_ns < _MAX_AGE_NS:
            taken_ns = now_ns
        self._index += 1
        return frame_taken(picture, taken_ns=taken_ns, now_ns=now_ns, index=self._index - 1)

    def close(self) -> None:
        self._capture.release()

    def _wait(self) -> bool:
        """Until a picture has been taken up; False when stopped. Raises SourceError."""
        if not self._capture.isOpened():  # OpenCV would look for its device at address 0
            raise SourceError(f"camera {self._name}: is closed")
        began_ns = time.monotonic_ns()
        while not self._stop.is_set():
            slice_began_ns = time.monotonic_ns()
            try:
                _, ready = self._cv2.VideoCapture.waitAny([self._capture], _SLICE_NS)
            except self._cv2.error as error:
                raise SourceError(f"camera {self._name}: gave no frame", hint="was it disconnected?") from error
            if len(ready):
                return True
            now_ns = time.monotonic_ns()
            if now_ns - slice_began_ns < _SLICE_NS // 2:  # the kernel has an error to tell, not a picture
                raise SourceError(f"camera {self._name}: gave no frame", hint="was it disconnected?")
            if now_ns - began_ns >= self._silent_ns:
                raise SourceError(f"camera {self._name}: gave no frame for {self._silent_ns / 1e9:g} s")
        return False
