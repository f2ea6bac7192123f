"""The page in a real browser: a real console, a real broker, real chunks."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from brokers import Mosquitto
from consoles import RunningConsole, WireDevice, console_toml, made_package, made_results
from edgeinfer.console.commands import deploy
from edgeinfer.runtime.package import PackageFile
from edgeinfer.runtime.results import Item, Kind, Result
from edgeinfer.runtime.trust import Envelope
from edgeinfer.sync import messages
from waiting import wait_until

_LABELS = ("zero", "one", "two", "three")
_PICTURE = bytes.fromhex(  # PNG, one grey pixel
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c6360000000020001e221bc33"
    "0000000049454e44ae426082"
)
_SCRIPT = "<script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\">"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as started:
        yield started


@pytest.fixture
def console(tmp_path: Path, broker: Mosquitto) -> Iterator[RunningConsole]:
    with RunningConsole(console_toml(tmp_path, broker.port)) as started:
        yield started


@pytest.fixture
def device(broker: Mosquitto, console: RunningConsole) -> Iterator[WireDevice]:
    with WireDevice("dev-1", broker.port) as started:
        started.come_online(groups=["canary"])
        wait_until(lambda: console.audit("dev-1")["epochs"] != [], what="the device to be known")
        yield started


def _report(device: WireDevice, digest: str, version: str = "1.0.0") -> None:
    device.say(
        "up/reported",
        messages.ReportedState(
            version=1,
            models={"digits": {"version": version, "digest": digest, "variant": "litert-fp32"}},
            pipelines={"door": {"model": "digits", "frames": {"inferred": 40, "superseded": 2}, "source": "running"}},
        ),
        retain=True,
    )


def test_a_device_and_its_results_appear_without_a_reload(
    page: Page, console: RunningConsole, device: WireDevice
) -> None:
    page.goto(console.url)
    expect(page.get_by_text("broker: connected")).to_be_visible()
    expect(page.get_by_text("page: live")).to_be_visible()
    row = page.get_by_role("row", name=re.compile("dev-1"))
    expect(row).to_contain_text("online")
    expect(row).to_contain_text("canary")

    device.send("door", made_results(20))
    results = page.get_by_role("list", name="Newest results first").get_by_role("listitem")
    expect(results.first).to_contain_text("class 3")
    expect(results.first).to_contain_text("dev-1 · door")
    expect(row).to_contain_text("complete")
    expect(page.get_by_role("region", name="The fleet in numbers")).to_contain_text("20")


def test_a_second_device_joins_a_page_that_is_open(
    page: Page, console: RunningConsole, device: WireDevice, broker: Mosquitto
) -> None:
    page.goto(console.url)
    expect(page.get_by_role("row", name=re.compile(device.name))).to_be_visible()
    with WireDevice("dev-2", broker.port) as second:
        second.come_online()
        expect(page.get_by_role("row", name=re.compile("dev-2"))).to_contain_text("online")
        second.say("up/state", messages.StateMessage(online=False, session="s"), retain=True)
        expect(page.get_by_role("row", name=re.compile("dev-2"))).to_contain_text("offline")


def test_the_charts_are_drawn(page: Page, console: RunningConsole, device: WireDevice) -> None:
    now_ns = time.time_ns()
    for back_s in range(60, 3, -1):
        device.send("door", made_results(10, now_ns=now_ns - back_s * 10**9))
    device.wait_acked(570)
    page.goto(console.url)
    for name in ("Results per second over time", "Median and 99th percentile of the engine's latency over time"):
        path = page.get_by_role("img", name=name).locator("path.line").first
        expect(path).to_have_attribute("d", re.compile(r"M[\d.]+ [\d.]+L"))
    expect(page.get_by_text("dev-1 · door").first).to_be_visible()
    page.get_by_role("button", name="30 min").click()
    expect(page.get_by_role("button", name="30 min")).to_have_attribute("aria-pressed", "true")
    series = console.get("/api/series?minutes=5")
    assert series["total"]["results"] == 570
    assert 850 < series["total"]["p50_us"] < 1000


def test_a_deployment_is_followed_to_its_end(
    page: Page, console: RunningConsole, device: WireDevice, tmp_path: Path
) -> None:
    package = made_package(tmp_path / "digits.edgepkg", labels=_LABELS)
    page.goto(f"{console.url}/packages")
    page.get_by_label("File").set_input_files(package)
    page.get_by_role("button", name="Add").click()
    expect(page.get_by_role("row", name=re.compile("digits 1.0.0"))).to_be_visible()

    page.goto(f"{console.url}/rollouts")
    page.get_by_label("To", exact=True).select_option("group:canary")
    page.get_by_role("button", name="Deploy").click()
    expect(page.get_by_text("Rollout 1 started for 1 device(s).")).to_be_visible()
    state = page.locator('[data-deployment="1/dev-1"]')
    expect(state).to_contain_text("PENDING")
    for step in ("ASSIGNED", "DOWNLOADING", "GATE", "COMMITTED", "REPORTED"):
        device.say("up/job/r1-1", messages.JobStatus("r1-1", 1, step, "digits", "1.0.0", swap_ms=2.5))
        expect(state).to_contain_text(step)
    expect(page.get_by_text("FINISHED")).to_be_visible()
    expect(page.get_by_text("1 of 1 done")).to_be_visible()


def test_a_failed_deployment_shows_its_reason(
    page: Page, console: RunningConsole, device: WireDevice, tmp_path: Path
) -> None:
    package = made_package(tmp_path / "digits.edgepkg")
    deploy(package, to=f"device:{device.name}", console_url=console.url)
    page.goto(f"{console.url}/devices/dev-1")
    device.say("up/job/r1-1", messages.JobStatus("r1-1", 1, "ROLLED_BACK", reason="golden vectors: off by 0.4"))
    expect(page.locator('[data-deployment="1/dev-1"]')).to_contain_text("golden vectors: off by 0.4")


def test_labels_come_from_the_package_that_the_device_runs(
    page: Page, console: RunningConsole, device: WireDevice, tmp_path: Path
) -> None:
    package = made_package(tmp_path / "digits.edgepkg", labels=_LABELS)
    deploy(package, to="all", console_url=console.url)
    with PackageFile(package) as opened:
        _report(device, opened.digest)
    device.send("door", made_results(5, label=3))
    page.goto(f"{console.url}/devices/dev-1")
    expect(page.get_by_role("list", name="Newest results first")).to_contain_text("three")
    expect(page.get_by_role("row", name=re.compile("door"))).to_contain_text("superseded 2")


def test_results_stored_between_a_page_and_its_event_stream_are_shown_once(
    page: Page, console: RunningConsole, device: WireDevice
) -> None:
    def late(route: Route) -> None:
        device.send("door", made_results(5))
        device.wait_acked(5)
        route.continue_()

    page.route("**/api/events", late, times=1)
    page.goto(f"{console.url}/devices/dev-1")
    rows = page.get_by_role("list", name="Newest results first").get_by_role("listitem")
    expect(rows).to_have_count(5)
    device.send("door", made_results(2), first_seq=6)
    expect(rows).to_have_count(7)
    keys = rows.evaluate_all("rows => rows.map((row) => row.dataset.key)")
    assert keys == [f"dev-1/1/{seq}" for seq in (7, 6, 5, 4, 3, 2, 1)]


def test_a_paused_page_shows_what_came_meanwhile_when_it_goes_on(
    page: Page, console: RunningConsole, device: WireDevice
) -> None:
    page.goto(f"{console.url}/")
    pause = page.get_by_role("button", name="Pause")
    pause.click()
    device.send("door", made_results(5))
    device.wait_acked(5)
    rows = page.get_by_role("list", name="Newest results first").get_by_role("listitem")
    expect(page.get_by_role("region", name="The fleet in numbers")).to_contain_text("5")
    expect(rows).to_have_count(0)
    page.get_by_role("button", name="Paused").click()
    expect(rows).to_have_count(5)


def test_a_person_sees_that_nothing_is_missing_or_what_is(
    page: Page, console: RunningConsole, device: WireDevice
) -> None:
    device.send_linked("door", made_results(30))
    device.wait_acked(30)
    page.goto(f"{console.url}/devices/dev-1")
    card = page.get_by_role("region", name="Is anything missing?")
    expect(card).to_contain_text("Nothing is missing: 30 results made, and all are stored")
    expect(card).to_contain_text("The hash chain is unbroken: 1 chunk computed again")
    device.evicted(31, 1000, "the buffer was full")
    device.send("door", made_results(5), first_seq=1041)
    wait_until(lambda: console.audit("dev-1")["gaps"] == 10, what="the gap")
    card.get_by_role("button", name="All").click()
    expect(card.get_by_role("button", name="All")).to_have_attribute("aria-pressed", "true")
    expect(card).to_contain_text("10 results awaited")
    expect(card).to_contain_text("1,000 results given up by the device: the buffer was full (1,000)")
    expect(card.get_by_role("row", name=re.compile("awaited"))).to_contain_text("1\u202f031 to 1\u202f040")
    expect(card).not_to_contain_text("Nothing is missing")


def test_a_picture_is_shown_beside_its_event(page: Page, console: RunningConsole, device: WireDevice) -> None:
    device.send("door", made_results(1))
    device.wait_acked(1)
    page.goto(f"{console.url}/devices/dev-1")
    event = Result(
        Kind.EVENT, time.time_ns(), extra={"rule": "intruder", "state": "start", "snapshot": "1-5-door-7.png"}
    )
    device.send("door", [event], first_seq=2)
    device.send_blob(_PICTURE, name="1-5-door-7.png", t_ns=event.t_ns)
    card = page.get_by_role("region", name="Pictures and windows of events")
    expect(card.get_by_role("listitem")).to_contain_text("intruder start")
    picture = card.get_by_role("img", name="1-5-door-7.png")
    picture.scroll_into_view_if_needed()
    expect(picture).to_have_js_property("naturalWidth", 1)
    expect(page.get_by_role("list", name="Newest results first")).to_contain_text("rule intruder, state start")
    expect(page.get_by_role("list", name="Newest results first")).not_to_contain_text("snapshot")


def test_the_log_is_loaded_when_it_is_asked_for(page: Page, console: RunningConsole, device: WireDevice) -> None:
    wait_until(lambda: bool(console.get("/api/devices")["devices"][0]["online"]), what="the device to be online")
    page.goto(f"{console.url}/devices/dev-1")
    card = page.get_by_role("region", name="Log of the device")
    card.get_by_role("button").click()
    expect(card).to_contain_text("Asking the device")
    wait_until(lambda: bool(device.received_commands()), what="the command")
    sealed = messages.decode(device.commands[-1], Envelope)
    command = messages.decode(sealed.payload, messages.Command)
    device.say("up/log", messages.LogLines(command.id, ("first", _SCRIPT)))
    device.say("up/cmdres", messages.CommandResult(command.id, ok=True, detail="2 lines of the journal"))
    expect(card).to_contain_text("2 lines of the journal")
    expect(card.get_by_label("Lines of the log")).to_contain_text("<script>")
    assert "hacked" not in page.title()


def test_the_page_tells_when_the_broker_is_away(
    page: Page, console: RunningConsole, device: WireDevice, broker: Mosquitto
) -> None:
    page.goto(console.url)
    expect(page.get_by_text("broker: connected")).to_be_visible()
    expect(page.get_by_role("row", name=re.compile(device.name))).to_contain_text("online")
    broker.kill()
    expect(page.get_by_text("broker: not connected")).to_be_visible()
    expect(page.get_by_role("row", name=re.compile(device.name))).to_contain_text("unknown")
    broker.start()
    expect(page.get_by_text("broker: connected")).to_be_visible()


def test_what_a_device_says_is_text(page: Page, console: RunningConsole, device: WireDevice, tmp_path: Path) -> None:
    package = made_package(tmp_path / "digits.edgepkg", labels=[_SCRIPT] * 4)
    deploy(package, to="all", console_url=console.url)
    with PackageFile(package) as opened:
        digest = opened.digest
    device.say(
        "up/birth",
        messages.Birth(_SCRIPT, _SCRIPT, {"1": 1}, {_SCRIPT: _SCRIPT, "machine": _SCRIPT}, {_SCRIPT: _SCRIPT}),
    )
    device.say(
        "up/reported",
        messages.ReportedState(
            1,
            {"digits": {"version": _SCRIPT, "digest": digest, "variant": _SCRIPT}, _SCRIPT: {"version": "1"}},
            {"door": {"model": "digits", "source": _SCRIPT, "error": _SCRIPT, "frames": {_SCRIPT: 3}}},
            {_SCRIPT: _SCRIPT},
        ),
    )
    device.say("up/job/r1-1", messages.JobStatus("r1-1", 1, "FAILED", reason=_SCRIPT))
    device.raw("up/" + _SCRIPT, b"{}")
    page.goto(console.url)
    expect(page.get_by_text("page: live")).to_be_visible()
    event = Result(Kind.EVENT, time.time_ns(), extra={_SCRIPT: _SCRIPT})
    device.send("door", [Result(Kind.CLASSIFICATION, time.time_ns(), items=(Item(1, 0.5),)), event])
    results = page.get_by_role("list", name="Newest results first")
    expect(results.get_by_text("<script>").first).to_be_visible()
    for path in ("/", "/devices/dev-1", "/rollouts", "/packages"):
        page.goto(console.url + path)
        expect(page.get_by_text("page: live")).to_be_visible()
        assert page.locator("main script, main img").count() == 0
        assert "hacked" not in page.title()
    page.goto(f"{console.url}/devices/dev-1")
    expect(page.locator("main").get_by_text("<script>").first).to_be_visible()


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1280, "light"), (1440, "dark")])
def test_every_page_fits_its_window(
    browser: Browser, console: RunningConsole, device: WireDevice, tmp_path: Path, *, width: int, scheme: str
) -> None:
    deploy(made_package(tmp_path / "digits.edgepkg", labels=_LABELS), to="all", console_url=console.url)
    device.send("a-pipeline-with-a-rather-long-name-for-a-narrow-screen", made_results(50))
    device.wait_acked(50)
    context = browser.new_context(
        viewport={"width": width, "height": 844}, color_scheme="dark" if scheme == "dark" else "light"
    )
    page = context.new_page()
    for path in ("/", "/devices/dev-1", "/rollouts", "/packages", "/nowhere", "/sign-in"):
        page.goto(console.url + path)
        expect(page.get_by_text("page: live")).to_be_visible()
        beyond = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert beyond <= 0, path
        wide = page.evaluate(
            "[...document.querySelectorAll('.card table')].filter(table => table.getBoundingClientRect().right"
            " > table.closest('.card').getBoundingClientRect().right).length"
        )
        assert wide == 0, path
        nameless = page.evaluate(
            "[...document.querySelectorAll('button, a, select, input')].filter(e => !(e.innerText.trim() || e.ariaLabel"
            " || e.labels?.length)).length"
        )
        assert nameless == 0, path
    context.close()
