"""The local page's server: who may look, what they get, and that nobody who looks harms the daemon."""

import contextlib
import http.client
import json
import logging
import math
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.runtime.config import parse_config
from edgeinfer.runtime.errors import ConfigError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.local import server as server_module
from edgeinfer.runtime.local.live import LiveBoard
from edgeinfer.runtime.local.metrics import render
from edgeinfer.runtime.local.server import LocalServer, host_is_this_device
from edgeinfer.runtime.local.settings import Address, LocalConfig, parse_listen
from edgeinfer.runtime.local.shots import Shots, curves
from edgeinfer.runtime.results import Item, Kind, Result
from edgeinfer.runtime.settings import RuntimeConfig
from edgeinfer.runtime.stages import Seen
from waiting import wait_until

Array = npt.NDArray[Any]
LABELS = ("background", "person", "größe")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9464", Address("127.0.0.1", 9464)),
        ("127.8.9.10:0", Address("127.8.9.10", 0)),
        ("localhost:80", Address("127.0.0.1", 80)),
        ("[::1]:9464", Address("::1", 9464)),
        ("unix:/run/edgeinfer/page.sock", Address(path="/run/edgeinfer/page.sock")),
    ],
)
def test_where_it_may_listen(text: str, address: Address) -> None:
    assert parse_listen(text) == address


@pytest.mark.parametrize(
    "text",
    ["0.0.0.0:80", "192.168.1.4:80", "[::]:80", "example.org:80", "127.0.0.1.evil.org:80", "128.0.0.1:80", ":80",
     "127.0.0.256:80", "127.1:80", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:99999", "127.0.0.1:-1", "unix:page.sock",
     "unix:", "unix:/" + "d" * 120, "unix:/a\0b", ""],
)  # fmt: skip
def test_where_it_may_not(text: str) -> None:
    with pytest.raises(ValueError, match="listen: expected"):
        parse_listen(text)


def test_the_configuration_says_why() -> None:
    with pytest.raises(ConfigError, match=r"loopback address, found '0\.0\.0\.0': there are no accounts"):
        parse_config('device = "d"\n[local]\nlisten = "0.0.0.0:80"', RuntimeConfig)
    assert parse_config('device = "d"', RuntimeConfig).local is None, "off unless asked for"


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("127.0.0.1:9464", True), ("127.0.0.1", True), ("localhost:8000", True), ("LocalHost", True), ("[::1]:1", True),
        ("[::1]", True), ("127.0.0.2:1", True), ("", False), ("evil.org", False), ("evil.org:9464", False),
        ("127.0.0.1.evil.org:9464", False), ("localhost.evil.org", False), ("127.0.0.1:x", False),
        ("192.168.1.2", False), ("[::2]:1", False), ("127.0.0.1:80@evil.org", False), ("127.0.0.1 evil.org", False),
        ("::1", False),
    ],
)  # fmt: skip
def test_whose_name_is_ours(host: str, ours: bool) -> None:
    assert host_is_this_device(host) is ours


@given(st.text(max_size=60))
def test_any_name_is_judged(host: str) -> None:
    assert host_is_this_device(host) in {True, False}


def seen(data: Array, *items: Item, frame: int = 0, kind: Kind = Kind.DETECTION) -> Seen:
    return Seen(Frame(data, 1_700_000_000_000_000_000, 0, frame), Result(kind, 1, frame, items=items), data, ())


def document() -> dict[str, Any]:
    """As the daemon makes it, with everything in it."""
    pipeline = {
        "model": "ssd", "package": "ssd 1.0.0", "variant": "litert-int8", "captured": 12, "results": 10, "events": 2,
        "frames": {"inferred": 10, "superseded": 1, "failed": 1}, "fps": 9.9, "frame_rate": 10.0, "swap_ms": 0.0,
        "latency_us": {"p50": 1500, "p99": 4000}, "age_us": {"p50": 2500, "p99": 9000}, "restarts": 1,
        "source": "running", "error": "",
    }  # fmt: skip
    return {
        "t_ns": 1, "device": "dev-1", "uptime_s": 60.5, "rss_bytes": 1 << 20, "temperature_c": 51.5,
        "models": {"ssd": {"version": "1.0.0", "digest": "ab" * 32, "variant": "litert-int8"}},
        "model_bytes": {"ssd": 4096}, "pipelines": {"door": pipeline, 'ga"te\\': {**pipeline, "source": "waiting"}},
        "last": {}, "governor": {"level": 2}, "drift": {"door": {"score_psi": 0.25, "verdict": "ok"}},
        "buffer": {"epoch": 1, "durable_seq": 77, "pending": 3, "bytes": 8192, "max_bytes": 1 << 28, "error": ""},
        "recent": [],
    }  # fmt: skip


class Page:
    """A server on a port of the system's choice, over a board of three pipelines."""

    def __init__(self, **options: Any) -> None:
        self.board = LiveBoard()
        self.door = self.board.observe("door", LABELS)
        self.board.observe("dark", ())
        self.asked = 0
        options.setdefault("listen", "127.0.0.1:0")
        self.local = LocalServer(LocalConfig(**options), self.board, self.status)
        self.local.start()

    def status(self) -> dict[str, Any]:
        self.asked += 1
        return document()

    @property
    def port(self) -> int:
        return int(self.local.url.rstrip("/").rpartition(":")[2])

    def get(
        self, path: str, *, method: str = "GET", host: str = "localhost", body: bytes | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body=body, headers={"Host": host} if host else {})
        answer = connection.getresponse()
        try:
            return answer.status, dict(answer.headers), answer.read()
        finally:
            connection.close()

    def raw(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)


@pytest.fixture
def page() -> Iterator[Page]:
    made = Page()
    yield made
    made.local.stop()


class TestAnswers:
    def test_the_page_is_whole_and_closed_to_others(self, page: Page) -> None:
        status, headers, body = page.get("/")
        text = body.decode()
        assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert "https://" not in text.replace("http://www.w3.org/2000/svg", "")
        assert " src=" not in text, "nothing is fetched from elsewhere"
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'sha256-")
        assert "unsafe" not in policy
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in headers

    def test_the_status_is_made_once_for_all_who_ask_at_once(self, page: Page) -> None:
        for _ in range(20):
            status, headers, body = page.get("/status.json?x=1")
            assert (status, headers["Content-Type"], json.loads(body)["device"]) == (200, "application/json", "dev-1")
        assert page.asked < 20

    def test_a_head_has_no_body(self, page: Page) -> None:
        status, headers, body = page.get("/status.json", method="HEAD")
        assert (status, body) == (200, b"")
        assert int(headers["Content-Length"]) > 100

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
    def test_nothing_can_be_changed(self, page: Page, method: str) -> None:
        assert page.get("/status.json", method=method)[0] == 501

    @pytest.mark.parametrize(
        "path", ["/x", "/live/", "/live/door.png", "/live/gate.jpg", "/live/../page.html", "/live/dark.json"]
    )
    def test_what_is_not_there(self, page: Page, path: str) -> None:
        assert page.get(path)[0] == 404

    @pytest.mark.parametrize("host", ["evil.org", "evil.org:9464", "127.0.0.1.evil.org"])
    def test_a_name_that_was_made_to_point_here_sees_nothing(self, page: Page, host: str) -> None:
        for path in ("/", "/status.json", "/metrics", "/live/door.jpg", "/live/door.mjpg"):
            assert page.get(path, host=host)[0] == 421

    def test_numbers_alone(self) -> None:
        page = Page(page=False)
        page.door(seen(np.zeros((20, 20, 3), np.uint8)))
        try:
            assert page.get("/metrics")[0] == 200
            assert [page.get(path)[0] for path in ("/", "/live/door.jpg", "/live/door.json", "/live/door.mjpg")] == [
                404
            ] * 4
        finally:
            page.local.stop()


class TestPictures:
    def test_a_picture_with_its_boxes(self, page: Page) -> None:
        page.door(seen(np.full((240, 320, 3), 40, np.uint8), Item(1, 0.75, (0.25, 0.25, 0.75, 0.75)), frame=7))
        status, headers, body = page.get("/live/door.jpg")
        assert (status, headers["Content-Type"]) == (200, "image/jpeg")
        picture = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        assert picture.shape == (240, 320, 3)
        assert abs(int(picture[120, 160].max()) - 40) < 8, "the middle of the box is the picture's own"
        assert int(picture[180, 160].max()) > 100, "its lower edge is drawn"
        shown = json.loads(page.get("/live/door.json")[2])
        assert (shown["frame"], shown["kind"]) == (7, "detection")
        assert shown["items"] == [{"label": 1, "name": "person", "score": 0.75, "box": [0.25, 0.25, 0.75, 0.75]}]
        assert page.get("/live/door.json?after=7")[0] == 204
        assert page.get("/live/door.jpg?after=6")[0] == 200

    @pytest.mark.parametrize("shape", [(1080, 1920, 3), (64, 64), (28, 28, 1), (1, 1, 3), (3000, 2, 3)])
    def test_any_size_and_grey(self, page: Page, shape: tuple[int, ...]) -> None:
        page.door(seen(np.zeros(shape, np.uint8), Item(9, math.nan, (-1.0, 0.5, 2.0, 0.4)), Item(2, 1e30, None)))
        picture = cv2.imdecode(np.frombuffer(page.get("/live/door.jpg")[2], np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        assert picture.shape[1] <= 960
        assert json.loads(page.get("/live/door.json")[2])["items"][0]["score"] is None

    @pytest.mark.parametrize("kind", [Kind.KEYPOINTS, Kind.CLASSIFICATION, Kind.SEGMENTATION, Kind.ANOMALY])
    def test_every_kind_is_drawn(self, page: Page, kind: Kind) -> None:
        box = (0.5, 0.5, 0.5, 0.5) if kind is Kind.KEYPOINTS else None
        items = [Item(label, 0.9, box) for label in range(17)]
        page.door(seen(np.full((240, 320, 3), 255, np.uint8), *items, kind=kind))
        picture = cv2.imdecode(np.frombuffer(page.get("/live/door.jpg")[2], np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        assert picture.min() < 120

    def test_it_is_encoded_once_a_frame_and_not_more_often_than_seen(
        self, page: Page, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        encoded: list[int] = []
        encode = cv2.imencode

        def counting(*arguments: Any) -> Any:
            encoded.append(1)
            return encode(*arguments)

        monkeypatch.setattr(cv2, "imencode", counting)
        began_s = time.monotonic()
        for number in range(30):
            page.door(seen(np.zeros((20, 20, 3), np.uint8), frame=number))
            assert page.get("/live/door.jpg")[0] == 200
        assert len(encoded) <= 2 + (time.monotonic() - began_s) / 0.05

    def test_a_stream_goes_on_with_the_frames(self, page: Page) -> None:
        page.door(seen(np.zeros((20, 20, 3), np.uint8), frame=0))
        with page.raw() as connection:
            connection.sendall(b"GET /live/door.mjpg HTTP/1.0\r\nHost: localhost\r\n\r\n")
            stream = connection.makefile("rb")
            for number in range(1, 4):
                while stream.readline().strip() != b"--edgeinfer-frame":
                    pass
                assert stream.readline() == b"Content-Type: image/jpeg\r\n"
                length = int(stream.readline().partition(b":")[2])
                stream.readline()
                assert cv2.imdecode(np.frombuffer(stream.read(length), np.uint8), cv2.IMREAD_COLOR) is not None
                page.door(seen(np.zeros((20, 20, 3), np.uint8), frame=number))

    def test_another_model_takes_the_view_over(self, page: Page) -> None:
        old = page.door
        old(seen(np.zeros((20, 20, 3), np.uint8), frame=1))
        new = page.board.observe("door", ("a", "b"))
        old.close()
        assert page.board.newest("door") is None
        new(seen(np.zeros((20, 20, 3), np.uint8), Item(1, 0.5), frame=2))
        assert json.loads(page.get("/live/door.json")[2])["items"][0]["name"] == "b"
        new.close()
        assert page.get("/live/door.json")[0] == 404


class TestShots:
    PICTURE = np.zeros((20, 20, 3), np.uint8)

    def test_no_frame_is_kept_and_what_nobody_looks_at_is_forgotten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        board, now_s = LiveBoard(), [100.0]
        made = Shots(board, LocalConfig(listen="127.0.0.1:0"))
        monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
        views = {name: board.observe(name, LABELS) for name in ("door", "yard")}
        frame = self.PICTURE.copy()
        gone = weakref.ref(frame)
        views["door"](seen(frame, frame=1))
        assert made.jpeg("door", drawn=True) is not None
        assert made.jpeg("door", drawn=False) is not None
        views["door"](seen(self.PICTURE, frame=2))
        del frame
        assert gone() is None
        views["yard"](seen(self.PICTURE, frame=1))
        now_s[0] += 60.0
        assert made.jpeg("yard", drawn=True) is not None
        assert list(made._made) == [("yard", True)]

    def test_those_of_a_pipeline_that_is_gone_go(self) -> None:
        board = LiveBoard()
        made, view = Shots(board, LocalConfig(listen="127.0.0.1:0")), board.observe("door", LABELS)
        view(seen(self.PICTURE, frame=1))
        assert made.jpeg("door", drawn=True) is not None
        view.close()
        assert made.jpeg("door", drawn=True) is None
        assert not made._made


class TestSignals:
    def test_a_window_comes_as_curves(self, page: Page) -> None:
        window = np.array([[1.0, 10.0], [math.nan, 20.0], [3.0, math.inf]], np.float32)
        page.door(seen(window, Item(0, 0.1), kind=Kind.ANOMALY))
        shown = json.loads(page.get("/live/door.json")[2])
        assert shown["series"] == [[1.0, None, 3.0], [10.0, 20.0, None]]
        assert "jpeg" not in shown
        assert page.get("/live/door.jpg")[0] == 404

    def test_a_long_sound_keeps_its_peaks(self) -> None:
        sound = np.zeros(16_000, np.float32)
        sound[7_777], sound[1_234] = 0.9, -0.8
        (curve,) = curves(sound)
        assert len(curve) <= 162
        assert (max(v for v in curve if v is not None), min(v for v in curve if v is not None)) == (0.9, -0.8)

    @given(st.integers(1, 700), st.integers(0, 9))
    def test_any_window_is_a_few_points(self, length: int, channels: int) -> None:
        shape = (length, channels) if channels else (length,)
        found = curves(np.arange(np.prod(shape), dtype=np.float64).reshape(shape))
        assert len(found) == min(6, max(1, channels))
        assert all(0 < len(curve) <= 170 for curve in found)

    def test_a_tensor_says_its_shape(self, page: Page) -> None:
        page.door(seen(np.zeros((1, 3, 8, 8), np.float32)))
        shown = json.loads(page.get("/live/door.json")[2])
        assert shown["shape"] == [1, 3, 8, 8]
        assert "series" not in shown


class TestMetrics:
    @pytest.fixture
    def families(self) -> dict[str, Any]:
        """As Prometheus' own client library reads them."""
        from prometheus_client.parser import text_string_to_metric_families

        return {family.name: family for family in text_string_to_metric_families(render(document()).decode())}

    def value(self, families: dict[str, Any], name: str, **labels: str) -> float:
        (found,) = [
            sample.value
            for family in families.values()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return float(found)

    def test_the_counts_of_the_document(self, families: dict[str, Any]) -> None:
        assert self.value(families, "edgeinfer_frames_total", pipeline="door", state="superseded") == 1
        assert self.value(families, "edgeinfer_frames_total", pipeline='ga"te\\', state="inferred") == 10
        assert self.value(families, "edgeinfer_frames_captured_total", pipeline="door") == 12
        assert self.value(families, "edgeinfer_results_total", pipeline="door") == 10
        assert self.value(families, "edgeinfer_events_total", pipeline="door") == 2
        assert self.value(families, "edgeinfer_engine_restarts_total", pipeline="door") == 1
        assert self.value(families, "edgeinfer_inference_latency_seconds", pipeline="door", quantile="0.99") == 0.004
        assert self.value(families, "edgeinfer_inference_latency_seconds_count", pipeline="door") == 10
        assert self.value(families, "edgeinfer_frame_age_seconds", pipeline="door", quantile="0.5") == 0.0025
        assert self.value(families, "edgeinfer_source_up", pipeline="door") == 1
        assert self.value(families, "edgeinfer_source_up", pipeline='ga"te\\') == 0
        assert self.value(families, "edgeinfer_durable_seq") == 77
        assert self.value(families, "edgeinfer_buffer_pending_results") == 3
        assert self.value(families, "edgeinfer_buffer_bytes") == 8192
        assert self.value(families, "edgeinfer_buffer_healthy") == 1
        assert self.value(families, "edgeinfer_model_bytes", model="ssd") == 4096
        assert self.value(families, "edgeinfer_model_info", version="1.0.0") == 1
        assert self.value(families, "edgeinfer_temperature_celsius") == 51.5
        assert self.value(families, "edgeinfer_governor_level") == 2
        assert self.value(families, "edgeinfer_drift", measure="score_psi") == 0.25
        assert self.value(families, "process_resident_memory_bytes") > 1e6

    def test_names_follow_the_conventions(self, families: dict[str, Any]) -> None:
        for family in families.values():
            assert family.documentation
            assert family.name.startswith(("edgeinfer", "process_"))
            if family.type == "counter":
                assert all(sample.name.endswith("_total") for sample in family.samples)
            assert not any(word in family.name for word in ("_us", "_ms", "_mb", "_kb", "percent")), family.name

    def test_what_is_not_known_is_left_out(self) -> None:
        least: dict[str, Any] = {"pipelines": {}, "models": {}, "buffer": {}, "temperature_c": None}
        text = render(least).decode()
        for name in ("temperature", "governor", "drift", "durable_seq"):
            assert name not in text

    def test_they_are_served(self, page: Page) -> None:
        status, headers, body = page.get("/metrics")
        assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert b'edgeinfer_frames_total{pipeline="door",state="inferred"} 10.0' in body


class TestHarm:
    @given(st.binary(max_size=300))
    @settings(max_examples=60, deadline=None)
    def test_any_bytes_end_in_an_answer_or_a_closed_door(self, page: Page, garbage: bytes) -> None:
        with page.raw() as connection, contextlib.suppress(ConnectionError):
            connection.sendall(garbage + b"\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass
        assert page.get("/status.json")[0] == 200

    def test_a_head_without_an_end_is_cut_off(self, page: Page) -> None:
        with page.raw() as connection, contextlib.suppress(ConnectionError):
            connection.sendall(b"GET / HTTP/1.0\r\n" + b"X: y\r\n" * 10_000)
            while connection.recv(1 << 16):
                pass
        assert page.get("/status.json")[0] == 200

    def test_who_says_nothing_is_shown_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(server_module, "_PATIENCE_S", 0.1)
        page = Page()
        try:
            with page.raw() as silent, page.raw() as slow:
                with contextlib.suppress(ConnectionError):  # shown out before it has said anything
                    slow.sendall(b"GET / HT")
                    assert slow.recv(1) == b""
                assert silent.recv(1) == b""
        finally:
            page.local.stop()

    def test_a_flood_is_turned_away_and_passes(self, page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(server_module, "_PATIENCE_S", 60.0)
        hanging = [page.raw() for _ in range(40)]
        for connection in hanging:
            connection.setblocking(False)

        def one_is_turned_away() -> bool:
            for connection in hanging:
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    if b"503" in connection.recv(100):
                        return True
            return False

        wait_until(one_is_turned_away)
        assert sum("process_request_thread" in thread.name for thread in threading.enumerate()) <= 16
        for connection in hanging:
            connection.close()
        wait_until(lambda: page.get("/status.json")[0] == 200)

    def test_streams_are_few(self, page: Page) -> None:
        page.door(seen(np.zeros((20, 20, 3), np.uint8)))
        watching = [page.raw() for _ in range(4)]
        for connection in watching:
            connection.sendall(b"GET /live/door.mjpg HTTP/1.0\r\nHost: localhost\r\n\r\n")
            assert b"200" in connection.recv(12)
        assert page.get("/live/door.mjpg")[0] == 503
        assert page.get("/live/door.jpg")[0] == 200
        for connection in watching:
            connection.close()

    def test_the_end_waits_for_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(server_module, "_PATIENCE_S", 60.0)
        page = Page()
        page.door(seen(np.zeros((480, 640, 3), np.uint8)))
        hanging = [page.raw() for _ in range(12)]
        for connection in hanging[:6]:  # who asks and never reads
            connection.sendall(b"GET /live/door.mjpg HTTP/1.0\r\nHost: localhost\r\n\r\n")
        began_s = time.monotonic()
        page.local.stop()
        assert time.monotonic() - began_s < 30, "a silent client alone may take a minute here"
        for connection in hanging:
            connection.close()
        with pytest.raises(ConnectionError):
            page.raw()


class TestPlace:
    def test_a_unix_socket(self, tmp_path: Path) -> None:
        path = tmp_path / "page.sock"
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        page = Page(listen=f"unix:{path}")
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(path))
            connection.sendall(b"GET /status.json HTTP/1.1\r\nHost: whatever\r\n\r\n")
            assert connection.makefile("rb").readline() == b"HTTP/1.0 200 OK\r\n"
        assert path.stat().st_mode & 0o777 == 0o660
        page.local.stop()
        assert not path.exists()

    def test_ipv6(self) -> None:
        if not socket.has_ipv6:
            pytest.skip("no IPv6 here")
        page = Page(listen="[::1]:0")
        if not page.local.url:
            pytest.skip("no IPv6 loopback here")
        with socket.create_connection(("::1", page.port), timeout=60) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\nHost: [::1]:9464\r\n\r\n")
            assert connection.makefile("rb").readline() == b"HTTP/1.0 200 OK\r\n"
        page.local.stop()

    def test_one_that_is_taken_is_said_and_survived(
        self, page: Page, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING)
        (tmp_path / "file").write_text("somebody's")
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(tmp_path / "taken.sock"))
            other.listen()
            for listen in (
                f"127.0.0.1:{page.port}",
                f"unix:{tmp_path}/file",
                f"unix:{tmp_path}/taken.sock",
                "unix:/nowhere/x",
            ):
                second = Page(listen=listen)
                second.local.stop()
                assert f"event=local_page_unavailable listen={listen}" in caplog.text
        assert (tmp_path / "file").read_text() == "somebody's"
        assert (tmp_path / "taken.sock").exists()
