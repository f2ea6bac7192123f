"""What a link may meet on the other end: a broker that does what a test says, and an independent client.

with ScriptedBroker(connack=b"\\x20\\x03\\x00\\x8a\\x00") as broker: ...         # lets nobody in
with ScriptedBroker(puback=0x97) as broker: ...                             # a quota that is always used up
"""

import contextlib
import socket
import threading
from typing import Any, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from waiting import wait_until

__all__ = ["LET_IN", "PahoListener", "ScriptedBroker"]

LET_IN = b"\x20\x03\x00\x00\x00"
_CONNECT, _PUBLISH, _SUBSCRIBE, _PINGREQ = 1, 3, 8, 12


class ScriptedBroker:
    """An MQTT 5 broker in a thread per connection. It answers CONNECT with `connack`, a QoS 1 message with `puback` as
    the reason, or with nothing where that is None, and a ping unless `deaf`. `connects` and `pings` count; `topics`
    and `sizes` are of the messages that came; `last_words` are sent, once, after a message, and the connection is
    closed."""

    def __init__(
        self, *, connack: bytes = LET_IN, puback: int | None = 0, deaf: bool = False, last_words: bytes = b""
    ) -> None:
        self.connack = connack
        self.puback = puback
        self.deaf = deaf
        self.last_words = last_words
        self.connects = self.pings = 0
        self.topics: list[str] = []
        self.sizes: list[int] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._peers: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()  # whom it let in last is among the peers
        self._server.close()
        for peer in self._peers:
            self._hang_up(peer)
        for thread in self._threads:
            thread.join(60.0)

    def _start(self, target: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, name="scripted-broker", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._server.accept()
            except OSError:
                return
            self._peers.append(peer)
            self._start(self._serve, peer)

    def _serve(self, peer: socket.socket) -> None:
        with contextlib.suppress(OSError):
            stream = peer.makefile("rb")
            while first := stream.read(1):
                self._answer(peer, first[0], stream.read(_length(stream)))
        self._hang_up(peer)

    def _answer(self, peer: socket.socket, first: int, body: bytes) -> None:
        kind = first >> 4
        if kind == _CONNECT:
            self.connects += 1
            peer.sendall(self.connack)
        elif kind == _SUBSCRIBE:
            peer.sendall(b"\x90\x04" + body[:2] + b"\x00\x01")
        elif kind == _PINGREQ and not self.deaf:
            peer.sendall(b"\xd0\x00")
            self.pings += 1
        elif kind == _PUBLISH:
            self._take(peer, body)

    def _take(self, peer: socket.socket, body: bytes) -> None:
        end = 2 + int.from_bytes(body[:2], "big")
        self.topics.append(body[2:end].decode())
        self.sizes.append(len(body))
        if self.last_words:
            peer.sendall(self.last_words)
            self.last_words = b""
            self._hang_up(peer)
        elif self.puback is not None:
            peer.sendall(b"\x40\x04" + body[end : end + 2] + bytes((self.puback, 0)))

    @staticmethod
    def _hang_up(peer: socket.socket) -> None:
        with contextlib.suppress(OSError):
            peer.shutdown(socket.SHUT_RDWR)
        peer.close()


def _length(stream: Any) -> int:
    size = 0
    for shift in (0, 7, 14, 21):
        byte = stream.read(1)[0]
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    return size


class PahoListener:
    """Somebody else's client, subscribed to everything: what really goes over the wire. `heard` are topics and
    payloads, `expiries` the message expiry of each, where it has one."""

    def __init__(self, port: int, *, protocol: int = 5) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.expiries: list[int | None] = []
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id="listener", protocol=MQTTProtocolVersion(protocol)
        )
        self._ready = threading.Event()
        self._port = port

    def __enter__(self) -> Self:
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        wait_until(self._ready.is_set, what="the listener")
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self._client._reset_sockets()  # paho leaves the pair that wakes its loop to the garbage collector

    def _on_message(self, _client: paho.Client, _user: object, message: paho.MQTTMessage) -> None:
        self.heard.append((message.topic, bytes(message.payload)))
        self.expiries.append(getattr(message.properties, "MessageExpiryInterval", None))
