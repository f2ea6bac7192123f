"""One life of one MQTT connection: a paho client whose callbacks only take notes.

paho calls back while it holds locks that `publish` takes too, from whichever thread is at work; acting inside
a callback is how programs on top of it deadlock. So the callbacks here append to a list, and the owner's
network thread reads the notes between two turns of `turn()`, when paho holds no lock.

A connection is never reused: what paho would resend on its own after a reconnect is dropped with it.
"""

import contextlib
import ssl
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from socket import IPPROTO_TCP, TCP_NODELAY
from typing import Annotated, Any, Literal

import msgspec
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edgeinfer.runtime.config import Section
from edgeinfer.runtime.errors import BrokerError

__all__ = ["BrokerConfig", "Confirmed", "Connected", "Connection", "Lost", "Note", "Received", "Subscribed"]

_MQTT_5 = 5
_FAILURE = 0x80
_CONNECT_TIMEOUT_S = 5.0
# What 3.1.1 brokers take in flight without being asked; mosquitto's own default in 5.
_DEFAULT_QUOTA = 20
_DEFAULT_MAX_PACKET_BYTES = 256 << 20


class BrokerConfig(Section, frozen=True, kw_only=True):
    """Where the broker is and how to get in. `protocol` is 5 (MQTT 5) or 4 (MQTT 3.1.1).

    The password is read from its file at each connect, so that it can be changed while the service runs, and
    stays out of the configuration and of every `repr`.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 1883
    protocol: Literal[4, 5] = 5
    username: str = ""
    password_file: str = ""
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    # Half a minute keeps most NAT tables warm and finds a dead peer within one.
    keepalive_s: Annotated[int, msgspec.Meta(ge=5, le=65535)] = 30
    # A fleet that comes back together must not come back at once: waits are random and grow up to this.
    reconnect_max_s: Annotated[float, msgspec.Meta(gt=0)] = 30.0


class Connected(msgspec.Struct, frozen=True):
    """The broker let us in. `quota`: QoS 1 messages it takes unconfirmed; `max_packet_bytes`: its limit."""

    quota: int
    max_packet_bytes: int


class Subscribed(msgspec.Struct, frozen=True):
    """The broker answered subscription number `mid`; `refused` says why not, or is empty."""

    mid: int
    refused: str


class Received(msgspec.Struct, frozen=True):
    topic: str
    payload: bytes


class Confirmed(msgspec.Struct, frozen=True):
    """QoS 1: the broker has taken it; QoS 0: it is on its way. `refused` says why not, or is empty."""

    mid: int
    refused: str


class Lost(msgspec.Struct, frozen=True):
    reason: str


Note = Connected | Subscribed | Received | Confirmed | Lost


class Connection:
    """A paho client that is driven by its owner's thread: `open()`, then `turn()` until it returns False.

    `publish` may be called from any thread, the other methods only by the owner's network thread.
    """

    def __init__(
        self, config: BrokerConfig, *, client_id: str, will: tuple[str, bytes] | None, max_packet_bytes: int
    ) -> None:
        self._config = config
        self._max_packet_bytes = max_packet_bytes
        self._notes: deque[Note] = deque()
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTProtocolVersion(config.protocol),
            clean_session=None if config.protocol == _MQTT_5 else True,
            reconnect_on_failure=False,
        )
        self._client.connect_timeout = _CONNECT_TIMEOUT_S
        # The quota is kept by MqttLink, which knows the broker's Receive Maximum; paho does not look at it.
        self._client.max_inflight_messages = 0
        if will is not None:
            self._client.will_set(will[0], will[1], qos=1, retain=True)
        self._take_notes()

    def open(self) -> None:
        """Connect the socket (TLS too) and send CONNECT. Raises BrokerError."""
        config = self._config
        try:
            if config.username:
                self._client.username_pw_set(config.username, _password(config))
            if config.tls_ca or config.tls_cert:
                self._client.tls_set_context(_tls_context(config))
            if config.protocol == _MQTT_5:
                properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho types only part of itself
                properties.MaximumPacketSize = self._max_packet_bytes
                self._client.connect(
                    config.host, config.port, config.keepalive_s, clean_start=True, properties=properties
                )
            else:
                self._client.connect(config.host, config.port, config.keepalive_s)
        except (OSError, ssl.SSLError, ValueError) as error:
            raise BrokerError(f"cannot connect: {error}") from error

    def turn(self, timeout_s: float, *, read: bool = True) -> bool:
        """Read and write what there is, waiting at most `timeout_s` for it. False: the connection is over.

        With `read` off only writes and keep-alives are done: what the broker sends stays in the socket, and
        TCP holds the broker back.
        """
        if read:
            return self._client.loop(timeout_s) == MQTTErrorCode.MQTT_ERR_SUCCESS
        if self._client.want_write() and self._client.loop_write() != MQTTErrorCode.MQTT_ERR_SUCCESS:
            return False
        return self._client.loop_misc() == MQTTErrorCode.MQTT_ERR_SUCCESS

    def notes(self) -> list[Note]:
        """What has happened since the last call, in order."""
        taken = []
        with contextlib.suppress(IndexError):
            while True:
                taken.append(self._notes.popleft())
        return taken

    def subscribe(self, subscriptions: Sequence[tuple[str, int]]) -> int:
        """Ask for all `subscriptions` in one packet; returns its number, 0 when it could not be sent."""
        # [MQTT-5 3.8.3.1] retained messages are wanted at every subscribe, our own publications never.
        is_v5 = self._config.protocol == _MQTT_5
        wanted: list[tuple[str, Any]] = [
            (name, SubscribeOptions(qos=qos, noLocal=True) if is_v5 else qos) for name, qos in subscriptions
        ]
        result, mid = self._client.subscribe(wanted)
        return mid if result == MQTTErrorCode.MQTT_ERR_SUCCESS and mid is not None else 0

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> int:
        """Hand a message to paho; returns its number, 0 when it was not taken."""
        info = self._client.publish(topic, payload, qos=qos, retain=retain)
        return info.mid if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS else 0

    def disconnect(self) -> None:
        """Say goodbye after what was published before, so that the last will is not sent."""
        self._client.disconnect()

    def _take_notes(self) -> None:
        client, note = self._client, self._notes.append

        def on_connect(_c: paho.Client, _u: object, _f: object, reason: ReasonCode, properties: Any) -> None:
            if reason.value >= _FAILURE or reason.is_failure:
                note(Lost(f"refused by the broker: {reason}"))
                return
            quota = getattr(properties, "ReceiveMaximum", None) or _DEFAULT_QUOTA
            if self._config.protocol == _MQTT_5 and not hasattr(properties, "ReceiveMaximum"):
                quota = 65535  # [MQTT-5 3.2.2.3.3] absent means 65535
            limit = getattr(properties, "MaximumPacketSize", None) or _DEFAULT_MAX_PACKET_BYTES
            note(Connected(quota, limit))

        def on_subscribe(_c: paho.Client, _u: object, mid: int, reasons: list[ReasonCode], _p: object) -> None:
            note(Subscribed(mid, ", ".join(str(reason) for reason in reasons if reason.is_failure)))

        def on_message(_c: paho.Client, _u: object, message: paho.MQTTMessage) -> None:
            with contextlib.suppress(UnicodeDecodeError):  # a topic that is not UTF-8 is nobody's
                note(Received(message.topic, bytes(message.payload)))

        def on_publish(_c: paho.Client, _u: object, mid: int, reason: ReasonCode, _p: object) -> None:
            note(Confirmed(mid, str(reason) if reason.is_failure else ""))

        def on_disconnect(_c: paho.Client, _u: object, _f: object, reason: ReasonCode, _p: object) -> None:
            note(Lost(str(reason)))

        def on_socket_open(_c: paho.Client, _u: object, sock: Any) -> None:
            sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)

        client.on_connect = on_connect
        client.on_subscribe = on_subscribe
        client.on_message = on_message
        client.on_publish = on_publish
        client.on_disconnect = on_disconnect
        client.on_socket_open = on_socket_open
        # Without this paho writes to the socket from the publishing thread too, and two writers can cut
        # into each other's packets. With it, publishing only queues and wakes the network thread.
        client.on_socket_register_write = lambda _c, _u, _sock: None


class _TlsSocket(ssl.SSLSocket):
    """paho drops a socket whose handshake failed without closing it."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def _tls_context(config: BrokerConfig) -> ssl.SSLContext:
    """Raises BrokerError for files that cannot be read."""
    try:
        context = ssl.create_default_context(cafile=config.tls_ca or None)
    except OSError as error:
        raise BrokerError(f"tls_ca: {config.tls_ca}: cannot be used: {error}") from error
    if config.tls_cert:
        try:
            context.load_cert_chain(config.tls_cert, config.tls_key or None)
        except OSError as error:
            raise BrokerError(f"tls_cert, tls_key: {config.tls_cert}: cannot be used: {error}") from error
    context.sslsocket_class = _TlsSocket
    return context


def _password(config: BrokerConfig) -> str | None:
    if not config.password_file:
        return None
    return Path(config.password_file).read_text(encoding="utf-8").rstrip("\r\n")
