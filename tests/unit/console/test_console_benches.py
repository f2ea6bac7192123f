"""Packages that devices are asked to time: who may, what is handed out meanwhile, and what is known afterwards."""

import asyncio
import json
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from starlette.applications import Starlette

from consoles import made_package
from edgeinfer.console.benches import Benches, Found
from edgeinfer.console.blobs import BlobStore
from edgeinfer.console.commander import Commander
from edgeinfer.console.deliveries import BusyError
from edgeinfer.console.registry import Registry
from edgeinfer.console.repository import SqliteRepository
from edgeinfer.console.repository.base import DeviceChange
from edgeinfer.console.web.device_api import device_routes
from edgeinfer.runtime.errors import ConfigError, ConsoleError, EdgeInferError, PackageError, SignatureError, UsageError
from edgeinfer.runtime.trust import SigningKey, open_envelope
from edgeinfer.sync.messages import BlobRequest, Command, CommandResult, decode

if TYPE_CHECKING:
    from edgeinfer.console.web.site import Site

KEY, RELEASE = SigningKey(b"k" * 32), SigningKey(b"r" * 32)


class Bench:
    """A console without a broker: what it would send is in `commands`, and its clock is moved by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.connected = True
        self.now_s = 0.0
        self.commands: list[Command] = []
        self.repository = SqliteRepository(folder / "console.db")
        for number in range(1, 7):
            self.repository.change_device(f"dev-{number}", DeviceChange(online=number < 6), t_ns=1)
        self.blobs = BlobStore(folder / "blobs", self.repository)
        registry = Registry(self.repository, self.blobs, release_keys=(RELEASE.public.hex(),))
        commander = Commander(self.repository, self, key=KEY, tenant="t", clock_s=lambda: 1000.5)
        self.benches = Benches(commander, registry, self.blobs, clock_s=lambda: self.now_s)

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> bool:
        assert (topic.endswith("/down/cmd"), qos, retain) == (True, 1, False)
        if self.connected:
            self.commands.append(decode(open_envelope(payload, [KEY.public]), Command))
        return self.connected

    def file(self, name: str = "a", *, key: SigningKey | None = RELEASE) -> Path:
        return made_package(self.folder / f"{name}.part", content=b"the same", key=key)

    def begin(self, device: str = "dev-1", file: Path | None = None) -> str:
        return self.benches.begin(device, file or self.file(device), each_ms=500, threads=2, timeout_s=60)

    def handed_out(self) -> bool:
        command = self.commands[-1]
        found = self.blobs.read(BlobRequest(command.blob_sha256, 0, 1000))
        assert found is not None
        return found.total_bytes > 0

    def files(self) -> list[Path]:
        return list(self.folder.glob("*.part"))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.repository.close()


def test_a_package_is_handed_out_until_the_device_has_answered(bench: Bench) -> None:
    id_ = bench.begin()
    (command,) = bench.commands
    assert (command.kind, command.device, command.each_ms, command.threads) == ("bench", "dev-1", 500, 2)
    assert (command.issued_s, command.expires_s) == (1000, 1061)
    assert bench.handed_out()
    assert bench.benches.found(id_) == Found(id_, "dev-1")
    bench.benches.heard("dev-2", CommandResult(id_, ok=True, document="forged"))
    bench.benches.heard("dev-1", CommandResult("another", ok=True))
    bench.benches.heard("dev-1", CommandResult(id_, ok=True, detail="timed", document="{}"))
    bench.benches.heard("dev-1", CommandResult(id_, ok=False, detail="twice"))
    assert bench.benches.found(id_) == Found(id_, "dev-1", ok=True, detail="timed", document="{}")
    assert not bench.handed_out()
    assert bench.files() == []
    assert bench.repository.packages() == []
    bench.now_s += 601
    assert bench.benches.found(id_) is None


def test_each_command_is_issued_later_than_the_one_before(bench: Bench) -> None:
    bench.begin("dev-1")
    bench.begin("dev-2")
    assert [command.issued_s for command in bench.commands] == [1000, 1001]


def test_the_same_package_for_two_devices(bench: Bench) -> None:
    first, second = bench.begin("dev-1"), bench.begin("dev-2")
    bench.benches.heard("dev-1", CommandResult(first, ok=False, detail="no"))
    assert bench.handed_out()
    bench.benches.heard("dev-2", CommandResult(second, ok=False, detail="no"))
    assert not bench.handed_out()
    assert bench.files() == []


def test_a_device_that_does_not_answer_is_given_up(bench: Bench) -> None:
    id_ = bench.begin()
    bench.now_s += 66
    found = bench.benches.found(id_)
    assert found is not None
    assert (found.ok, found.detail) == (False, "the device did not answer in time")
    assert not bench.handed_out()
    assert bench.files() == []
    assert bench.begin() != id_


def test_what_nobody_waits_for_is_ended_there_too(bench: Bench) -> None:
    id_ = bench.begin()
    assert bench.benches.cancel("another") is None
    found = bench.benches.cancel(id_)
    assert found == Found(id_, "dev-1", ok=False, detail="it was called off")
    asked, cancel = bench.commands
    assert (cancel.kind, cancel.device, cancel.ends) == ("cancel", "dev-1", id_)
    assert asked.issued_s < cancel.issued_s < cancel.expires_s
    bench.benches.heard("dev-1", CommandResult(id_, ok=True, detail="timed", document="{}"))
    assert bench.benches.cancel(id_) == bench.benches.found(id_) == found
    assert len(bench.commands) == 2
    assert bench.files() == []
    assert bench.begin() != id_


@pytest.mark.parametrize("goes_away", [False, True])
def test_who_goes_away_before_the_answer_ends_it(bench: Bench, goes_away: bool) -> None:
    """Ctrl-C while the package is looked at: nobody has heard the id."""
    site = cast("Site", SimpleNamespace(benches=bench.benches, uploads=bench.folder, max_package_bytes=1 << 20))
    app = Starlette(routes=device_routes(site, "/api"))
    said = [{"type": "http.request", "body": bench.file().read_bytes(), "more_body": False}]
    answers: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        if said:
            return said.pop()
        if goes_away:
            return {"type": "http.disconnect"}
        never: asyncio.Future[MutableMapping[str, Any]] = asyncio.get_running_loop().create_future()
        return await never

    async def send(message: MutableMapping[str, Any]) -> None:
        answers.append(message)

    scope = {"type": "http", "method": "POST", "path": "/api/devices/dev-1/bench", "query_string": b"", "headers": []}
    asyncio.run(app(scope, receive, send))
    assert answers[0]["status"] == 202
    id_ = json.loads(answers[1]["body"])["id"]
    found = bench.benches.found(id_)
    assert found is not None
    assert found.ok is (False if goes_away else None)
    assert [command.ends for command in bench.commands] == ["", id_][: 1 + goes_away]


def test_a_device_that_cannot_be_told_goes_on(bench: Bench) -> None:
    id_ = bench.begin()
    bench.connected = False
    with pytest.raises(ConsoleError, match="broker"):
        bench.benches.cancel(id_)
    found = bench.benches.found(id_)
    assert found is not None
    assert found.ok is False
    assert bench.files() == []


def test_one_for_each_device_and_few_at_once(bench: Bench) -> None:
    for number in range(1, 5):
        bench.begin(f"dev-{number}")
    with pytest.raises(BusyError, match="dev-1 is timing another"):
        bench.begin("dev-1", bench.file("again"))
    with pytest.raises(BusyError, match="at most 4"):
        bench.begin("dev-5")
    assert len(bench.files()) == 4


@pytest.mark.parametrize(
    ("device", "key", "type_", "message"),
    [
        ("nobody", RELEASE, UsageError, "no device"),
        ("dev-6", RELEASE, ConsoleError, "not online"),
        ("dev-1", None, SignatureError, "found none"),
        ("dev-1", KEY, SignatureError, "none of the 1 trusted keys"),
    ],
)
def test_what_is_refused_leaves_nothing(
    bench: Bench, device: str, key: SigningKey | None, type_: type[EdgeInferError], message: str
) -> None:
    with pytest.raises(type_, match=message):
        bench.begin(device, bench.file(key=key))
    assert bench.files() == []
    assert bench.commands == []


def test_a_release_key_that_is_none_is_a_wrong_configuration(bench: Bench) -> None:
    (bench.folder / "x.pub").write_text("no key")
    for key in (str(bench.folder / "x.pub"), "g" * 64):
        with pytest.raises(ConfigError, match=r"\[trust\] release_keys: .*expected a public key"):
            Registry(bench.repository, bench.blobs, release_keys=(key,))


def test_what_is_no_package(bench: Bench) -> None:
    file = bench.folder / "x.part"
    file.write_bytes(b"no package")
    with pytest.raises(PackageError):
        bench.begin("dev-1", file)
    assert bench.files() == []


def test_without_a_broker(bench: Bench) -> None:
    bench.connected = False
    with pytest.raises(ConsoleError, match="broker"):
        bench.begin()
    assert bench.files() == []
    bench.connected = True
    bench.begin()
