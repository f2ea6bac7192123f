"""Moves chunks from the buffer to the broker, and acknowledgements into `sync.db`.

The decisions are `UploadSession`'s; this is the part with a database on either side. What was acknowledged is
made durable every few seconds, not each time: a commit costs flash, and all that a crash costs is to send again
what the console then ignores.
"""

import logging
import zlib
from pathlib import Path

from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.chunk import StoredChunk, tombstone
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.handoff import SyncDb
from edgeinfer.runtime.watched import Watched
from edgeinfer.sync.loglimit import LogLimit
from edgeinfer.sync.messages import MAX_CHUNK_BYTES, Ack, ChunkMessage, decode, encode_chunk, topic
from edgeinfer.sync.mqtt import MqttLink
from edgeinfer.sync.session import AckVerdict, UploadSession
from edgeinfer.sync.settings import SyncConfig

__all__ = ["Uploader"]

_log = logging.getLogger(__name__)


class Uploader:
    """Uploads the buffer's present epoch. `sent_results`, `acknowledged_results` and `sent_bytes` count since
    the start of this object; resent chunks count in bytes only."""

    def __init__(self, config: SyncConfig, db: SyncDb, link: MqttLink) -> None:
        self._config = config
        self._db = db
        self._link = link
        self._buffer = Watched(Path(config.runtime_dir) / "buffer.db", BufferReader)
        self._session: UploadSession | None = None
        self._quota = 0
        self._persisted = (0, 0)
        self._persisted_s = 0.0
        self._limit = LogLimit()
        self.sent_results = 0
        self.acknowledged_results = 0
        self.sent_bytes = 0

    def connected(self, now_s: float) -> None:
        """A new connection: send again from what is acknowledged."""
        self._quota = self._link.send_quota
        if self._session is not None:
            self._session.connected(now_s, quota=self._quota)

    def lost(self) -> None:
        self._quota = 0
        if self._session is not None:
            self._session.lost()

    def step(self, now_s: float) -> None:
        """Send what the window has room for, and keep progress durable."""
        reader = self._buffer.current()
        if reader is not None:
            try:
                self._follow_epoch(reader, now_s)
                self._send(reader, now_s)
            except BufferStorageError as error:
                self._buffer.failed(error)
        self.persist(now_s)

    def acknowledge(self, raw: bytes, now_s: float) -> None:
        """Take the payload of `down/ack`. Raises MessageError."""
        ack = decode(raw, Ack)
        session = self._session
        if session is None:
            return
        before = session.acked_seq
        verdict = session.acknowledge(ack, now_s)
        self.acknowledged_results += session.acked_seq - before
        if verdict is AckVerdict.BEYOND and (held := self._limit.admit("beyond", now_s)) is not None:
            _log.warning("event=ack_beyond_sent acked=%d sent=%d held_back=%d", ack.seq, session.sent_seq, held)

    def persist(self, now_s: float, *, at_once: bool = False) -> None:
        """Make progress durable when it is time to. Raises BufferStorageError."""
        session = self._session
        if session is None or not (at_once or now_s - self._persisted_s >= self._config.upload.persist_interval_s):
            return
        progress = (session.acked_seq, session.sent_seq)
        if progress == self._persisted:
            return
        self._persisted_s = now_s
        if session.acked_seq != self._persisted[0]:
            self._db.set_acknowledged(session.epoch, session.acked_seq)
        if session.sent_seq != self._persisted[1]:
            self._db.set_counter("sent", session.sent_seq)
        self._persisted = progress

    def close(self, now_s: float) -> None:
        """Raises BufferStorageError when progress could not be made durable."""
        try:
            self.persist(now_s, at_once=True)
        finally:
            self._buffer.close()

    def floor(self) -> dict[str, int]:
        """The present epoch, and the lowest sequence number that can still come of it."""
        reader, session = self._buffer.current(), self._session
        if reader is None or session is None:
            return {}
        try:
            first_seq = reader.first_seq()
        except BufferStorageError as error:
            self._buffer.failed(error)
            return {}
        return {str(session.epoch): max(first_seq, session.acked_seq + 1)}

    def audit(self) -> dict[str, int]:
        """What the device itself counts: epoch, made, durable, evicted, sent, acknowledged, bytes, backlog."""
        reader, session = self._buffer.current(), self._session
        if reader is None or session is None:
            return {}
        try:
            counts = reader.audit_counts()
            held_bytes = reader.bytes()
        except (BufferStorageError, OSError) as error:
            _log.debug("event=audit_unreadable reason=%r", str(error))
            return {}
        return counts | {
            "epoch": session.epoch,
            "sent": session.sent_seq,
            "acknowledged": session.acked_seq,
            "bytes": held_bytes,
            "backlog": max(0, counts["durable"] - session.acked_seq),
        }

    def durable_seq(self) -> int | None:
        """The highest sequence number in the buffer; None while there is no buffer."""
        reader = self._buffer.current()
        try:
            return None if reader is None else reader.durable_seq()
        except BufferStorageError as error:
            self._buffer.failed(error)
            return None

    @property
    def acked_seq(self) -> int:
        return 0 if self._session is None else self._session.acked_seq

    def _follow_epoch(self, reader: BufferReader, now_s: float) -> None:
        """A new buffer begins a new epoch; what the old one held is gone with it."""
        epoch = reader.epoch
        if self._session is not None and self._session.epoch == epoch:
            return
        self.persist(now_s, at_once=True)
        acked = self._db.acknowledged(epoch)
        sent = self._db.counter("sent") if self._db.counter("sent_epoch") == epoch else 0
        if sent == 0:
            self._db.set_counter("sent", acked)
            self._db.set_counter("sent_epoch", epoch)
        self._session = UploadSession(self._config.upload, epoch=epoch, acked_seq=acked, sent_seq=sent)
        self._persisted = (acked, self._session.sent_seq)
        _log.info("event=upload_epoch epoch=%d acknowledged=%d durable=%d", epoch, acked, reader.durable_seq())
        if acked > reader.durable_seq():
            _log.error("event=buffer_behind_acknowledged acknowledged=%d durable=%d", acked, reader.durable_seq())
        if self._quota:
            self._session.connected(now_s, quota=self._quota)

    def _send(self, reader: BufferReader, now_s: float) -> None:
        session = self._session
        if session is None or not self._quota:
            return
        if session.tick(now_s):
            _log.warning("event=no_acknowledgement acked=%d state=%s", session.acked_seq, session.state.value)
        durable = reader.durable_seq()
        while (want := session.want()) is not None and want.after_seq < durable:
            chunks = reader.chunks(want.after_seq, limit=want.limit)
            if not chunks or not all(self._publish(session, chunk, now_s) for chunk in chunks):
                return

    def _publish(self, session: UploadSession, chunk: StoredChunk, now_s: float) -> bool:
        name, raw = self._message(session, self._undamaged(chunk, now_s))
        if len(raw) > MAX_CHUNK_BYTES or not self._link.fits(name, len(raw)):
            name, raw = self._message(session, self._given_up(chunk, "too large", now_s))
        if not self._link.publish(name, raw, qos=1):
            return False
        self.sent_results += max(0, chunk.last_seq - max(session.sent_seq, chunk.first_seq - 1))
        self.sent_bytes += len(raw)
        session.sent(chunk.first_seq, chunk.n, size=len(raw), now_s=now_s)
        return True

    def _message(self, session: UploadSession, chunk: StoredChunk) -> tuple[str, bytes]:
        message = ChunkMessage(chunk.codec, session.epoch, chunk.first_seq, chunk.n, chunk.crc, chunk.body)
        return topic(self._config.tenant, self._config.device, f"up/res/{chunk.pipeline}"), encode_chunk(message)

    def _undamaged(self, chunk: StoredChunk, now_s: float) -> StoredChunk:
        """The chunk as it was written, or a tombstone: the console refuses what has rotted, and what it lacks
        would keep back all that comes after."""
        return chunk if zlib.crc32(chunk.body) == chunk.crc else self._given_up(chunk, "damaged", now_s)

    def _given_up(self, chunk: StoredChunk, reason: str, now_s: float) -> StoredChunk:
        if (held := self._limit.admit(reason, now_s)) is not None:
            _log.error(
                "event=chunk_given_up reason=%r first_seq=%d n=%d bytes=%d held_back=%d",
                reason, chunk.first_seq, chunk.n, len(chunk.body), held,
            )  # fmt: skip
        return tombstone(chunk.first_seq, chunk.n, t0_ns=chunk.t0_ns, reason=reason)
