"""A stick for tests, and a console in memory that takes what lies on it."""

import time
from pathlib import Path

import msgspec

from edgeinfer.console.ledger import Ledger
from edgeinfer.console.reception import Books
from edgeinfer.runtime.chunk import TOMBSTONE
from edgeinfer.runtime.trust import SigningKey, seal
from edgeinfer.sync.export.exporting import Carrier
from edgeinfer.sync.export.receipts import RECEIPT, Receipt
from edgeinfer.sync.messages import Birth, decode, decode_chunk
from edgeinfer.sync.sinks.framing import Frame

__all__ = ["DEVICE", "MemoryConsole", "carrier", "receipt_for", "stick_at"]

DEVICE = "dev-1"


def stick_at(folder: Path) -> Path:
    stick = folder / "stick"
    stick.mkdir()
    return stick


def carrier(folder: Path, *keys: SigningKey, device: str = DEVICE) -> Carrier:
    return Carrier(
        device=device,
        tenant="default",
        state_dir=folder / "runtime",
        sync_dir=folder / "sync",
        console_keys=tuple(key.public for key in keys),
    )


def receipt_for(epoch: int, seq: int, key: SigningKey, **changes: object) -> bytes:
    receipt = Receipt(kind=RECEIPT, device=DEVICE, tenant="default", epoch=epoch, seq=seq, issued_s=int(time.time()))
    return seal(msgspec.json.encode(msgspec.structs.replace(receipt, **changes)), key)


class MemoryConsole:
    """A `Target` that keeps its books as a console does, and nothing else."""

    tenant = "default"

    def __init__(self) -> None:
        self.key = SigningKey.generate()
        self.ledgers: dict[tuple[str, int], Ledger] = {}
        self.bodies: dict[tuple[str, int, int], bytes] = {}
        self.conflicts = 0

    def books(self, device: str) -> dict[int, Books]:
        mine = {epoch: ledger for (name, epoch), ledger in self.ledgers.items() if name == device}
        return {epoch: _books(epoch, ledger, self.conflicts) for epoch, ledger in mine.items()}

    def hand_in(self, device: str, frames: list[Frame]) -> None:
        for frame in frames:
            if frame.name == "up/birth":
                for epoch, lowest in decode(frame.payload, Birth).epochs.items():
                    self.ledgers.setdefault((device, int(epoch)), Ledger()).raise_floor(lowest)
                continue
            chunk = decode_chunk(frame.payload)
            ledger = self.ledgers.setdefault((device, chunk.epoch), Ledger())
            (ledger.evict if chunk.codec == TOMBSTONE else ledger.store)(chunk.first_seq, chunk.n)
            self.bodies[device, chunk.epoch, chunk.first_seq] = frame.payload

    def receipt(self, device: str, epoch: int) -> bytes:
        return receipt_for(epoch, self.ledgers[device, epoch].contiguous, self.key, device=device)


def _books(epoch: int, ledger: Ledger, conflicts: int) -> Books:
    return Books(
        epoch=epoch,
        acknowledged=ledger.contiguous,
        highest=ledger.highest,
        stored=ledger.stored,
        duplicates=ledger.duplicates,
        evicted=ledger.evicted,
        missing=ledger.missing,
        undecodable=ledger.undecodable,
        conflicts=conflicts,
        gaps=ledger.gaps(100),
    )
