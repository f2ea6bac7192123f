"""Commands to devices: what goes out is signed for one device, and what comes back is put together."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeinfer.console.commander import Commander, DeviceLog
from edgeinfer.console.repository import SqliteRepository
from edgeinfer.console.repository.base import DeviceChange
from edgeinfer.runtime.errors import ConsoleError, EdgeInferError, UsageError
from edgeinfer.runtime.trust import SigningKey, open_envelope
from edgeinfer.sync.messages import Command, CommandResult, LogLines, decode

KEY = SigningKey(b"k" * 32)
Say = Callable[[CommandResult | LogLines], None]


class Device:
    """Takes what is published, and answers from a thread of its own as `script` says."""

    def __init__(self, script: Callable[[Command, Say], None]) -> None:
        self.connected = True
        self.commands: list[Command] = []
        self.commander: Commander | None = None
        self._script = script

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> bool:
        assert (topic, qos, retain) == ("ei/v1/t/d/dev-1/down/cmd", 1, False)
        if self.connected:
            self.commands.append(decode(open_envelope(payload, [KEY.public]), Command))
            threading.Thread(target=self._answer).start()
        return self.connected

    def _answer(self) -> None:
        assert self.commander is not None
        commander = self.commander
        self._script(self.commands[-1], lambda message: commander.heard("dev-1", message))


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[SqliteRepository]:
    opened = SqliteRepository(tmp_path / "console.db")
    opened.change_device("dev-1", DeviceChange(online=True), t_ns=1)
    opened.change_device("dev-2", DeviceChange(online=False), t_ns=1)
    yield opened
    opened.close()


def _commander(repository: SqliteRepository, device: Device) -> Commander:
    device.commander = Commander(repository, device, key=KEY, tenant="t", clock_s=lambda: 1000.5)
    return device.commander


def test_lines_are_put_together_whatever_order_they_come_in(repository: SqliteRepository) -> None:
    def script(command: Command, say: Say) -> None:
        say(LogLines(command.id, ("c",), 2, 2))
        say(LogLines("another", ("x",), 1, 2))
        say(CommandResult(command.id, ok=True, detail="3 lines of the journal"))
        say(LogLines(command.id, ("a", "b"), 1, 2))

    device = Device(script)
    found = _commander(repository, device).logs("dev-1", lines=3, timeout_s=30)
    assert found == DeviceLog(("a", "b", "c"), complete=True, detail="3 lines of the journal")
    (command,) = device.commands
    assert (command.device, command.kind, command.lines, command.issued_s) == ("dev-1", "logs", 3, 1000)
    assert 1000 + 30 <= command.expires_s <= 1000 + 60


def test_a_log_of_which_nothing_came_is_not_complete(repository: SqliteRepository) -> None:
    def script(command: Command, say: Say) -> None:
        say(CommandResult(command.id, ok=True, detail="3 lines of the journal"))

    assert not _commander(repository, Device(script)).logs("dev-1", lines=3, timeout_s=30).complete


def test_lost_parts_are_told(repository: SqliteRepository) -> None:
    def script(command: Command, say: Say) -> None:
        say(LogLines(command.id, ("b",), 2, 3))
        say(CommandResult(command.id, ok=True))

    assert _commander(repository, Device(script)).logs("dev-1", lines=3, timeout_s=30) == DeviceLog(
        ("b",), complete=False, detail=""
    )


def test_a_device_may_refuse(repository: SqliteRepository) -> None:
    def script(command: Command, say: Say) -> None:
        say(CommandResult(command.id, ok=False, detail="expired"))

    with pytest.raises(ConsoleError, match="expired"):
        _commander(repository, Device(script)).logs("dev-1", lines=3, timeout_s=30)


def test_a_flood_is_bounded(repository: SqliteRepository) -> None:
    def script(command: Command, say: Say) -> None:
        for part in range(1, 200):
            say(LogLines(command.id, ("x" * 60_000,), part, 199))
        say(CommandResult(command.id, ok=True))

    found = _commander(repository, Device(script)).logs("dev-1", lines=3, timeout_s=30)
    assert (len(found.lines), found.complete) == ((4 << 20) // 60_000, False)


@pytest.mark.parametrize(
    ("name", "connected", "type_", "message"),
    [
        ("nobody", True, UsageError, "no device"),
        ("dev-2", True, ConsoleError, "not online"),
        ("dev-1", False, ConsoleError, "broker"),
        ("dev-1", True, ConsoleError, "did not answer"),
    ],
)
def test_who_cannot_be_asked(
    repository: SqliteRepository, *, name: str, connected: bool, type_: type[EdgeInferError], message: str
) -> None:
    device = Device(lambda *_: None)
    device.connected = connected
    with pytest.raises(type_, match=message):
        _commander(repository, device).logs(name, lines=3, timeout_s=0.05)
