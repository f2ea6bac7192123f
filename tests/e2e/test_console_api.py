"""The REST API and its guard, over real HTTP."""

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from brokers import Mosquitto
from consoles import RunningConsole, WireDevice, console_toml, made_package, made_results
from edgeinfer.console.commands import deploy, fleet_devices, fleet_rollouts
from edgeinfer.runtime.errors import ConsoleError, PackageError, SignatureError, UsageError
from edgeinfer.runtime.package import PackageFile
from edgeinfer.runtime.trust import SigningKey, open_envelope
from edgeinfer.sync import messages
from waiting import wait_until

_TOKEN = "a-token-of-the-tests-0123456789"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path_factory.mktemp("broker")) as started:
        yield started


@pytest.fixture
def console(tmp_path: Path, broker: Mosquitto) -> Iterator[RunningConsole]:
    with RunningConsole(console_toml(tmp_path, broker.port)) as started:
        yield started


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory, broker: Mosquitto) -> Iterator[RunningConsole]:
    """One console for all questions that change nothing."""
    more = 'tenant = "quiet"'
    with RunningConsole(console_toml(tmp_path_factory.mktemp("quiet"), broker.port, more=more)) as started:
        yield started


@pytest.fixture
def guarded(tmp_path: Path, broker: Mosquitto) -> Iterator[RunningConsole]:
    """A console that asks for a token, to read too."""
    (tmp_path / "token").write_text(_TOKEN + "\n")
    web = 'token_file = "token"\ntoken_for_reading = true'
    with RunningConsole(console_toml(tmp_path, broker.port, web=web)) as started:
        yield started


@pytest.fixture
def device(broker: Mosquitto, console: RunningConsole) -> Iterator[WireDevice]:
    with WireDevice("dev-1", broker.port) as started:
        started.come_online(groups=["canary"])
        wait_until(lambda: console.audit("dev-1")["epochs"] != [], what="the device to be known")
        yield started
        # What the broker retains would greet the next test's console.
        for rest in ("up/state", "down/desired"):
            started.raw(rest, b"", retain=True)
        started.link.flush(60.0)


# -- what it answers ------------------------------------------------------------------------------------------


def test_results_are_paged_through(console: RunningConsole, device: WireDevice) -> None:
    device.send("door", made_results(250))
    device.send("lane", made_results(10))
    device.wait_acked(260)
    seen: list[int] = []
    after = "0"
    while after:
        page = console.get(f"/api/results?device=dev-1&pipeline=door&after={after}&limit=100")
        seen += [result["seq"] for result in page["results"]]
        after = page["next"]
    assert seen == list(range(1, 251))
    newest = console.get("/api/results?device=dev-1&limit=2")["results"]
    assert [(r["seq"], r["pipeline"], r["items"][0]["name"]) for r in newest] == [
        (260, "lane", "class 3"),
        (259, "lane", "class 3"),
    ]
    assert len(console.get("/api/results?limit=5")["results"]) == 5


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/results?device=dev-1&after=x", 400),
        ("/api/results?limit=many", 400),
        ("/api/results?device=dev-1&after=99999999999999999999", 400),
        ("/api/series?minutes=x", 400),
        ("/api/series?minutes=999999999999", 200),
        ("/api/devices/nobody", 404),
        ("/api/rollouts/99", 404),
        ("/api/what", 404),
        ("/devices/nobody", 404),
        ("/static/../../settings.py", 404),
        ("/static/console.js", 200),
        ("/fragments/devices/nobody", 404),
        ("/api/packages", 200),
        ("/api/rollouts?limit=-5", 200),
    ],
)
def test_odd_questions_get_a_plain_answer(quiet: RunningConsole, path: str, status: int) -> None:
    answer = httpx.get(quiet.url + path, timeout=60)
    assert answer.status_code == status
    assert "Traceback" not in answer.text
    assert "Traceback" not in quiet.log.read_text()


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"package": 5}', b'{"package":"x","to":"all","extra":1}', b"[" * 9999]
)
def test_a_rollout_that_nobody_can_read_is_refused(quiet: RunningConsole, body: bytes) -> None:
    assert httpx.post(f"{quiet.url}/api/rollouts", content=body, timeout=60).status_code == 400


# -- packages and rollouts --------------------------------------------------------------------------------------


def test_deploy_tells_the_device_and_hands_it_the_blob(
    console: RunningConsole, device: WireDevice, tmp_path: Path
) -> None:
    content = bytes(range(256)) * 1000
    package = made_package(tmp_path / "p.edgepkg", content=content)
    rollout = deploy(package, to="group:canary", console_url=console.url)
    assert (rollout["state"], rollout["deployments"][0]["state"]) == ("RUNNING", "PENDING")
    wait_until(lambda: bool(device.received_desired()), what="the assignment")
    public = bytes.fromhex(console.get("/api/keys")["console"]["public"])
    desired = messages.decode(open_envelope(device.desired[-1], [public]), messages.DesiredState)
    with PackageFile(package) as opened:
        assert desired.assignments[0].digest == opened.digest
    assert (desired.device, desired.version, desired.assignments[0].job) == ("dev-1", 1, "r1-1")
    assert _pull(device, desired.assignments[0]) == package.read_bytes()


def _pull(device: WireDevice, assignment: messages.Assignment) -> bytes:
    """Ask for the ranges of a blob, from the last to the first."""
    step = 64 << 10
    offsets = range(0, assignment.blob_bytes, step)
    for offset in reversed(offsets):
        device.say("up/get", messages.BlobRequest(assignment.blob_sha256, offset, step))
    wait_until(lambda: len(device.received_ranges()) == len(offsets), what="all ranges")
    parts = sorted(device.ranges, key=lambda part: part.offset)
    assert {part.total_bytes for part in parts} == {assignment.blob_bytes}
    return b"".join(part.data for part in parts)


def test_a_later_rollout_takes_the_place_of_an_unfinished_one(
    console: RunningConsole, device: WireDevice, tmp_path: Path
) -> None:
    for version in ("1.0.0", "1.1.0"):
        deploy(made_package(tmp_path / "p.edgepkg", version=version), to="all", console_url=console.url)
    second, first = fleet_rollouts(console_url=console.url)
    assert (first["state"], first["deployments"][0]["state"]) == ("FINISHED", "SUPERSEDED")
    assert (second["state"], second["deployments"][0]["desired_version"]) == ("RUNNING", 2)
    wait_until(lambda: len(device.received_desired()) == 2, what="both assignments")


def test_wait_returns_when_the_device_is_done(console: RunningConsole, device: WireDevice, tmp_path: Path) -> None:
    package = made_package(tmp_path / "p.edgepkg")
    with pytest.raises(ConsoleError, match="dev-1 PENDING"):
        deploy(package, to="all", console_url=console.url, wait=True, timeout_s=0.2)
    device.say("up/job/r1-1", messages.JobStatus("r1-1", 1, "TRIAL"))
    device.say("up/job/r1-1", messages.JobStatus("r1-1", 1, "COMMITTED"))
    wait_until(lambda: fleet_rollouts(console_url=console.url)[0]["state"] == "FINISHED", what="the rollout's end")
    wait_until(lambda: bool(device.received_job_acks()), what="the acknowledgement")
    assert device.job_acks == [messages.JobAck("r1-1", "COMMITTED")]


def test_another_device_cannot_speak_of_a_job(
    console: RunningConsole, device: WireDevice, broker: Mosquitto, tmp_path: Path
) -> None:
    deploy(made_package(tmp_path / "p.edgepkg"), to=f"device:{device.name}", console_url=console.url)
    with WireDevice("dev-2", broker.port) as other:
        other.say("up/job/r1-1", messages.JobStatus("r1-1", 1, "COMMITTED"))
        other.send("door", made_results(1))
        other.wait_acked(1)
    assert fleet_rollouts(console_url=console.url)[0]["deployments"][0]["state"] == "PENDING"


def test_assignments_are_said_again_after_the_broker_forgot_them(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as own:
        config = console_toml(tmp_path, own.port)
        with RunningConsole(config) as console, WireDevice("dev-1", own.port) as device:
            device.come_online()
            wait_until(lambda: len(fleet_devices(console_url=console.url)) == 1, what="the device to be known")
            deploy(made_package(tmp_path / "p.edgepkg"), to="all", console_url=console.url)
            wait_until(lambda: bool(device.received_desired()), what="the assignment")
            own.kill()
            own.start()
            wait_until(lambda: len(device.received_desired()) > 1, what="the same assignment again")
            assert device.desired[-1] == device.desired[0]


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("device:nobody", "no device fits"),
        ("group:none", "no device fits"),
        ("some", "expected a target"),
        ("", "expect"),
    ],
)
def test_targets_that_mean_nobody(
    console: RunningConsole, device: WireDevice, tmp_path: Path, *, to: str, message: str
) -> None:
    assert device.name == "dev-1"
    with pytest.raises(UsageError, match=message):
        deploy(made_package(tmp_path / "p.edgepkg"), to=to, console_url=console.url)


def test_a_damaged_package_is_refused_on_both_sides(console: RunningConsole, tmp_path: Path) -> None:
    package = made_package(tmp_path / "p.edgepkg")
    raw = bytearray(package.read_bytes())
    raw[raw.index(b"no real model")] ^= 1
    package.write_bytes(raw)
    with pytest.raises(PackageError):
        deploy(package, to="all", console_url=console.url)
    answer = httpx.post(f"{console.url}/api/packages", content=bytes(raw), timeout=60)
    assert (answer.status_code, answer.json()["kind"]) == (422, "PackageError")
    assert httpx.post(f"{console.url}/api/packages", content=b"", timeout=60).status_code == 422
    assert console.get("/api/packages")["packages"] == []
    assert list((tmp_path / "data" / "uploads").iterdir()) == []


def test_a_released_version_never_changes(console: RunningConsole, device: WireDevice, tmp_path: Path) -> None:
    assert device.name == "dev-1"
    deploy(made_package(tmp_path / "p.edgepkg"), to="all", console_url=console.url)
    with pytest.raises(PackageError, match="already in the registry"):
        deploy(made_package(tmp_path / "p.edgepkg", content=b"other"), to="all", console_url=console.url)
    deploy(made_package(tmp_path / "p.edgepkg"), to="all", console_url=console.url)


def test_a_package_that_is_too_large_is_cut_off(tmp_path: Path, broker: Mosquitto) -> None:
    with RunningConsole(console_toml(tmp_path, broker.port, web="max_package_bytes = 1000")) as console:
        answer = httpx.post(f"{console.url}/api/packages", content=b"x" * 2000, timeout=60)
        assert answer.status_code == 422
        assert "at most 1000 bytes" in answer.json()["error"]


def test_only_released_packages_get_in_where_keys_are_set(tmp_path: Path, broker: Mosquitto) -> None:
    key, other = SigningKey.generate(), SigningKey.generate()
    more = f'[trust]\nrelease_keys = ["{key.public.hex()}"]\n'
    with RunningConsole(console_toml(tmp_path, broker.port, more=more)) as console:
        for wrong in (None, other):
            package = made_package(tmp_path / "p.edgepkg", key=wrong)
            with pytest.raises(SignatureError):
                deploy(package, to="all", console_url=console.url)
        package = made_package(tmp_path / "p.edgepkg", key=key)
        assert httpx.post(f"{console.url}/api/packages", content=package.read_bytes(), timeout=60).status_code == 201


def test_the_commands_explain_a_console_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConsoleError, match="does not answer"):
        fleet_devices(console_url="http://127.0.0.1:9")
    with pytest.raises(UsageError, match="address"):
        fleet_devices(console_url="ftp://somewhere")
    with pytest.raises(UsageError, match="no such file"):
        deploy(tmp_path / "none.edgepkg", to="all", console_url="http://127.0.0.1:9")


# -- the guard ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 400),
        ({"sec-fetch-site": "same-origin"}, 400),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "evil.example"}, 421),
        ({"host": "evil.example", "origin": "http://evil.example"}, 421),
        ({"host": "localhost:1"}, 400),
    ],
)
def test_changes_come_from_the_console_itself(quiet: RunningConsole, headers: dict[str, str], status: int) -> None:
    """400 is the answer to the empty request itself: the guard let it through."""
    assert httpx.post(f"{quiet.url}/api/rollouts", content=b"", headers=headers, timeout=60).status_code == status


def test_a_foreign_name_cannot_read_a_loopback_console(quiet: RunningConsole) -> None:
    assert httpx.get(f"{quiet.url}/api/devices", headers={"host": "evil.example"}, timeout=60).status_code == 421


def test_every_answer_forbids_foreign_scripts(quiet: RunningConsole) -> None:
    for path in ("/", "/api/devices", "/static/console.js", "/nowhere"):
        headers = httpx.get(quiet.url + path, timeout=60).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers


def test_a_token_guards_changes_and_reading(guarded: RunningConsole) -> None:
    url = guarded.url
    assert httpx.get(f"{url}/api/devices", timeout=60).status_code == 401
    assert httpx.get(f"{url}/api/devices", headers={"authorization": "Bearer wrong"}, timeout=60).status_code == 401
    assert httpx.post(f"{url}/api/rollouts", content=b"", timeout=60).status_code == 401
    ended = f"{url}/api/v1/commands/none"
    assert httpx.delete(ended, timeout=60).status_code == 401
    assert httpx.get(f"{url}/healthz", timeout=60).status_code == 200
    bearer = {"authorization": f"Bearer {_TOKEN}"}
    assert httpx.get(f"{url}/api/devices", headers=bearer, timeout=60).json() == {"devices": []}
    assert httpx.post(f"{url}/api/rollouts", content=b"", headers=bearer, timeout=60).status_code == 400
    assert httpx.delete(ended, headers=bearer, timeout=60).status_code == 404
    assert httpx.delete(ended, headers={**bearer, "origin": "http://other"}, timeout=60).status_code == 403
    assert fleet_devices(console_url=url, token=_TOKEN) == []
    with pytest.raises(ConsoleError, match="token"):
        fleet_devices(console_url=url)
    assert _TOKEN not in guarded.log.read_text()


def test_a_person_signs_in_on_the_page(guarded: RunningConsole) -> None:
    with httpx.Client(base_url=guarded.url, headers={"accept": "text/html"}, timeout=60) as client:
        assert client.get("/").headers["location"] == "/sign-in"
        assert client.post("/sign-in", data={"token": "wrong"}).status_code == 401
        answer = client.post("/sign-in", data={"token": _TOKEN})
        assert answer.headers["location"] == "/"
        assert "httponly" in answer.headers["set-cookie"].lower()
        assert "samesite=strict" in answer.headers["set-cookie"].lower()
        assert _TOKEN not in answer.headers["set-cookie"]
        assert client.get("/").status_code == 200


def test_sighup_takes_over_a_new_token_and_survives_a_bad_file(guarded: RunningConsole, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("another-token-of-the-tests-987\n")
    guarded.signal(signal.SIGHUP)
    bearer = {"authorization": "Bearer another-token-of-the-tests-987"}
    url = f"{guarded.url}/api/devices"
    wait_until(lambda: httpx.get(url, headers=bearer, timeout=60).status_code == 200, what="the new token to count")
    guarded.config.write_text("tenant = 5")
    guarded.signal(signal.SIGHUP)
    wait_until(lambda: "reload_failed" in guarded.log.read_text(), what="the refusal of the bad file")
    said = [line for line in guarded.log.read_text().splitlines() if "event=reloaded" in line]
    assert re.fullmatch(r"[-0-9]{10} [:0-9]{8},\d{3} INFO event=reloaded config=.*", said[0]), (
        "as of the other services"
    )
    assert httpx.get(url, headers=bearer, timeout=60).status_code == 200


def test_events_stream_what_happens(console: RunningConsole, device: WireDevice) -> None:
    with httpx.stream("GET", f"{console.url}/api/events", timeout=60) as stream:
        lines = stream.iter_lines()
        begun = [next(line for line in lines if line.startswith("event:")) for _ in range(2)]
        assert begun == ["event: missed", "event: status"]
        device.send("door", made_results(3))
        for line in lines:
            if line == "event: results":
                break
        document = json.loads(next(lines).removeprefix("data: "))
    assert document["counts"] == [{"device": "dev-1", "pipeline": "door", "n": 3}]
    assert [result["seq"] for result in document["results"]] == [1, 2, 3]
