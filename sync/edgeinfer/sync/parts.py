"""What an agent is made of while it works, and one turn of its loop.

A turn looks at what has changed, lets each part do what is due, then waits for a message. A device on which nothing
happens costs a few looks at file times a second: no database is asked before a file has changed or a second has passed.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgeinfer.runtime.errors import BufferStorageError, ConfigError, MessageError
from edgeinfer.runtime.handoff import SyncDb
from edgeinfer.sync.benches import Benches
from edgeinfer.sync.blob_sender import BlobSender
from edgeinfer.sync.changes import Changes
from edgeinfer.sync.commands import Commands
from edgeinfer.sync.daemon_view import DaemonView
from edgeinfer.sync.export.receipts import CarriedReceipts
from edgeinfer.sync.jobs import JobReporter
from edgeinfer.sync.log_ring import LogRing
from edgeinfer.sync.messages import MAX_CONTROL_BYTES, MAX_RANGE_BYTES, parse_topic, topic
from edgeinfer.sync.metering import Meter
from edgeinfer.sync.mqtt import MqttLink
from edgeinfer.sync.network import default_address
from edgeinfer.sync.reporting import Reporter, own_version, state_message
from edgeinfer.sync.settings import SyncConfig
from edgeinfer.sync.sinks.settings import MqttSinkConfig
from edgeinfer.sync.updates import Updates
from edgeinfer.sync.uploader import Uploader
from edgeinfer.sync.way import Way

if TYPE_CHECKING:
    from edgeinfer.sync.homeassistant_bridge import HomeAssistantBridge

__all__ = ["Parts"]

_log = logging.getLogger(__name__)

# Messages taken in one turn, so that a flood from the network cannot starve the upload.
_MESSAGES_A_TURN = 64
_FAREWELL_S = 0.5
# Acknowledgements that stay out, budgets that fill again, progress to be made durable: none of it writes to a file.
_STEP_S = 1.0
_ROUTE_S = 10.0
_HOME_ASSISTANT_NOTE = "homeassistant"


class Parts:
    """Owns all that it makes, but not `db`. Raises BufferStorageError, and DependencyError where the configured sink's
    client is not installed."""

    def __init__(
        self,
        config: SyncConfig,
        db: SyncDb,
        *,
        session: str,
        ring: LogRing,
        complain: Callable[[str, str], None],
    ) -> None:
        self._complain = complain
        self._config = config
        self._db = db
        self._state_topic = topic(config.tenant, config.device, "up/state")
        self._offline = state_message(session, online=False)
        self._generation = 0
        self._address = ""
        self._stepped_s = self._routed_s = float("-inf")
        self._buffer_changes = Changes(Path(config.runtime_dir) / "buffer.db")
        self.link = _link(config, will=(self._state_topic, self._offline))
        self.meter = Meter(config.network, db, blobs_per_day=config.blobs.bytes_per_day)
        self.view = DaemonView(Path(config.runtime_dir))
        self.way = _way(config, db, self.link, self.meter)
        self.updates = Updates(config, db, self.link, self.view, self.meter)
        self._receipts = CarriedReceipts(Path(config.state_dir))
        self.jobs = JobReporter(config, db, self.link, self.meter)
        self.blobs = BlobSender(config, db, self.link, self.meter)
        self.benches = Benches(config, db, self.link, self.view, self.meter)
        self.commands = Commands(config, db, self.link, self.meter, ring=ring, benches=self.benches)
        self.reporter = Reporter(config, self.link, self.view, self.way, self.meter, session=session)
        self._home_assistant = _home_assistant(config, db, self.link, self.view, self.meter)

    def start(self) -> None:
        """Begin to connect; without a broker there is nothing to connect to."""
        if self._config.broker.host:
            self.link.start()

    @property
    def needs_broker(self) -> bool:
        """Whether results go by the broker."""
        return isinstance(self._config.sink, MqttSinkConfig)

    @property
    def awaits_daemon(self) -> bool:
        """Whether there is a wish that the daemon has not taken up yet."""
        desired, row = self._db.desired(), self.view.row
        return desired is not None and row is not None and row.desired_version < desired.version

    def turn(self, wait_s: float) -> None:
        """One turn of the loop; waits up to `wait_s` for a message. Raises BufferStorageError, ConfigError."""
        now_s = time.monotonic()
        self._follow_link(now_s)
        self.view.poll(now_s)
        self._check_device()
        for receipt in self._receipts.due(now_s):
            self.way.stored(receipt.epoch, receipt.seq, now_s)
            self._receipts.done(receipt)
            self._stepped_s = float("-inf")
        self._carry(now_s)
        online = self._generation != 0  # and has said so: the first word on a connection is `up/state`
        self.updates.step(now_s, online=online)
        if online:
            self.jobs.step(self.view.row, offset=self.updates.offset, now_s=now_s)
            self.reporter.step(now_s)
            self.commands.step(now_s)
            self.blobs.step(now_s, others_wait=self.way.busy)
            if self._home_assistant is not None:
                self._home_assistant.step(now_s)
        if self.updates.verifying or (online and (self.blobs.hashing or self.benches.verifying)):
            wait_s = 0.0
        self._receive(wait_s)

    def progress(self) -> tuple[int, ...]:
        """Changes whenever something got further."""
        return (
            self.way.acked_seq,
            self.updates.offset,
            self.updates.verified_bytes,
            self.jobs.acknowledged,
            self.blobs.sent_bytes,
            self.link.generation,
        )

    def close(self) -> None:
        """Say goodbye and make everything durable, within a second."""
        if self.link.publish(self._state_topic, self._offline, qos=1, retain=True):
            self.link.flush(_FAREWELL_S)
        self.link.stop(_FAREWELL_S)
        self.updates.close()
        self._close_benches()
        self.blobs.close()
        self.view.close()
        if self._home_assistant is not None:
            self._home_assistant.close()
        try:
            self.way.close(time.monotonic())
        except BufferStorageError as error:
            _log.warning("event=progress_not_saved reason=%r", str(error))
        self.meter.close()

    def _close_benches(self) -> None:
        try:
            self.benches.close()
        except BufferStorageError as error:
            _log.warning("event=bench_not_withdrawn reason=%r", str(error))

    def _check_device(self) -> None:
        """One device's results must never be sent under another's name."""
        named = self.view.status.device
        if named and named != self._config.device:
            raise ConfigError(
                f"expected the agent to be for device {named!r}, as the daemon in {self._config.runtime_dir} is, "
                f"found {self._config.device!r}",
                hint="write the same name into edgeinfer.toml and sync.toml",
            )

    def _carry(self, now_s: float) -> None:
        """Let results go up: when the buffer has changed, while something is on its way, and once a second."""
        self._follow_network(now_s)
        is_due = now_s - self._stepped_s >= _STEP_S
        if self._buffer_changes.look() or is_due or self.way.busy:
            self._stepped_s = now_s
            self.way.step(now_s)

    def _follow_network(self, now_s: float) -> None:
        """Which network it is has to be known before anything is sent. A sink that does not tell its address, or not
        before its first try, is taken to use the default route."""
        address = self.way.local_address or self.link.local_address
        if not address and not self.needs_broker and now_s - self._routed_s >= _ROUTE_S:
            self._routed_s = now_s
            address = default_address()
        if address and address != self._address:
            self._address = address
            self.meter.follow(address, now_s)

    def _receive(self, wait_s: float) -> None:
        for _ in range(_MESSAGES_A_TURN):
            message = self.link.receive(wait_s)
            if message is None:
                break
            self._take(*message)
            wait_s = 0.0

    def _follow_link(self, now_s: float) -> None:
        generation = self.link.generation if self.link.connected else 0
        if generation == self._generation:
            return
        self._generation = generation
        self._stepped_s = float("-inf")
        if generation == 0:
            self._address = ""
            self.way.lost()
            return
        self.reporter.connected()
        self.way.connected(now_s)
        for part in (self.updates, self.jobs, self.blobs, self.benches, self.commands, self._home_assistant):
            if part is not None:
                part.connected()

    def _take(self, name: str, payload: bytes) -> None:
        """Act on a message. Whatever else lies on these topics is ignored, and said once in a while."""
        now_s = time.monotonic()
        try:
            rest = parse_topic(name).rest
            if rest == "down/ack":
                self.way.acknowledge(payload, now_s)
                self._stepped_s = float("-inf")  # the window has moved
            elif rest == "down/desired":
                self.jobs.console_spoke()
                self.updates.desired(payload, now_s)
            elif rest == "down/data":
                self.updates.data(payload, now_s)
                if self.benches.downloading:
                    self.benches.data(payload, now_s)
            elif rest == "down/blob":
                self.blobs.take(payload, now_s)
            elif rest == "down/cmd":
                self.commands.take(payload, now_s)
            elif rest.startswith("down/job/"):
                self.jobs.acknowledge(payload)
        except MessageError as error:
            self._complain(name.rpartition("/")[2], error.message[:300])


def _link(config: SyncConfig, *, will: tuple[str, bytes]) -> MqttLink:
    wanted = {"down/ack": 1, "down/desired": 1, "down/job/+": 1, "down/data": 0, "down/cmd": 1}
    if config.blobs.snapshots or config.blobs.examples:
        wanted["down/blob"] = 1
    return MqttLink(
        config.broker,
        client_id=f"edgeinfer-{config.tenant}-{config.device}",
        identity=config.device,
        will=will,
        subscriptions=[(topic(config.tenant, config.device, rest), qos) for rest, qos in wanted.items()],
        max_packet_bytes=MAX_RANGE_BYTES + MAX_CONTROL_BYTES,
        max_inbound=256,
    )


def _way(config: SyncConfig, db: SyncDb, link: MqttLink, meter: Meter) -> Way:
    """Which way results go. A sink's module is imported when it is used."""
    if isinstance(config.sink, MqttSinkConfig):
        return Uploader(config, db, link, meter)
    from edgeinfer.sync.sinks.opening import open_way

    return open_way(config, db, meter, wake=link.wake)


def _home_assistant(
    config: SyncConfig, db: SyncDb, link: MqttLink, view: DaemonView, meter: Meter
) -> "HomeAssistantBridge | None":
    """Imported where it is switched on, or was and has to be undone."""
    if not (config.homeassistant.enabled or db.note(_HOME_ASSISTANT_NOTE)):
        return None
    from edgeinfer.sync.homeassistant_bridge import HomeAssistantBridge

    return HomeAssistantBridge(config, db, link, view, meter, version=own_version())
