"""What the agent says of the device: that it is online, who it is, what it runs, how it fares."""

import logging
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from edgeinfer.sync.daemon_view import DaemonStatus, DaemonView
from edgeinfer.sync.messages import MAX_CONTROL_BYTES, Birth, ReportedState, StateMessage, Telemetry, encode, topic
from edgeinfer.sync.mqtt import MqttLink
from edgeinfer.sync.settings import SyncConfig
from edgeinfer.sync.uploader import Uploader
from edgeinfer.sync.vitals import Vitals, read_vitals

__all__ = ["Reporter", "state_message"]

_log = logging.getLogger(__name__)

_MIN_REPORT_INTERVAL_S = 0.5
# What stays the same while a pipeline runs; its counters go out with the telemetry.
_STEADY = ("model", "package", "variant", "source", "error")


def state_message(session: str, *, online: bool) -> bytes:
    return encode(StateMessage(online=online, session=session))


class Reporter:
    """Publishes `up/state`, `up/birth`, `up/reported` and `up/tel` when they are due."""

    def __init__(
        self, config: SyncConfig, link: MqttLink, view: DaemonView, uploader: Uploader, *, session: str
    ) -> None:
        self._config = config
        self._link = link
        self._view = view
        self._uploader = uploader
        self._session = session
        self._version = _own_version()
        self._birth: tuple[Any, ...] | None = None
        self._steady: tuple[Any, ...] | None = None
        self._audit: dict[str, int] = {}
        self._reported_s = float("-inf")
        self._telemetry_s = float("-inf")
        self._vitals = Vitals()

    def connected(self) -> None:
        """A new connection: everything has to be said again, beginning with being online."""
        self._birth = self._steady = None
        self._reported_s = float("-inf")
        self._publish("up/state", state_message(self._session, online=True), retain=True)

    def step(self, now_s: float) -> None:
        """Publish what is due; to be called while the link is up, after `connected`."""
        self._be_born()
        self._report(now_s)
        if now_s - self._telemetry_s >= self._config.telemetry_interval_s:
            self._telemetry_s = now_s
            self._send_telemetry()

    def report_now(self) -> None:
        """Publish the reported state whatever the pace."""
        self._reported_s = float("-inf")
        self._audit = {}
        self._report(0.0)

    def _be_born(self) -> None:
        """On each connection, and again when what the daemon says of the device, or the epoch, has changed."""
        status, epochs = self._view.status, self._uploader.floor()
        who = (status.profile, status.engines, tuple(epochs))
        if who == self._birth:
            return
        birth = Birth(
            session=self._session,
            agent_version=self._version,
            epochs=epochs,
            profile=status.profile,
            engines=status.engines,
            groups=self._config.groups,
        )
        if self._publish("up/birth", encode(birth)):
            self._birth = who

    def _report(self, now_s: float) -> None:
        status = self._view.status
        steady = (_desired_version(self._view), status.models, _steady_pipelines(status))
        audit = self._audit
        if now_s - self._reported_s < _MIN_REPORT_INTERVAL_S:
            return
        is_due = now_s - self._reported_s >= self._config.report_interval_s
        if is_due:
            audit = self._uploader.audit()
        if steady == self._steady and audit == self._audit:
            if is_due:
                self._reported_s = now_s
            return
        reported = ReportedState(version=steady[0], models=status.models, pipelines=status.pipelines, audit=audit)
        if self._publish("up/reported", encode(reported), retain=True):
            self._steady, self._audit, self._reported_s = steady, audit, now_s

    def _send_telemetry(self) -> None:
        vitals, earlier = read_vitals(), self._vitals
        self._vitals = vitals
        audit = self._uploader.audit()
        self._publish(
            "up/tel",
            encode(
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
            ),
            qos=0,
        )

    def _publish(self, rest: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        if len(payload) > MAX_CONTROL_BYTES:
            _log.error("event=message_too_large topic=%s bytes=%d limit=%d", rest, len(payload), MAX_CONTROL_BYTES)
            return True  # trying again would not make it smaller
        return self._link.publish(
            topic(self._config.tenant, self._config.device, rest), payload, qos=qos, retain=retain
        )


def _desired_version(view: DaemonView) -> int:
    return 0 if view.row is None else view.row.desired_version


def _steady_pipelines(status: DaemonStatus) -> dict[str, dict[str, Any]]:
    return {name: {key: pipeline.get(key) for key in _STEADY} for name, pipeline in status.pipelines.items()}


def _own_version() -> str:
    try:
        return version("edgeinfer")
    except PackageNotFoundError:
        return "unknown"
