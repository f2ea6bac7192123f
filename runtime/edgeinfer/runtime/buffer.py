"""The results buffer: a SQLite store-and-forward file with one writer thread.

    buffer = Buffer(BufferConfig(path=...), acknowledged=lambda epoch: 0)
    buffer.append("door", result)       # returns at once
    buffer.durable_seq                  # what would survive a power cut
    buffer.close()

Results are packed into chunks and numbered when they are packed, so a chunk is a run of consecutive
sequence numbers. Chunks lie in segments (tables) that are dropped whole once the console has acknowledged
all of them: a DROP writes 2 bytes a result where deletes write 550 and more. When the buffer is full, the
oldest segment goes and leaves a tombstone with its count, so the numbering never has holes.
"""

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec

from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.buffer_store import BufferStore, NewChunk
from edgeinfer.runtime.chunk import MAX_BODY_BYTES, StoredChunk
from edgeinfer.runtime.codec import encode
from edgeinfer.runtime.config import Section
from edgeinfer.runtime.errors import BufferStorageError, CodecError
from edgeinfer.runtime.frame import FrameState
from edgeinfer.runtime.results import OF_A_FRAME, Kind, Result

__all__ = ["Buffer", "BufferConfig", "BufferReader", "StoredChunk"]

logger = logging.getLogger(__name__)

# Beyond this many results and items in memory, some 15 MB, append() waits for the disk: a stuck one must not eat
# the memory.
_MAX_PENDING = 50_000
# Recorded frames can wait: with more in memory than this, some 1 MB, no new one is captured.
_ROOM = 4096
_STOP_POLL_S = 0.25
_CLOSE_GRACE_S = 0.3
_MAX_RETRY_WAIT_S = 5.0


class BufferConfig(Section, frozen=True):
    """`max_bytes` caps the database file: 256 MiB hold some 3 million results. `flush_interval_s` bounds
    what a power cut can take; each commit writes about 9 kB of flash, so one a second is 0.8 GB a day.
    `chunk_results` is how many results share a chunk: above 100 little is saved."""

    path: str = ""
    max_bytes: Annotated[int, msgspec.Meta(ge=1 << 20, le=1 << 40)] = 256 << 20
    flush_interval_s: Annotated[float, msgspec.Meta(ge=0.01, le=3600.0)] = 1.0
    chunk_results: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100


class Buffer:
    """The writer's side. `append` may be called from any thread; one thread owns the database.

    `acknowledged(epoch)` tells up to which number results are delivered and may go. The writer's thread calls it,
    so it must neither wait nor raise. `seen(epoch)` is asked once, here: the highest number that ever left the
    device, which is never given out again. By default, it is what is acknowledged.

    Raises BufferStorageError where the file cannot be opened or another process is its writer.
    """

    def __init__(
        self,
        config: BufferConfig,
        *,
        acknowledged: Callable[[int], int],
        seen: Callable[[int], int] | None = None,
    ) -> None:
        self._config = config
        self._acknowledged = acknowledged
        self._store = BufferStore(Path(config.path), max_bytes=config.max_bytes)
        try:
            self._keep_numbers_unique(seen or acknowledged)
        except BaseException:
            self._store.close()
            raise
        self.error = ""
        # Everything that was appended before this moment of the monotonic clock survives a power cut.
        self.durable_since_s = 0.0
        self._durable_seq = self._store.next_seq - 1
        self._lock = threading.Lock()
        self._drained = threading.Condition(self._lock)
        self._wake = threading.Event()
        self._pending: dict[str, list[Result]] = {}
        self._pending_count = 0
        self._pending_weight = 0
        self._flush_wanted = False
        self._waits = True
        self._crashed = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="buffer-writer", daemon=True)
        self._thread.start()

    @property
    def epoch(self) -> int:
        """Names this numbering; it changes only when a damaged file had to be set aside, or the medium lost commits."""
        return self._store.epoch

    @property
    def durable_seq(self) -> int:
        """The highest sequence number that is on disk: every result up to it survives a power cut."""
        return self._durable_seq

    @property
    def pending(self) -> int:
        """Results that are not on disk yet."""
        return self._pending_count

    def size(self) -> dict[str, int]:
        """`bytes` on the disk, with what is in the write-ahead log, and `max_bytes`."""
        found = 0
        for suffix in ("", "-wal"):
            with suppress(OSError):
                found += os.stat(self._config.path + suffix).st_size  # noqa: PTH116 - asked every second
        return {"bytes": found, "max_bytes": self._config.max_bytes}

    @property
    def alive(self) -> bool:
        """Whether there is a thread that writes. Without one, only a restart helps."""
        return self._thread.is_alive()

    def append(self, pipeline: str, result: Result, *, wait: bool = True) -> None:
        """Hand over a result. Returns at once unless the disk has been stuck for so long that memory is short;
        counts of frames, which are few, never wait. Raises BufferStorageError once the buffer is closed, and
        where it would have to wait without `wait` or after `stop_waiting`: the result is dropped."""
        weight = _weight(result)
        with self._lock:
            wait = wait and result.kind is not Kind.FRAMES
            while wait and self._is_full() and self._waits and not self._is_closed():
                self._flush_wanted = True
                self._wake.set()
                self._drained.wait()
            if self._is_closed():
                raise BufferStorageError(f"{self._config.path}: the buffer is closed")
            if self._is_full() and result.kind is not Kind.FRAMES:
                raise BufferStorageError(f"{self._config.path}: the disk is stuck and the memory for results is full")
            rows = self._pending.get(pipeline)
            if rows is None:
                rows = self._pending[pipeline] = []
            rows.append(result)
            self._pending_count += 1
            self._pending_weight += weight
            urgent = len(rows) >= self._config.chunk_results or result.kind is Kind.EVENT
            if result.kind is Kind.EVENT:
                self._flush_wanted = True
        if urgent:
            self._wake.set()

    def wait_for_room(self, stop: threading.Event) -> None:
        """For who can wait before there is a result at all: returns once few results are in memory, or `stop` is set,
        or nobody may wait any more."""
        if self._pending_weight < _ROOM:
            return
        with self._drained:
            while self._pending_weight >= _ROOM and self._waits and not self._is_closed() and not stop.is_set():
                self._flush_wanted = True
                self._wake.set()
                self._drained.wait(_STOP_POLL_S)

    def stop_waiting(self) -> None:
        """From now on no `append` waits for the disk, and those that do are sent away: the end is near."""
        with self._drained:
            self._waits = False
            self._drained.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Ask for everything so far to be made durable; False if that took longer than `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        with self._drained:
            self._flush_wanted = True
            self._wake.set()
            while self._pending_count:
                remaining = deadline - time.monotonic()
                if remaining <= 0 or not self._thread.is_alive():
                    return False
                self._drained.wait(remaining)
        return True

    def close(self, timeout_s: float = 10.0) -> bool:
        """Make everything durable and close the file. False if the disk did not take it within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        self.stop_waiting()
        self.flush(timeout_s)
        with self._lock:
            self._closing.set()
            self._drained.notify_all()
        self._wake.set()
        self._thread.join(max(_CLOSE_GRACE_S, deadline - time.monotonic()))
        lost = self._pending_count
        if lost:
            logger.error("event=buffer_lost results=%d error=%s", lost, self.error or "the disk is slow")
        return not lost

    def _is_full(self) -> bool:
        return self._pending_weight >= _MAX_PENDING

    def _is_closed(self) -> bool:
        return self._closing.is_set() or self._crashed

    def _keep_numbers_unique(self, seen: Callable[[int], int]) -> None:
        """Begin a new epoch where numbers that this file would give out next were given out before."""
        highest = seen(self._store.epoch)
        if highest < self._store.next_seq:
            return
        logger.error(
            "event=buffer_behind next_seq=%d seen=%d reason=%r",
            self._store.next_seq, highest, "the medium lost commits, or an old copy was put back",
        )  # fmt: skip
        self._store.acknowledged = self._acknowledged(self._store.epoch)
        self._store.begin_epoch()

    def _run(self) -> None:
        try:
            self._write_until_closed()
        except Exception as error:
            logger.exception("event=buffer_writer_crashed")
            self.error = f"internal error in the writer's thread: {error}"
            with self._drained:
                self._crashed = True
                self._drained.notify_all()
        finally:
            self._store.close()

    def _write_until_closed(self) -> None:
        next_flush = time.monotonic() + self._config.flush_interval_s
        while True:
            self._wake.wait(max(0.0, next_flush - time.monotonic()))
            self._wake.clear()
            now = time.monotonic()
            with self._lock:
                closing = self._closing.is_set()
                partial = closing or self._flush_wanted or now >= next_flush
                self._flush_wanted = False
                batches = self._take(partial=partial)
            if partial:
                next_flush = now + self._config.flush_interval_s
            written = not batches or self._write(batches)
            if partial and written:
                self.durable_since_s = now
            if closing:
                return
            if partial:
                self._drop_acknowledged()

    def _take(self, *, partial: bool) -> list[tuple[str, list[Result]]]:
        """Cut what is pending into chunks; without `partial`, full ones only."""
        size = self._config.chunk_results
        batches: list[tuple[str, list[Result]]] = []
        for pipeline, rows in self._pending.items():
            whole = len(rows) if partial else len(rows) - len(rows) % size
            batches += [(pipeline, rows[start : min(start + size, whole)]) for start in range(0, whole, size)]
            del rows[:whole]
        return batches

    def _write(self, batches: Sequence[tuple[str, list[Result]]]) -> bool:
        """False where the buffer is being closed and the disk does not take it."""
        limit = self._store.commit_bytes
        packed = [part for pipeline, rows in batches for part in _pack(pipeline, rows, min(limit, MAX_BODY_BYTES))]
        for group in _groups(packed, limit):
            chunks = [part.chunk for part in group if part.chunk is not None]
            if chunks and not self._write_group(chunks):
                return False  # closing: what is pending now is lost
            with self._drained:
                self._durable_seq = self._store.next_seq - 1
                self._pending_count -= sum(part.n for part in group)
                self._pending_weight -= sum(part.weight for part in group)
                self._drained.notify_all()
        return True

    def _write_group(self, chunks: Sequence[NewChunk]) -> bool:
        """Try until it is written; False where the buffer is being closed and the disk does not take it."""
        wait_s = 0.1
        self._store.acknowledged = self._acknowledged(self.epoch)
        while not self._try_write(chunks):
            if self._closing.is_set():
                return False
            # Other writers share the medium: a random wait keeps retries apart.
            self._closing.wait(wait_s * random.uniform(0.5, 1.0))
            wait_s = min(2 * wait_s, _MAX_RETRY_WAIT_S)
            self._store.acknowledged = self._acknowledged(self.epoch)
        return True

    def _try_write(self, chunks: Sequence[NewChunk]) -> bool:
        try:
            self._store.write(chunks)
        except BufferStorageError as error:
            if not self.error:
                logger.warning("event=buffer_write_failed error=%s", error)
            self.error = str(error)
            return False
        if self.error:
            logger.warning("event=buffer_write_recovered durable_seq=%d", self._store.next_seq - 1)
            self.error = ""
        return True

    def _drop_acknowledged(self) -> None:
        try:
            self._store.drop_up_to(self._acknowledged(self.epoch))
        except BufferStorageError as error:
            logger.warning("event=buffer_drop_failed error=%s", error)


class _Packed(msgspec.Struct, frozen=True):
    """`n` pending results; without a chunk, they are lost."""

    n: int
    weight: int
    chunk: NewChunk | None


def _pack(pipeline: str, rows: list[Result], max_bytes: int) -> list[_Packed]:
    """One chunk; more where one would be too large. A result that no chunk can hold is given up."""
    weight = sum(map(_weight, rows))
    try:
        body = encode(rows)
        if len(body) > max_bytes:
            raise CodecError(f"expected a chunk of at most {max_bytes} bytes, found {len(body)}")  # noqa: TRY301 - split as others are
        return [_Packed(len(rows), weight, NewChunk(pipeline, len(rows), rows[0].t_ns, body, _frames(rows)))]
    except CodecError as error:
        if len(rows) == 1:
            logger.error("event=result_lost pipeline=%s error=%s", pipeline, error)  # noqa: TRY400 - said in full
            return [_Packed(1, weight, None)]
    middle = len(rows) // 2
    return _pack(pipeline, rows[:middle], max_bytes) + _pack(pipeline, rows[middle:], max_bytes)


def _groups(packed: Sequence[_Packed], max_bytes: int) -> Iterator[list[_Packed]]:
    """What is committed at once. One commit for all might be more than the whole file may hold."""
    group: list[_Packed] = []
    room = max_bytes
    for part in packed:
        size = 0 if part.chunk is None else len(part.chunk.body)
        if group and size > room:
            yield group
            group, room = [], max_bytes
        group.append(part)
        room -= size
    if group:
        yield group


def _weight(result: Result) -> int:
    """What a pending result counts for in memory: itself and its items."""
    return 1 + len(result.items)


def _frames(rows: list[Result]) -> dict[str, int]:
    """What these results say of frames by state. Each result of an inference is a frame that was inferred, counted
    in the very commit that makes it durable; the other states come in counts of their own."""
    frames = {FrameState.INFERRED.value: sum(1 for row in rows if row.kind in OF_A_FRAME)}
    for row in rows:
        if row.kind is Kind.FRAMES and row.extra:
            for state, count in row.extra.items():
                if state != FrameState.INFERRED:
                    frames[state] = frames.get(state, 0) + int(count)
    return {state: count for state, count in frames.items() if count}
