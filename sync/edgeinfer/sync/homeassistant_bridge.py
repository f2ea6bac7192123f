"""Tells Home Assistant of this device: decodes the newest chunk of each pipeline, at most once a second.

Imported only where it is switched on, or was and has to be undone.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.chunk import EVICTED_PIPELINE, TOMBSTONE, StoredChunk
from edgeinfer.runtime.codec import decode
from edgeinfer.runtime.errors import BufferStorageError, CodecError, EdgeInferError
from edgeinfer.runtime.handoff import SyncDb
from edgeinfer.runtime.package import parse_labels, parse_manifest
from edgeinfer.runtime.results import OF_A_FRAME, Kind, Result
from edgeinfer.runtime.watched import Watched
from edgeinfer.sync.allowance import Allowance, Priority
from edgeinfer.sync.daemon_view import DaemonView
from edgeinfer.sync.homeassistant import discovery, event_payload, event_topic, state_payload, state_topic
from edgeinfer.sync.mqtt import MqttLink, Ticket
from edgeinfer.sync.settings import SyncConfig

__all__ = ["NOTE", "HomeAssistantBridge"]

_log = logging.getLogger(__name__)

# The retained topics that were published, in `sync.db`: what has to be emptied when it is switched off.
NOTE = "homeassistant"
_INTERVAL_S = 1.0
_CHUNKS = 32
# Further back than this nothing is news: a second of a busy device has fewer results.
_NEWS = 2000
_LARGEST_LABELS = 4 << 20


class HomeAssistantBridge:
    """`step` at each turn while the link is up, `connected` before at each new connection."""

    def __init__(
        self, config: SyncConfig, db: SyncDb, link: MqttLink, view: DaemonView, allowance: Allowance, *, version: str
    ) -> None:
        self._config = config
        self._db = db
        self._link = link
        self._view = view
        self._allowance = allowance
        self._version = version
        self._root = Path(config.runtime_dir)
        self._buffer = Watched(self._root / "buffer.db", BufferReader)
        self._shown = set(_topics(db.note(NOTE)))
        self._described: tuple[str, ...] | None = None
        self._going: tuple[Ticket, set[str]] | None = None  # removed; not known yet whether the broker has heard it
        self._labels: dict[str, tuple[str, ...]] = {}
        self._place = (0, -1)  # epoch, and the highest number that was looked at
        self._stepped_s = float("-inf")

    def connected(self) -> None:
        """Everything is said again: a removal that got lost would leave a dead entity for ever."""
        self._described = self._going = None

    def close(self) -> None:
        self._buffer.close()

    def step(self, now_s: float) -> None:
        """Raises BufferStorageError: `sync.db` cannot be written."""
        self._forget_removed()
        if now_s - self._stepped_s < _INTERVAL_S:
            return
        self._stepped_s = now_s
        if not self._describe(now_s):
            return
        reader = self._buffer.current()
        if reader is None or not self._config.homeassistant.enabled:
            return
        try:
            chunks = self._news(reader)
        except BufferStorageError as error:
            self._buffer.failed(error)
            return
        self._tell(chunks, now_s)

    def _describe(self, now_s: float) -> bool:
        """Publish the entities of the pipelines that there are, and remove those of others. True: all is said."""
        enabled = self._config.homeassistant.enabled
        pipelines = tuple(sorted(self._view.status.pipelines)) if enabled else ()
        if pipelines == self._described:
            return True
        if enabled and not pipelines:
            return False  # the daemon has not said yet
        wanted: dict[str, bytes] = {}
        for pipeline in pipelines:
            wanted |= discovery(
                self._config.homeassistant,
                tenant=self._config.tenant,
                device=self._config.device,
                pipeline=pipeline,
                version=self._version,
            )
        states = {self._state_topic(pipeline) for pipeline in pipelines}
        kept = self._shown | wanted.keys() | states
        if kept != self._shown:
            self._remember(kept)  # before it is published: what is not on record would never be removed
        gone = self._shown - wanted.keys() - states
        documents = [*wanted.items(), *((name, b"") for name in sorted(gone))]
        for name, body in documents:
            if not self._link.publish(name, body, qos=1, retain=True):
                return False
            self._allowance.spent(Priority.TELEMETRY, len(body), now_s)
        self._going = (self._link.ticket(), gone) if gone else None
        self._described = pipelines
        return True

    def _forget_removed(self) -> None:
        if self._going is None or not self._link.is_confirmed(self._going[0]):
            return
        gone, self._going = self._going[1], None
        self._remember(self._shown - gone)
        _log.info("event=homeassistant_removed entities=%d", len(gone))

    def _news(self, reader: BufferReader) -> list[StoredChunk]:
        """What came since the last look, its end where that is too much; at the first look only the newest."""
        epoch, durable = reader.epoch, reader.durable_seq()
        seen = self._place[1] if self._place[0] == epoch else durable - _NEWS
        chunks: list[StoredChunk] = []
        after = max(0, seen, durable - _NEWS)
        while after < durable:
            found = reader.chunks(after, limit=_CHUNKS)
            if not found:
                break
            chunks += found
            after = found[-1].last_seq
        is_first = self._place[0] != epoch
        self._place = (epoch, durable)
        return list({chunk.pipeline: chunk for chunk in chunks}.values()) if is_first else chunks

    def _tell(self, chunks: list[StoredChunk], now_s: float) -> None:
        newest: dict[str, Result] = {}
        for pipeline, result in _results(chunks):
            if result.kind is Kind.EVENT:
                self._say(
                    event_topic(self._config.tenant, self._config.device, pipeline),
                    event_payload(result, self._labels_of(pipeline)),
                    now_s,
                )
            elif result.kind in OF_A_FRAME:
                newest[pipeline] = result
        for pipeline, result in newest.items():
            body = state_payload(result, self._labels_of(pipeline))
            self._say(self._state_topic(pipeline), body, now_s, retain=True)

    def _say(self, name: str, body: bytes, now_s: float, *, retain: bool = False) -> None:
        if self._allowance.room(Priority.TELEMETRY, now_s) > 0 and self._link.publish(name, body, qos=0, retain=retain):
            self._allowance.spent(Priority.TELEMETRY, len(body), now_s)

    def _state_topic(self, pipeline: str) -> str:
        return state_topic(self._config.tenant, self._config.device, pipeline)

    def _labels_of(self, pipeline: str) -> tuple[str, ...]:
        status = self._view.status
        model = status.models.get(str(status.pipelines.get(pipeline, {}).get("model", "")), {})
        digest = model.get("digest", "")
        if digest not in self._labels:
            self._labels[digest] = _read_labels(self._root / "models" / "packages" / digest) if digest else ()
        return self._labels[digest]

    def _remember(self, topics: set[str]) -> None:
        self._db.set_note(NOTE, msgspec.json.encode(sorted(topics)) if topics else b"")
        self._shown = topics


def _results(chunks: list[StoredChunk]) -> Iterator[tuple[str, Result]]:
    """All results of what can be read, of pipelines that people know."""
    for chunk in chunks:
        if chunk.codec == TOMBSTONE or chunk.pipeline == EVICTED_PIPELINE or chunk.pipeline.startswith("_"):
            continue
        try:
            results = decode(chunk.codec, chunk.body, n=chunk.n)
        except CodecError as error:
            _log.debug("event=chunk_unreadable first_seq=%d reason=%r", chunk.first_seq, str(error))
            continue
        for result in results:
            yield chunk.pipeline, result


def _read_labels(folder: Path) -> tuple[str, ...]:
    """Names are a courtesy: without them there are numbers."""
    try:
        manifest = parse_manifest((folder / "manifest.json").read_bytes())
        file = folder / manifest.labels[0] if manifest.labels is not None else None
        if file is None or file.stat().st_size > _LARGEST_LABELS:
            return ()
        return parse_labels(file.read_bytes())
    except (EdgeInferError, OSError, ValueError):
        return ()


def _topics(note: bytes) -> list[str]:
    try:
        return msgspec.json.decode(note, type=list[str]) if note else []
    except (msgspec.DecodeError, ValueError):
        return []
