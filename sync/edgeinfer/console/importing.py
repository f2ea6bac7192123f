"""`edgeinfer console import`: takes what somebody has carried here, and signs for what is stored.

Every file is read whole and checked before anything of it is delivered: hash, CRC of each chunk, sequence, hash
chain. It goes the way of all messages, so importing again does no harm, and neither does a stick pulled out.
"""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Protocol

import msgspec

from edgeinfer.console.reception import Books
from edgeinfer.runtime.durable import write_durably
from edgeinfer.runtime.errors import EdgeInferError, MessageError, StorageError, UsageError
from edgeinfer.sync.export.layout import MAX_MANIFEST_BYTES, decode_manifest, manifest_name, receipt_name
from edgeinfer.sync.export.reading import Checked, check_file, found_files, frames_of
from edgeinfer.sync.sinks.framing import Frame

__all__ = ["Damaged", "EpochImport", "ImportReport", "Target", "import_folder"]

_BATCH_BYTES = 4 << 20
_BATCH_MESSAGES = 256


class Target(Protocol):
    """A console. All methods raise ConsoleError where it cannot be asked, or what it answered as an error."""

    @property
    def tenant(self) -> str: ...

    def books(self, device: str) -> dict[int, Books]:
        """What it has of each epoch of `device`."""

    def hand_in(self, device: str, frames: list[Frame]) -> None:
        """Returns once they are durably stored, or refused for good."""

    def receipt(self, device: str, epoch: int) -> bytes:
        """Sealed with its key."""


class Damaged(msgspec.Struct, frozen=True):
    """A file of which nothing was delivered, and why."""

    name: str
    reason: str


class EpochImport(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one epoch of a device. `first_seq` to `last_seq` is what the files hold; `stored`, `evicted`,
    `undecodable`, `duplicates` and `conflicts` count what that changed at the console (others that deliver for the
    device at the same moment count, too). Everything up to `acknowledged` is there; `gaps` are what it lacks beyond.
    Of `chunks`, `linked` were held against the hash chain, without a break. `receipt` is the file that the device
    takes back; empty where there were conflicts."""

    device: str
    epoch: int
    files: int
    first_seq: int
    last_seq: int
    chunks: int
    linked: int
    stored: int
    evicted: int
    undecodable: int
    duplicates: int
    conflicts: int
    acknowledged: int
    gaps: tuple[tuple[int, int], ...]
    receipt: str
    notes: tuple[str, ...] = ()


class ImportReport(msgspec.Struct, frozen=True, kw_only=True):
    epochs: tuple[EpochImport, ...]
    damaged: tuple[Damaged, ...]

    @property
    def ok(self) -> bool:
        """Nothing was refused: no damaged file, no number under which the console holds something else."""
        return not self.damaged and not any(epoch.conflicts for epoch in self.epochs)


def import_folder(folder: Path, target: Target) -> ImportReport:
    """Deliver all that lies in `folder` for the target's tenant, and leave receipts there.

    Raises UsageError (no such folder, nothing in it), StorageError (it cannot be read or written) and ConsoleError.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder", hint="is the stick mounted there?")
    damaged: list[Damaged] = []
    try:
        sound = _sound_files(folder, target.tenant, damaged)
        if not sound and not damaged:
            raise UsageError(f"{folder}: expected exported files (ei-*.chunks), found none")
        epochs = [_import_epoch(folder, target, list(files), damaged) for _, files in groupby(sound, key=_whose)]
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"{folder}: cannot be read: {reason}", hint="was the stick pulled out? try again") from error
    return ImportReport(epochs=tuple(epochs), damaged=tuple(damaged))


def _sound_files(folder: Path, tenant: str, damaged: list[Damaged]) -> list[Checked]:
    """By device, epoch and first number. What cannot be used is added to `damaged`."""
    sound: list[Checked] = []
    for path in found_files(folder):
        try:
            checked = check_file(path)
            if checked.header.tenant != tenant:
                raise MessageError(f"expected tenant {tenant}, found {checked.header.tenant}")  # noqa: TRY301 - as others
        except MessageError as error:
            damaged.append(Damaged(path.name, error.message))
        else:
            sound.append(checked)
    return sorted(sound, key=lambda checked: (*_whose(checked), checked.file.first_seq))


def _whose(checked: Checked) -> tuple[str, int]:
    return checked.header.device, checked.header.epoch


def _import_epoch(folder: Path, target: Target, files: list[Checked], damaged: list[Damaged]) -> EpochImport:
    device, epoch = _whose(files[0])
    linked = _linked_files(files, damaged)
    before = target.books(device).get(epoch)
    for checked in linked:
        for frames in _batches(checked.path):
            target.hand_in(device, frames)
    after = target.books(device).get(epoch)
    if after is None:
        raise EdgeInferError(
            f"the console took {len(linked)} files of {device} and knows nothing of epoch {epoch}",
            hint="its page names the messages that it refused, and why",
        )
    changes = _changes(before, after)
    # Where the console has something else under a number, it cannot sign for this device's.
    receipt = "" if changes["conflicts"] else _leave_receipt(folder, target, device, epoch)
    return EpochImport(
        device=device,
        epoch=epoch,
        files=len(linked),
        first_seq=linked[0].file.first_seq,
        last_seq=max(checked.file.last_seq for checked in linked),
        chunks=sum(checked.file.chunks for checked in linked),
        linked=sum(checked.linked for checked in linked),
        acknowledged=after.acknowledged,
        gaps=after.gaps,
        receipt=receipt,
        notes=tuple(_notes(folder, device, epoch, linked)),
        **changes,
    )


def _linked_files(files: list[Checked], damaged: list[Damaged]) -> list[Checked]:
    """Those whose chain goes on where that of the file before ended; a file that belies its neighbour is refused."""
    linked: list[Checked] = []
    for checked in files:
        earlier = linked[-1].file if linked else None
        follows = earlier is not None and earlier.last_seq + 1 == checked.file.first_seq
        links = (earlier.link_after, checked.file.link_before) if earlier is not None and follows else ("", "")
        if all(links) and links[0] != links[1]:
            damaged.append(Damaged(checked.path.name, "the hash chain is broken between it and the file before it"))
            continue
        linked.append(checked)
    return linked


def _changes(before: Books | None, after: Books) -> dict[str, int]:
    names = ("stored", "evicted", "undecodable", "duplicates", "conflicts")
    return {name: getattr(after, name) - (0 if before is None else getattr(before, name)) for name in names}


def _batches(path: Path) -> Iterator[list[Frame]]:
    batch: list[Frame] = []
    size = 0
    for frame in frames_of(path):
        if batch and (size + len(frame.payload) > _BATCH_BYTES or len(batch) >= _BATCH_MESSAGES):
            yield batch
            batch, size = [], 0
        batch.append(frame)
        size += len(frame.payload)
    if batch:
        yield batch


def _leave_receipt(folder: Path, target: Target, device: str, epoch: int) -> str:
    sealed = target.receipt(device, epoch)
    path = folder / receipt_name(device, epoch)
    try:
        write_durably(path, sealed + b"\n")
    except OSError as error:
        raise StorageError(
            f"{path}: everything is stored, but the receipt cannot be written: {error.strerror or error}",
            hint="import again with the stick writable: the device keeps its results until it has the receipt",
        ) from error
    return path.name


def _notes(folder: Path, device: str, epoch: int, files: list[Checked]) -> Iterator[str]:
    """What the manifest says beside the files."""
    try:
        with (folder / manifest_name(device, epoch)).open("rb") as opened:
            manifest = decode_manifest(opened.read(MAX_MANIFEST_BYTES + 1))
    except FileNotFoundError:
        yield "there is no manifest: the export was not finished"
        return
    except MessageError as error:
        yield f"the manifest cannot be used: {error.message}"
        return
    there = {checked.path.name: checked.file.sha256 for checked in files}
    for file in manifest.files:
        if there.get(file.name) != file.sha256:
            yield f"{file.name}: the manifest names it, and it is not there as it was written"
    if not manifest.complete:
        yield "the export is not all that the device holds: export again"
