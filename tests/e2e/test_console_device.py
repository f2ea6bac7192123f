"""What a console tells of one device, over real HTTP and in the terminal: audit, conflicts, files, log."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from brokers import Mosquitto
from consoles import RunningConsole, WireDevice, console_toml, made_results
from edgeinfer.cli import main
from edgeinfer.runtime.results import Kind, Result
from edgeinfer.runtime.trust import open_envelope
from edgeinfer.sync import messages
from waiting import wait_until

_JPEG = b"\xff\xd8\xff\xe0 no more than the head of a picture"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path_factory.mktemp("broker")) as started:
        yield started


@pytest.fixture
def console(tmp_path: Path, broker: Mosquitto) -> Iterator[RunningConsole]:
    with RunningConsole(console_toml(tmp_path, broker.port)) as started:
        yield started


@pytest.fixture
def device(broker: Mosquitto, console: RunningConsole) -> Iterator[WireDevice]:
    with WireDevice("dev-1", broker.port) as started:
        started.come_online()
        wait_until(lambda: console.audit("dev-1")["epochs"] != [], what="the device to be known")
        yield started
        started.raw("up/state", b"", retain=True)  # what is retained would greet the next test's console
        started.link.flush(60.0)


def _audit(console: RunningConsole, query: str = "") -> dict[str, Any]:
    return console.get(f"/api/v1/devices/dev-1/audit{query}")


def _at(seconds: list[int]) -> list[Result]:
    return [Result(Kind.ANOMALY, second * 10**9) for second in seconds]


# -- audit ----------------------------------------------------------------------------------------------------------


def test_an_audit_says_that_nothing_is_missing_or_what_is(console: RunningConsole, device: WireDevice) -> None:
    device.send_linked("door", _at([1000, 1001, 1002]))
    device.send_linked("door", _at([1103, 1104]))
    device.wait_acked(5)
    whole = _audit(console)
    assert (whole["complete"], whole["verdict"], whole["made"], whole["stored"]) == (True, "good", 5, 5)
    assert whole["findings"][0]["text"] == "Nothing is missing: 5 results made, and all are stored"
    assert (whole["chain"]["verified"], whole["chain"]["unbroken"]) == (2, True)
    assert [_audit(console, f"?since={s}&until={u}")["stored"] for s, u in ((1001, 1103), (1001.5, 1103.5))] == [2, 2]
    device.evicted(6, 10, "full")
    device.send("door", _at([1200]), first_seq=21)
    device.say("up/reported", messages.ReportedState(1, audit={"epoch": 1, "made": 30, "durable": 29}))
    wait_until(lambda: _audit(console)["durable"] == 29, what="what the device says")
    part = _audit(console)
    assert not part["complete"]
    assert (part["made"], part["stored"], part["evicted"], part["gaps"], part["unsent"]) == (30, 6, 10, 5, 9)
    assert part["evicted_because"] == {"full": 10}
    assert [(hole["first"], hole["last"], hole["cause"]) for hole in part["holes"]] == [
        (16, 20, "awaited"), (22, 30, "unsent"), (6, 15, "evicted"),
    ]  # fmt: skip
    assert _audit(console, "?until=1003")["complete"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v1/devices/nobody/audit", 404),
        ("/api/v1/devices/dev-1/audit?since=yesterday", 400),
        ("/api/v1/devices/dev-1/audit?since=99999999999999", 400),
        ("/api/v1/devices/dev-1/audit?since=-5.25", 200),
        ("/api/devices/dev-1/audit", 200),
        ("/fragments/devices/dev-1/audit?since=5", 200),
        ("/fragments/devices/nobody/audit", 404),
        ("/api/v1/devices/dev-1/blobs/..%2f..%2fconsole.db", 404),
        ("/api/v1/devices/dev-1/blobs/" + "a" * 64, 404),
        ("/api/v1/devices/nobody/blobs", 200),
    ],
)
def test_odd_questions_get_a_plain_answer(
    console: RunningConsole, device: WireDevice, *, path: str, status: int
) -> None:
    assert device.name == "dev-1"
    assert httpx.get(console.url + path, timeout=60).status_code == status
    assert "Traceback" not in console.log.read_text()


def test_the_terminal_tells_the_same(
    console: RunningConsole, device: WireDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    device.send_linked("door", made_results(20))
    device.wait_acked(20)
    assert main(["console", "audit", "dev-1", "--console", console.url]) == 0
    printed = capsys.readouterr().out
    assert "ok    Nothing is missing: 20 results made, and all are stored" in printed
    assert "The hash chain is unbroken" in printed
    assert main(["console", "audit", "dev-1", "--since", "1h", "--until", "2000-01-01", "--console", console.url]) == 0
    assert "Nothing was made in this time" in capsys.readouterr().out
    device.come_online(lowest=31)
    device.wait_acked(30)
    assert main(["console", "audit", "dev-1", "--json", "--console", console.url]) == 1
    assert json.loads(capsys.readouterr().out)["missing"] == 10
    assert main(["console", "audit", "dev-1", "--since", "soon", "--console", console.url]) == 2
    assert main(["console", "audit", "nobody", "--console", console.url]) == 1
    assert "no device 'nobody'" in capsys.readouterr().err


def test_two_devices_with_one_name_and_one_buffer_are_told_apart(
    console: RunningConsole, device: WireDevice, broker: Mosquitto
) -> None:
    first = device.send_linked("door", made_results(10))
    device.send_linked("door", made_results(10, first_frame=10))
    device.wait_acked(20)
    with WireDevice("dev-1-clone", broker.port) as clone:
        clone.name = device.name
        clone.raw("up/res/door", first)  # what both had when the buffer was copied
        clone.next_seq, clone.link_before = 11, messages.decode_chunk(first).link
        clone.send_linked("door", made_results(10, first_frame=999))
        assert clone.link.flush(60.0)
    wait_until(lambda: console.audit("dev-1")["conflicts"] == 1, what="the conflict")
    device.acked()
    assert [ack.conflict for ack in device.acks if ack.conflict] == [11]
    audit = console.audit("dev-1")
    assert (audit["stored"], audit["duplicates"], audit["refused"], audit["complete"]) == (20, 10, 1, False)
    (conflict,) = console.get("/api/v1/devices/dev-1")["conflicts"]
    assert (conflict["epoch"], conflict["first"], conflict["last"], conflict["times"]) == (1, 11, 20, 1)
    page = httpx.get(f"{console.url}/devices/dev-1", timeout=60).text
    assert "two devices send under this name" in page
    found = _audit(console)
    assert (found["verdict"], found["conflicts"], found["stored"], found["chain"]["unbroken"]) == ("bad", 1, 20, True)
    device.send_linked("door", made_results(5))
    device.wait_acked(25)


# -- files ----------------------------------------------------------------------------------------------------------


def test_a_picture_arrives_is_shown_beside_its_event_and_can_be_had(
    console: RunningConsole, device: WireDevice
) -> None:
    name = "000000001-1760000000000000000-door-7.jpg"
    event = Result(Kind.EVENT, 1760000000 * 10**9, extra={"rule": "intruder", "state": "start", "snapshot": name})
    device.send("door", [event])
    sha256 = device.send_blob(_JPEG, name=name, t_ns=event.t_ns)
    wait_until(lambda: bool(device.received_blobs()), what="the answer")
    assert device.stored_blobs == [messages.BlobStored(sha256, len(_JPEG), done=True)]
    (blob,) = console.get("/api/v1/devices/dev-1/blobs")["blobs"]
    assert (blob["name"], blob["bytes"], blob["kind"], blob["pipeline"]) == (name, len(_JPEG), "snapshot", "door")
    answer = httpx.get(console.url + blob["path"], timeout=60)
    assert answer.content == _JPEG
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["content-disposition"] == f'inline; filename="{name}"'
    assert "sandbox" in answer.headers["content-security-policy"]
    page = httpx.get(f"{console.url}/devices/dev-1", timeout=60).text
    assert f'<img src="{blob["path"]}"' in page
    assert "<b>intruder</b>" in page


@pytest.mark.parametrize("content", [b"<script>alert(1)</script>", b"GIF89a<script>", b"<svg onload=alert(1)>", b""])
def test_what_is_no_picture_is_only_downloaded(console: RunningConsole, device: WireDevice, content: bytes) -> None:
    sha256 = device.send_blob(content, name='../../x".html\r\nset-cookie: a=b')
    wait_until(lambda: bool(device.received_blobs()), what="the answer")
    answer = httpx.get(f"{console.url}/api/v1/devices/dev-1/blobs/{sha256}", timeout=60)
    assert (answer.status_code, answer.content) == (200, content)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == 'attachment; filename="x_.html_set-cookie_a_b"'
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_an_unknown_device_cannot_send_files(console: RunningConsole, device: WireDevice, broker: Mosquitto) -> None:
    with WireDevice("stranger", broker.port) as stranger:
        stranger.send_blob(_JPEG, name="1.jpg")
        stranger.link.flush(60.0)
    device.send_blob(_JPEG, name="1.jpg")
    wait_until(lambda: bool(device.received_blobs()), what="the answer to the one that is known")
    assert [path.name for path in (console.config.parent / "data" / "blobs-in").iterdir()] == ["dev-1"]


# -- the log --------------------------------------------------------------------------------------------------------


def test_the_log_of_a_device_is_fetched(
    console: RunningConsole, device: WireDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer() -> None:
        wait_until(lambda: bool(device.received_commands()), what="the command")
        public = bytes.fromhex(console.get("/api/v1/keys")["console"]["public"])
        command = messages.decode(open_envelope(device.commands[-1], [public]), messages.Command)
        assert (command.device, command.kind, command.lines) == ("dev-1", "logs", 2)
        device.say("up/log", messages.LogLines(command.id, ("one", "two\x1b[2J")))
        device.say("up/cmdres", messages.CommandResult(command.id, ok=True, detail="2 lines of the journal"))

    wait_until(lambda: bool(console.get("/api/devices/dev-1")["online"]), what="the device to be online")
    thread = threading.Thread(target=answer)
    thread.start()
    assert main(["console", "logs", "dev-1", "--lines", "2", "--console", console.url]) == 0
    thread.join(30)
    assert capsys.readouterr().out == "one\ntwo\ufffd[2J\n"
    assert httpx.post(f"{console.url}/api/v1/devices/nobody/logs", timeout=60).status_code == 400
    device.say("up/state", messages.StateMessage(online=False, session="s"))
    wait_until(lambda: not console.get("/api/devices/dev-1")["online"], what="the device to be offline")
    assert main(["console", "logs", "dev-1", "--console", console.url]) == 1
    assert "is not online" in capsys.readouterr().err
