"""Cameras for tests: real RTSP and MJPEG servers as processes, and an HTTP server that sends what a test tells it to.

    with RtspCamera(free_port(), size=(320, 240)) as camera:
        open_source(CameraSource(device=camera.url), threading.Event())

Where a program is missing the test is skipped, unless CI=true says that it has to be there.
"""

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pytest

from edgeinfer.runtime.sources.pictures import opencv
from waiting import wait_until

__all__ = ["HttpCamera", "MjpegCamera", "RtspCamera", "jpeg", "missing", "multipart", "noise", "part"]

_SYSTEM_PYTHON = "/usr/bin/python3"
_NEEDS = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst, GstRtspServer; \
Gst.init(None); assert all(Gst.ElementFactory.find(e) for e in ('x264enc', 'rtph264pay', 'jpegenc', 'rtpjpegpay'))"
HEADER = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"


def missing(reason: str) -> None:
    """Skip the test; fail it where CI=true."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


class _Server:
    """A process that serves a camera; killed and started again on the same port."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()

    def start(self) -> None:
        self._process = subprocess.Popen(
            self.command(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True
        )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None


class RtspCamera(_Server):
    """GStreamer's RTSP server with a moving test picture."""

    def __init__(
        self,
        port: int,
        *,
        size: tuple[int, int] = (320, 240),
        codec: str = "h264",
        pattern: str = "ball",
        password: str = "",
    ) -> None:
        super().__init__()
        if subprocess.run([_SYSTEM_PYTHON, "-c", _NEEDS], capture_output=True, check=False).returncode:
            missing(
                "GStreamer's RTSP server is not installed (Debian: apt install gir1.2-gst-rtsp-server-1.0 python3-gi "
                "gstreamer1.0-plugins-base, -good, -bad and -ugly)"
            )
        self.port, self.size, self.codec, self.pattern, self.password = port, size, codec, pattern, password
        self.url = f"rtsp://{f'viewer:{password}@' if password else ''}127.0.0.1:{port}/cam"

    def command(self) -> list[str]:
        script = str(Path(__file__).with_name("rtsp_server.py"))
        options = {
            "port": self.port,
            "width": self.size[0],
            "height": self.size[1],
            "codec": self.codec,
            "pattern": self.pattern,
            "password": self.password,
        }
        return [_SYSTEM_PYTHON, script, *(f"--{name}={value}" for name, value in options.items())]

    def start(self) -> None:
        super().start()
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n", "the RTSP server did not start"


class MjpegCamera(_Server):
    """MJPEG over HTTP by ffmpeg; it serves one viewer and ends with it."""

    def __init__(self, port: int, *, size: tuple[int, int] = (320, 240)) -> None:
        super().__init__()
        program = shutil.which("ffmpeg")
        if program is None:
            missing("ffmpeg is not installed (Debian: apt install ffmpeg)")
        self._program, self.port, self.size = str(program), port, size
        self.url = f"http://127.0.0.1:{port}/cam"

    def command(self) -> list[str]:
        source = ["-re", "-f", "lavfi", "-i", f"testsrc=size={self.size[0]}x{self.size[1]}:rate=25"]
        return [self._program, "-loglevel", "error", *source, "-f", "mpjpeg", "-listen", "1", self.url]

    def start(self) -> None:
        super().start()
        wait_until(lambda: _is_served(self.port), what="ffmpeg to listen")


def _is_served(port: int) -> bool:
    """Whether somebody listens, or did and has found a viewer since. Without connecting: it would be the one viewer."""
    local, listening, established = f":{port:04X}", "0A", "01"  # as in the kernel's include/net/tcp_states.h
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(local) and fields[3] in (listening, established):
            return True
    return False


class HttpCamera:
    """Sends each viewer the blocks of `script()`, one every `pause_s`; then it closes, or with `hang` stays silent."""

    def __init__(
        self, script: Callable[[], Iterator[bytes]], *, pause_s: float = 0.02, hang: bool = False, port: int = 0
    ) -> None:
        self._script, self._pause_s, self._hang = script, pause_s, hang
        self._stop = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/cam"
        self.viewers = 0
        self._threads = [threading.Thread(target=self._accept, name="http-camera")]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                viewer, _ = self._listener.accept()
            except OSError:
                return
            self.viewers += 1
            thread = threading.Thread(target=self._serve, args=(viewer,), name="http-viewer")
            self._threads.append(thread)
            thread.start()

    def _serve(self, viewer: socket.socket) -> None:
        with viewer:
            try:
                viewer.recv(4096)
                for block in self._script():
                    viewer.sendall(block)
                    if self._stop.wait(self._pause_s):
                        return
            except OSError:
                return
            if self._hang:
                self._stop.wait()


def jpeg(picture: npt.NDArray[Any]) -> bytes:
    """As a camera with a fair quality encodes it."""
    ok, content = opencv().imencode(".jpg", picture)
    assert ok
    return bytes(content)


def noise(index: int, size: tuple[int, int] = (64, 48)) -> npt.NDArray[np.uint8]:
    """A picture (H, W, 3) unlike that of any other index."""
    return np.random.default_rng(index).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)


def multipart(*pictures: bytes) -> Iterator[bytes]:
    """An HTTP answer of these JPEG files; each is a block."""
    yield HEADER
    yield from map(part, pictures)


def part(picture: bytes) -> bytes:
    return b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(picture), picture)
