"""Where what did not come over the broker is handed in: batches over HTTP, and files that somebody carried.

It goes the way of all messages, through ingest; here is only who speaks for whom, what has become of it, and what the
console signs for.
"""

import time
from collections.abc import Callable, Iterable, Sequence

import msgspec

from edgeinfer.console.deliveries import Message
from edgeinfer.console.ledger import Ledger, Range
from edgeinfer.console.repository import Repository
from edgeinfer.runtime.errors import MessageError, UsageError
from edgeinfer.runtime.trust import SigningKey, seal
from edgeinfer.sync.export.receipts import RECEIPT, Receipt
from edgeinfer.sync.messages import Ack, topic
from edgeinfer.sync.sinks.framing import Frame

__all__ = ["Books", "Deliver", "Reception"]

Deliver = Callable[[Sequence[Message], float], dict[str, tuple[Ack, ...]]]

# What a device may say by another way than the broker: who it is, and results.
_NAMES = ("up/birth", "up/reported", "up/tel")
_RESULTS = "up/res/"
_MAX_GAPS = 100


class Books(msgspec.Struct, frozen=True, kw_only=True):
    """What a console has of one epoch of a device: everything up to `acknowledged` is settled, `gaps` are inclusive
    ranges that are not, below `highest`."""

    epoch: int
    acknowledged: int
    highest: int
    stored: int
    duplicates: int
    evicted: int
    missing: int
    undecodable: int
    conflicts: int
    gaps: tuple[Range, ...] = ()


class Reception:
    """Hands in through `deliver` (`Ingest.deliver`). May be used from any thread but ingest's."""

    def __init__(self, deliver: Deliver, repository: Repository, *, key: SigningKey, tenant: str) -> None:
        self.tenant = tenant
        self._deliver = deliver
        self._repository = repository
        self._key = key

    def hand_in(self, device: str, frames: Iterable[Frame], *, timeout_s: float) -> tuple[Ack, ...]:
        """Have the messages of `device` stored; the acknowledgements of the epochs that they were about.

        Raises MessageError for what a device may not say this way, and what `Ingest.deliver` raises.
        """
        messages = [(topic(self.tenant, device, _allowed(frame.name)), frame.payload) for frame in frames]
        return self._deliver(messages, timeout_s).get(device, ())

    def books(self, device: str) -> tuple[Books, ...]:
        """In the order in which the epochs were first seen. Raises StorageError."""
        return tuple(_books(epoch, ledger) for epoch, ledger in self._repository.ledgers(device).items())

    def receipt(self, device: str, epoch: int) -> bytes:
        """A sealed Receipt for what is durably stored now. Raises UsageError where nothing is known of the epoch."""
        ledger = self._repository.ledgers(device).get(epoch)
        if ledger is None:
            raise UsageError(f"expected an epoch of {device} that this console knows, found {epoch}")
        seq = ledger.contiguous
        receipt = Receipt(
            kind=RECEIPT,
            device=device,
            tenant=self.tenant,
            epoch=epoch,
            seq=seq,
            link=self._repository.link_at(device, epoch, seq).hex() if seq else "",
            issued_s=max(0, int(time.time())),
        )
        return seal(msgspec.json.encode(receipt), self._key)


def _allowed(name: str) -> str:
    if name in _NAMES or name.startswith(_RESULTS):
        return name
    raise MessageError(f"expected results or who the device is, found {name[:80]!r}")


def _books(epoch: int, ledger: Ledger) -> Books:
    return Books(
        epoch=epoch,
        acknowledged=ledger.contiguous,
        highest=ledger.highest,
        stored=ledger.stored,
        duplicates=ledger.duplicates,
        evicted=ledger.evicted,
        missing=ledger.missing,
        undecodable=ledger.undecodable,
        conflicts=ledger.conflicts,
        gaps=ledger.gaps(_MAX_GAPS),
    )
