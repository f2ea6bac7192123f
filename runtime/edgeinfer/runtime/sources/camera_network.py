"""A network camera by its URL (rtsp, http and what else FFmpeg knows), through OpenCV.

FFmpeg waits inside of C, where a stop event is not seen: opening and reading take at most `timeout_s`, then they give
up. (What resolves a host's name has its own limits: see resolv.conf.) One thread decodes, because each further one
holds a picture back.

Pictures of RTSP carry presentation times, from which `MediaClock` makes times of capture. Others get the time of their
arrival: for MJPEG over HTTP, FFmpeg invents 25 pictures a second, whatever the camera does.

MJPEG is taken as it comes and decoded picture by picture: each has the size that it says, and one that is damaged
costs one frame. In other codecs OpenCV scales what changes its size in mid-stream to the size of the first picture.
"""

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from edgeinfer.runtime.errors import SourceError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.sources.camera import frame_taken, shown
from edgeinfer.runtime.sources.media_clock import MediaClock
from edgeinfer.runtime.sources.pictures import decode_picture, opencv
from edgeinfer.runtime.sources.settings import CameraSource

__all__ = ["NetworkCamera"]

_WITH_TIMES = {"rtsp", "rtsps"}
_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
_PROBE_S = 1.0
_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"


class NetworkCamera:
    live = True

    def __init__(self, config: CameraSource, stop: threading.Event) -> None:
        self._cv2 = cv2 = opencv()
        self._url = str(config.device)
        self._stop = stop
        self._silent_s = config.timeout_s
        self._clock = MediaClock() if self._url.partition("://")[0].lower() in _WITH_TIMES else None
        self._capture = _open(cv2, self._url, config)
        if not self._capture.isOpened():
            raise _not_opened(self._url)
        self._is_mjpeg = int(self._capture.get(cv2.CAP_PROP_FOURCC)) == cv2.VideoWriter_fourcc(*"MJPG")
        if self._is_mjpeg:
            self._is_mjpeg = bool(self._capture.set(cv2.CAP_PROP_FORMAT, -1))
        self._index = 0

    def read(self) -> Frame | None:
        if self._stop.is_set():
            return None
        began_s = time.monotonic()
        try:
            ok, picture = self._capture.read()
        except self._cv2.error as error:
            raise SourceError(f"camera {shown(self._url)}: sent what cannot be decoded") from error
        now_ns = time.monotonic_ns()
        if not ok or picture is None:
            waited_s = now_ns / 1e9 - began_s
            what = f"was silent for {waited_s:.1f} s" if waited_s >= self._silent_s else "ended its stream"
            raise SourceError(f"camera {shown(self._url)}: {what}")
        if self._is_mjpeg:
            picture = decode_picture(picture.reshape(-1))
        self._index += 1
        return frame_taken(picture, taken_ns=self._taken_ns(now_ns), now_ns=now_ns, index=self._index - 1)

    def close(self) -> None:
        self._capture.release()

    def _taken_ns(self, now_ns: int) -> int:
        if self._clock is None:
            return now_ns
        presented_ns = int(self._capture.get(self._cv2.CAP_PROP_POS_MSEC) * 1e6)
        return self._clock.captured_ns(arrived_ns=now_ns, presented_ns=presented_ns)


class _Turns:
    """OpenCV reads FFmpeg's options from the environment, which all cameras share: those that are opened at the same
    time want the same, the others wait for their turn, in the order in which they came."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._opening = 0

    @contextmanager
    def of(self, options: str) -> Iterator[None]:
        mine = object()
        with self._changed:
            self._waiting.append(mine)
            self._changed.wait_for(lambda: self._waiting[0] is mine and self._may_go(options))
            self._waiting.popleft()
            self._opening += 1
            if os.environ.get(_OPTIONS) != options:
                os.environ[_OPTIONS] = options
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._opening -= 1
                self._changed.notify_all()

    def _may_go(self, options: str) -> bool:
        return not self._opening or os.environ.get(_OPTIONS) == options


_turns = _Turns()


@cache
def _given_options() -> str:
    """What stood in the environment before the first camera was opened stays in force, in front of ours."""
    return os.environ.get(_OPTIONS, "")


def _open(cv2: ModuleType, url: str, config: CameraSource) -> Any:
    silent_ms = int(config.timeout_s * 1000)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, silent_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, silent_ms]
    with _turns.of(f"{_given_options()}|rtsp_transport;{config.transport}"):
        return cv2.VideoCapture(url, cv2.CAP_FFMPEG, [*limits, cv2.CAP_PROP_N_THREADS, config.decode_threads])


def _not_opened(url: str) -> SourceError:
    """FFmpeg does not tell why: see whether anybody answers at all."""
    name = f"camera {shown(url)}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme.lower(), 0)
    except ValueError:
        host, port = None, 0
    if not host:
        return SourceError(f"{name}: expected a URL with a host")
    try:
        if port:
            socket.create_connection((host, port), _PROBE_S).close()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        return SourceError(f"{name}: cannot be reached: {reason}", hint="is it switched on and connected?")
    return SourceError(f"{name}: answers, but gives no video", hint="are path, user and password right?")
