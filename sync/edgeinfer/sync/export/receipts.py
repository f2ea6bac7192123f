"""The way back: what the console signs for, and how it reaches `sync.db`, where it lets the daemon forget.

`sync.db` has one writer. Where the agent runs, a receipt that was found good is laid down in a folder beside its
database, and the agent takes it from there; where none runs, it is written at once.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.durable import write_durably
from edgeinfer.runtime.errors import BufferStorageError, MessageError, SignatureError
from edgeinfer.runtime.handoff import SyncDb
from edgeinfer.runtime.locking import lock, unlock
from edgeinfer.runtime.trust import open_envelope

__all__ = ["MAX_RECEIPT_BYTES", "RECEIPT", "CarriedReceipts", "Receipt", "open_receipt", "record"]

RECEIPT: Literal["edgeinfer receipt 1"] = "edgeinfer receipt 1"

_FOLDER = "receipts"
MAX_RECEIPT_BYTES = 16 << 10
_POLL_S = 1.0
_DATABASE = "sync.db"

Seq = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of a sealed receipt: the console durably has everything up to `seq` of `epoch`. `link` is that of
    the hash chain after `seq`, in hex, as the console knows it; empty where it does not. `kind` keeps it apart from
    whatever else the console's key signs: it has to be there."""

    kind: Literal["edgeinfer receipt 1"]
    device: str
    tenant: str
    epoch: Seq
    seq: Seq
    link: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{32})?\Z")] = ""
    issued_s: Seq = 0


def open_receipt(raw: bytes, *, trusted: tuple[bytes, ...], device: str, tenant: str) -> Receipt:
    """The receipt in a sealed message. Raises SignatureError (nobody that is trusted has signed it) and MessageError
    (signed, but no receipt, or that of another device)."""
    if len(raw) > MAX_RECEIPT_BYTES:
        raise MessageError(f"expected a receipt of at most {MAX_RECEIPT_BYTES} bytes, found {len(raw)}")
    if not trusted:
        raise SignatureError(
            "expected a trusted console to hold the receipt against, found none",
            hint="name its public key: [trust] console_keys in edgeinfer.toml, or --console-key KEY",
        )
    payload = open_envelope(raw, trusted)
    try:
        receipt = msgspec.json.decode(payload, type=Receipt)
    except MALFORMED as error:
        raise MessageError(f"expected a receipt: {error}") from error
    if (receipt.device, receipt.tenant) != (device, tenant):
        raise MessageError(f"expected a receipt for {device} of {tenant}, found one for {receipt.device[:64]!r}")
    return receipt


def record(sync_dir: Path, receipt: Receipt) -> bool:
    """Have `receipt` recorded in the agent's folder. False: the agent runs, and will do it itself within a second or
    two. Raises BufferStorageError."""
    database = sync_dir / _DATABASE
    new_folder = not sync_dir.exists()
    try:
        held = lock(database, hint="the agent runs")
    except BufferStorageError:
        if not database.exists():
            raise
        _lay_down(sync_dir, receipt)
        return False
    try:
        with SyncDb(database) as db:
            db.set_acknowledged(receipt.epoch, receipt.seq)
        if not new_folder:
            _give_to_owner_of(sync_dir, database, database.with_name(database.name + ".lock"))
    finally:
        unlock(held)
    return True


class CarriedReceipts:
    """The agent's side of `record`: what was laid down for it. Nothing in there was signed for nothing: who may write
    to this folder may write to `sync.db`, too."""

    def __init__(self, sync_dir: Path) -> None:
        self._folder = sync_dir / _FOLDER
        self._looked_s = float("-inf")

    def due(self, now_s: float) -> list[Receipt]:
        """Those that wait, once a second; each again until `done`. What cannot be read is removed."""
        if now_s - self._looked_s < _POLL_S:
            return []
        self._looked_s = now_s
        return [receipt for name in self._names() if (receipt := self._read(name)) is not None]

    def done(self, receipt: Receipt) -> None:
        """It is durable in `sync.db`."""
        with suppress(OSError):
            (self._folder / _name(receipt)).unlink(missing_ok=True)

    def _names(self) -> list[str]:
        try:
            return [name for name in os.listdir(self._folder) if name.endswith(".json")]  # noqa: PTH208 - no Path each
        except OSError:
            return []

    def _read(self, name: str) -> Receipt | None:
        path = self._folder / name
        try:
            return msgspec.json.decode(path.read_bytes()[: MAX_RECEIPT_BYTES + 1], type=Receipt)
        except (OSError, *MALFORMED):
            with suppress(OSError):
                path.unlink(missing_ok=True)
            return None


def _lay_down(sync_dir: Path, receipt: Receipt) -> None:
    folder = sync_dir / _FOLDER
    try:
        folder.mkdir(exist_ok=True)
        write_durably(folder / _name(receipt), msgspec.json.encode(receipt))
        _give_to_owner_of(sync_dir, folder, folder / _name(receipt))
    except OSError as error:
        raise BufferStorageError(
            f"{folder}: the receipt cannot be handed to the agent: {error.strerror or error}",
            hint="run this as root, or as the agent's user",
        ) from error


def _name(receipt: Receipt) -> str:
    return f"{receipt.epoch:016x}-{receipt.seq}.json"


def _give_to_owner_of(folder: Path, *paths: Path) -> None:
    """What root has made here belongs to the agent."""
    if os.geteuid() != 0:
        return
    owner = folder.stat()
    for path in paths:
        with suppress(FileNotFoundError):
            os.chown(path, owner.st_uid, owner.st_gid)
