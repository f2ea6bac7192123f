"""Messages of an MQTT topic as rows."""

import contextlib
import secrets
import ssl
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.errors import ConfigError, SourceError
from edgeinfer.runtime.series import Arrival
from edgeinfer.runtime.sources.arrivals import IDLE_S, Arrivals, Skipped, now_arrived
from edgeinfer.runtime.sources.records import JsonValues
from edgeinfer.runtime.sources.sensor_settings import TopicSource
from edgeinfer.runtime.tls_socket import TlsSocket

__all__ = ["topic_arrivals"]

_MQTT_5 = 5
_CONNECT_TIMEOUT_S = 5.0
# CONNACK and SUBACK have to come within this many turns of IDLE_S, or the peer is no broker.
_HANDSHAKE_TURNS = 100
_MAX_PAYLOAD_BYTES = 1 << 20
# Topic and properties of a packet.
_OVERHEAD_BYTES = 64 << 10


def topic_arrivals(config: TopicSource, ended: threading.Event, channels: Sequence[str] = ()) -> Arrivals:
    """Raises SourceError where the broker cannot be reached, refuses the subscription, or goes away."""
    subscription = _Subscription(config, channels)
    try:
        subscription.connect()
        while not ended.is_set():
            subscription.turn()
            yield from subscription.taken()
            yield None
    finally:
        subscription.close()


class _Subscription:
    """One connection to the broker. paho calls back while it holds locks: the callbacks only take notes."""

    def __init__(self, config: TopicSource, channels: Sequence[str]) -> None:
        self._config = config
        self._name = f"topic {config.topic} at {config.host}:{config.port}"
        self._parse = JsonValues(config.columns, config.json, channels=channels)
        self._skipped = Skipped(self._name)
        self._rows: deque[Arrival] = deque()
        self._failure = ""
        self._is_subscribed = False
        self._turns = 0
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=config.client_id or f"edgeinfer-{secrets.token_hex(6)}",
            protocol=MQTTProtocolVersion(config.protocol),
            reconnect_on_failure=False,
        )
        self._client.connect_timeout = _CONNECT_TIMEOUT_S
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._client.on_disconnect = self._on_disconnect

    def connect(self) -> None:
        config = self._config
        try:
            if config.username:
                self._client.username_pw_set(config.username, _password(config))
            if config.tls_ca or config.tls_cert:
                self._client.tls_set_context(_tls_context(config))
            self._client.connect(config.host, config.port, config.keepalive_s, properties=_limits(config))
        except (OSError, ssl.SSLError, ValueError) as error:
            raise SourceError(f"{self._name}: cannot connect: {error}") from error

    def turn(self) -> None:
        """Read and write what there is, waiting a moment for it."""
        try:
            result = self._client.loop(IDLE_S)
        except Exception as error:  # a hostile peer: paho raises what its parser raises
            raise SourceError(f"{self._name}: unexpected bytes from the broker: {error!r}") from error
        if self._failure or result != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise SourceError(f"{self._name}: {self._failure or 'the connection is lost'}")
        self._turns += not self._is_subscribed
        if self._turns > _HANDSHAKE_TURNS:
            raise SourceError(f"{self._name}: expected a broker, found something that does not answer")

    def taken(self) -> Iterator[Arrival]:
        """The rows that came since the last call."""
        while self._rows:
            yield self._rows.popleft()

    def close(self) -> None:
        with contextlib.suppress(Exception):  # whatever state the connection is in
            self._client.disconnect()
            self._client.loop(0.0)
        # paho leaves the pair that wakes its loop to the garbage collector.
        self._client._reset_sockets()  # noqa: SLF001 - there is no other way to close them

    def _on_connect(self, client: paho.Client, _user: object, _flags: object, reason: ReasonCode, _p: object) -> None:
        if reason.is_failure:
            self._failure = f"refused by the broker: {reason}"
        else:
            client.subscribe(self._config.topic, qos=self._config.qos)

    def _on_subscribe(self, _c: paho.Client, _user: object, _mid: int, reasons: list[ReasonCode], _p: object) -> None:
        self._is_subscribed = True
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if refused:
            self._failure = f"the broker refuses the subscription: {refused[0]}"

    def _on_message(self, _client: paho.Client, _user: object, message: paho.MQTTMessage) -> None:
        if message.retain:
            return
        if len(message.payload) > _MAX_PAYLOAD_BYTES:
            self._skipped.note(f"expected at most {_MAX_PAYLOAD_BYTES} bytes, found {len(message.payload)}")
            return
        try:
            self._rows.append(now_arrived(self._parse.values(msgspec.json.decode(message.payload))))
        except ConfigError as error:
            self._failure = str(error)
        except (ValueError, *MALFORMED) as error:
            self._skipped.note(error)

    def _on_disconnect(self, _c: paho.Client, _user: object, _flags: object, reason: ReasonCode, _p: Any) -> None:
        self._failure = self._failure or f"the connection is lost: {reason}"


def _limits(config: TopicSource) -> Properties | None:
    """What MQTT 5 lets us refuse before it is sent."""
    if config.protocol != _MQTT_5:
        return None
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho types only part of itself
    properties.MaximumPacketSize = _MAX_PAYLOAD_BYTES + _OVERHEAD_BYTES
    return properties


def _tls_context(config: TopicSource) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=config.tls_ca or None)
    if config.tls_cert:
        context.load_cert_chain(config.tls_cert, config.tls_key or None)
    context.sslsocket_class = TlsSocket
    return context


def _password(config: TopicSource) -> str | None:
    if not config.password_file:
        return None
    return Path(config.password_file).read_text(encoding="utf-8").rstrip("\r\n")
