"""What the agent does beside delivery, over a real broker: data budgets, files, commands, Home Assistant."""

import hashlib
import json
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from agents import DEVICE, fill, running, sync_config
from brokers import Mosquitto
from edgeinfer.runtime.handoff import RuntimeDb, SyncDb
from edgeinfer.runtime.results import Item, Kind, Result
from edgeinfer.runtime.trust import SigningKey, seal
from edgeinfer.sync.agent import Agent
from edgeinfer.sync.blob_upload import BlobsConfig
from edgeinfer.sync.budget import NetworkConfig
from edgeinfer.sync.homeassistant import HomeAssistantConfig
from edgeinfer.sync.messages import (
    BlobStored,
    Command,
    CommandResult,
    LogLines,
    ReportedState,
    decode,
    decode_blob_part,
    encode,
    topic,
)
from edgeinfer.sync.mqtt import BrokerConfig, MqttLink
from edgeinfer.sync.settings import CommandTrust, SyncConfig
from tiny_console import TinyConsole
from waiting import wait_until

# No answer to a part takes so long that it is sent again for want of it.
PATIENCE_S = 300.0


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as started:
        yield started


@pytest.fixture
def console(broker: Mosquitto) -> Iterator[TinyConsole]:
    with TinyConsole(BrokerConfig(port=broker.port), device=DEVICE) as made:
        wait_until(lambda: made.link is not None and made.link.connected, what="the console")
        yield made


# -- data budgets: the loopback is of kind "other" ------------------------------------------------------------------


def test_a_network_that_may_carry_nothing_carries_only_the_news_that_the_device_is_there(
    tmp_path: Path, broker: Mosquitto, console: TinyConsole
) -> None:
    fill(tmp_path, 300).close()
    config = sync_config(tmp_path, broker, network=(NetworkConfig(kind="other", send=()),))
    with running(config):
        wait_until(lambda: len(console.of("up/reported")) > 0, what="the report")
        wait_until(lambda: json.loads(console.of("up/reported")[-1]).get("usage", {}).get("other"), what="the books")
    assert not console.results
    assert not console.of("up/tel")
    with running(sync_config(tmp_path, broker)):
        wait_until(lambda: len(console.results) == 300, what="the results without the limit")


def test_a_restart_does_not_refill_the_day(tmp_path: Path, broker: Mosquitto, console: TinyConsole) -> None:
    fill(tmp_path, 4000, chunk_results=20).close()  # many chunks
    limited = NetworkConfig(
        kind="any", bytes_per_day=15_000, events_reserve=0, results_reserve=0, report_interval_s=600
    )
    config = sync_config(tmp_path, broker, network=(limited,))
    first_run = Agent(config).drain_once(60.0)
    assert 0 < first_run.acknowledged < 4000
    assert first_run.bytes < 15_000
    again = Agent(config).drain_once(60.0)
    assert again.acknowledged == 0
    with SyncDb(tmp_path / "sync" / "sync.db") as db:
        ledger = msgspec.msgpack.decode(db.note("ledger"))
    assert ledger["used"]["any"]["results"] >= first_run.bytes
    with running(sync_config(tmp_path, broker)):
        wait_until(lambda: len(console.results) == 4000, what="the rest")
    assert set(console.results) == {(epoch, seq) for epoch, _ in console.results for seq in range(1, 4001)}


# -- files ----------------------------------------------------------------------------------------------------------


class FileTaker:
    """Answers parts as the console does. `pump` looks at what has come since; `limit` is how many bytes it takes."""

    def __init__(self, console: TinyConsole) -> None:
        self.files: dict[str, bytearray] = {}
        self.names: dict[str, str] = {}
        self.done: list[str] = []
        self.offsets: list[int] = []
        self.data_parts = 0
        self.limit = 1 << 30
        self._console = console
        self._looked = 0

    def pump(self) -> None:
        parts = [decode_blob_part(raw) for raw in self._console.of("up/blob")]
        for part in parts[self._looked :]:
            held = self.files.setdefault(part.sha256, bytearray())
            self.names[part.sha256] = part.label.name
            self.data_parts += 1 if part.data else 0
            if part.data:
                self.offsets.append(part.offset)
            if part.offset == len(held) and len(held) + len(part.data) <= self.limit:
                held += part.data
            is_done = hashlib.sha256(held).hexdigest() == part.sha256
            if is_done and part.sha256 not in self.done:
                self.done.append(part.sha256)
            self._console.say("down/blob", encode(BlobStored(part.sha256, len(held), done=is_done)))
        self._looked = len(parts)

    def has(self, n: int) -> bool:
        self.pump()
        return len(self.done) >= n


def snapshot(folder: Path, number: int, size: int, *, age_s: int = 0) -> Path:
    path = folder / "runtime" / "snapshots" / f"{number:09d}-176000000000000000{number % 10}-door-{number}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(random.Random(number).randbytes(size))
    when = time.time() - age_s
    os.utime(temporary, (when, when))
    temporary.rename(path)
    return path


def with_files(folder: Path, broker: Mosquitto, **changes: object) -> SyncConfig:
    blobs = BlobsConfig(snapshots=True, examples=True, part_bytes=4096, timeout_s=PATIENCE_S, timeout_max_s=PATIENCE_S)
    return sync_config(folder, broker, blobs=msgspec.structs.replace(blobs, **changes))


def test_files_go_up_newest_first_once_and_whole(tmp_path: Path, broker: Mosquitto, console: TinyConsole) -> None:
    files = [snapshot(tmp_path, number, 10_000 + number, age_s=100 - number) for number in (1, 2, 3)]
    taker = FileTaker(console)
    config = with_files(tmp_path, broker)
    with running(config):
        wait_until(lambda: taker.has(3), what="the pictures")
        assert [taker.names[sha256] for sha256 in taker.done] == [file.name for file in reversed(files)]
        snapshot(tmp_path, 4, 5000)
        wait_until(lambda: taker.has(4), what="a picture that came later")
    parts = taker.data_parts
    with running(config):
        snapshot(tmp_path, 5, 100)
        wait_until(lambda: taker.has(5), what="the next picture")
    assert taker.data_parts == parts + 1


def test_an_upload_goes_on_where_the_console_is(tmp_path: Path, broker: Mosquitto, console: TinyConsole) -> None:
    snapshot(tmp_path, 1, 100_000)
    taker = FileTaker(console)
    taker.limit = 40_960
    config = with_files(tmp_path, broker)

    def is_half_there() -> bool:
        taker.pump()
        return any(len(held) == 40_960 for held in taker.files.values())

    with running(config):
        wait_until(is_half_there, what="a part of the picture")
    taker.pump()
    taker.limit = 1 << 30
    before = len(taker.offsets)
    with running(config):
        wait_until(lambda: taker.has(1), what="the rest")
    assert taker.offsets[before] == 40_960


def test_a_file_that_vanishes_is_given_up_and_the_next_goes(
    tmp_path: Path, broker: Mosquitto, console: TinyConsole, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="edgeinfer")
    older = snapshot(tmp_path, 1, 5000, age_s=100)
    newer = snapshot(tmp_path, 2, 100_000)
    taker = FileTaker(console)
    with running(with_files(tmp_path, broker)):
        wait_until(lambda: len(console.of("up/blob")) > 0, what="the question")
        newer.unlink()
        wait_until(lambda: taker.has(1), what="the other picture")
    assert taker.names[taker.done[0]] == older.name
    assert "reason='vanished'" in caplog.text


@pytest.mark.usefixtures("console")
def test_a_console_that_takes_no_files_holds_nothing_up(tmp_path: Path, broker: Mosquitto) -> None:
    fill(tmp_path, 100).close()
    snapshot(tmp_path, 1, 5000)
    report = Agent(with_files(tmp_path, broker, timeout_s=1.0, timeout_max_s=2.0)).drain_once(60.0)
    assert report.acknowledged == 100


# -- commands -------------------------------------------------------------------------------------------------------


def command(**changes: object) -> bytes:
    now_s = int(time.time())
    made = Command(id="c-1", device=DEVICE, kind="logs", issued_s=now_s, expires_s=now_s + 60, lines=50)
    return encode(msgspec.structs.replace(made, **changes))


def answers(console: TinyConsole) -> dict[str, CommandResult]:
    return {result.id: result for result in (decode(raw, CommandResult) for raw in console.of("up/cmdres"))}


def test_signed_commands_are_carried_out_once_and_others_are_refused(
    tmp_path: Path,
    broker: Mosquitto,
    console: TinyConsole,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="edgeinfer")
    monkeypatch.setenv("PATH", str(tmp_path))  # no journal: the agent's own lines
    key, stranger = SigningKey.generate(), SigningKey.generate()
    config = sync_config(tmp_path, broker, trust=CommandTrust(console_keys=(key.public.hex(),)))

    def ask(payload: bytes, signer: SigningKey, answer: str) -> CommandResult:
        console.say("down/cmd", seal(payload, signer))
        wait_until(lambda: answer in answers(console), what=answer)
        return answers(console)[answer]

    with running(config):
        wait_until(lambda: len(console.of("up/state")) > 0, what="the agent")
        result = ask(command(), key, "c-1")
        assert (result.ok, "lines of the agent" in result.detail) == (True, True)
        lines = [line for raw in console.of("up/log") for line in decode(raw, LogLines).lines]
        assert any("event=broker_connected" in line for line in lines)
        n_parts = len(console.of("up/log"))
        console.say("down/cmd", seal(command(), key))
        wait_until(lambda: len(console.of("up/cmdres")) == 2, what="the same answer again")
        assert answers(console)["c-1"] == result
        assert len(console.of("up/log")) == n_parts
    with running(config):
        wait_until(lambda: len(console.of("up/state")) > 2, what="the agent after a restart")
        wait_until(lambda: "before" in ask(command(), key, "c-1").detail, what="the refusal of what was done before")
        for number, (payload, signer, reason) in enumerate(
            [
                (command(id="r-0"), stranger, "none of the 1 trusted keys"),
                (command(id="r-1", device="dev-2"), key, "for dev-1"),
                (command(id="r-2", issued_s=10, expires_s=20), key, "expired"),
            ]
        ):
            console.say("down/cmd", seal(payload, signer))

            def said(number: int = number, payload: bytes = payload, signer: SigningKey = signer) -> bool:
                if f"r-{number}" not in answers(console):
                    console.say("down/cmd", seal(payload, signer))  # refusals are said once a second at most
                return f"r-{number}" in answers(console)

            wait_until(said, what=reason)
            assert not answers(console)[f"r-{number}"].ok
            assert reason in answers(console)[f"r-{number}"].detail


def test_without_keys_every_command_is_refused(tmp_path: Path, broker: Mosquitto, console: TinyConsole) -> None:
    with running(sync_config(tmp_path, broker)):
        wait_until(lambda: len(console.of("up/state")) > 0, what="the agent")
        console.say("down/cmd", b"no envelope")
        console.say("down/cmd", seal(command(), SigningKey.generate()))
        wait_until(lambda: "c-1" in answers(console), what="the refusal")
    assert "console_keys" in answers(console)["c-1"].detail


# -- Home Assistant -------------------------------------------------------------------------------------------------


class Listener:
    """Keeps the newest message of each topic below the discovery prefix and of the device; b"" where it was emptied."""

    def __init__(self, link: MqttLink) -> None:
        self._link = link
        self.newest: dict[str, bytes] = {}

    def look(self) -> dict[str, bytes]:
        while (message := self._link.receive(0)) is not None:
            self.newest[message[0]] = message[1]
        return self.newest


@contextmanager
def client(broker: Mosquitto, name: str, *topics: str) -> Iterator[MqttLink]:
    link = MqttLink(
        BrokerConfig(port=broker.port), client_id=name, will=None, subscriptions=[(wanted, 1) for wanted in topics]
    )
    link.start()
    try:
        wait_until(lambda: link.connected, what=name)
        yield link
    finally:
        link.stop()


@contextmanager
def home_assistant(broker: Mosquitto) -> Iterator[Listener]:
    with client(broker, "homeassistant", "homeassistant/#", topic("default", DEVICE, "ha/#")) as link:
        yield Listener(link)


def status_of(folder: Path, *pipelines: str) -> None:
    """As the daemon says what it runs, with labels in the store."""
    package = folder / "runtime" / "models" / "packages" / "d1"
    package.mkdir(parents=True, exist_ok=True)
    (package / "labels.txt").write_text("cat\ndog\n")
    with RuntimeDb(folder / "runtime" / "runtime.db") as db:
        document = {
            "device": DEVICE,
            "models": {"m": {"digest": "d1", "version": "1.0.0", "variant": "v"}},
            "pipelines": {pipeline: {"model": "m"} for pipeline in pipelines},
        }
        db.set_status(msgspec.json.encode(document))


def test_the_sensor_appears_follows_the_results_and_goes(
    tmp_path: Path, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeinfer.sync import homeassistant_bridge

    monkeypatch.setattr(homeassistant_bridge, "_read_labels", lambda _folder: ("cat", "dog"))
    status_of(tmp_path, "door")
    buffer = fill(tmp_path, 10)
    config = sync_config(tmp_path, broker, homeassistant=HomeAssistantConfig(enabled=True))
    state = topic("default", DEVICE, "ha/door")
    with home_assistant(broker) as listener:
        with running(config):
            wait_until(lambda: state in listener.look(), what="the state")
            assert sum(name.startswith("homeassistant/") for name in listener.newest) == 3
            buffer.append("door", Result(Kind.CLASSIFICATION, 7, 99, items=(Item(1, 0.75),)))
            buffer.append("door", Result(Kind.EVENT, 8, 99, items=(Item(1, 0.75),), extra={"rule": "seen"}))
            wait_until(lambda: json.loads(listener.look()[state])["label"] == "dog", what="the newest result")
            wait_until(lambda: f"{state}/event" in listener.look(), what="the event")
            assert json.loads(listener.newest[f"{state}/event"])["rule"] == "seen"
            assert json.loads(listener.newest[state])["score"] == pytest.approx(0.75, abs=0.001)
        with running(sync_config(tmp_path, broker)):  # switched off again
            wait_until(
                lambda: all(not body for name, body in listener.look().items() if name != f"{state}/event"),
                what="the end of the entities",
            )
            with SyncDb(tmp_path / "sync" / "sync.db", read_only=True) as db:
                wait_until(lambda: db.note("homeassistant") == b"", what="the agent to forget them")
    buffer.close()
    with home_assistant(broker) as late, client(broker, "other") as other:
        other.publish("homeassistant/last", b"x", qos=1)
        wait_until(lambda: "homeassistant/last" in late.look(), what="what is sent after all that is retained")
        assert set(late.newest) == {"homeassistant/last"}


def test_the_report_says_what_the_day_has_cost(tmp_path: Path, broker: Mosquitto, console: TinyConsole) -> None:
    fill(tmp_path, 200).close()
    with running(sync_config(tmp_path, broker)):
        wait_until(
            lambda: any(
                decode(raw, ReportedState).usage.get("any", {}).get("results") for raw in console.of("up/reported")
            ),
            what="the usage",
        )
