"""Looks into a device's databases from outside: what the buffer holds, and whether anything is missing.

    audit(Path("/var/lib/edgeinfer"), Path("/var/lib/edgeinfer-sync"))
    for stored in results(Path("/var/lib/edgeinfer"), limit=20): ...

Reads only; works while the daemon runs and after it has ended.
"""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.chunk import TOMBSTONE, StoredChunk
from edgeinfer.runtime.codec import decode
from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.errors import EdgeInferError
from edgeinfer.runtime.handoff import RuntimeDb, SyncDb
from edgeinfer.runtime.manifest import Manifest, RegressPost
from edgeinfer.runtime.package import MANIFEST, parse_labels, parse_manifest
from edgeinfer.runtime.results import Result

__all__ = [
    "Audit",
    "Continuity",
    "Head",
    "StoredResult",
    "audit",
    "check_continuity",
    "label_names",
    "results",
    "units",
]

BUFFER_FILE = "buffer.db"
SYNC_FILE = "sync.db"
RUNTIME_FILE = "runtime.db"
# The agent's counters: the highest sequence number that it has sent, and of which epoch.
_SENT, _SENT_EPOCH = "sent", "sent_epoch"
_PAGE = 64


class Audit(msgspec.Struct, frozen=True):
    """What became of every result and every frame of this device, for the buffer's present epoch.

    `made` results were numbered, `durable` of them are on disk or were; `sent` and `acknowledged` are the
    highest numbers that the agent has sent and the console has stored; `evicted` were given up because the
    buffer was full. `gaps` are inclusive ranges that the buffer should hold and does not, `duplicates` the
    numbers that it holds twice, `damaged` the chunks whose checksum is wrong. `frames` counts by state.
    """

    epoch: int
    made: int
    durable: int
    sent: int
    acknowledged: int
    evicted: int
    gaps: tuple[tuple[int, int], ...]
    duplicates: int
    frames: dict[str, int]
    damaged: int
    held: int
    bytes: int
    pipelines: dict[str, dict[str, int]]

    @property
    def ok(self) -> bool:
        """Nothing is missing, doubled or damaged."""
        return not (self.gaps or self.duplicates or self.damaged)


class StoredResult(msgspec.Struct, frozen=True):
    """A result with its number and its pipeline."""

    seq: int
    pipeline: str
    result: Result


class Head(msgspec.Struct, frozen=True):
    """What continuity needs of a chunk."""

    first_seq: int
    last_seq: int
    is_tombstone: bool
    is_sound: bool


class Continuity(msgspec.Struct, frozen=True):
    """What a walk over the chunks found."""

    gaps: tuple[tuple[int, int], ...]
    duplicates: int
    damaged: int
    held: int


def audit(state_dir: Path, sync_dir: Path | None) -> Audit:
    """Walk the whole buffer in `state_dir`. Raises BufferStorageError where there is none.

    `sync_dir` is the agent's folder; without one, or before its first start, nothing was sent.
    """
    with BufferReader(state_dir / BUFFER_FILE) as reader:
        epoch = reader.epoch
        durable = reader.durable_seq()
        chunks = [_head(chunk) for chunk in _all_chunks(reader, up_to=durable)]
        # In this order: what the daemon drops during the walk was acknowledged before it was dropped.
        sent, acknowledged = _delivered(sync_dir, epoch)
        walk = check_continuity(chunks, last=durable, acknowledged=acknowledged)
        counts = reader.audit_counts()
        pipelines = reader.frames()
        size = reader.bytes()
    return Audit(
        epoch=epoch,
        made=counts["made"],
        durable=counts["durable"],
        sent=max(sent, acknowledged),
        acknowledged=acknowledged,
        evicted=counts["evicted"],
        gaps=walk.gaps,
        duplicates=walk.duplicates,
        frames=_totals(pipelines),
        damaged=walk.damaged,
        held=walk.held,
        bytes=size,
        pipelines=pipelines,
    )


def check_continuity(chunks: Iterable[Head], *, last: int, acknowledged: int) -> Continuity:
    """Whether `chunks`, in order, cover acknowledged + 1 .. last exactly once. What is acknowledged may be gone."""
    gaps: list[tuple[int, int]] = []
    duplicates = damaged = held = 0
    expected = 1
    for chunk in chunks:
        missing_from = max(expected, acknowledged + 1)
        if missing_from < chunk.first_seq:
            gaps.append((missing_from, chunk.first_seq - 1))
        damaged += not chunk.is_sound
        if not chunk.is_tombstone:
            # A tombstone that appeared during the walk may cover what was seen before it.
            duplicates += max(0, min(expected, chunk.last_seq + 1) - chunk.first_seq)
            held += chunk.last_seq - chunk.first_seq + 1
        expected = max(expected, chunk.last_seq + 1)
    missing_from = max(expected, acknowledged + 1)
    if missing_from <= last:
        gaps.append((missing_from, last))
    return Continuity(tuple(gaps), duplicates, damaged, held)


def results(state_dir: Path, *, pipeline: str = "", after_seq: int = 0, limit: int = 20) -> list[StoredResult]:
    """The newest `limit` results with a number beyond `after_seq`, oldest first.

    Raises BufferStorageError, CodecError.
    """
    with BufferReader(state_dir / BUFFER_FILE) as reader:
        found: list[StoredResult] = []
        for chunk in _newest_first(reader, after_seq):
            if chunk.codec == TOMBSTONE or (pipeline and chunk.pipeline != pipeline):
                continue
            found[:0] = [entry for entry in _decoded(chunk) if entry.seq > after_seq]
            if len(found) >= limit:
                break
    return found[-limit:] if limit else []


def label_names(state_dir: Path) -> dict[str, tuple[str, ...]]:
    """The labels of each pipeline's package, as the daemon last showed it; a pipeline without any is left out."""
    found: dict[str, tuple[str, ...]] = {}
    # Names are a courtesy: without them there are numbers.
    with suppress(EdgeInferError, OSError, KeyError, *MALFORMED):
        for name, folder, manifest in _running(state_dir):
            if manifest.labels is not None:
                found[name] = parse_labels((folder / manifest.labels[0]).read_bytes())
    return found


def units(state_dir: Path) -> dict[str, str]:
    """The unit of each pipeline whose package measures something in one, as the daemon last showed it."""
    found: dict[str, str] = {}
    with suppress(EdgeInferError, OSError, KeyError, *MALFORMED):
        for name, _, manifest in _running(state_dir):
            if isinstance(manifest.postprocess, RegressPost) and manifest.postprocess.unit:
                found[name] = manifest.postprocess.unit
    return found


def _running(state_dir: Path) -> Iterator[tuple[str, Path, Manifest]]:
    """The name of each pipeline, with the folder and the manifest of its package."""
    with RuntimeDb(state_dir / RUNTIME_FILE, read_only=True) as db:
        status = msgspec.json.decode(db.status(), type=_Status)
    for name, pipeline in status.pipelines.items():
        folder = state_dir / "models" / "packages" / status.models[pipeline.model].digest
        yield name, folder, parse_manifest((folder / MANIFEST).read_bytes())


class _Running(msgspec.Struct, frozen=True):
    digest: str = ""
    model: str = ""


class _Status(msgspec.Struct, frozen=True):
    """The part of the status document that leads from a pipeline to its package."""

    models: dict[str, _Running] = {}
    pipelines: dict[str, _Running] = {}


def _head(chunk: StoredChunk) -> Head:
    return Head(chunk.first_seq, chunk.last_seq, chunk.codec == TOMBSTONE, zlib.crc32(chunk.body) == chunk.crc)


def _decoded(chunk: StoredChunk) -> Sequence[StoredResult]:
    decoded = decode(chunk.codec, chunk.body, n=chunk.n)
    return [StoredResult(chunk.first_seq + index, chunk.pipeline, result) for index, result in enumerate(decoded)]


def _all_chunks(reader: BufferReader, *, up_to: int) -> Iterator[StoredChunk]:
    after_seq = 0
    while page := reader.chunks(after_seq, limit=_PAGE):
        for chunk in page:
            if chunk.first_seq > up_to:
                return
            yield chunk
        after_seq = page[-1].last_seq


def _newest_first(reader: BufferReader, after_seq: int) -> Iterator[StoredChunk]:
    """Chunks from the end backwards, in pages: nobody waits for a gigabyte to see the last results."""
    end = reader.durable_seq()
    start = max(after_seq, reader.first_seq() - 1)
    span = 1000
    while end > start:
        begin = max(start, end - span)
        page = [chunk for chunk in _between(reader, begin, end) if chunk.last_seq <= end]
        yield from reversed(page)
        end = (page[0].first_seq - 1) if page else begin
        span *= 2


def _between(reader: BufferReader, after_seq: int, up_to: int) -> list[StoredChunk]:
    found: list[StoredChunk] = []
    while page := reader.chunks(after_seq, limit=_PAGE):
        found += [chunk for chunk in page if chunk.first_seq <= up_to]
        after_seq = page[-1].last_seq
        if after_seq >= up_to:
            break
    return found


def _delivered(sync_dir: Path | None, epoch: int) -> tuple[int, int]:
    """The highest numbers that were sent and acknowledged, as the agent's database says."""
    if sync_dir is None or not (sync_dir / SYNC_FILE).exists():
        return 0, 0
    with SyncDb(sync_dir / SYNC_FILE, read_only=True) as sync:
        sent = sync.counter(_SENT) if sync.counter(_SENT_EPOCH) == epoch else 0
        return sent, sync.acknowledged(epoch)


def _totals(pipelines: dict[str, dict[str, int]]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for states in pipelines.values():
        for state, count in states.items():
            totals[state] = totals.get(state, 0) + count
    return totals
