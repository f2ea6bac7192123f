"""A video file: as fast as it is read, or paced like a camera."""

import os
import threading
import time
from pathlib import Path
from typing import Any

from edgeinfer.runtime.errors import SourceError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.sources.pictures import opencv
from edgeinfer.runtime.sources.settings import VideoSource

__all__ = ["VideoFile", "decode_threads"]

_FALLBACK_FPS = 25.0
_SECOND_NS = 1_000_000_000
# One decodes 720p as fast as two, for less CPU; 1080p is a quarter faster with two.
_PIXELS_A_THREAD = 1_000_000
_MAX_THREADS = 4


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
        stream_ns = -1 if self.live else int(self._index * self._period_s * _SECOND_NS)
        frame = Frame(picture, time.time_ns(), time.monotonic_ns(), self._index, stream_ns=stream_ns)
        self._index += 1
        return frame

    def close(self) -> None:
        self._repeat = False
        self._capture.release()

    def _open(self) -> Any:
        if not self._path.is_file():
            raise SourceError(f"{self._path}: no such video file")
        capture = self._open_with(self._decode_threads or 1)
        if not self._decode_threads:
            cv2 = self._cv2
            pixels = capture.get(cv2.CAP_PROP_FRAME_WIDTH) * capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
            self._decode_threads = decode_threads(pixels, cores=len(os.sched_getaffinity(0)))
            if self._decode_threads > 1:
                capture.release()
                capture = self._open_with(self._decode_threads)
        return capture

    def _open_with(self, threads: int) -> Any:
        cv2 = self._cv2
        capture = cv2.VideoCapture(str(self._path), cv2.CAP_ANY, [cv2.CAP_PROP_N_THREADS, threads])
        if not capture.isOpened():
            raise SourceError(f"{self._path}: is no video that OpenCV can read")
        return capture

    def _wait_until_due(self) -> bool:
        """Wait for the next frame's moment; False when stopped. A late reader skips no frame here: what is
        too old is superseded behind the source."""
        stopped = self._stop.wait(max(0.0, self._due_s - time.monotonic()))
        self._due_s = max(self._due_s + self._period_s, time.monotonic() - self._period_s)
        return not stopped


def decode_threads(pixels: float, *, cores: int) -> int:
    """One a million pixels, as far as there are cores."""
    return max(1, min(int(pixels // _PIXELS_A_THREAD), cores, _MAX_THREADS))
