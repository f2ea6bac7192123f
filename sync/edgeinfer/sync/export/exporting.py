"""`edgeinfer export`: the device's side of the way. A receipt that came back is taken, then what is not acknowledged
is written: what lies on the stick already, whole and in order, is gone on from.

    report = export(Carrier(...), Path("/media/stick"))

Raises what is wrong with the device (BufferStorageError), the stick (StorageError, UsageError) or a receipt
(SignatureError, MessageError).
"""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.chain import genesis
from edgeinfer.runtime.chunk import NO_LINK, TOMBSTONE, StoredChunk
from edgeinfer.runtime.durable import write_durably
from edgeinfer.runtime.errors import MessageError, StorageError, UsageError
from edgeinfer.runtime.handoff import SyncDb, is_made
from edgeinfer.sync.export.layout import ExportedFile, Manifest, decode_link, manifest_name, receipt_name
from edgeinfer.sync.export.receipts import MAX_RECEIPT_BYTES, Receipt, open_receipt, record
from edgeinfer.sync.export.stick import Stick
from edgeinfer.sync.export.writing import ExportSink, storage_error
from edgeinfer.sync.sinks.base import Batch, SinkError, SinkRefusedError
from edgeinfer.sync.sinks.batching import fitting, outgoing
from edgeinfer.sync.sinks.birth import birth_message

__all__ = ["Carrier", "ExportReport", "ReceiptTaken", "export", "take_receipt"]

MAX_FILE_BYTES = 64 << 20
# Left free on the stick: the manifest, and the receipt on the way back.
_RESERVE_BYTES = 2 << 20
_BATCH_BYTES = 4 << 20
_PAGE = 16
_FULL_HINT = "import what is on it, bring the receipt, and export again"


class Carrier(msgspec.Struct, frozen=True, kw_only=True):
    """Whose results are carried: the daemon's folder, the agent's (or None), and which consoles may sign for them."""

    device: str
    tenant: str
    state_dir: Path
    sync_dir: Path | None
    console_keys: tuple[bytes, ...] = ()


class ReceiptTaken(msgspec.Struct, frozen=True):
    """`recorded`: it is in `sync.db`; else the running agent puts it there within a second or two."""

    epoch: int
    seq: int
    recorded: bool


class ExportReport(msgspec.Struct, frozen=True, kw_only=True):
    """What lies on the stick now. `first_seq` to `last_seq` are in `files`, of them `written` were written this time;
    `evicted` numbers are tombstones. `complete`: the stick holds all that is durable and not acknowledged."""

    device: str
    epoch: int
    acknowledged: int
    durable: int
    first_seq: int = 0
    last_seq: int = 0
    chunks: int = 0
    evicted: int = 0
    bytes: int = 0
    written: int = 0
    complete: bool = True
    reason: str = ""
    files: tuple[str, ...] = ()
    receipt: ReceiptTaken | None = None


def export(carrier: Carrier, folder: Path, *, max_file_bytes: int = MAX_FILE_BYTES) -> ExportReport:
    """Write what is durable and not acknowledged into `folder`; a receipt that lies there is taken before."""
    _check_folder(folder)
    with BufferReader(carrier.state_dir / "buffer.db") as reader:
        taken = _take(carrier, folder, reader)
        epoch, durable = reader.epoch, reader.durable_seq()
        acked = max(_acknowledged(carrier, epoch), taken.seq if taken is not None and taken.epoch == epoch else 0)
        report = ExportReport(device=carrier.device, epoch=epoch, acknowledged=acked, durable=durable, receipt=taken)
        try:
            return _export(carrier, folder, reader, report, max_file_bytes)
        except OSError as error:
            raise storage_error(folder, error) from error


def take_receipt(carrier: Carrier, folder: Path) -> ReceiptTaken | None:
    """Only that: None where no receipt for this device lies in `folder`."""
    _check_folder(folder)
    with BufferReader(carrier.state_dir / "buffer.db") as reader:
        return _take(carrier, folder, reader)


def _export(
    carrier: Carrier, folder: Path, reader: BufferReader, report: ExportReport, max_file_bytes: int
) -> ExportReport:
    stick = Stick(folder, device=carrier.device, tenant=carrier.tenant, epoch=report.epoch)
    stick.remove_unfinished()
    kept = stick.run_after(report.acknowledged)
    after_seq = kept[-1].last_seq if kept else report.acknowledged
    link = decode_link(kept[-1].link_after) if kept else _link_at(reader, report.epoch, after_seq)
    sink = ExportSink(
        folder,
        device=carrier.device,
        tenant=carrier.tenant,
        epoch=report.epoch,
        max_bytes=max_file_bytes,
        link_before=link,
    )
    # What lies on the stick already may be damaged until it is imported: it can still come, from here.
    birth = birth_message(
        carrier.state_dir,
        session="export",
        epoch=report.epoch,
        lowest_seq=max(reader.first_seq(), report.acknowledged + 1),
    )
    batches = _batches(carrier, reader, birth, after_seq=after_seq, up_to=report.durable)
    reason = _write(folder, sink, batches)
    files = (*kept, *sink.files)
    if files:
        _write_manifest(carrier, folder, report, files)
    present = {file.name for file in files}
    stick.remove_superseded(report.acknowledged, complete=not reason, present=present)
    return _described(report, files, written=len(sink.files), reason=reason)


def _write(folder: Path, sink: ExportSink, batches: Iterator[Batch]) -> str:
    """All of `batches`; why not all of it, where something stopped it. Files that are whole stay."""
    reason = ""
    try:
        for batch in batches:
            if shutil.disk_usage(folder).free < batch.size + _RESERVE_BYTES:
                reason = f"{folder}: is full ({_FULL_HINT})"
                break
            sink.deliver(batch)
        sink.finish()
    except SinkRefusedError as error:
        return error.message + f" ({_FULL_HINT})"
    except SinkError as error:
        raise StorageError(error.message, hint=error.hint) from error
    finally:
        sink.close()
    return reason


def _batches(carrier: Carrier, reader: BufferReader, birth: bytes, *, after_seq: int, up_to: int) -> Iterator[Batch]:
    epoch = reader.epoch
    while after_seq < up_to:
        page = reader.chunks(after_seq, limit=_PAGE)
        found = [outgoing(chunk, epoch, given_up=_ignored) for chunk in page if chunk.first_seq <= up_to]
        if not found:
            return
        batch = Batch(carrier.device, epoch, tuple(fitting(found, _BATCH_BYTES)), birth)
        yield batch
        after_seq = batch.last_seq


def _ignored(_chunk: StoredChunk, _reason: str) -> None:
    """The tombstone says it, and the audit counts it."""


def _write_manifest(carrier: Carrier, folder: Path, report: ExportReport, files: tuple[ExportedFile, ...]) -> None:
    manifest = Manifest(
        device=carrier.device,
        tenant=carrier.tenant,
        epoch=report.epoch,
        first_seq=files[0].first_seq,
        last_seq=files[-1].last_seq,
        chunks=sum(file.chunks for file in files),
        evicted=sum(file.evicted for file in files),
        complete=files[-1].last_seq >= report.durable,
        link_before=files[0].link_before,
        link_after=files[-1].link_after,
        made_s=max(0, int(time.time())),
        files=files,
    )
    encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
    write_durably(folder / manifest_name(carrier.device, report.epoch), encoded)


def _described(report: ExportReport, files: tuple[ExportedFile, ...], *, written: int, reason: str) -> ExportReport:
    if not files:
        return msgspec.structs.replace(report, complete=not reason, reason=reason)
    return msgspec.structs.replace(
        report,
        first_seq=files[0].first_seq,
        last_seq=files[-1].last_seq,
        chunks=sum(file.chunks for file in files),
        evicted=sum(file.evicted for file in files),
        bytes=sum(file.bytes for file in files),
        written=written,
        complete=not reason and files[-1].last_seq >= report.durable,
        reason=reason,
        files=tuple(file.name for file in files),
    )


def _take(carrier: Carrier, folder: Path, reader: BufferReader) -> ReceiptTaken | None:
    epoch = reader.epoch
    path = folder / receipt_name(carrier.device, epoch)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_RECEIPT_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error
    if carrier.sync_dir is None:
        raise UsageError(
            f"{path}: expected the agent's folder to record the receipt in, found none",
            hint="[sync] state_dir in edgeinfer.toml, or --sync-dir",
        )
    receipt = open_receipt(raw, trusted=carrier.console_keys, device=carrier.device, tenant=carrier.tenant)
    _check_receipt(reader, receipt, epoch)
    is_known = _acknowledged(carrier, epoch) >= receipt.seq
    return ReceiptTaken(receipt.epoch, receipt.seq, is_known or record(carrier.sync_dir, receipt))


def _check_receipt(reader: BufferReader, receipt: Receipt, epoch: int) -> None:
    """It lets results be deleted: it must not claim more than there is, nor something else. Raises MessageError."""
    if receipt.epoch != epoch:
        raise MessageError(f"expected a receipt for epoch {epoch}, found one for {receipt.epoch}")
    durable = reader.durable_seq()
    if receipt.seq > durable:
        raise MessageError(
            f"expected a receipt up to {durable} at most, found {receipt.seq}: was this buffer put back from a backup?"
        )
    if _is_of_other_chain(reader, receipt):
        raise MessageError(
            f"the console's hash chain differs at {receipt.seq}: it holds other results than this device sent",
            hint="do two devices have one name?",
        )


def _is_of_other_chain(reader: BufferReader, receipt: Receipt) -> bool:
    """Whether what the console has up to `seq` ends otherwise than here, as far as both know the link. Nothing ends
    within a chunk, but where a tombstone stands for several."""
    chunks = reader.chunks(receipt.seq - 1, limit=1) if receipt.seq and receipt.link else []
    if not chunks or chunks[0].first_seq > receipt.seq or chunks[0].link == NO_LINK:
        return False
    if chunks[0].last_seq > receipt.seq:
        return chunks[0].codec != TOMBSTONE
    return chunks[0].link != bytes.fromhex(receipt.link)


def _link_at(reader: BufferReader, epoch: int, seq: int) -> bytes:
    """The link of the chain after `seq`, where it is known: a chunk ends there and is still held."""
    if seq == 0:
        return genesis(epoch)
    chunks = reader.chunks(seq - 1, limit=1)
    return chunks[0].link if chunks and chunks[0].last_seq == seq else NO_LINK


def _acknowledged(carrier: Carrier, epoch: int) -> int:
    if carrier.sync_dir is None or not is_made(carrier.sync_dir / "sync.db"):
        return 0
    with SyncDb(carrier.sync_dir / "sync.db", read_only=True) as db:
        return db.acknowledged(epoch)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder", hint="is the stick mounted there?")
