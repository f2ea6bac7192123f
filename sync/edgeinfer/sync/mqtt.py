"""The link to the broker that the agent and the console share: MQTT 5 or 3.1.1.

    link = MqttLink(BrokerConfig(), client_id="dev-1", will=None, subscriptions=[("ei/v1/default/d/dev-1/down/#", 1)])
    link.start()
    if link.publish(topic, payload, qos=1): ...
    message = link.receive(timeout_s=0.5)
    link.stop()

A broker that is away is a state, not an error: the link tries again, or another broker, with random, growing, capped
waits, refuses to publish meanwhile, and forgets what was in flight when the connection broke. Whoever needs delivery
resends after `generation` has changed. The queue in here is for bursts; it is never storage.

A peer that has vanished without a word is found within two keep-alives: one of silence, and one for the answer to a
ping; so is a broker that answers pings and confirms nothing.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from edgeinfer.runtime.errors import BrokerError
from edgeinfer.sync.broker import BrokerConfig
from edgeinfer.sync.connection import Connection
from edgeinfer.sync.inbox import Inbox
from edgeinfer.sync.loglimit import LogLimit
from edgeinfer.sync.lookout import Lookout
from edgeinfer.sync.messages import MAX_CHUNK_BYTES
from edgeinfer.sync.notes import Confirmed, Connected, Lost, Note, Received, Subscribed
from edgeinfer.sync.outbox import Complaint, Outbox, Outgoing
from edgeinfer.sync.reasons import FAILURE, NOBODY_LISTENS, after, describe
from edgeinfer.sync.reconnect import Reconnect

__all__ = ["BrokerConfig", "Complaint", "MqttLink", "Ticket"]

_log = logging.getLogger(__name__)

# Connected, the network thread wakes for work and for keep-alives alone.
_HANDSHAKE_TURN_S = 0.5
# CONNACK and SUBACK have to come within this, or the peer is no broker.
_HANDSHAKE_S = 10.0
# Fixed header, lengths, packet number, properties.
_PACKET_OVERHEAD_BYTES = 32
_MAX_COMPLAINTS = 100


class Ticket(msgspec.Struct, frozen=True):
    """Marks a place in the stream of QoS 1 messages of one connection, for `MqttLink.is_confirmed`."""

    generation: int
    number: int


class MqttLink:
    """A connection to the broker that comes back by itself. All methods are safe from any thread.

    Args:
        config: where the broker is, and which others there are.
        client_id: unique at the broker; a second client of the same name throws the first one out.
        identity: the user name that goes with a token where the configuration has none: the device's name.
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
        identity: str = "",
        on_change: Callable[[], None] | None = None,
        max_packet_bytes: int = MAX_CHUNK_BYTES + (64 << 10),
        max_inbound: int = 1000,
    ) -> None:
        self._brokers = config.in_order
        self._client_id = client_id
        self._identity = identity
        self._will = will
        self._subscriptions = tuple(subscriptions)
        self._on_change = on_change or (lambda: None)
        self._max_packet_bytes = max_packet_bytes
        self._inbox = Inbox(max_messages=max_inbound, max_bytes=4 * max_packet_bytes, on_room=self.push)
        self._reconnect = Reconnect(
            brokers=len(self._brokers), longest_s=config.reconnect_max_s, return_after_s=config.return_after_s
        )
        self._first_is_back = threading.Event()
        self._lookout = Lookout(config.host, config.port, self._found_the_first)
        self._limit = LogLimit()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        # Guards everything below.
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._outbox = Outbox(self._hand_over, quota=0)
        self._complaints: deque[Complaint] = deque(maxlen=_MAX_COMPLAINTS)
        self._subscription = 0
        self._broker_max_bytes = 0
        self._takes_retained = True
        self._broker = self._brokers[0]
        self.connected = False
        self.generation = 0
        self.send_quota = 0
        self.last_error = ""
        self.local_address = ""
        self.unheard = False

    @property
    def broker(self) -> BrokerConfig:
        """The one that is connected, or that was tried last."""
        return self._broker

    @property
    def address(self) -> str:
        """The broker's."""
        return self._broker.address

    def owed_s(self, now_s: float) -> float:
        """For how long the broker has owed the oldest confirmation of a QoS 1 message; 0 where it owes none."""
        with self._lock:
            oldest_s = self._outbox.oldest_s()
        return 0.0 if oldest_s is None else now_s - oldest_s

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

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int,
        retain: bool = False,
        expiry_s: int = 0,
        alias: bool = False,
        more: bool = False,
    ) -> bool:
        """Send a message. False when it was not taken: not connected, too large, or too much on its way already.

        True promises nothing about arrival. QoS 1 messages above the broker's quota wait here for their turn. In MQTT
        5, the broker drops the message where it could not deliver it within `expiry_s` (0: never), and `alias` makes
        it remember the topic, for those that come often; 3.1.1 has neither. With `more` to come, the message need not
        go before `push`: one that wakes the network thread for itself alone costs as much as ten.
        """
        with self._lock:
            connection = self._connection
            if not self.connected or connection is None or self._stopping.is_set():
                return False
            if not self.fits(topic, len(payload)):
                limit = self._broker_max_bytes
                _log.error("event=message_too_large topic=%s bytes=%d limit=%d", topic, len(payload), limit)
                return False
            if not self._outbox.has_room(len(payload), besides=connection.unsent_bytes if qos == 0 else 0):
                return False
            message = Outgoing(topic, payload, retain and self._takes_retained, expiry_s, alias)
            if qos == 0:
                connection.publish(topic, payload, qos=0, retain=message.retain, expiry_s=expiry_s)
            else:
                self._outbox.add(message, time.monotonic())
        if not more:
            connection.wake()
        return True

    def push(self) -> None:
        """Let go out what was published with `more` to come."""
        with self._lock:
            connection = self._connection
        if connection is not None:
            connection.wake()

    def fits(self, topic: str, size: int) -> bool:
        """Whether the broker, by its own word, ever takes a message of `size` bytes. True before it has spoken."""
        limit = self._broker_max_bytes
        return not limit or len(topic) + size + _PACKET_OVERHEAD_BYTES <= limit

    def receive(self, timeout_s: float) -> tuple[str, bytes] | None:
        """The next message (topic, payload), or None after `timeout_s` or when the link changed."""
        return self._inbox.get(timeout_s)

    def wake(self) -> None:
        """Make whoever waits in `receive` return at once."""
        self._inbox.wake()

    def complaints(self) -> list[Complaint]:
        """What the broker refused, and what was on its way when it went, since this was last asked."""
        if not self._complaints:
            return []
        with self._lock:
            taken = list(self._complaints)
            self._complaints.clear()
        return taken

    def ticket(self) -> Ticket:
        """The place of the newest QoS 1 message that was taken."""
        with self._lock:
            return Ticket(self.generation, self._outbox.accepted)

    def is_confirmed(self, ticket: Ticket) -> bool:
        """Whether the broker has confirmed all up to `ticket`. Never, once that connection is gone."""
        with self._lock:
            return self.connected and self.generation == ticket.generation and self._outbox.confirmed >= ticket.number

    def flush(self, timeout_s: float) -> bool:
        """Wait until the broker has confirmed all QoS 1 messages taken so far. False: it did not in time."""
        ticket, deadline, pause = self.ticket(), time.monotonic() + timeout_s, threading.Event()
        while not self.is_confirmed(ticket):
            if time.monotonic() > deadline or self.generation != ticket.generation or not self.connected:
                return False
            pause.wait(0.005)
        return True

    def _hand_over(self, message: Outgoing) -> int:
        assert self._connection is not None  # noqa: S101 -- publish() has looked, and notes come from it
        return self._connection.publish(
            message.topic,
            message.payload,
            qos=1,
            retain=message.retain,
            expiry_s=message.expiry_s,
            alias=message.alias,
        )

    def _found_the_first(self) -> None:
        self._first_is_back.set()
        self.push()

    # -- the network thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        said = ("", "")
        while not self._stopping.is_set():
            self._broker = self._brokers[self._reconnect.index]
            address, began_s = self._broker.address, time.monotonic()
            generation = self.generation
            reason, code = self._live_once(self._broker)
            if self._stopping.is_set():
                break
            lasted_s = time.monotonic() - began_s if self.generation != generation else 0.0
            wait_s = self._reconnect.ended(after(code), lasted_s=lasted_s)
            if (address, reason) != said or lasted_s:
                _log.warning("event=broker_lost broker=%s reason=%r wait_s=%.2f", address, reason, wait_s)
            said = (address, reason)
            self.last_error = reason
            self._stopping.wait(wait_s)

    def _live_once(self, broker: BrokerConfig) -> tuple[str, int]:
        """One connection from open to loss; returns why it ended, and the broker's code for it."""
        connection = Connection(
            broker,
            client_id=self._client_id,
            identity=self._identity,
            will=self._will,
            max_packet_bytes=self._max_packet_bytes,
        )
        lost = Lost("connection lost")
        try:
            connection.open()
            with self._lock:
                self._connection = connection
            lost = self._serve(connection)
        except BrokerError as error:
            lost = Lost(error.message)
        except Exception as error:  # the top of this thread: a hostile peer must not end it
            _log.exception("event=broker_link_bug")
            lost = Lost(f"unexpected: {type(error).__name__}: {error}")
        finally:
            self._forget(lost.code)
            connection.close()
        return lost.reason, lost.code

    def _serve(self, connection: Connection) -> Lost:
        self._first_is_back.clear()
        now_s = time.monotonic()
        deadline_s, look_s = now_s + _HANDSHAKE_S, now_s + self._reconnect.stay_s()
        lost: Lost | None = None
        while lost is None:
            wait_s = connection.keepalive_s if self.connected else _HANDSHAKE_TURN_S
            alive = connection.turn(wait_s, read=not self._inbox.full)
            for note in connection.notes():
                lost = lost or self._take_note(connection, note)  # the first reason says most
            if not alive:
                return lost or Lost("connection lost")
            now_s = time.monotonic()
            if self._reconnect.index and now_s > look_s:
                look_s = now_s + self._reconnect.stay_s()
                self._lookout.look()
            lost = lost or self._overdue(connection, now_s, deadline_s)
        return lost

    def _overdue(self, connection: Connection, now_s: float, deadline_s: float) -> Lost | None:
        """Why a connection that has not broken is given up."""
        if not self.connected:
            if self._stopping.is_set():
                return Lost("stopped")
            return Lost("no answer to CONNECT") if now_s > deadline_s else None
        with self._lock:
            oldest_s = self._outbox.oldest_s()
        if oldest_s is not None and now_s - oldest_s > 2 * connection.keepalive_s:
            return Lost(f"the broker has confirmed nothing for {now_s - oldest_s:.0f} s")
        if self._first_is_back.is_set():
            self._reconnect.going_home()
            connection.disconnect()  # so that the last will is not sent
            connection.turn(0)
            return Lost("the first broker is back")
        return None

    def _take_note(self, connection: Connection, note: Note) -> Lost | None:
        """Act on what happened; returns why the connection is over, or nothing."""
        match note:
            case Received():
                self._inbox.put(note.topic, note.payload)
            case Confirmed():
                self._take_confirmation(note)
            case Connected():
                self._broker_max_bytes = note.max_packet_bytes
                self._takes_retained = note.takes_retained
                self._outbox = Outbox(self._hand_over, quota=note.quota)
                self.send_quota = self._outbox.quota
                if not self._subscriptions:
                    self._became_ready(connection)
                else:
                    self._subscription = connection.subscribe(self._subscriptions)
            case Subscribed():
                if note.refused:
                    _log.error("event=subscription_refused reason=%r", note.refused)
                if note.packet_id == self._subscription:
                    self._became_ready(connection)
            case Lost():
                return note
        return None

    def _take_confirmation(self, note: Confirmed) -> None:
        now_s = time.monotonic()
        with self._lock:
            message = self._outbox.confirm(note.packet_id, now_s)
            if note.code >= FAILURE and message is not None:
                self._complaints.append(msgspec.structs.replace(message, code=note.code))
        self.unheard = note.code == NOBODY_LISTENS
        if note.code >= FAILURE and (held := self._limit.admit(f"refused {note.code}", now_s)) is not None:
            topic = "" if message is None else message.topic
            _log.warning("event=publish_refused topic=%s reason=%r held_back=%d", topic, describe(note.code), held)

    def _became_ready(self, connection: Connection) -> None:
        with self._lock:
            self.generation += 1
            self.connected = True
        self.last_error = ""
        self.local_address = connection.local_address
        _log.info(
            "event=broker_connected broker=%s protocol=%d quota=%d",
            self._broker.address, self._broker.protocol, self.send_quota,
        )  # fmt: skip
        self._changed()

    def _forget(self, code: int) -> None:
        with self._lock:
            was_connected, self.connected = self.connected, False
            self._connection = None
            complaint = self._outbox.ended(code)
            if complaint is not None:
                self._complaints.append(complaint)
            self._outbox = Outbox(self._hand_over, quota=0)
        if was_connected:
            self._changed()

    def _changed(self) -> None:
        self._inbox.wake()
        self._on_change()
