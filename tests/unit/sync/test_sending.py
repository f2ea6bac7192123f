"""What the agent's parts send, and when, with a line that notes it: reports, files, wishes, answers."""

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from edgeinfer.runtime.handoff import SyncDb, UpdateRow
from edgeinfer.runtime.trust import SigningKey, seal
from edgeinfer.sync.allowance import UNLIMITED, Priority
from edgeinfer.sync.benches import Benches
from edgeinfer.sync.blob_sender import BlobSender
from edgeinfer.sync.blob_upload import BlobsConfig
from edgeinfer.sync.broker import BrokerConfig
from edgeinfer.sync.commands import Commands
from edgeinfer.sync.daemon_view import DaemonView
from edgeinfer.sync.homeassistant import HomeAssistantConfig
from edgeinfer.sync.homeassistant_bridge import HomeAssistantBridge
from edgeinfer.sync.jobs import JobReporter
from edgeinfer.sync.log_ring import LogRing
from edgeinfer.sync.messages import BlobStored, Command, DesiredState, decode_blob_part, encode
from edgeinfer.sync.metering import Meter
from edgeinfer.sync.mqtt import MqttLink
from edgeinfer.sync.parts import Parts
from edgeinfer.sync.reporting import Reporter
from edgeinfer.sync.settings import CommandTrust, SyncConfig
from edgeinfer.sync.updates import Updates
from edgeinfer.sync.way import Way

DEVICE = "dev-1"


class Line:
    """The part of a link that is used here. The broker confirms up to `confirmed` messages."""

    def __init__(self) -> None:
        self.said: list[tuple[str, bytes]] = []
        self.confirmed = 1 << 62

    def publish(self, name: str, payload: bytes, **_how: object) -> bool:
        self.said.append((name, payload))
        return True

    def ticket(self) -> int:
        return len(self.said)

    def is_confirmed(self, ticket: int) -> bool:
        return ticket <= self.confirmed

    def of(self, rest: str) -> list[bytes]:
        return [payload for name, payload in self.said if name.endswith(rest)]


class Room:
    """Room for all up to a priority; remembers what was spent."""

    report_interval_s = 0.0

    def __init__(self, up_to: Priority = Priority.TELEMETRY) -> None:
        self.up_to = up_to
        self.bytes: dict[Priority, int] = {}

    def room(self, priority: Priority, _now_s: float) -> int:
        return 1 << 62 if priority <= self.up_to else 0

    spare = room

    def spent(self, priority: Priority, size: int, _now_s: float) -> None:
        self.bytes[priority] = self.bytes.get(priority, 0) + size

    def usage(self) -> dict[str, dict[str, int]]:
        return {}


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def db(tmp_path: Path) -> Iterator[SyncDb]:
    with SyncDb(tmp_path / "sync.db") as made:
        yield made


def config_in(folder: Path, **changes: object) -> SyncConfig:
    config = SyncConfig(device=DEVICE, state_dir=str(folder / "sync"), runtime_dir=str(folder / "runtime"))
    return msgspec.structs.replace(config, **changes)


def test_new_counts_alone_wait_for_their_share_and_what_changed_does_not(tmp_path: Path, line: Line) -> None:
    room, view, made = Room(), DaemonView(tmp_path), {"made": 0}
    way = SimpleNamespace(conflict=0, setbacks=0, floor=dict, audit=lambda: dict(made))
    reporter = Reporter(
        config_in(tmp_path, report_interval_s=10.0),
        cast("MqttLink", line), view, cast("Way", way), cast("Meter", room), session="s",
    )  # fmt: skip
    reporter.connected()

    def reports(now_s: float) -> int:
        made["made"] += 1
        reporter.step(now_s)
        return len(line.of("up/reported"))

    assert [reports(now_s) for now_s in (0.0, 5.0, 10.0)] == [1, 1, 2]
    room.up_to = Priority.RESULTS
    assert [reports(now_s) for now_s in (20.0, 30.0, 500.0)] == [2, 2, 2]
    view.row = UpdateRow(desired_version=3)
    assert reports(501.0) == 3
    reporter.report_now()
    assert len(line.of("up/reported")) == 4


def test_telemetry_once_in_a_lifetime_does_not_ask_for_a_longer_expiry_than_there_is(tmp_path: Path) -> None:
    found: list[object] = []

    def publish(_name: str, _raw: bytes, **how: object) -> bool:
        found.append(how.get("expiry_s"))
        return True

    line = SimpleNamespace(publish=publish)
    way = SimpleNamespace(conflict=0, setbacks=0, floor=dict, audit=dict)
    config = config_in(tmp_path, telemetry_interval_s=1e9, report_interval_s=1e9)
    view = DaemonView(tmp_path)
    Reporter(
        config, cast("MqttLink", line), view, cast("Way", way), cast("Meter", Room()), session="s"
    ).step(0.0)  # fmt: skip
    assert max(int(str(expiry_s or 0)) for expiry_s in found) == 3_000_000_000
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"device": DEVICE, "telemetry_interval_s": float("inf")}, SyncConfig)


def test_a_file_is_not_sent_while_results_wait(tmp_path: Path, line: Line, db: SyncDb) -> None:
    folder = tmp_path / "runtime" / "snapshots"
    folder.mkdir(parents=True)
    (folder / "000000001-1760000000000000000-door-1.jpg").write_bytes(b"picture")
    blobs = BlobSender(config_in(tmp_path, blobs=BlobsConfig(snapshots=True)), db, cast("MqttLink", line), UNLIMITED)
    for _ in range(3):
        blobs.step(0.0, others_wait=True)
    assert not line.said
    blobs.step(0.0)
    (question,) = (decode_blob_part(raw) for raw in line.of("up/blob"))
    blobs.take(encode(BlobStored(question.sha256, 0)), 0.0)
    blobs.step(0.1, others_wait=True)
    assert len(line.said) == 1
    blobs.step(0.2)
    assert decode_blob_part(line.said[-1][1]).data == b"picture"
    blobs.close()


def test_a_file_that_was_not_hashed_before_the_line_went_does_not_keep_the_agent_turning(
    tmp_path: Path, db: SyncDb
) -> None:
    config = config_in(tmp_path, broker=BrokerConfig(port=1))
    parts = Parts(config, db, session="s", ring=LogRing(), complain=lambda _key, _reason: None)
    blobs, waits = parts.blobs, list[float]()
    parts.blobs = cast("BlobSender", SimpleNamespace(hashing=True))
    parts.link = cast("MqttLink", SimpleNamespace(connected=False, local_address="", receive=waits.append))
    parts.turn(0.2)
    assert waits == [0.2]
    blobs.close()


def test_wishes_cost_a_commit_a_second_however_many_come(tmp_path: Path, line: Line, db: SyncDb) -> None:
    view = DaemonView(tmp_path / "runtime")
    updates = Updates(config_in(tmp_path), db, cast("MqttLink", line), view, UNLIMITED)
    key = SigningKey.generate()

    def wish(version: int) -> bytes:
        return seal(encode(DesiredState(version, DEVICE, 1, ())), key)

    def kept() -> int:
        desired = db.desired()
        return 0 if desired is None else desired.version

    updates.desired(wish(1), 0.0)
    assert kept() == 1
    for version in range(2, 50):
        updates.desired(wish(version), version / 100)
        updates.step(version / 100, online=True)
    assert kept() == 1
    updates.step(1.0, online=True)
    assert kept() == 49


def test_the_end_of_an_update_is_counted(line: Line, db: SyncDb) -> None:
    room = Room()
    jobs = JobReporter(SyncConfig(device=DEVICE), db, cast("MqttLink", line), room)
    jobs.step(UpdateRow(state="FAILED", job="j-1", desired_version=1), offset=0, now_s=0.0)
    assert room.bytes == {Priority.CONTROL: len(line.said[0][1])}


def test_an_answer_is_not_said_again_for_each_replay(tmp_path: Path, line: Line, db: SyncDb) -> None:
    key, room = SigningKey.generate(), Room()
    config = config_in(tmp_path, trust=CommandTrust(console_keys=(key.public.hex(),)))
    link = cast("MqttLink", line)
    benches = Benches(config, db, link, DaemonView(tmp_path), room)
    commands = Commands(config, db, link, room, ring=LogRing(), benches=benches)
    now_s = int(time.time())
    raw = seal(encode(Command("c-1", DEVICE, "logs", now_s, now_s + 60, lines=0)), key)
    commands.take(raw, 0.0)
    deadline_s = time.monotonic() + 30
    while not line.of("up/cmdres") and time.monotonic() < deadline_s:
        commands.step(0.0)
    for turn in range(500):
        commands.take(raw, turn / 1000)
        commands.step(turn / 1000)
    assert len(line.of("up/cmdres")) == 2
    assert room.bytes[Priority.CONTROL] == sum(map(len, line.of("up/cmdres")))


def test_what_home_assistant_is_to_forget_is_said_once_a_connection(tmp_path: Path, line: Line, db: SyncDb) -> None:
    db.set_note("homeassistant", msgspec.json.encode(["homeassistant/sensor/dev-1/door_label/config"]))
    config = config_in(tmp_path, homeassistant=HomeAssistantConfig(enabled=False))
    view = DaemonView(tmp_path / "runtime")
    bridge = HomeAssistantBridge(config, db, cast("MqttLink", line), view, UNLIMITED, version="1")
    line.confirmed = 0  # a slow line
    for now_s in range(10):
        bridge.step(float(now_s))
    assert [payload for _, payload in line.said] == [b""]
    bridge.connected()
    bridge.step(20.0)
    assert len(line.said) == 2
    assert db.note("homeassistant")
    line.confirmed = 2
    bridge.step(21.0)
    assert db.note("homeassistant") == b""
    bridge.close()
