"""One life of one MQTT connection: a paho client, driven by its owner's network thread.

    connection = Connection(config, client_id="dev-1", will=None)
    connection.open()
    while connection.turn(0.5):
        for note in connection.notes(): ...

paho calls back while it holds locks that `publish` takes too, from whichever thread is at work; acting inside a
callback is how programs on top of it deadlock. So the callbacks here only take notes, which the owner reads between two
turns, when paho holds no lock. Publishing, from any thread, only queues and wakes the network thread; that one alone
reads and writes the socket. A connection is never reused: what paho would send again on its own after a reconnect goes
with it.
"""

import contextlib
import select
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edgeinfer.runtime.errors import BrokerError
from edgeinfer.sync.broker import BrokerConfig
from edgeinfer.sync.buffered_socket import BufferedSocket
from edgeinfer.sync.credentials import credentials
from edgeinfer.sync.notes import Confirmed, Connected, Lost, Note, Received, Subscribed
from edgeinfer.sync.reasons import FAILURE, describe

__all__ = ["Connection"]

_MQTT_5 = 5
# For each address that the name stands for: a lost SYN is sent again after 1, 3 and 7 s.
_CONNECT_TIMEOUT_S = 10.0
# Packets that are read before what waits to be written has its turn.
_READS_A_TURN = 64
# MQTT 3.1.1 cannot say; 20 is what brokers take unasked, and mosquitto's own default in 5.
_QUOTA_UNSAID = {4: 20, 5: 65_535}  # [MQTT-5 3.2.2.3.3]
_MAX_PACKED = 256
_OK = MQTTErrorCode.MQTT_ERR_SUCCESS
# What paho says of a connection that ended without a word from the broker.
_WHY = {
    "Keep alive timeout": "connection lost: nothing heard for a keep-alive: half-open",
    "Protocol error": "connection lost: unexpected bytes from the broker",
    "Unspecified error": "connection lost without a reason: the broker ended, or another client has this name",
}


class _Client(paho.Client):
    """paho over a socket that reads and writes many packets at once."""

    def _create_socket(self) -> Any:
        made: Any = super()._create_socket()
        return BufferedSocket(made)


class _Packed:
    """Properties of a PUBLISH, packed beforehand: paho would look through all that there are, each time."""

    def __init__(self, *, expiry_s: int, alias: int) -> None:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho types only part of itself
        if expiry_s:
            properties.MessageExpiryInterval = expiry_s
        if alias:
            properties.TopicAlias = alias
        self._packed: bytes = properties.pack()  # type: ignore[no-untyped-call]

    def pack(self) -> bytes:
        return self._packed


class Connection:
    """`open()`, then `turn()` until it returns False, then `close()`. `publish`, `subscribe`, `disconnect` and `wake`
    may be called from any thread, the other methods only by the owner's network thread.

    `identity` is the user name that goes with a token where the configuration has none.
    """

    def __init__(
        self,
        config: BrokerConfig,
        *,
        client_id: str,
        identity: str = "",
        will: tuple[str, bytes] | None = None,
        max_packet_bytes: int = 1 << 20,
    ) -> None:
        self._config = config
        self._identity = identity
        self._max_packet_bytes = max_packet_bytes
        self._is_v5 = config.protocol == _MQTT_5
        self._notes: deque[Note] = deque()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._unsent: deque[tuple[paho.MQTTMessageInfo, int]] = deque()  # QoS 0, and how large
        self._aliases: dict[str, int] = {}
        self._max_alias = 0
        self._packed: dict[tuple[int, int], _Packed] = {}
        self.local_address = ""
        self.keepalive_s = float(config.keepalive_s)
        self._client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTProtocolVersion(config.protocol),
            clean_session=None if self._is_v5 else True,
            reconnect_on_failure=False,
        )
        self._client.connect_timeout = _CONNECT_TIMEOUT_S
        # The quota is kept by the owner, which knows the broker's Receive Maximum; paho does not look at it.
        self._client.max_inflight_messages = 0
        if will is not None:
            self._client.will_set(will[0], will[1], qos=1, retain=True)
        self._listen()

    def open(self) -> None:
        """Connect the socket (TLS too) and queue CONNECT. Raises BrokerError."""
        config = self._config
        try:
            username, password = credentials(config, self._identity)
            if username or password:
                self._client.username_pw_set(username or None, password or None)
            if config.encrypted:
                from edgeinfer.sync.tls import tls_context

                self._client.tls_set_context(tls_context(config))
            if self._is_v5:
                properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho types only part of itself
                properties.MaximumPacketSize = self._max_packet_bytes
                self._client.connect(
                    config.host, config.port, config.keepalive_s, clean_start=True, properties=properties
                )
            else:
                self._client.connect(config.host, config.port, config.keepalive_s)
            sock = self._socket()
            if sock is not None:
                self.local_address = str(sock.getsockname()[0])
        except (OSError, ValueError) as error:
            raise BrokerError(f"cannot connect: {error}") from error

    def turn(self, timeout_s: float, *, read: bool = True) -> bool:
        """Read and write what there is, waiting at most `timeout_s` for it. False: the connection is over.

        With `read` off only writes and keep-alives are done: what the broker sends stays in the socket, and
        TCP holds the broker back.
        """
        try:
            return self._turn(timeout_s, read=read)
        except Exception as error:  # paho raises whatever a hostile packet breaks in it
            self._notes.append(Lost(f"unexpected bytes from the broker: {type(error).__name__}: {error}"))
            return False

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
        wanted: list[tuple[str, Any]] = [
            (name, SubscribeOptions(qos=qos, noLocal=True) if self._is_v5 else qos) for name, qos in subscriptions
        ]
        result, packet_id = self._client.subscribe(wanted)
        return packet_id if result == _OK and packet_id is not None else 0

    def publish(
        self, topic: str, payload: bytes, *, qos: int, retain: bool = False, expiry_s: int = 0, alias: bool = False
    ) -> int:
        """Queue a message, which goes at the next `wake`; returns its number, 0 when it was not taken. With `alias` the
        topic is sent once and then stands as a number, as far as the broker takes that [MQTT-5 3.3.2.3.4]. Calls must
        not overlap."""
        number = 0
        if alias and self._max_alias:
            topic, number = self._aliased(topic)
        info = self._client.publish(
            topic, payload, qos=qos, retain=retain, properties=self._properties(expiry_s, number)
        )
        if info.rc != _OK:
            return 0
        if qos == 0:
            self._unsent.append((info, len(payload)))
        return info.mid

    def disconnect(self) -> None:
        """Say goodbye after what was published before, so that the last will is not sent."""
        self._client.disconnect()
        self.wake()

    def wake(self) -> None:
        """Make `turn` return from its wait, and write what was published."""
        with contextlib.suppress(OSError):  # full: it is awake; closed: nobody is there
            self._wake_in.send(b"\0")

    def close(self) -> None:
        """Let go of the socket, whatever has not been written."""
        sock = self._socket()
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.close()
        self._wake_in.close()
        self._wake_out.close()

    @property
    def unsent_bytes(self) -> int:
        """Of QoS 0, what waits here to be written."""
        while self._unsent and self._unsent[0][0].is_published():
            self._unsent.popleft()
        return sum(size for _, size in self._unsent)

    # -- publishing -------------------------------------------------------------------------------------------

    def _aliased(self, topic: str) -> tuple[str, int]:
        """The topic to send and its number; an empty topic once the broker knows the number on this connection."""
        number = self._aliases.get(topic, 0)
        if number:
            return "", number
        if len(self._aliases) >= self._max_alias:
            return topic, 0
        self._aliases[topic] = len(self._aliases) + 1
        return topic, self._aliases[topic]

    def _properties(self, expiry_s: int, alias: int) -> Properties | None:
        if not self._is_v5 or not (expiry_s or alias):
            return None
        packed = self._packed.get((expiry_s, alias))
        if packed is None:
            if len(self._packed) >= _MAX_PACKED:
                self._packed.clear()
            packed = self._packed[expiry_s, alias] = _Packed(expiry_s=expiry_s, alias=alias)
        return cast("Properties", packed)

    # -- the network thread -----------------------------------------------------------------------------------

    def _socket(self) -> Any:
        return self._client.socket()

    def _turn(self, timeout_s: float, *, read: bool) -> bool:
        client = self._client
        if not self._write():
            return False
        if self._wait(timeout_s, read=read) and read:
            for _ in range(_READS_A_TURN):
                if client.loop_read() != _OK:
                    return False
                self._check_size()
                if not self._wait(0, read=True):
                    break
        return self._write() and client.loop_misc() == _OK and self._socket() is not None

    def _write(self) -> bool:
        sock = self._socket()
        if sock is None:
            return False
        if self._client.want_write() and self._client.loop_write() != _OK:
            return False
        sock.flush()
        return True

    def _wait(self, timeout_s: float, *, read: bool) -> bool:
        """Until there is something to do; whether there is something to read."""
        sock = self._socket()
        if sock is None:
            return False
        if read and sock.readable:
            return True
        poll = select.poll()
        poll.register(self._wake_out, select.POLLIN)
        poll.register(sock, (select.POLLIN if read else 0) | (select.POLLOUT if sock.unwritten else 0))
        # paho looks at its keep-alive between two waits only.
        found = dict(poll.poll(1000 * min(timeout_s, self.keepalive_s / 4)))
        if self._wake_out.fileno() in found:
            with contextlib.suppress(BlockingIOError):
                self._wake_out.recv(4096)
        return bool(found.get(sock.fileno(), 0) & ~select.POLLOUT)

    def _check_size(self) -> None:
        """paho collects a packet of any length; a broker was told ours."""
        claimed = self._client._in_packet["remaining_length"]  # noqa: SLF001 - there is no other way to know
        if claimed > self._max_packet_bytes:
            raise ValueError(f"expected packets of at most {self._max_packet_bytes} bytes, found {claimed}")

    def _listen(self) -> None:
        client, note = self._client, self._notes.append

        def on_connect(_c: paho.Client, _u: object, _f: object, reason: ReasonCode, properties: Any) -> None:
            if reason.value >= FAILURE or reason.is_failure:
                note(Lost(f"refused by the broker: {describe(reason.value, _said(properties))}", reason.value))
                return
            self.keepalive_s = float(getattr(properties, "ServerKeepAlive", 0) or self.keepalive_s)
            quota = getattr(properties, "ReceiveMaximum", 0) or _QUOTA_UNSAID[self._config.protocol]
            self._max_alias = getattr(properties, "TopicAliasMaximum", 0)
            limit = getattr(properties, "MaximumPacketSize", 0)
            if getattr(properties, "MaximumQoS", 1) == 0:
                note(Lost("the broker takes no messages of QoS 1"))
                return
            note(Connected(quota, limit, bool(getattr(properties, "RetainAvailable", 1))))

        def on_subscribe(_c: paho.Client, _u: object, mid: int, reasons: list[ReasonCode], _p: object) -> None:
            note(Subscribed(mid, ", ".join(describe(reason.value) for reason in reasons if reason.is_failure)))

        def on_message(_c: paho.Client, _u: object, message: paho.MQTTMessage) -> None:
            with contextlib.suppress(UnicodeDecodeError):  # a topic that is not UTF-8 is nobody's
                note(Received(message.topic, bytes(message.payload)))

        def on_publish(_c: paho.Client, _u: object, mid: int, reason: ReasonCode, _p: object) -> None:
            note(Confirmed(mid, reason.value))

        def on_disconnect(_c: paho.Client, _u: object, flags: Any, reason: ReasonCode, properties: Any) -> None:
            if flags.is_disconnect_packet_from_server:
                note(Lost(describe(reason.value, _said(properties)), reason.value))
            else:
                note(Lost(_WHY.get(str(reason), f"connection lost: {reason}")))

        def on_socket_open(_c: paho.Client, _u: object, sock: Any) -> None:
            # 12 times slower without: each acknowledgement would wait for the one before it.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        client.on_connect = on_connect
        client.on_subscribe = on_subscribe
        client.on_message = on_message
        client.on_publish = on_publish
        client.on_disconnect = on_disconnect
        client.on_socket_open = on_socket_open
        # Without this paho writes to the socket from the publishing thread too, and two writers can cut into each
        # other's packets. With it, publishing only queues; the owner wakes the network thread.
        client.on_socket_register_write = lambda _c, _u, _sock: None


def _said(properties: Any) -> str:
    """What the broker adds in words [MQTT-5 3.2.2.3.9]."""
    return str(getattr(properties, "ReasonString", ""))
