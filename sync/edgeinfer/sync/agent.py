"""The agent: one loop that carries results up, wishes and packages down, and says how the device fares.

    Agent(config).run(stop)                 # until the event is set
    Agent(config).drain_once(timeout_s=30)  # for a device that is online now and then

Everything it needs to remember is in `sync.db`; it can be killed at any line. Broker, console, daemon and their
databases may each be absent, come and go: all of that is waited out.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edgeinfer.runtime.errors import BrokerError, BufferStorageError, ConfigError, ConsoleError, MessageError
from edgeinfer.runtime.handoff import SyncDb
from edgeinfer.runtime.locking import lock, unlock
from edgeinfer.sync.daemon_view import DaemonView
from edgeinfer.sync.jobs import JobReporter
from edgeinfer.sync.loglimit import LogLimit
from edgeinfer.sync.messages import MAX_CONTROL_BYTES, MAX_RANGE_BYTES, parse_topic, topic
from edgeinfer.sync.mqtt import MqttLink
from edgeinfer.sync.reporting import Reporter, state_message
from edgeinfer.sync.settings import SyncConfig
from edgeinfer.sync.updates import Updates
from edgeinfer.sync.uploader import Uploader

__all__ = ["Agent", "DrainReport"]

_log = logging.getLogger(__name__)

_IDLE_WAIT_S = 0.2
# Messages taken in one turn, so that a flood from the network cannot starve the upload.
_MESSAGES_A_TURN = 64
_FAREWELL_S = 0.5
# A signal is noticed once a turn, and the service has two seconds to end.
_STORAGE_WAIT_S = 0.5
# How long `--once` gives a live daemon to take up an assignment that has just come.
_SETTLE_S = 2.0


class DrainReport(msgspec.Struct, frozen=True):
    """What `--once` did: results sent and acknowledged, payload bytes, and the update machine's state."""

    sent: int
    acknowledged: int
    bytes: int
    seconds: float
    update: str


class Agent:
    """One device's agent. `run` and `drain_once` own everything they open and close it before they return.

    Raises BufferStorageError when `sync.db` cannot be opened.
    """

    def __init__(self, config: SyncConfig) -> None:
        self.config = config
        self._session = os.urandom(8).hex()
        self._limit = LogLimit()

    def run(self, stop: threading.Event, *, on_turn: Callable[[], None] = lambda: None) -> None:
        """Work until `stop` is set; `on_turn` is called at each turn of the loop, several times a second."""
        with self._open() as parts:
            while not stop.is_set():
                try:
                    parts.turn(_IDLE_WAIT_S)
                except BufferStorageError as error:
                    self._complain("storage", str(error))
                    stop.wait(_STORAGE_WAIT_S)
                on_turn()

    def drain_once(
        self,
        timeout_s: float = 30.0,
        *,
        stop: threading.Event | None = None,
        on_turn: Callable[[], None] = lambda: None,
    ) -> DrainReport:
        """Send all that the buffer holds now, finish a download that is under way, report, and leave.

        `timeout_s` is for the time without any progress; `stop` and `on_turn` are as for `run`. Raises
        BrokerError when the broker, ConsoleError when the console does not answer within it,
        BufferStorageError when `sync.db` cannot be written.
        """
        began_s = time.monotonic()
        stopped = stop or threading.Event()
        with self._open() as parts:
            _wait_connected(parts, stopped, timeout_s, on_turn)
            target = parts.uploader.durable_seq() or 0
            progress, progress_s = parts.progress(), time.monotonic()
            settled_s = progress_s
            while not stopped.is_set():
                parts.turn(0.05)
                on_turn()
                now_s = time.monotonic()
                if parts.progress() != progress:
                    progress, progress_s = parts.progress(), now_s
                if parts.awaits_daemon and now_s - settled_s < _SETTLE_S:
                    continue
                if parts.uploader.acked_seq >= target and not parts.updates.downloading and parts.jobs.idle:
                    break
                if now_s - progress_s > timeout_s:
                    raise _no_answer(parts, target, timeout_s)
            parts.reporter.report_now()
            parts.link.flush(min(timeout_s, 5.0))
            row = parts.view.row
            return DrainReport(
                sent=parts.uploader.sent_results,
                acknowledged=parts.uploader.acknowledged_results,
                bytes=parts.uploader.sent_bytes,
                seconds=round(time.monotonic() - began_s, 3),
                update="IDLE" if row is None else row.state,
            )

    @contextmanager
    def _open(self) -> Iterator["_Parts"]:
        config = self.config
        path = Path(config.state_dir) / "sync.db"
        # Two agents would throw each other off the broker, which knows them by one name.
        held = lock(path, hint="is an agent already running with this state_dir?")
        try:
            with SyncDb(path) as db:
                parts = _Parts(config, db, session=self._session, complain=self._complain)
                parts.link.start()
                try:
                    yield parts
                finally:
                    parts.close()
        finally:
            unlock(held)

    def _complain(self, key: str, reason: str) -> None:
        """Log a trouble that may come again and again."""
        if (held := self._limit.admit(key, time.monotonic())) is not None:
            _log.warning("event=trouble where=%s reason=%r held_back=%d", key, reason, held)


class _Parts:
    """What an agent is made of while it works."""

    def __init__(self, config: SyncConfig, db: SyncDb, *, session: str, complain: Callable[[str, str], None]) -> None:
        def name(rest: str) -> str:
            return topic(config.tenant, config.device, rest)

        self._complain = complain
        self._config = config
        self._db = db
        self._state_topic = name("up/state")
        self._offline = state_message(session, online=False)
        self._generation = 0
        self.link = MqttLink(
            config.broker,
            client_id=f"edgeinfer-{config.tenant}-{config.device}",
            will=(self._state_topic, self._offline),
            subscriptions=[
                (name("down/ack"), 1),
                (name("down/desired"), 1),
                (name("down/job/+"), 1),
                (name("down/data"), 0),
            ],
            max_packet_bytes=MAX_RANGE_BYTES + MAX_CONTROL_BYTES,
            max_inbound=256,
        )
        self.view = DaemonView(Path(config.runtime_dir))
        self.uploader = Uploader(config, db, self.link)
        self.updates = Updates(config, db, self.link, self.view)
        self.jobs = JobReporter(config, db, self.link)
        self.reporter = Reporter(config, self.link, self.view, self.uploader, session=session)

    @property
    def awaits_daemon(self) -> bool:
        """Whether there is a wish that the daemon has not taken up yet."""
        desired, row = self._db.desired(), self.view.row
        return desired is not None and row is not None and row.desired_version < desired.version

    def _check_device(self) -> None:
        """One device's results must never be sent under another's name."""
        named = self.view.status.device
        if named and named != self._config.device:
            raise ConfigError(
                f"expected the agent to be for device {named!r}, as the daemon in {self._config.runtime_dir} is, "
                f"found {self._config.device!r}",
                hint="write the same name into edgeinfer.toml and sync.toml",
            )

    def turn(self, wait_s: float) -> None:
        """One turn of the loop; waits up to `wait_s` for a message. Raises BufferStorageError, ConfigError."""
        now_s = time.monotonic()
        self._follow_link(now_s)
        self.view.poll(now_s)
        self._check_device()
        self.uploader.step(now_s)
        online = self._generation != 0  # and has said so: the first word on a connection is `up/state`
        self.updates.step(now_s, online=online)
        if online:
            self.jobs.step(self.view.row, offset=self.updates.offset, now_s=now_s)
            self.reporter.step(now_s)
        if self.updates.verifying:
            wait_s = 0.0
        for _ in range(_MESSAGES_A_TURN):
            message = self.link.receive(wait_s)
            if message is None:
                break
            self._take(*message)
            wait_s = 0.0

    def progress(self) -> tuple[int, ...]:
        """Changes whenever something got further."""
        return (
            self.uploader.acked_seq,
            self.updates.offset,
            self.updates.verified_bytes,
            self.jobs.acknowledged,
            self.link.generation,
        )

    def close(self) -> None:
        """Say goodbye and make everything durable, within a second."""
        if self.link.publish(self._state_topic, self._offline, qos=1, retain=True):
            self.link.flush(_FAREWELL_S)
        self.link.stop(_FAREWELL_S)
        self.updates.close()
        self.view.close()
        try:
            self.uploader.close(time.monotonic())
        except BufferStorageError as error:
            _log.warning("event=progress_not_saved reason=%r", str(error))

    def _follow_link(self, now_s: float) -> None:
        generation = self.link.generation if self.link.connected else 0
        if generation == self._generation:
            return
        self._generation = generation
        if generation == 0:
            self.uploader.lost()
            return
        self.reporter.connected()
        self.uploader.connected(now_s)
        self.updates.connected()
        self.jobs.connected()

    def _take(self, name: str, payload: bytes) -> None:
        """Act on a message. Whatever else lies on these topics is ignored, and said once in a while."""
        try:
            rest = parse_topic(name).rest
            if rest == "down/ack":
                self.uploader.acknowledge(payload, time.monotonic())
            elif rest == "down/desired":
                self.jobs.console_spoke()
                self.updates.desired(payload)
            elif rest == "down/data":
                self.updates.data(payload)
            elif rest.startswith("down/job/"):
                self.jobs.acknowledge(payload)
        except MessageError as error:
            self._complain(name.rpartition("/")[2], error.message[:300])


def _wait_connected(parts: _Parts, stop: threading.Event, timeout_s: float, on_turn: Callable[[], None]) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not (parts.link.connected or stop.is_set()):
        if time.monotonic() > deadline_s:
            broker = parts.link.address
            raise BrokerError(
                f"{broker}: no connection within {timeout_s:g} s: {parts.link.last_error or 'no answer'}",
                hint="is the broker running, and are [broker] host, port and user right?",
            )
        parts.link.receive(0.05)
        on_turn()
    parts.turn(0.0)


def _no_answer(parts: _Parts, target: int, timeout_s: float) -> BrokerError | ConsoleError:
    if not parts.link.connected:
        return BrokerError(f"{parts.link.address}: connection lost: {parts.link.last_error or 'no answer'}")
    hint = "is the console running, on the same broker and for the same tenant?"
    if parts.uploader.acked_seq < target:
        return ConsoleError(
            f"expected the console to acknowledge {target}, found {parts.uploader.acked_seq} "
            f"and nothing new for {timeout_s:g} s",
            hint=hint,
        )
    if not parts.updates.downloading and not parts.jobs.idle:
        return ConsoleError(
            f"expected the console to acknowledge the end of {parts.jobs.unacknowledged}, "
            f"found no answer for {timeout_s:g} s",
            hint=hint,
        )
    return ConsoleError(f"expected the package from the console, found nothing new for {timeout_s:g} s", hint=hint)
