"""The local page of a real daemon, in a real browser, and while people misbehave."""

import contextlib
import http.client
import json
import re
import signal
import socket
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from brokers import free_port
from daemon_process import Daemon, configuration
from edgeinfer.runtime.manifest import AnomalyPost, DetectPost, ImagePre, WindowPre
from packages import identity_model, make_package, picture_model
from waiting import wait_until

_SCRIPT = "<img src=x onerror=\"document.title='hacked'\">"


class Device:
    """A daemon with a camera of pictures, a sensor, a recording that ends, and a camera that is off."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        model = picture_model(folder / "p.onnx", width=16, height=12)
        make_package(folder / "p.edgepkg", model, name="p", pre=ImagePre(16, 12), labels=[_SCRIPT, "b", "c"])
        make_package(
            folder / "s.edgepkg", identity_model(folder / "s.onnx", features=20), name="s", pre=WindowPre(4),
            post=AnomalyPost(0.5),
        )  # fmt: skip
        (folder / "pictures").mkdir()
        for number in range(3):
            picture = np.full((120, 160, 3), 60 * number, np.uint8)
            cv2.imwrite(str(folder / "pictures" / f"{number}.png"), picture)
        writer = cv2.VideoWriter(str(folder / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (160, 120))
        for number in range(40):
            writer.write(np.full((120, 160, 3), 6 * number, np.uint8))
        writer.release()
        self.config = configuration(
            folder,
            f'name = "door"\npackage = "{folder}/p.edgepkg"\n[pipeline.source]\nkind = "video"\n'
            f'path = "{folder}/v.avi"\npaced = true\nrepeat = true',
            f'name = "host"\npackage = "{folder}/s.edgepkg"\n[pipeline.source]\nkind = "host"\n'
            "interval_s = 0.05\nwindow = 4",
            f'name = "album"\npackage = "{folder}/p.edgepkg"\n[pipeline.source]\nkind = "images"\n'
            f'path = "{folder}/pictures"',
            f'name = "gate"\npackage = "{folder}/p.edgepkg"\n[pipeline.source]\nkind = "camera"\n'
            f'device = "{folder}/no-camera"',
            extra=f'[local]\nlisten = "127.0.0.1:{self.port}"',
        )

    def started(self) -> Daemon:
        daemon = Daemon(self.folder, self.config)
        daemon.wait_for("event=started")
        return daemon

    def get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get("/status.json")[1])
        return found


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_a_person_sees_what_the_device_does(page: Page, device: Device) -> None:
    with device.started() as daemon:
        page.goto(device.url)
        expect(page.get_by_role("heading", level=1)).to_have_text("dev-1")
        expect(page.get_by_text("live", exact=True)).to_be_visible()

        door = page.get_by_role("article").filter(has=page.get_by_role("heading", name="door"))
        expect(door.get_by_role("img", name="Live picture of door")).to_have_attribute(
            "src", re.compile("^data:image/jpeg;base64,")
        )
        expect(door).to_contain_text("running")
        expect(door).to_contain_text("p 1.0.0 · onnx-fp32")
        first = door.locator(".stamp").inner_text()
        expect(door.locator(".stamp")).not_to_have_text(first)
        expect(door.get_by_role("list", name="Newest result of door")).to_be_visible()

        host = page.get_by_role("article").filter(has=page.get_by_role("heading", name="host"))
        expect(host.get_by_role("img", name="The newest window")).to_be_visible()
        album = page.get_by_role("article").filter(has=page.get_by_role("heading", name="album"))
        expect(album).to_contain_text("ended")
        expect(album).to_contain_text("3 captured")
        gate = page.get_by_role("article").filter(has=page.get_by_role("heading", name="gate"))
        expect(gate).to_contain_text("waiting")
        expect(gate).to_contain_text("The source is not open yet")
        expect(gate).to_contain_text("no-camera")
        assert page.title() == "dev-1 · edgeinfer", "a label is text, whatever it says"

        door.get_by_role("button", name="Enlarge door").click()
        expect(door).to_have_class(re.compile("wide"))

        daemon.send(signal.SIGKILL)
        daemon.process.wait()
        expect(page.get_by_text("not connected")).to_be_visible()
        expect(page.get_by_text(re.compile("The daemon does not answer"))).to_be_visible()
    with device.started():
        expect(page.get_by_text("live", exact=True)).to_be_visible()
        expect(page.get_by_text(re.compile("The daemon does not answer"))).to_be_hidden()


def test_it_is_readable_on_a_phone_and_in_the_dark(browser: Browser, device: Device) -> None:
    with device.started():
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
            page.goto(device.url)
            expect(page.get_by_role("heading", name="door")).to_be_visible()
            expect(page.get_by_role("heading", name="gate")).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, "nothing reaches over the edge"
            page.close()


def test_the_numbers_are_those_of_the_daemon(device: Device) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    with device.started():
        wait_until(lambda: device.status()["pipelines"]["album"]["frames"].get("inferred") == 3, what="the album's end")
        status, body = device.get("/metrics")
        assert status == 200
        samples = {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(body.decode())
            for sample in family.samples
        }
        album = ("pipeline", "album")
        assert samples["edgeinfer_frames_total", album, ("state", "inferred")] == 3
        assert samples["edgeinfer_frames_captured_total", album] == 3
        assert samples["edgeinfer_source_up", ("pipeline", "gate")] == 0
        document = device.status()
        assert document["last"]["album"]["kind"] == "classification"
        assert document["pipelines"]["album"]["age_us"]["p50"] > 0
        assert document["model_bytes"]["p"] > 0
        wait_until(lambda: device.status()["buffer"]["durable_seq"] > 0, what="a durable result")


def test_who_hangs_about_keeps_the_daemon_neither_from_work_nor_from_its_end(device: Device) -> None:
    with device.started() as daemon:
        wait_until(lambda: device.get("/live/door.jpg")[0] == 200, what="a first picture")
        crowd: list[socket.socket] = []
        for number in range(60):
            with contextlib.suppress(OSError):
                connection = socket.create_connection(("127.0.0.1", device.port), timeout=5)
                crowd.append(connection)
                if number % 3 == 0:
                    connection.sendall(b"GET /live/door.mjpg HTTP/1.0\r\nHost: localhost\r\n\r\n")
                elif number % 3 == 1:
                    connection.sendall(b"GET / HTTP/1.0\r\nX: ")
        control = [socket.socket(socket.AF_UNIX) for _ in range(20)]
        for one in control:
            one.connect(str(device.folder / "state" / "control.sock"))
        before = daemon.pipeline("door").get("results", 0)
        wait_until(lambda: daemon.pipeline("door").get("results", 0) > before + 20, what="results in the crowd")
        daemon.end()
        assert daemon.process.returncode == 0
        for connection in (*crowd, *control):
            connection.close()


def test_without_the_section_nothing_listens_and_nothing_is_loaded(device: Device) -> None:
    text = device.config.read_text()
    device.config.write_text(text.replace(f'[local]\nlisten = "127.0.0.1:{device.port}"', ""))
    with device.started() as daemon:
        wait_until(lambda: daemon.pipeline("door").get("results", 0) > 0, what="a result")
        with pytest.raises(ConnectionError):
            device.get("/")
        maps = Path(f"/proc/{daemon.process.pid}/maps").read_text()
        assert "_ssl" not in maps, "http.server and prometheus_client bring it along"
        threads = [p.read_text().strip() for p in Path(f"/proc/{daemon.process.pid}/task").glob("*/comm")]
        assert len(threads) < 40


@pytest.mark.data
def test_a_person_in_the_real_video_is_marked(page: Page, tmp_path: Path, data_dir: Path) -> None:
    labels = (data_dir / "labels" / "coco_labels_91.txt").read_text().splitlines()
    make_package(
        tmp_path / "ssd.edgepkg", data_dir / "models" / "ssd_mobilenet_v1_coco_quant.tflite", name="ssd",
        engine="litert", pre=ImagePre(300, 300, mean=(128.0,), std=(128.0,)),
        post=DetectPost(score_threshold=0.5, label_offset=1), labels=labels,
    )  # fmt: skip
    port = free_port()
    config = configuration(
        tmp_path,
        f'name = "door"\npackage = "{tmp_path}/ssd.edgepkg"\n[pipeline.source]\nkind = "video"\n'
        f'path = "{data_dir}/video/one-by-one-person-detection.mp4"\npaced = true\nrepeat = true',
        extra=f'[local]\nlisten = "127.0.0.1:{port}"',
    )
    with Daemon(tmp_path, config) as daemon:
        daemon.wait_for("event=started")
        page.goto(f"http://127.0.0.1:{port}/")
        mark = page.locator(".mark").filter(has_text=re.compile(r"person 0\.\d\d")).first
        expect(mark).to_be_visible(timeout=120_000)
        picture = page.get_by_role("img", name="Live picture of door").bounding_box()
        assert picture is not None
        assert picture["width"] / picture["height"] == pytest.approx(768 / 432, rel=0.02)
