"""Moves the buffer's chunks through a sink, and what the sink answers into `sync.db`.

One batch is on its way at a time, in the sink's own thread; all else is done by the agent's thread in `step`: the
buffer and the databases have one user. What was sent and not acknowledged is simply read again: the only thing to be
remembered is how far the other side has everything.
"""

import logging
import random
from collections.abc import Callable
from pathlib import Path

from edgeinfer.runtime.backoff import Backoff
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.chunk import NO_LINK, TOMBSTONE, StoredChunk
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.handoff import SyncDb
from edgeinfer.runtime.watched import Watched
from edgeinfer.sync.allowance import Allowance, Priority
from edgeinfer.sync.held import audit_counts, durable_seq
from edgeinfer.sync.loglimit import LogLimit
from edgeinfer.sync.messages import Ack, decode_chunk
from edgeinfer.sync.settings import SyncConfig
from edgeinfer.sync.sinks.base import Batch, BatchTooLargeError, Chunk, Sink, SinkBusyError, SinkError
from edgeinfer.sync.sinks.batching import fitting, outgoing, split
from edgeinfer.sync.sinks.birth import birth_message
from edgeinfer.sync.sinks.courier import Courier
from edgeinfer.sync.sinks.settings import HttpSinkConfig, KafkaSinkConfig

__all__ = ["SinkWay"]

_log = logging.getLogger(__name__)

_PAGE = 16  # chunks that are read at once: 64 MiB where each is as large as can be
_MAX_CHUNKS = 256
_STOP_S = 0.5
# What even a line of 1 kB/s carries within the time that a batch may take; a larger batch might never arrive.
_LEAST_BATCH_BYTES = 4 << 10


class SinkWay:
    """A `Way` through `sink`, which it owns. Counts are those that `Way` describes."""

    def __init__(
        self,
        config: SyncConfig,
        sink_config: HttpSinkConfig | KafkaSinkConfig,
        db: SyncDb,
        sink: Sink,
        *,
        allowance: Allowance,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._sink_config = sink_config
        self._db = db
        self._allowance = allowance
        self._buffer = Watched(Path(config.runtime_dir) / "buffer.db", BufferReader)
        self._courier = Courier(sink, name="sink", done=wake)
        self._waits = Backoff(cap_s=sink_config.retry_max_s)
        self._limit = LogLimit()
        self._epoch = -1
        self._acked = 0
        self._sent = 0  # without a hole; `_most_sent` is the highest that ever left, by whatever way
        self._most_sent = 0
        self._persisted = (0, 0)
        self._persisted_s = self._not_before_s = 0.0
        self._batch_bytes = sink_config.batch_bytes
        self._chunk_bytes = 0  # above 0: the largest chunk that the other side takes; larger ones are split
        self._unknown = True  # the other side may not have heard of this device, or have forgotten it
        self.sent_results = self.acknowledged_results = self.sent_bytes = 0
        self.conflict = 0
        self.setbacks = 0
        self.trouble = ""

    @property
    def acked_seq(self) -> int:
        return self._acked

    @property
    def busy(self) -> bool:
        return not self._courier.idle

    @property
    def local_address(self) -> str:
        return self._courier.local_address

    def connected(self, now_s: float) -> None:
        """The broker is not on this way."""

    def lost(self) -> None:
        """The broker is not on this way."""

    def acknowledge(self, raw: bytes, now_s: float) -> None:
        """The broker is not on this way."""

    def step(self, now_s: float) -> None:
        """As `Way.step`: take what has come back, hand over the next batch, keep progress durable."""
        self._take(now_s)
        reader = self._buffer.current()
        if reader is not None:
            try:
                self._follow_epoch(reader)
                if self._courier.idle and now_s >= self._not_before_s:
                    self._hand_next(reader, now_s)
            except BufferStorageError as error:
                self._buffer.failed(error)
        self._persist(now_s)

    def stored(self, epoch: int, seq: int, now_s: float) -> None:
        """Somebody has carried everything up to `seq` to the console, and brought its receipt."""
        if epoch == self._epoch:
            self._sent = max(self._sent, seq)
            self._advance(seq)
            self._persist(now_s, at_once=True)
        else:
            self._db.set_acknowledged(epoch, seq)

    def close(self, now_s: float) -> None:
        """As `Way.close`."""
        self._courier.stop(_STOP_S)
        self._take(now_s)
        try:
            self._persist(now_s, at_once=True)
        finally:
            self._buffer.close()

    def floor(self) -> dict[str, int]:
        """Nothing where results do not go to a console: it would take those that are gone from here for lost."""
        reader = self._buffer.current()
        if reader is None or self._epoch < 0 or not _feeds_console(self._sink_config):
            return {}
        try:
            return {str(self._epoch): self._lowest(reader)}
        except BufferStorageError as error:
            self._buffer.failed(error)
            return {}

    def audit(self) -> dict[str, int]:
        if self._epoch < 0:
            return {}
        sent = max(self._sent, self._most_sent)
        return audit_counts(self._buffer, epoch=self._epoch, sent=sent, acknowledged=self._acked)

    def durable_seq(self) -> int | None:
        return durable_seq(self._buffer)

    def _take(self, now_s: float) -> None:
        outcome = self._courier.take()
        if outcome is None:
            return
        batch, answer = outcome
        if batch.epoch != self._epoch:
            return  # the buffer was begun anew meanwhile
        if isinstance(answer, Ack) and answer.epoch != batch.epoch:
            answer = SinkError(f"expected an answer about epoch {batch.epoch}, found one about {answer.epoch}")
        if isinstance(answer, SinkError):
            self._failed(batch, answer, now_s)
        else:
            self._acknowledged(batch, answer, now_s)

    def _acknowledged(self, batch: Batch, ack: Ack, now_s: float) -> None:
        """Believed up to what was sent, and never backwards; nor beyond where the other side has something else: that
        is not what it acknowledges. An answer without progress is followed by a wait."""
        self._unknown = False
        conflict = ack.conflict or _other_chain(batch, ack)
        self.conflict = self.conflict or conflict
        most = min(self._sent, conflict - 1) if conflict else self._sent
        if self._advance(min(ack.seq, most)) and not conflict:
            self._waits.reset()
            self._batch_bytes = min(2 * self._batch_bytes, self._sink_config.batch_bytes)
            self.trouble = ""
            return
        self._unknown = True  # it lacks what this device takes for stored: it has to hear what can still come
        self._wait(now_s, self._waits.next())
        self.trouble = f"nothing new was stored of {batch.first_seq}-{batch.last_seq}: the other side is at {ack.seq}"
        if conflict:
            self.trouble = f"the other side has another result under number {conflict}: two devices have one name"
        self._say("no_progress", now_s)

    def _failed(self, batch: Batch, error: SinkError, now_s: float) -> None:
        self._unknown = True
        self.trouble = str(error)
        if isinstance(error, BatchTooLargeError) and self._made_smaller(batch):
            return
        if error.recoverable and not isinstance(error, BatchTooLargeError):
            least_s = error.retry_after_s if isinstance(error, SinkBusyError) else 0.0
            self._wait(now_s, max(least_s, self._waits.next()))
            # It may have been too much for this line in that time.
            self._batch_bytes = min(self._batch_bytes, max(batch.size // 2, _LEAST_BATCH_BYTES))
        else:
            self._wait(now_s, self._sink_config.refused_wait_s * random.uniform(0.5, 1.0))
        self._say(type(error).__name__, now_s)

    def _made_smaller(self, batch: Batch) -> bool:
        """Whether what comes next is smaller; a single result is all there is of it."""
        if len(batch.chunks) > 1:
            self._batch_bytes = max(1, batch.size // 2)
            return True
        (chunk,) = batch.chunks
        self._chunk_bytes = len(chunk.message) // 2
        return chunk.n > 1

    def _wait(self, now_s: float, wait_s: float) -> None:
        self._not_before_s = now_s + wait_s

    def _say(self, key: str, now_s: float) -> None:
        if (held := self._limit.admit(key, now_s)) is not None:
            _log.warning(
                "event=sink_trouble kind=%s acked=%d wait_s=%.1f reason=%r held_back=%d",
                key, self._acked, self._not_before_s - now_s, self.trouble, held,
            )  # fmt: skip

    def _advance(self, seq: int) -> bool:
        if seq <= self._acked:
            return False
        self.acknowledged_results += seq - self._acked
        self._acked = seq
        return True

    def _follow_epoch(self, reader: BufferReader) -> None:
        """A new buffer begins a new epoch; what the old one held is gone with it."""
        epoch = reader.epoch
        if epoch == self._epoch:
            return
        self._persist(0.0, at_once=True)
        acked = self._db.acknowledged(epoch)
        is_known = self._db.counter("sent_epoch") == epoch
        self._most_sent = max(acked, self._db.counter("sent") if is_known else 0)
        sent = min(self._most_sent, self._db.counter("sent_through")) if is_known else 0
        self._epoch, self._acked, self._sent = epoch, acked, max(acked, sent)
        self._persisted = (acked, self._sent)
        if not is_known:
            self._db.set_upload_progress(epoch, acked, sent_through=acked, sent=acked)
        self._unknown = True
        _log.info("event=sink_epoch epoch=%d acknowledged=%d durable=%d", epoch, acked, reader.durable_seq())

    def _hand_next(self, reader: BufferReader, now_s: float) -> None:
        durable = reader.durable_seq()
        if self._acked >= durable:
            return
        room = self._allowance.room(Priority.RESULTS, now_s)
        if room <= 0:
            return
        chunks = self._read(reader, durable, min(room, self._batch_bytes), now_s)
        if not chunks:
            return
        batch = Batch(self._config.device, self._epoch, tuple(chunks), self._birth(reader))
        self.sent_results += max(0, batch.last_seq - max(self._sent, batch.first_seq - 1))
        self.sent_bytes += batch.size
        self._sent = max(self._sent, batch.last_seq)
        self._allowance.spent(Priority.RESULTS, batch.size, now_s)
        self._courier.hand(batch)

    def _read(self, reader: BufferReader, durable: int, limit: int, now_s: float) -> list[Chunk]:
        """The next chunks, up to `limit` bytes of them; one at least, where there is one."""

        def given_up(chunk: StoredChunk, reason: str) -> None:
            if (held := self._limit.admit(reason, now_s)) is not None:
                _log.error(
                    "event=chunk_given_up reason=%r first_seq=%d n=%d held_back=%d",
                    reason, chunk.first_seq, chunk.n, held,
                )  # fmt: skip

        found: list[Chunk] = []
        after_seq, size = self._acked, 0
        while after_seq < durable and size < limit and len(found) < _MAX_CHUNKS:
            page = [
                outgoing(part, self._epoch, given_up=given_up)
                for chunk in reader.chunks(after_seq, limit=_PAGE)
                for part in split(chunk, self._chunk_bytes)
                if part.last_seq > self._acked
            ]
            if not page:
                break
            found += page
            after_seq = found[-1].last_seq
            size = sum(len(chunk.message) for chunk in found)
        return list(fitting(found, limit))

    def _birth(self, reader: BufferReader) -> bytes:
        if not self._unknown:
            return b""
        return birth_message(
            Path(self._config.runtime_dir),
            session=str(self._sink_config.__struct_config__.tag),
            epoch=self._epoch,
            lowest_seq=self._lowest(reader),
            groups=self._config.groups,
        )

    def _lowest(self, reader: BufferReader) -> int:
        return max(reader.first_seq(), self._acked + 1)

    def _persist(self, now_s: float, *, at_once: bool = False) -> None:
        """Progress becomes durable when it is time to: a commit costs flash, a crash only what is sent again."""
        due = at_once or now_s - self._persisted_s >= self._config.upload.persist_interval_s
        if self._epoch < 0 or not due or (self._acked, self._sent) == self._persisted:
            return
        self._persisted_s = now_s
        self._most_sent = max(self._most_sent, self._sent)
        self._db.set_upload_progress(self._epoch, self._acked, sent_through=self._sent, sent=self._most_sent)
        self._persisted = (self._acked, self._sent)


def _feeds_console(config: HttpSinkConfig | KafkaSinkConfig) -> bool:
    return isinstance(config, HttpSinkConfig) and config.receiver == "console"


def _other_chain(batch: Batch, ack: Ack) -> int:
    """The first number of the chunk that ends otherwise at the other side than here; 0 where it is the same, or the
    link is not known. Nothing ends within a chunk, but where a tombstone stands for several."""
    chunk = next((chunk for chunk in batch.chunks if chunk.first_seq <= ack.seq <= chunk.last_seq), None)
    if chunk is None or not ack.link or (chunk.codec == TOMBSTONE and chunk.last_seq > ack.seq):
        return 0
    link = decode_chunk(chunk.message).link
    same = chunk.last_seq == ack.seq and link.hex() == ack.link
    return 0 if same or link == NO_LINK else chunk.first_seq
