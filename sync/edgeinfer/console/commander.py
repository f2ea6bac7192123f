"""Commands to devices: signed, good for a short time, carried out once. This module knows one kind: the latest lines of
the log. The others, timing a package and ending that, are of `edgeinfer.console.benches`.

Whoever asks waits for what the device sends: parts of the log on `up/log`, in whatever number arrive, and the end on
`up/cmdres`. Nothing of it is stored.
"""

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from edgeinfer.console.deliveries import BusyError
from edgeinfer.console.deployer import Publisher
from edgeinfer.console.repository import Repository
from edgeinfer.runtime.errors import ConsoleError, UsageError
from edgeinfer.runtime.trust import SigningKey, seal
from edgeinfer.sync.messages import Command, CommandResult, LogLines, encode, topic

__all__ = ["Commander", "DeviceLog"]

_LOGS = "logs"
_AT_ONCE = 8
_MAX_BYTES = 4 << 20
_MAX_PARTS = 10_000
# Parts go at QoS 0: the last may come a little after the end, or never.
_GRACE_S = 1.0


class DeviceLog(msgspec.Struct, frozen=True):
    """`complete`: all parts that the device speaks of have come. `detail` is what it says of them."""

    lines: tuple[str, ...]
    complete: bool
    detail: str


class _Waiting:
    """One command that is out."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.parts: dict[int, tuple[str, ...]] = {}
        self.expected = 0
        self.size = 0
        self.result: CommandResult | None = None

    def take(self, message: CommandResult | LogLines) -> None:
        if isinstance(message, CommandResult):
            self.result = message
            return
        size = sum(len(line) for line in message.lines)
        if self.size + size <= _MAX_BYTES and 1 <= message.part <= message.parts <= _MAX_PARTS:
            self.expected = message.parts
            self.size += size
            self.parts[message.part] = message.lines

    @property
    def complete(self) -> bool:
        return 0 < self.expected == len(self.parts)

    def log(self) -> DeviceLog:
        lines = tuple(line for _, part in sorted(self.parts.items()) for line in part)
        return DeviceLog(lines, self.complete, self.result.detail if self.result is not None else "")


class Commander:
    """Safe from any thread; `heard` is called by ingest with what devices answer."""

    def __init__(
        self,
        repository: Repository,
        publisher: Publisher,
        *,
        key: SigningKey,
        tenant: str,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._repository = repository
        self._publisher = publisher
        self._key = key
        self._tenant = tenant
        self._clock_s = clock_s
        self._waiting: dict[str, _Waiting] = {}
        self._news = threading.Condition()

    def logs(self, device: str, *, lines: int, timeout_s: float) -> DeviceLog:
        """The last `lines` lines of the log of `device`. Raises UsageError (no such device), BusyError, and
        ConsoleError: it is not online, does not answer in time, or refuses."""
        command = self.make(device, _LOGS, timeout_s=timeout_s, lines=lines)
        waiting = self._await(command)
        try:
            self.send(command)
            return self._collect(waiting, timeout_s)
        finally:
            with self._news:
                del self._waiting[command.id]

    def make(self, device: str, kind: str, *, timeout_s: float, **details: Any) -> Command:
        """A command to `device` from now on; `details` are the fields of its kind. Raises UsageError (no such device),
        ConsoleError (it is not online)."""
        known = self._repository.device(device)
        if known is None:
            raise UsageError(f"no device {device[:80]!r}")
        if not known.online:
            raise ConsoleError(f"{device} is not online", hint="it can be asked when it is: nothing is kept for it")
        now_s = int(self._clock_s())
        return Command(
            id=os.urandom(8).hex(), device=device, kind=kind, issued_s=now_s, expires_s=now_s + int(timeout_s) + 1,
            **details,
        )  # fmt: skip

    def send(self, command: Command) -> None:
        """Sign it and send it off. Raises ConsoleError without a broker."""
        sealed = seal(encode(command), self._key)
        if not self._publisher.publish(topic(self._tenant, command.device, "down/cmd"), sealed, qos=1):
            raise ConsoleError("the broker is not connected", hint="see the page's header")

    def heard(self, device: str, message: CommandResult | LogLines) -> None:
        """An answer of `device`; what nobody waits for is nothing."""
        with self._news:
            waiting = self._waiting.get(message.id)
            if waiting is not None and waiting.device == device:
                waiting.take(message)
                self._news.notify_all()

    def _await(self, command: Command) -> _Waiting:
        with self._news:
            if len(self._waiting) >= _AT_ONCE:
                raise BusyError(f"expected at most {_AT_ONCE} commands at once, this is one more", hint="try again")
            return self._waiting.setdefault(command.id, _Waiting(command.device))

    def _collect(self, waiting: _Waiting, timeout_s: float) -> DeviceLog:
        with self._news:
            if not self._news.wait_for(lambda: waiting.result is not None, timeout_s):
                raise ConsoleError(
                    f"{waiting.device} did not answer within {timeout_s:.0f} s",
                    hint="an agent of an older version does not know commands",
                )
            self._news.wait_for(lambda: waiting.complete, _GRACE_S)
            if waiting.result is not None and not waiting.result.ok:
                raise ConsoleError(f"{waiting.device} refuses: {waiting.result.detail}")
            return waiting.log()
