"""What the agent says of the device: that it is online, who it is, what it runs, how it fares."""

import logging
import math
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from edgeinfer.sync.allowance import Priority
from edgeinfer.sync.daemon_view import DaemonStatus, DaemonView
from edgeinfer.sync.messages import MAX_CONTROL_BYTES, Birth, ReportedState, StateMessage, Telemetry, encode, topic
from edgeinfer.sync.metering import Meter
from edgeinfer.sync.mqtt import MqttLink
from edgeinfer.sync.settings import SyncConfig
from edgeinfer.sync.vitals import Vitals, read_vitals
from edgeinfer.sync.way import Way

__all__ = ["Reporter", "own_version", "state_message"]

_log = logging.getLogger(__name__)

_MIN_REPORT_INTERVAL_S = 0.5
# The epoch changes when a buffer is begun anew; to ask for it costs a query. Until there is one, it is awaited.
_EPOCH_INTERVAL_S = 5.0
_NO_EPOCH_INTERVAL_S = 0.5
# A moment that is over is worth nothing: a broker need not keep it longer than the next two take to come.
_EXPIRY_INTERVALS = 3
_LONGEST_EXPIRY_S = (1 << 32) - 1  # [MQTT-5.0] 3.3.2.3.3
# What stays the same while a pipeline runs; its counters go out with the telemetry.
_STEADY = ("model", "package", "variant", "source", "error")


def state_message(session: str, *, online: bool) -> bytes:
    return encode(StateMessage(online=online, session=session))


class Reporter:
    """Publishes `up/state`, `up/birth`, `up/reported` and `up/tel` when they are due."""

    def __init__(
        self, config: SyncConfig, link: MqttLink, view: DaemonView, way: Way, meter: Meter, *, session: str
    ) -> None:
        self._config = config
        self._link = link
        self._view = view
        self._way = way
        self._meter = meter
        self._session = session
        self._version = own_version()
        self._birth: tuple[Any, ...] | None = None
        self._steady: tuple[Any, ...] | None = None
        self._audit: dict[str, int] = {}
        self._asked_s = float("-inf")
        self._has_epoch = False
        self._born_of: DaemonStatus | None = None
        self._reported_s = float("-inf")
        self._telemetry_s = float("-inf")
        self._vitals = Vitals()

    def connected(self) -> None:
        """A new connection: everything has to be said again, beginning with being online."""
        self._birth = self._steady = None
        self._asked_s = self._reported_s = float("-inf")
        self._publish("up/state", state_message(self._session, online=True), retain=True)

    def step(self, now_s: float) -> None:
        """Publish what is due; to be called while the link is up, after `connected`."""
        interval_s = _EPOCH_INTERVAL_S if self._has_epoch else _NO_EPOCH_INTERVAL_S
        if (now_s - self._asked_s >= interval_s or self._view.status is not self._born_of) and self._be_born():
            self._asked_s, self._born_of = now_s, self._view.status
        self._report(now_s)
        interval_s = max(self._config.telemetry_interval_s, self._meter.report_interval_s)
        if now_s - self._telemetry_s >= interval_s and self._meter.room(Priority.TELEMETRY, now_s) > 0:
            self._telemetry_s = now_s
            self._send_telemetry(now_s, expiry_s=min(math.ceil(_EXPIRY_INTERVALS * interval_s), _LONGEST_EXPIRY_S))

    def report_now(self) -> None:
        """Publish the reported state whatever the pace."""
        self._reported_s = float("-inf")
        self._steady = None
        self._report(0.0)

    def _be_born(self) -> bool:
        """On each connection, and again when what the daemon says of the device, or the epoch, has changed, or the
        console has forgotten what it knew. False: it has to be tried again."""
        status, epochs = self._view.status, self._way.floor()
        self._has_epoch = bool(epochs)
        who = (status.profile, status.engines, tuple(epochs), self._way.setbacks)
        if who == self._birth:
            return True
        birth = Birth(
            session=self._session,
            agent_version=self._version,
            epochs=epochs,
            profile=status.profile,
            engines=status.engines,
            groups=self._config.groups,
        )
        if not self._publish("up/birth", encode(birth)):
            return False
        self._birth = who
        return True

    def _report(self, now_s: float) -> None:
        status = self._view.status
        if now_s - self._reported_s < _MIN_REPORT_INTERVAL_S:
            return
        steady = (_desired_version(self._view), status.models, _steady_pipelines(status), self._way.conflict)
        audit = self._audit
        interval_s = max(self._config.report_interval_s, self._meter.report_interval_s)
        is_due = now_s - self._reported_s >= interval_s
        if is_due:
            audit = self._way.audit()
        if steady == self._steady and (audit == self._audit or self._meter.room(Priority.TELEMETRY, now_s) <= 0):
            if is_due:
                self._reported_s = now_s
            return
        reported = ReportedState(
            version=steady[0],
            models=status.models,
            pipelines=status.pipelines,
            audit=audit,
            conflict=self._way.conflict,
            usage=self._meter.usage(),  # no reason to report by itself: a report would be the next reason
        )
        if self._publish("up/reported", encode(reported), retain=True):
            self._steady, self._audit, self._reported_s = steady, audit, now_s

    def _send_telemetry(self, now_s: float, *, expiry_s: int) -> None:
        vitals, earlier = read_vitals(), self._vitals
        self._vitals = vitals
        audit = self._way.audit()
        raw = encode(
            Telemetry(
                t_ns=time.time_ns(),
                pipelines=self._view.status.pipelines,
                cpu_percent=vitals.cpu_percent(earlier),
                memory_percent=vitals.memory_percent,
                temperature_c=vitals.temperature_c,
                rss_bytes=vitals.rss_bytes + self._view.status.rss_bytes,
                buffer_bytes=audit.get("bytes", 0),
                backlog=audit.get("backlog", 0),
            )
        )
        if len(raw) <= MAX_CONTROL_BYTES and self._link.publish(
            topic(self._config.tenant, self._config.device, "up/tel"), raw, qos=0, expiry_s=expiry_s
        ):
            self._meter.spent(Priority.TELEMETRY, len(raw), now_s)

    def _publish(self, rest: str, payload: bytes, *, retain: bool = False) -> bool:
        if len(payload) > MAX_CONTROL_BYTES:
            _log.error("event=message_too_large topic=%s bytes=%d limit=%d", rest, len(payload), MAX_CONTROL_BYTES)
            return True  # trying again would not make it smaller
        name = topic(self._config.tenant, self._config.device, rest)
        if not self._link.publish(name, payload, qos=1, retain=retain):
            return False
        self._meter.spent(Priority.CONTROL, len(payload), time.monotonic())
        return True


def _desired_version(view: DaemonView) -> int:
    return 0 if view.row is None else view.row.desired_version


def _steady_pipelines(status: DaemonStatus) -> dict[str, dict[str, Any]]:
    return {name: {key: pipeline.get(key) for key in _STEADY} for name, pipeline in status.pipelines.items()}


def own_version() -> str:
    try:
        return version("edgeinfer")
    except PackageNotFoundError:
        return "unknown"
