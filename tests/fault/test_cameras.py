"""The daemon and its cameras: what dies and returns, changes, freezes, or is none; every frame is accounted for."""

import itertools
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from brokers import free_port
from cameras import HttpCamera, MjpegCamera, RtspCamera, jpeg, multipart, noise, part
from daemon_process import Daemon, configuration, results_of
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.manifest import ImagePre
from edgeinfer.runtime.results import Kind
from packages import make_package, picture_model
from waiting import wait_until


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "p.edgepkg"
    make_package(path, picture_model(tmp_path / "p.onnx", width=4, height=4), name="p", pre=ImagePre(4, 4))
    return path


def pipeline(name: str, package: Path, source: str) -> str:
    return f'name = "{name}"\npackage = "{package}"\n[pipeline.source]\n{source}'


def camera(url: str, *, timeout_s: float = 15.0, more: str = "") -> str:
    return f'kind = "camera"\ndevice = "{url}"\ntimeout_s = {timeout_s}\n{more}'


def assert_accounted_for(folder: Path, daemon: Daemon, name: str) -> dict[str, int]:
    """After its end: captured is the sum of the states, and what the buffer says; the numbers of frames only grow."""
    said = daemon.pipeline(name)
    totals: dict[str, int] = said["frames"]
    assert said["captured"] == sum(totals.values())
    with BufferReader(folder / "state" / "buffer.db") as reader:
        assert reader.frames()[name] == {state: count for state, count in totals.items() if count}
    frames = [result.frame for result in results_of(folder, name) if result.kind is Kind.CLASSIFICATION]
    assert frames == sorted(set(frames))
    assert len(frames) == totals["inferred"]
    assert not any("Traceback" in line for line in daemon.log), daemon.log
    return totals


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rtsp", "mjpeg"])
def test_a_network_camera_that_dies_and_comes_back_with_another_size(tmp_path: Path, package: Path, kind: str) -> None:
    port = free_port()
    server: RtspCamera | MjpegCamera = (
        RtspCamera(port, password="secret") if kind == "rtsp" else MjpegCamera(port, size=(64, 48))
    )
    url = server.url if kind == "rtsp" else server.url.replace("//", "//user:secret@")
    with Daemon(tmp_path, configuration(tmp_path, pipeline("cam", package, camera(url)))) as daemon:
        daemon.wait_for("event=source_failed pipeline=cam", times=2)
        captured = 0
        for size in ((64, 48), (320, 240)):
            server.size = size
            with server:
                wait_until(
                    lambda seen=captured: daemon.pipeline("cam").get("captured", 0) > seen + 20,  # type: ignore[misc]  # bound in the loop
                    what="frames of the camera",
                )
                assert daemon.pipeline("cam")["source"] == "running"
            wait_until(lambda: daemon.pipeline("cam")["source"] == "waiting")
            captured = daemon.pipeline("cam")["captured"]
        assert not any("secret" in line for line in daemon.log)
        assert "secret" not in str(daemon.status())
        daemon.end()
        assert daemon.process.returncode == 0
        totals = assert_accounted_for(tmp_path, daemon, "cam")
    assert totals["inferred"] > 0
    assert totals["failed"] == 0


@pytest.mark.slow
def test_a_frozen_picture_is_stale_and_the_status_says_so(tmp_path: Path, package: Path) -> None:
    moves = threading.Event()
    still = jpeg(noise(0))

    def script() -> Iterator[bytes]:
        yield from multipart()
        for index in itertools.count():
            yield part(jpeg(noise(index)) if moves.is_set() else still)

    with HttpCamera(script) as server:
        config = configuration(tmp_path, pipeline("cam", package, camera(server.url, more="frozen_after_s = 1.0")))
        with Daemon(tmp_path, config) as daemon:
            daemon.wait_for("event=picture_frozen pipeline=cam seconds=")
            wait_until(lambda: "frozen" in daemon.pipeline("cam")["error"])
            assert daemon.pipeline("cam")["source"] == "running"
            wait_until(lambda: daemon.pipeline("cam")["frames"]["stale"] > 0)
            moves.set()
            daemon.wait_for("event=picture_moves pipeline=cam")
            inferred = daemon.pipeline("cam")["frames"]["inferred"]
            wait_until(lambda: daemon.pipeline("cam")["frames"]["inferred"] > inferred)
            assert daemon.pipeline("cam")["error"] == ""
            daemon.end()
            totals = assert_accounted_for(tmp_path, daemon, "cam")
    assert totals["stale"] > 0
    assert totals["failed"] == 0


@pytest.mark.slow
def test_damage_garbage_and_silence_stop_neither_the_daemon_nor_other_cameras(tmp_path: Path, package: Path) -> None:
    """A stream with damaged pictures that ends in garbage, a server that says nothing, and a good one."""

    def damaged() -> Iterator[bytes]:
        pictures = [jpeg(noise(index)) for index in range(60)]
        for index in range(10, 60, 10):
            pictures[index] = pictures[index][:400]
        yield from multipart(*pictures)
        yield bytes(range(256)) * 100

    def good() -> Iterator[bytes]:
        return multipart(*(jpeg(noise(index)) for index in range(3000)))

    with HttpCamera(damaged) as bad, HttpCamera(lambda: iter(()), hang=True) as silent, HttpCamera(good) as fine:
        config = configuration(
            tmp_path,
            pipeline("bad", package, camera(bad.url)),
            pipeline("silent", package, camera(silent.url, timeout_s=60)),
            pipeline("fine", package, camera(fine.url)),
        )
        with Daemon(tmp_path, config) as daemon:
            wait_until(lambda: bad.viewers >= 3, what="the camera to be opened again and again")
            wait_until(lambda: daemon.pipeline("fine").get("results", 0) > 50)
            assert daemon.pipeline("silent")["captured"] == 0
            daemon.end()
            assert daemon.process.returncode == 0
            totals = {name: assert_accounted_for(tmp_path, daemon, name) for name in ("bad", "fine")}
    assert totals["bad"]["failed"] >= 2
    assert totals["bad"]["inferred"] >= 50
    assert totals["fine"]["failed"] == 0


def put(path: Path, content: bytes) -> None:
    """At once: a file that is half written for a while would count as whole."""
    new = path.parents[1] / "new"
    new.write_bytes(content)
    new.rename(path)


@pytest.mark.slow
@pytest.mark.parametrize("after", ["keep", "delete", "move"])
def test_pictures_in_a_watched_folder_are_each_inferred_once_over_restarts(
    tmp_path: Path, package: Path, after: str
) -> None:
    folder = tmp_path / "pictures"
    source = f'kind = "watched"\npath = "{folder}"\nafter = "{after}"\nquiet_s = 0.1\npoll_s = 0.05'
    config = configuration(tmp_path, pipeline("w", package, source))
    given = 0

    def give(count: int) -> None:
        nonlocal given
        folder.mkdir(exist_ok=True)
        for _ in range(count):
            put(folder / f"{given}.jpg", jpeg(noise(given)))
            given += 1
        (folder / "notes.txt").write_text("no picture")

    def inferred() -> int:
        return len([result for result in results_of(tmp_path, "w") if result.kind is Kind.CLASSIFICATION])

    for run in range(2):
        with Daemon(tmp_path, config) as daemon:
            if not run:
                daemon.wait_for("event=source_failed pipeline=w")
            give(20)
            daemon.wait_for("event=source_opened pipeline=w")
            put(folder / f"bad-{run}.png", b"none")
            daemon.wait_for("event=picture_unreadable")
            give(5)
            wait_until(lambda expected=given: inferred() == expected)  # type: ignore[misc]  # bound in the loop
            daemon.end()
            totals = daemon.pipeline("w")["frames"]
            assert {state: count for state, count in totals.items() if count} == {"inferred": 25, "failed": 1}
            assert daemon.pipeline("w")["captured"] == 26
    assert inferred() == given == 50
    with suppress(FileNotFoundError):
        assert len(list((folder / "done").iterdir())) == (50 if after == "move" else 0)
    assert len(list(folder.glob("*.jpg"))) == (50 if after == "keep" else 0)
