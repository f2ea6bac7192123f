"""What every source of pictures that goes on for ever promises, tried with real servers; and cameras that misbehave."""

import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import numpy as np
import pytest

from brokers import free_port
from cameras import HttpCamera, MjpegCamera, RtspCamera, jpeg, missing, multipart, noise
from edgeinfer.runtime.errors import SourceError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.sources.base import Source, is_live, open_source
from edgeinfer.runtime.sources.camera import shown
from edgeinfer.runtime.sources.pictures import opencv
from edgeinfer.runtime.sources.settings import CameraSource, SourceConfig, VideoSource, WatchedSource
from waiting import wait_until

V4L2 = "EDGEINFER_V4L2"
FAKE_V4L2 = "/dev/video42"


def open_now(config: SourceConfig) -> Source:
    return open_source(config, threading.Event())


def read(source: Source, count: int) -> list[Frame]:
    found = []
    for _ in range(count):
        frame = source.read()
        assert frame is not None
        found.append(frame)
    return found


def endless() -> Iterator[bytes]:
    return multipart(*(jpeg(noise(index)) for index in range(200)))


def paced_video(path: Path) -> SourceConfig:
    cv2 = opencv()
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 50, (320, 240))
    for index in range(20):
        writer.write(noise(index, (320, 240)))
    writer.release()
    return VideoSource(path=str(path), paced=True, repeat=True)


def watched_folder(folder: Path) -> SourceConfig:
    folder.mkdir()
    for index in range(60):
        (folder / f"{index}.jpg").write_bytes(jpeg(noise(index)))
    return WatchedSource(path=str(folder), quiet_s=0.0, poll_s=0.05)


def v4l2_device() -> str:
    named = os.environ.get(V4L2, "")
    found = [named] if named else [str(path) for path in sorted(Path("/dev").glob("video*"))]
    if not found:
        pytest.skip("there is no /dev/video* on this machine")
    return found[0]


@pytest.fixture
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SourceConfig]:
    """A source that gives pictures for ever, by its name, with what serves it."""
    with ExitStack() as stack:
        match request.param:
            case "rtsp-h264":
                yield CameraSource(device=stack.enter_context(RtspCamera(free_port())).url)
            case "rtsp-h264-udp":
                yield CameraSource(device=stack.enter_context(RtspCamera(free_port())).url, transport="udp")
            case "rtsp-jpeg":
                yield CameraSource(device=stack.enter_context(RtspCamera(free_port(), codec="jpeg")).url)
            case "http":
                yield CameraSource(device=stack.enter_context(HttpCamera(endless)).url)
            case "v4l2":
                yield CameraSource(device=v4l2_device())
            case "video":
                yield paced_video(tmp_path / "v.avi")
            case _:
                yield watched_folder(tmp_path / "pictures")


KINDS = ["rtsp-h264", "rtsp-h264-udp", "rtsp-jpeg", "http", "v4l2", "video", "watched"]


@pytest.mark.parametrize("config", KINDS, indirect=True)
class TestLivePictures:
    def test_frames_have_growing_indices_and_believable_times(self, config: SourceConfig) -> None:
        source = open_now(config)
        found = []
        for frame in (frame for _ in range(30) for frame in read(source, 1)):
            assert 0 <= time.monotonic_ns() - frame.mono_ns < 6e9
            assert abs((time.time_ns() - frame.t_ns) - (time.monotonic_ns() - frame.mono_ns)) < 1e9
            assert frame.data.dtype == np.uint8
            assert frame.data.shape[2] == 3
            found.append(frame)
        assert [frame.index for frame in found] == list(range(30))
        times = [frame.mono_ns for frame in found]
        assert times == sorted(times)
        source.close()
        source.close()

    def test_opened_again_it_goes_on(self, config: SourceConfig) -> None:
        for _ in range(2):
            with closing(open_now(config)) as source:
                assert [frame.index for frame in read(source, 3)] == [0, 1, 2]

    def test_a_stop_ends_reading(self, config: SourceConfig) -> None:
        stop = threading.Event()
        with closing(open_source(config, stop)) as source:
            read(source, 3)
            threading.Timer(0.1, stop.set).start()
            deadline = time.monotonic() + 20
            while source.read() is not None:
                assert time.monotonic() < deadline
            assert stop.is_set()

    def test_closed_it_gives_no_more_frames(self, config: SourceConfig) -> None:
        if isinstance(config, WatchedSource):
            return  # it has none open
        source = open_now(config)
        read(source, 1)
        source.close()
        try:
            assert source.read() is None
        except SourceError:
            return

    def test_the_daemon_waits_for_a_camera_and_a_folder(self, config: SourceConfig) -> None:
        assert is_live(config) is not isinstance(config, VideoSource)


@pytest.mark.timeout(1200)
def test_a_v4l2_camera_keeps_the_contract(tmp_path: Path) -> None:
    """The tests of this file for V4L2, in a process in which a camera of our own stands for the kernel's."""
    library = fake_v4l2(tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "v4l2 and not fake and not keeps"]
    done = subprocess.run(
        [*command, __file__],
        env={**os.environ, "LD_PRELOAD": str(library), V4L2: FAKE_V4L2},
        capture_output=True,
        check=False,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert " skipped" not in done.stdout.splitlines()[-1], done.stdout[-4000:]


def fake_v4l2(folder: Path) -> Path:
    library, source = folder / "v4l2.so", Path(__file__).parents[1] / "v4l2_camera.c"
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    except (OSError, subprocess.CalledProcessError):
        missing("no C compiler, or no kernel headers (Debian: apt install gcc libc6-dev)")
    return library


@pytest.mark.parametrize(
    ("environment", "options", "expected"),
    [
        ({}, 'width=320, height=240, fourcc="YUYV", buffer=1', "(240, 320, 3) 30"),
        ({}, 'fourcc="MJPG", fps=25.0', "(480, 640, 3) 30"),  # what it cannot do it leaves
        ({"FAKE_PICTURES": "5"}, "timeout_s=0.5", "gave no frame for 0.5 s"),
        ({"FAKE_GONE_AFTER": "5"}, "timeout_s=30.0", "gave no frame"),
        ({"FAKE_GONE_AFTER": "0"}, "timeout_s=30.0", "gave no frame"),
    ],
    ids=["as it is asked", "as it can", "silent", "gone", "gone at once"],
)
def test_a_fake_v4l2_camera(tmp_path: Path, environment: dict[str, str], options: str, expected: str) -> None:
    """Its stamps say that each picture was exposed 7 ms before it was handed out."""
    script = f"""
import threading, time
from edgeinfer.runtime.errors import SourceError
from edgeinfer.runtime.sources.base import open_source
from edgeinfer.runtime.sources.settings import CameraSource
source = open_source(CameraSource(device="{FAKE_V4L2}", {options}), threading.Event())
try:
    frames = [(source.read(), time.monotonic_ns()) for _ in range(30)]
    assert all(now_ns - frame.mono_ns >= 7e6 for frame, now_ns in frames)
    assert len({{frame.data.tobytes() for frame, _ in frames}}) == 30, "each picture is another"
    print(frames[-1][0].data.shape, len(frames))
except SourceError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "LD_PRELOAD": str(fake_v4l2(tmp_path)), **environment},
        capture_output=True,
        check=True,
        text=True,
    )
    assert expected in done.stdout


def test_mjpeg_of_ffmpeg_is_read_and_ends_with_its_server() -> None:
    with (
        MjpegCamera(free_port(), size=(128, 96)) as camera,
        closing(open_now(CameraSource(device=camera.url))) as source,
    ):
        assert {frame.data.shape for frame in read(source, 10)} == {(96, 128, 3)}
        camera.kill()
        with pytest.raises(SourceError, match="ended its stream"):
            read(source, 100)
        source.close()


def test_a_picture_of_another_size_in_mid_stream_comes_as_it_is() -> None:
    sizes = [(64, 48)] * 20 + [(320, 240)] * 20 + [(100, 1000)] * 20
    with HttpCamera(lambda: multipart(*(jpeg(noise(i, size)) for i, size in enumerate(sizes)))) as camera:
        source = open_now(CameraSource(device=camera.url))
        assert [frame.data.shape[1::-1] for frame in read(source, 60)] == sizes
        source.close()


def test_a_damaged_picture_costs_one_frame() -> None:
    def script() -> Iterator[bytes]:
        pictures = [jpeg(noise(index)) for index in range(40)]
        pictures[20] = pictures[20][:300]
        pictures[25] = pictures[25][:2] + b"\xff" * 500
        return multipart(*pictures)

    with HttpCamera(script) as camera:
        source = open_now(CameraSource(device=camera.url))
        sizes = [frame.data.size for frame in read(source, 36)]
        assert sizes.count(0) <= 2
        assert sum(size > 0 for size in sizes) >= 34
        source.close()


def garbage(seed: int) -> Iterator[bytes]:
    rng = np.random.default_rng(seed)
    while True:
        yield rng.bytes(20_000)


def broken_off(seed: int) -> Iterator[bytes]:
    """A good stream whose bytes become garbage."""
    yield from itertools.islice(endless(), 30)
    yield from itertools.islice(garbage(seed), 20)


@pytest.mark.parametrize("hang", [True, False], ids=["silent", "closing"])
@pytest.mark.parametrize(
    "script",
    [
        lambda: iter(()),
        lambda: iter([b"HTTP/1.0 200 OK\r\n\r\n"]),
        lambda: itertools.islice(multipart(), 1),
        lambda: iter([b"HTTP/1.0 401 Unauthorized\r\n\r\n"]),
        lambda: itertools.islice(garbage(1), 50),
        lambda: itertools.chain([b"HTTP/1.0 200 OK\r\n\r\n"], itertools.islice(garbage(2), 50)),
        lambda: itertools.chain(multipart(), itertools.islice(garbage(3), 50)),
    ],
    ids=["nothing", "no body", "an empty stream", "refused", "garbage", "garbage as a body", "garbage as pictures"],
)
@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_what_is_no_stream_is_a_source_error_within_its_time(
    script: "type[Iterator[bytes]]", hang: bool, scheme: str
) -> None:
    with HttpCamera(script, hang=hang, pause_s=0.001) as camera:
        began_s = time.monotonic()
        with pytest.raises(SourceError) as caught:
            read(open_now(CameraSource(device=camera.url.replace("http", scheme), timeout_s=0.5)), 1)
        assert time.monotonic() - began_s < 20, "twice its time, and some for a slow machine; FFmpeg alone waits 30 s"
        assert caught.value.recoverable


def test_garbage_in_mid_stream_is_a_source_error_and_the_next_opening_works() -> None:
    with HttpCamera(lambda: broken_off(4), pause_s=0.005) as camera:
        for _ in range(3):
            source = open_now(CameraSource(device=camera.url, timeout_s=20.0))
            with pytest.raises(SourceError):
                read(source, 1000)
            source.close()
        assert camera.viewers == 3


def test_a_camera_that_falls_silent_is_a_source_error() -> None:
    with HttpCamera(lambda: multipart(*(jpeg(noise(i)) for i in range(10))), hang=True) as camera:
        source = open_now(CameraSource(device=camera.url, timeout_s=5.0))  # for opening it, too
        with pytest.raises(SourceError, match="was silent for"):
            read(source, 1000)
        source.close()


def test_a_silent_camera_does_not_keep_others_from_being_opened() -> None:
    ended = threading.Event()

    def open_silent(device: str) -> None:
        with pytest.raises(SourceError):
            open_now(CameraSource(device=device, timeout_s=60.0))
        ended.set()

    with HttpCamera(endless) as good:
        with HttpCamera(lambda: iter(()), hang=True) as silent:
            thread = threading.Thread(target=open_silent, args=(silent.url,))
            thread.start()
            wait_until(lambda: silent.viewers > 0, what="the silent one to be asked")
            read(open_now(CameraSource(device=good.url)), 5)
            assert not ended.is_set(), "the silent one is still waited for"
        thread.join()
    assert ended.is_set()


def test_cameras_of_both_transports_are_opened_in_turn() -> None:
    """The choice is made through the environment, which they share."""
    errors: list[Exception] = []

    def look(transport: str) -> None:
        try:
            for _ in range(2):
                config = CameraSource(device=camera.url, transport="udp" if transport == "udp" else "tcp")
                with closing(open_now(config)) as source:
                    read(source, 3)
        except SourceError as error:
            errors.append(error)

    with RtspCamera(free_port()) as camera:
        threads = [threading.Thread(target=look, args=(kind,)) for kind in ("tcp", "udp", "tcp", "udp")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []


@pytest.mark.parametrize(("transport", "uses_udp"), [("tcp", False), ("udp", True)])
def test_the_transport_is_the_one_that_is_asked_for(transport: str, uses_udp: bool) -> None:
    def udp_sockets() -> int:
        mine = set()
        for path in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile, as the folder itself is
                mine.add(str(path.readlink()))
        inodes = {f"socket:[{line.split()[9]}]" for line in Path("/proc/net/udp").read_text().splitlines()[1:]}
        return len(mine & inodes)

    with RtspCamera(free_port()) as camera:
        before = udp_sockets()
        config = CameraSource(device=camera.url, transport="udp" if transport == "udp" else "tcp")
        with closing(open_now(config)) as source:
            read(source, 1)
            assert (udp_sockets() > before) is uses_udp


def test_a_password_is_used_and_never_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with RtspCamera(free_port(), password="sesame") as camera:
        with closing(open_now(CameraSource(device=camera.url))) as source:
            read(source, 1)
        wrong = CameraSource(device=camera.url.replace("sesame", "simsalabim"))
        with pytest.raises(SourceError, match="user and password") as caught:
            open_now(wrong)
        assert "simsalabim" not in f"{caught.value} {caught.value!r} {caught.value.hint} {wrong!r}"
    assert "simsalabim" not in "".join(capfd.readouterr())


def test_a_host_that_drops_what_it_gets_is_given_up() -> None:
    """A listener whose queue is full answers no further connection."""
    with socket.socket() as listener, ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        began_s = time.monotonic()
        with pytest.raises(SourceError):
            open_now(CameraSource(device=f"rtsp://127.0.0.1:{listener.getsockname()[1]}/x", timeout_s=0.5))
        assert time.monotonic() - began_s < 20


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rtsp://user:secret@host/path", "rtsp://***@host/path"),
        ("rtsp://user:p@ss@host", "rtsp://***@host"),
        ("http://host/video.cgi?user=a&pwd=secret", "http://host/video.cgi?***"),
        ("http://u:p@host/video.cgi?user=a&pwd=secret", "http://***@host/video.cgi?***"),
        ("http://host/a", "http://host/a"),
        ("/dev/video0", "/dev/video0"),
        ("0", "0"),
    ],
)
def test_a_camera_is_shown_without_its_password(name: str, expected: str) -> None:
    assert shown(name) == expected
