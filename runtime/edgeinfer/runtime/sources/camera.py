"""A camera: V4L2 by number or path, or a network camera by URL, through OpenCV."""

import time

from edgeinfer.runtime.errors import SourceError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.sources.pictures import opencv
from edgeinfer.runtime.sources.settings import CameraSource

__all__ = ["Camera"]


class Camera:
    """Raises SourceError where there is no camera, and when it stops giving frames: the caller opens a new
    one after a wait."""

    live = True

    def __init__(self, config: CameraSource) -> None:
        self._cv2 = cv2 = opencv()
        self._name = str(config.device)
        silent_ms = int(config.timeout_s * 1000)
        if "://" in self._name:
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, silent_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, silent_ms]
            self._capture = cv2.VideoCapture(self._name, cv2.CAP_FFMPEG, limits)
        else:
            device = int(self._name) if self._name.isdigit() else self._name
            self._capture = cv2.VideoCapture(device, cv2.CAP_V4L2)
        if not self._capture.isOpened():
            raise SourceError(f"camera {_without_password(self._name)}: cannot be opened", hint="is it connected?")
        for setting, value in (
            (cv2.CAP_PROP_FRAME_WIDTH, config.width),
            (cv2.CAP_PROP_FRAME_HEIGHT, config.height),
            (cv2.CAP_PROP_FPS, config.fps),
        ):
            if value:
                self._capture.set(setting, value)
        self._index = 0

    def read(self) -> Frame | None:
        ok, picture = self._capture.read()
        if not ok or picture is None:
            raise SourceError(f"camera {_without_password(self._name)}: gave no frame")
        frame = Frame(picture, time.time_ns(), time.monotonic_ns(), self._index)
        self._index += 1
        return frame

    def close(self) -> None:
        self._capture.release()


def _without_password(name: str) -> str:
    """rtsp://user:password@host/path without what stands before the @."""
    scheme, separator, rest = name.partition("://")
    credentials, at, host = rest.rpartition("@")
    return f"{scheme}{separator}***@{host}" if at and credentials else name
