"""A video file: as fast as it is read, or paced like a camera."""

import threading
import time
from pathlib import Path
from typing import Any

from edgeinfer.runtime.errors import SourceError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.sources.pictures import opencv
from edgeinfer.runtime.sources.settings import VideoSource

__all__ = ["VideoFile"]

_FALLBACK_FPS = 25.0


class VideoFile:
    def __init__(self, config: VideoSource, stop: threading.Event) -> None:
        self.live = config.paced
        self._cv2 = opencv()
        self._path = Path(config.path)
        self._repeat = config.repeat
        self._decode_threads = config.decode_threads
        self._stop = stop
        self._capture = self._open()
        fps = float(self._capture.get(self._cv2.CAP_PROP_FPS))
        self._period_s = 1.0 / fps if fps > 0 else 1.0 / _FALLBACK_FPS
        self._due_s = time.monotonic()
        self._index = 0

    def read(self) -> Frame | None:
        if self.live and not self._wait_until_due():
            return None
        ok, picture = self._capture.read()
        if not ok and self._repeat and self._index:
            self._capture.release()
            self._capture = self._open()
            ok, picture = self._capture.read()
        if not ok:
            return None
        frame = Frame(picture, time.time_ns(), time.monotonic_ns(), self._index)
        self._index += 1
        return frame

    def close(self) -> None:
        self._capture.release()

    def _open(self) -> Any:
        if not self._path.is_file():
            raise SourceError(f"{self._path}: no such video file")
        cv2 = self._cv2
        capture = cv2.VideoCapture(str(self._path), cv2.CAP_ANY, [cv2.CAP_PROP_N_THREADS, self._decode_threads])
        if not capture.isOpened():
            raise SourceError(f"{self._path}: is no video that OpenCV can read")
        return capture

    def _wait_until_due(self) -> bool:
        """Wait for the next frame's moment; False when stopped. A late reader skips no frame here: what is
        too old is superseded behind the source."""
        stopped = self._stop.wait(max(0.0, self._due_s - time.monotonic()))
        self._due_s = max(self._due_s + self._period_s, time.monotonic() - self._period_s)
        return not stopped
