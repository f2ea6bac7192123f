"""The link to the broker that the agent and the console share: MQTT 5 or 3.1.1, over paho.

    link = MqttLink(BrokerConfig(), client_id="dev-1", will=None, subscriptions=[("ei/v1/default/d/dev-1/down/#", 1)])
    link.start()
    if link.publish(topic, payload, qos=1): ...
    message = link.receive(timeout_s=0.5)
    link.stop()

A broker that is away is a state, not an error: the link tries again with random, growing, capped waits, refuses
to publish meanwhile, and forgets what was in flight when the connection broke. Whoever needs delivery resends
after `generation` has changed. The queue in here is for bursts; it is never storage.
"""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from edgeinfer.runtime.errors import BrokerError
from edgeinfer.sync.connection import BrokerConfig, Confirmed, Connected, Connection, Lost, Note, Received, Subscribed
from edgeinfer.sync.inbox import Inbox
from edgeinfer.sync.messages import MAX_CHUNK_BYTES

__all__ = ["BrokerConfig", "MqttLink", "Ticket"]

_log = logging.getLogger(__name__)

_FIRST_WAIT_S = 0.25
_TURN_S = 0.5
# A connection that lasted this long was a good one: the waits start again from the first.
_STABLE_S = 5.0
# CONNACK and SUBACK have to come within this, or the peer is no broker.
_HANDSHAKE_S = 10.0
_MAX_WAITING = 1000
# Fixed header, lengths, packet number, properties.
_PACKET_OVERHEAD_BYTES = 32
_MAX_OUTGOING_BYTES = 16 << 20


class Ticket(msgspec.Struct, frozen=True):
    """Marks a place in the stream of QoS 1 messages of one connection, for `MqttLink.is_confirmed`."""

    generation: int
    number: int


class _Outgoing(msgspec.Struct, frozen=True):
    topic: str
    payload: bytes
    retain: bool


class MqttLink:
    """A connection to the broker that comes back by itself. All methods are safe from any thread.

    Args:
        config: where the broker is.
        client_id: unique at the broker; a second client of the same name throws the first one out.
        will: topic and payload that the broker publishes (QoS 1, retained) when this side vanishes.
        subscriptions: topic filters and their QoS, asked for at every connect before `connected` is true.
        on_change: called by the network thread, without locks held, when `connected` changed.
        max_packet_bytes: the largest packet this side accepts (told to the broker in MQTT 5).
        max_inbound: messages that may wait to be received before the link stops reading from the network.
    """

    def __init__(
        self,
        config: BrokerConfig,
        *,
        client_id: str,
        will: tuple[str, bytes] | None,
        subscriptions: Sequence[tuple[str, int]],
        on_change: Callable[[], None] | None = None,
        max_packet_bytes: int = MAX_CHUNK_BYTES + (64 << 10),
        max_inbound: int = 1000,
    ) -> None:
        self._config = config
        self._client_id = client_id
        self._will = will
        self._subscriptions = tuple(subscriptions)
        self._on_change = on_change or (lambda: None)
        self._max_packet_bytes = max_packet_bytes
        self._inbox = Inbox(max_messages=max_inbound, max_bytes=4 * max_packet_bytes)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        # Guards everything below. Held while paho's publish is called; the network thread takes it only
        # between two turns, when it holds none of paho's locks (see connection.py).
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._subscription = 0
        self._in_flight: dict[int, tuple[int, int]] = {}  # packet number: (qos, bytes)
        self._unconfirmed = 0
        self._outgoing_bytes = 0
        self._waiting: deque[_Outgoing] = deque()
        self._accepted = 0
        self._confirmed = 0
        self._broker_max_bytes = 0
        self.connected = False
        self.generation = 0
        self.send_quota = 0
        self.last_error = ""

    @property
    def address(self) -> str:
        return f"{self._config.host}:{self._config.port}"

    def start(self) -> None:
        """Begin connecting in the background. Never raises for an absent broker."""
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._run, name=f"mqtt-{self._client_id}", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 1.0) -> None:
        """Write out what was published, say goodbye, end the thread. Returns after `timeout_s` at the latest."""
        self._stopping.set()
        with self._lock:
            if self._connection is not None:
                self._connection.disconnect()
        self._inbox.wake()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> bool:
        """Send a message. False when it was not taken: not connected, too large, or too much on its way already.

        True promises nothing about arrival. QoS 1 messages above the broker's quota wait here for their turn.
        """
        with self._lock:
            if not self._accepts(topic, payload, qos):
                return False
            if qos == 0:
                return self._hand_over(_Outgoing(topic, payload, retain), qos)
            message = _Outgoing(topic, payload, retain)
            if self._unconfirmed >= self.send_quota or self._waiting:
                self._waiting.append(message)
                self._outgoing_bytes += len(payload)
            elif not self._hand_over(message, qos):
                return False
            self._accepted += 1
            return True

    def fits(self, topic: str, size: int) -> bool:
        """Whether the broker, by its own word, ever takes a message of `size` bytes. True before it has spoken."""
        limit = self._broker_max_bytes
        return not limit or len(topic) + size + _PACKET_OVERHEAD_BYTES <= limit

    def receive(self, timeout_s: float) -> tuple[str, bytes] | None:
        """The next message (topic, payload), or None after `timeout_s` or when the link changed."""
        return self._inbox.get(timeout_s)

    def ticket(self) -> Ticket:
        """The place of the newest QoS 1 message that was taken."""
        with self._lock:
            return Ticket(self.generation, self._accepted)

    def is_confirmed(self, ticket: Ticket) -> bool:
        """Whether the broker has confirmed all up to `ticket`. Never, once that connection is gone.

        Brokers confirm in the order of arrival [MQTT-4.6.0-2], so a count is enough.
        """
        with self._lock:
            return self.connected and self.generation == ticket.generation and self._confirmed >= ticket.number

    def flush(self, timeout_s: float) -> bool:
        """Wait until the broker has confirmed all QoS 1 messages taken so far. False: it did not in time."""
        ticket, deadline, pause = self.ticket(), time.monotonic() + timeout_s, threading.Event()
        while not self.is_confirmed(ticket):
            if time.monotonic() > deadline or self.generation != ticket.generation or not self.connected:
                return False
            pause.wait(0.005)
        return True

    # -- publishing, with the lock held ---------------------------------------------------------------------

    def _accepts(self, topic: str, payload: bytes, qos: int) -> bool:
        if not self.connected or self._connection is None or self._stopping.is_set():
            return False
        if not self.fits(topic, len(payload)):
            _log.error(
                "event=message_too_large topic=%s bytes=%d limit=%d", topic, len(payload), self._broker_max_bytes
            )
            return False
        if self._outgoing_bytes and self._outgoing_bytes + len(payload) > _MAX_OUTGOING_BYTES:
            return False
        return qos == 0 or len(self._waiting) < _MAX_WAITING

    def _hand_over(self, message: _Outgoing, qos: int) -> bool:
        assert self._connection is not None  # noqa: S101 -- _accepts has looked
        mid = self._connection.publish(message.topic, message.payload, qos=qos, retain=message.retain)
        if mid == 0:
            return False
        self._in_flight[mid] = (qos, len(message.payload))
        self._outgoing_bytes += len(message.payload)
        self._unconfirmed += 1 if qos else 0
        return True

    def _confirm(self, note: Confirmed) -> None:
        qos, size = self._in_flight.pop(note.mid, (0, 0))
        self._outgoing_bytes -= size
        if qos:
            self._unconfirmed -= 1
            self._confirmed += 1
        if note.refused:
            _log.warning("event=publish_refused reason=%r", note.refused)
        while self._waiting and self._unconfirmed < self.send_quota:
            message = self._waiting.popleft()
            self._outgoing_bytes -= len(message.payload)
            if not self._hand_over(message, 1):
                break

    # -- the network thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            reason = self._live_once()
            if self._stopping.is_set():
                break
            failures = 0 if time.monotonic() - began > _STABLE_S else failures + 1
            wait_s = _reconnect_wait_s(failures, self._config.reconnect_max_s)
            if reason != self.last_error or failures <= 1:
                _log.warning(
                    "event=broker_lost broker=%s:%d reason=%r wait_s=%.2f",
                    self._config.host, self._config.port, reason, wait_s,
                )  # fmt: skip
            self.last_error = reason
            self._stopping.wait(wait_s)

    def _live_once(self) -> str:
        """One connection from open to loss; returns why it ended."""
        try:
            connection = Connection(
                self._config, client_id=self._client_id, will=self._will, max_packet_bytes=self._max_packet_bytes
            )
            connection.open()
            with self._lock:
                self._connection = connection
            return self._serve(connection)
        except BrokerError as error:
            return error.message
        except Exception as error:  # the top of this thread: a hostile peer must not end it
            _log.debug("event=broker_protocol_error", exc_info=True)
            return f"unexpected bytes from the broker: {type(error).__name__}: {error}"
        finally:
            self._forget()

    def _serve(self, connection: Connection) -> str:
        deadline = time.monotonic() + _HANDSHAKE_S
        reason, alive = "", True
        while alive:
            if self._inbox.full:
                self._inbox.wait_for_room(0.05)
            alive = connection.turn(_TURN_S, read=not self._inbox.full)
            for note in connection.notes():
                ended = self._take_note(connection, note)
                reason = reason or ended  # the first reason says most
            if not self.connected and time.monotonic() > deadline:
                return "no answer to CONNECT"
            if self._stopping.is_set() and not self.connected:
                return "stopped"
        return reason or "connection lost"

    def _take_note(self, connection: Connection, note: Note) -> str:
        """Act on what happened; returns why the connection is over, or nothing."""
        match note:
            case Received():
                self._inbox.put(note.topic, note.payload)
            case Confirmed():
                with self._lock:
                    self._confirm(note)
            case Connected():
                self._broker_max_bytes = note.max_packet_bytes
                self.send_quota = note.quota
                if not self._subscriptions:
                    self._became_ready()
                else:
                    self._subscription = connection.subscribe(self._subscriptions)
            case Subscribed():
                if note.refused:
                    _log.error("event=subscription_refused reason=%r", note.refused)
                if note.mid == self._subscription:
                    self._became_ready()
            case Lost():
                return note.reason
        return ""

    def _became_ready(self) -> None:
        with self._lock:
            self.generation += 1
            self.connected = True
            self._accepted = self._confirmed = 0
        self.last_error = ""
        _log.info(
            "event=broker_connected broker=%s:%d protocol=%d quota=%d",
            self._config.host, self._config.port, self._config.protocol, self.send_quota,
        )  # fmt: skip
        self._changed()

    def _forget(self) -> None:
        with self._lock:
            was_connected, self.connected = self.connected, False
            self._connection = None
            self._in_flight.clear()
            self._waiting.clear()
            self._unconfirmed = self._outgoing_bytes = 0
        if was_connected:
            self._changed()

    def _changed(self) -> None:
        self._inbox.wake()
        self._on_change()


def _reconnect_wait_s(failures: int, longest_s: float) -> float:
    """Random, growing, capped: half to whole of a wait that doubles with each failure in a row."""
    return random.uniform(0.5, 1.0) * min(longest_s, _FIRST_WAIT_S * float(1 << min(failures, 16)))
