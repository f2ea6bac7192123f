"""What one side has published on one connection and the broker has not confirmed: kept below the broker's quota.

Brokers confirm in the order of arrival [MQTT-4.6.0-2], so a count tells what has arrived. What waits here for its turn
is a burst, never storage: it goes with the connection.
"""

from collections import deque
from collections.abc import Callable

import msgspec

__all__ = ["Complaint", "Outbox", "Outgoing"]

_MAX_WAITING = 1000
_MAX_BYTES = 16 << 20
# Packet numbers are 1 to 65535, and none may be in use twice.
_MAX_QUOTA = 30_000


class Outgoing(msgspec.Struct, frozen=True):
    """A message. `expiry_s`: the broker drops it undelivered after this (MQTT 5; 0: never). `alias`: its topic will
    come often on this connection."""

    topic: str
    payload: bytes
    retain: bool = False
    expiry_s: int = 0
    alias: bool = False


class Complaint(msgspec.Struct, frozen=True):
    """A message of QoS 1, its payload of `size` bytes, that the broker refused with the reason `code`; or, where
    `ended`, the largest that it had not confirmed when the connection ended with `code` (0: without a reason)."""

    code: int
    topic: str
    size: int
    ended: bool = False


class _OnItsWay(msgspec.Struct, frozen=True):
    topic: str
    size: int
    since_s: float


class Outbox:
    """QoS 1 messages. `send` hands one to the connection and returns its packet number. Not safe from two threads at
    once: the link has the lock."""

    def __init__(self, send: Callable[[Outgoing], int], *, quota: int) -> None:
        self._send = send
        self.quota = min(quota, _MAX_QUOTA)
        self._unconfirmed: dict[int, _OnItsWay] = {}  # by packet number, in the order of sending
        self._waiting: deque[Outgoing] = deque()
        self._bytes = 0
        self.accepted = 0
        self.confirmed = 0

    def __len__(self) -> int:
        """Messages that the broker has not confirmed, or not even got."""
        return len(self._unconfirmed) + len(self._waiting)

    def has_room(self, size: int, *, besides: int = 0) -> bool:
        """Whether a message of `size` bytes is taken, with `besides` bytes in memory that are not counted here."""
        held = self._bytes + besides
        return len(self._waiting) < _MAX_WAITING and (not held or held + size <= _MAX_BYTES)

    def add(self, message: Outgoing, now_s: float) -> None:
        self._bytes += len(message.payload)
        self.accepted += 1
        self._waiting.append(message)
        self._hand_over(now_s)

    def confirm(self, packet_id: int, now_s: float) -> Complaint | None:
        """The broker has answered; what it was about, in case it said no. None for a number that is not awaited."""
        found = self._unconfirmed.pop(packet_id, None)
        if found is None:
            return None
        self._bytes -= found.size
        self.confirmed += 1
        self._hand_over(now_s)
        return Complaint(0, found.topic, found.size)

    def oldest_s(self) -> float | None:
        """Since when the broker owes a confirmation; None where it owes none."""
        return next(iter(self._unconfirmed.values())).since_s if self._unconfirmed else None

    def ended(self, code: int) -> Complaint | None:
        """What may have been the cause of an end with `code`: the largest that was not confirmed."""
        if not self._unconfirmed:
            return None
        largest = max(self._unconfirmed.values(), key=lambda one: one.size)
        return Complaint(code, largest.topic, largest.size, ended=True)

    def _hand_over(self, now_s: float) -> None:
        while self._waiting and len(self._unconfirmed) < self.quota:
            message = self._waiting.popleft()
            packet_id = self._send(message)
            self._unconfirmed[packet_id] = _OnItsWay(message.topic, len(message.payload), now_s)
