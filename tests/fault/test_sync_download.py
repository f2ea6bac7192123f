"""The agent fetches what the daemon asks for, through a real mosquitto, with the way cut in the middle."""

import hashlib
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from agents import DEVICE, agent_process, running, sync_config, write_config
from brokers import Mosquitto
from edgeinfer.runtime.errors import BufferStorageError, ConsoleError
from edgeinfer.runtime.handoff import Desired, Download, RuntimeDb, SyncDb, UpdateRow
from edgeinfer.runtime.trust import SigningKey, seal
from edgeinfer.sync.agent import Agent
from edgeinfer.sync.messages import (
    Assignment,
    BlobRange,
    BlobRequest,
    DesiredState,
    JobStatus,
    ReportedState,
    decode,
    encode,
    encode_blob_range,
)
from edgeinfer.sync.mqtt import BrokerConfig
from edgeinfer.sync.transfer import DownloadConfig
from tiny_console import TinyConsole
from waiting import ENDS_WITHIN_S, wait_until

BLOB = random.Random(5).randbytes((6 << 20) + 12_345)
SHA256 = hashlib.sha256(BLOB).hexdigest()
T = TypeVar("T")
KEY = SigningKey(b"k" * 32)
# No answer takes so long that a range is asked for again for want of it.
PATIENT = DownloadConfig(timeout_s=300.0, timeout_max_s=300.0)


class Daemon:
    """The daemon's side of the hand-off: its database, and the folder where blobs arrive."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.db = RuntimeDb(folder / "runtime" / "runtime.db")
        self.incoming = folder / "runtime" / "models" / "incoming"

    def asks_for(self, sha256: str = SHA256, size: int = len(BLOB), *, job: str = "job-1", version: int = 1) -> None:
        self.is_in(
            UpdateRow(
                state="DOWNLOADING", desired_version=version, job=job, model="digits", version="1.1.0",
                digest="d" * 64, blob_sha256=sha256, blob_bytes=size,
            )
        )  # fmt: skip

    def is_in(self, row: UpdateRow) -> None:
        self.db.set_update(row)

    def has(self, sha256: str = SHA256, blob: bytes = BLOB) -> bool:
        path = self.incoming / f"{sha256}.edgepkg"
        return path.is_file() and path.read_bytes() == blob

    def sees(self, sha256: str = SHA256) -> Download | None:
        return self._read(lambda db: db.download(sha256))

    def error(self, sha256: str = SHA256) -> str:
        download = self.sees(sha256)
        return "" if download is None else download.error

    def counts(self, name: str) -> int:
        return self._read(lambda db: db.counter(name)) or 0

    def wishes(self) -> Desired | None:
        return self._read(lambda db: db.desired())

    def _read(self, ask: Callable[[SyncDb], T]) -> T | None:
        """None also while the agent has not made its database yet."""
        try:
            with SyncDb(self.folder / "sync" / "sync.db", read_only=True) as db:
                return ask(db)
        except BufferStorageError:
            return None


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as started:
        yield started


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path)
    yield made
    made.db.close()


@pytest.fixture
def console(broker: Mosquitto) -> Iterator[TinyConsole]:
    with TinyConsole(BrokerConfig(port=broker.port, reconnect_max_s=0.5), device=DEVICE) as made:
        made.add_blob(BLOB)
        wait_until(lambda: made.link is not None and made.link.connected, what="the console")
        yield made


def wish(version: int, *, device: str = DEVICE) -> bytes:
    assignment = Assignment("job-1", "digits", "1.1.0", "d" * 64, SHA256, len(BLOB))
    return seal(encode(DesiredState(version, device, 1_700_000_000, (assignment,))), KEY)


def test_a_package_comes_down_whole(tmp_path: Path, broker: Mosquitto, daemon: Daemon, console: TinyConsole) -> None:
    daemon.asks_for()
    with running(sync_config(tmp_path, broker, download=PATIENT)):
        wait_until(daemon.has, what="the package")
        wait_until(lambda: daemon.sees() == Download(SHA256, len(BLOB), len(BLOB), done=True), what="the news of it")
    statuses = [decode(raw, JobStatus) for raw in console.of("up/job/job-1")]
    assert {status.state for status in statuses} == {"DOWNLOADING"}
    assert len({request.offset for request in console.blob_requests}) == len(console.blob_requests)


def test_a_broker_killed_in_the_middle_costs_no_byte_twice(
    tmp_path: Path, broker: Mosquitto, daemon: Daemon, console: TinyConsole
) -> None:
    daemon.asks_for()
    # The agent may be back before the console: what it asks nobody is asked for again, and nothing else is.
    download = DownloadConfig(timeout_s=15.0)
    with running(sync_config(tmp_path, broker, download=download)):
        wait_until(lambda: len(console.blob_requests) >= 30, what="a part")
        broker.kill()
        broker.start()
        wait_until(daemon.has, what="the package")
    asked = sum(request.length for request in console.blob_requests)
    assert asked <= len(BLOB) + 2 * DownloadConfig().window * DownloadConfig().range_bytes


def test_an_agent_killed_in_the_middle_goes_on_at_its_checkpoint(
    tmp_path: Path, broker: Mosquitto, daemon: Daemon, console: TinyConsole
) -> None:
    daemon.asks_for()
    file = write_config(tmp_path, broker)
    # Hold back the second half, so that the kill meets a download that is under way.
    console.blob_filter = lambda request, data: data if request.offset < 3 << 20 else None
    with agent_process(file):
        wait_until(lambda: any(r.offset >= 3 << 20 for r in console.blob_requests), what="a half")
    known = daemon.sees()
    assert known is not None
    assert (2 << 20) - 1 <= known.offset <= (3 << 20) + DownloadConfig().range_bytes  # the last begins below
    console.blob_filter = lambda _request, data: data
    console.blob_requests.clear()
    with agent_process(file) as process:
        wait_until(daemon.has, what="the package")
        process.send_signal(signal.SIGTERM)
        assert process.wait(ENDS_WITHIN_S) == 0
    assert min(request.offset for request in console.blob_requests) == known.offset


def test_a_lying_console_is_found_out(tmp_path: Path, broker: Mosquitto, daemon: Daemon, console: TinyConsole) -> None:
    small = os.urandom(200_000)
    sha256 = console.add_blob(small)
    console.blob_filter = lambda _request, data: bytes(len(data))
    daemon.asks_for(sha256, len(small))
    with running(sync_config(tmp_path, broker)):
        wait_until(lambda: bool(daemon.error(sha256)), what="the refusal")
    assert "in 3 attempts" in daemon.error(sha256)
    assert not list(daemon.incoming.iterdir())


def test_a_console_without_the_blob_says_so(
    tmp_path: Path, broker: Mosquitto, daemon: Daemon, console: TinyConsole
) -> None:
    console.blobs.clear()
    daemon.asks_for()
    with running(sync_config(tmp_path, broker)):
        wait_until(lambda: bool(daemon.error()), what="the refusal")
    assert daemon.sees() == Download(SHA256, len(BLOB), 0, done=False, error="console has no such blob")


def test_hostile_ranges_during_a_download_change_nothing(
    tmp_path: Path, broker: Mosquitto, daemon: Daemon, console: TinyConsole
) -> None:
    chance = random.Random(9)

    def with_noise(request: BlobRequest, data: bytes) -> bytes:
        for noise in (
            os.urandom(chance.randrange(300)),
            encode_blob_range(BlobRange(SHA256, chance.randrange(1 << 40), len(BLOB), bytes(65536))),
            encode_blob_range(BlobRange(SHA256, request.offset, len(BLOB), bytes(65535))),
            encode_blob_range(BlobRange("0" * 64, request.offset, 0, b"")),
        ):
            console.say("down/data", noise, qos=0)
        return data

    console.blob_filter = with_noise
    daemon.asks_for()
    with running(sync_config(tmp_path, broker)):
        wait_until(daemon.has, what="the package")


def test_a_blob_that_the_daemon_lost_is_fetched_again(
    tmp_path: Path, broker: Mosquitto, daemon: Daemon, console: TinyConsole
) -> None:
    small = os.urandom(100_000)
    sha256 = console.add_blob(small)
    daemon.asks_for(sha256, len(small))
    with running(sync_config(tmp_path, broker)):
        wait_until(lambda: daemon.has(sha256, small), what="the package")
        (daemon.incoming / f"{sha256}.edgepkg").unlink()
        wait_until(lambda: daemon.has(sha256, small), what="the package again")


@pytest.mark.parametrize("final", ["COMMITTED", "ROLLED_BACK", "FAILED"])
def test_the_daemon_learns_that_the_console_was_told(
    tmp_path: Path, broker: Mosquitto, daemon: Daemon, console: TinyConsole, final: str
) -> None:
    older = {"job-0": "FAILED"}
    with running(sync_config(tmp_path, broker)):
        row = UpdateRow(state="TRIAL", desired_version=3, job="job-1", model="digits", version="1.1.0", finished=older)
        daemon.is_in(row)
        wait_until(lambda: bool(console.of("up/job/job-1")), what="the first status")
        daemon.is_in(msgspec.structs.replace(row, state=final, reason="so it is", finished={**older, "job-1": final}))
        wait_until(lambda: daemon.counts("job:job-1") == 1 and daemon.counts("job:job-0") == 1, what="the counters")
        daemon.is_in(msgspec.structs.replace(row, state="IDLE", finished={**older, "job-1": final}))
    states = [decode(raw, JobStatus).state for raw in console.of("up/job/job-1")]
    assert states == ["TRIAL", final]
    assert decode(console.of("up/job/job-1")[-1], JobStatus).reason == "so it is"
    assert [decode(raw, JobStatus).state for raw in console.of("up/job/job-0")] == ["FAILED"]
    assert daemon.counts("reported_version") == 3


def test_an_end_is_told_until_the_console_has_stored_it(
    tmp_path: Path, broker: Mosquitto, daemon: Daemon, console: TinyConsole
) -> None:
    console.die()
    row = UpdateRow(state="COMMITTED", desired_version=3, job="job-1", model="m", finished={"job-1": "COMMITTED"})
    daemon.is_in(row)
    with pytest.raises(ConsoleError, match="acknowledge the end of job-1"):
        Agent(sync_config(tmp_path, broker)).drain_once(8.0)  # the broker took it, and nobody else
    assert daemon.counts("job:job-1") == 0
    console.mute = True
    console.live()
    with running(sync_config(tmp_path, broker)):
        wait_until(lambda: len(console.of("up/job/job-1")) == 1, what="the end")
        daemon.is_in(msgspec.structs.replace(row, state="TRIAL", job="job-2"))
        wait_until(lambda: bool(console.of("up/job/job-2")), what="the next job")
        assert daemon.counts("job:job-1") == 0
        console.mute = False
        broker.kill()
        broker.start()
        # The agent may be back before the console, whose first word is what it wants on the device.
        wait_until(lambda: console.say("down/desired", wish(3), retain=True), what="the console's first word")
        wait_until(lambda: daemon.counts("job:job-1") == 1, what="the end to be told again")
    assert {decode(raw, JobStatus).state for raw in console.of("up/job/job-1")} == {"COMMITTED"}
    assert Agent(sync_config(tmp_path, broker)).drain_once(60.0).update == "TRIAL"


def test_models_and_profile_are_reported(
    tmp_path: Path, broker: Mosquitto, daemon: Daemon, console: TinyConsole
) -> None:
    models = {"digits": {"version": "1.0.0", "digest": "d" * 64, "variant": "onnx-fp32"}}
    with running(sync_config(tmp_path, broker)):
        wait_until(lambda: bool(console.of("up/reported")), what="an empty report")
        daemon.db.set_status(msgspec.json.encode({"models": models, "engines": {"onnx": "1.31.1"}, "later": [1]}))
        wait_until(lambda: decode(console.of("up/reported")[-1], ReportedState).models == models, what="the models")
        wait_until(lambda: b'"onnx":"1.31.1"' in console.of("up/birth")[-1], what="another birth")
        daemon.db.set_status(b"\xff not a document")
        daemon.is_in(UpdateRow(state="TRIAL", desired_version=9, job="job-9"))
        wait_until(lambda: bool(console.of("up/job/job-9")), what="life after a broken document")


def test_wishes_are_stored_as_they_came_and_only_newer_ones(
    tmp_path: Path, broker: Mosquitto, daemon: Daemon, console: TinyConsole
) -> None:
    forged = wish(1 << 60)
    with running(sync_config(tmp_path, broker)):
        console.say("down/desired", wish(5), retain=True)
        wait_until(lambda: daemon.wishes() == Desired(5, wish(5)), what="the wish")
        daemon.is_in(UpdateRow(desired_version=5))
        console.say("down/desired", wish(4))
        console.say("down/desired", wish(6, device="dev-2"))
        console.say("down/desired", forged)
        wait_until(lambda: daemon.wishes() == Desired(1 << 60, forged), what="the forged wish")
        # The daemon refuses it (its row stays at 5), so the next true wish has to get through.
        console.say("down/desired", wish(7))
        wait_until(lambda: daemon.wishes() == Desired(7, wish(7)), what="the next true wish")


def test_once_finishes_a_download(tmp_path: Path, broker: Mosquitto, daemon: Daemon, console: TinyConsole) -> None:
    daemon.asks_for()
    report = Agent(sync_config(tmp_path, broker)).drain_once(60.0)
    assert report.update == "DOWNLOADING"
    assert daemon.has()
    console.blob_filter = lambda _request, _data: None
    small = os.urandom(1000)
    daemon.asks_for(console.add_blob(small), len(small), job="job-2")
    with pytest.raises(ConsoleError, match="package"):
        Agent(sync_config(tmp_path, broker)).drain_once(8.0)
