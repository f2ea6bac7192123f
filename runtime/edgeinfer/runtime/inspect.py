"""Looks into a device's databases from outside: the results that the buffer holds, and what their numbers mean.

    for stored in results(Path("/var/lib/edgeinfer"), limit=20): ...

Reads only; works while the daemon runs and after it has ended.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.chunk import TOMBSTONE, StoredChunk
from edgeinfer.runtime.codec import decode
from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.errors import EdgeInferError
from edgeinfer.runtime.handoff import RuntimeDb
from edgeinfer.runtime.manifest import Manifest, RegressPost
from edgeinfer.runtime.package import MANIFEST, parse_labels, parse_manifest
from edgeinfer.runtime.results import Result

__all__ = ["StoredResult", "label_names", "pipeline_names", "results", "units"]

BUFFER_FILE = "buffer.db"
RUNTIME_FILE = "runtime.db"
_PAGE = 64


class StoredResult(msgspec.Struct, frozen=True):
    """A result with its number and its pipeline."""

    seq: int
    pipeline: str
    result: Result


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


def pipeline_names(state_dir: Path) -> list[str]:
    """The pipelines that the daemon last showed, and those that the buffer has something of; sorted.

    Raises BufferStorageError.
    """
    with BufferReader(state_dir / BUFFER_FILE) as reader:
        names = reader.pipelines()
    with suppress(EdgeInferError, OSError, *MALFORMED):  # a buffer can be read without the status beside it
        names |= set(_status(state_dir).pipelines)
    return sorted(names)


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
    status = _status(state_dir)
    for name, pipeline in status.pipelines.items():
        folder = state_dir / "models" / "packages" / status.models[pipeline.model].digest
        yield name, folder, parse_manifest((folder / MANIFEST).read_bytes())


def _status(state_dir: Path) -> "_Status":
    with RuntimeDb(state_dir / RUNTIME_FILE, read_only=True) as db:
        return msgspec.json.decode(db.status(), type=_Status)


class _Running(msgspec.Struct, frozen=True):
    digest: str = ""
    model: str = ""


class _Status(msgspec.Struct, frozen=True):
    """The part of the status document that leads from a pipeline to its package."""

    models: dict[str, _Running] = {}
    pipelines: dict[str, _Running] = {}


def _decoded(chunk: StoredChunk) -> Sequence[StoredResult]:
    decoded = decode(chunk.codec, chunk.body, n=chunk.n)
    return [StoredResult(chunk.first_seq + index, chunk.pipeline, result) for index, result in enumerate(decoded)]


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
