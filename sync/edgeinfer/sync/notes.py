"""What happened on a connection to the broker, as values: its owner acts upon them between two turns."""

import msgspec

__all__ = ["Confirmed", "Connected", "Lost", "Note", "Received", "Subscribed"]


class Connected(msgspec.Struct, frozen=True):
    """The broker let us in. `quota`: QoS 1 messages it takes unconfirmed; `max_packet_bytes`: its limit, 0: none
    that it names; `takes_retained`: whether a message may be retained."""

    quota: int
    max_packet_bytes: int
    takes_retained: bool = True


class Subscribed(msgspec.Struct, frozen=True):
    """The broker answered subscription number `packet_id`; `refused` says why not, or is empty."""

    packet_id: int
    refused: str


class Received(msgspec.Struct, frozen=True):
    topic: str
    payload: bytes


class Confirmed(msgspec.Struct, frozen=True):
    """QoS 1: the broker has taken it, or, from FAILURE on, has not: `code` is its reason."""

    packet_id: int
    code: int


class Lost(msgspec.Struct, frozen=True):
    """The connection is over. `code` is the broker's reason, 0 where it gave none."""

    reason: str
    code: int = 0


Note = Connected | Subscribed | Received | Confirmed | Lost
