"""The results buffer: a SQLite store-and-forward file with one writer thread.

    buffer = Buffer(BufferConfig(path=...), acknowledged=lambda epoch: 0)
    buffer.append("door", result)       # returns at once
    buffer.durable_seq                  # what would survive a power cut
    buffer.close()

Results are packed into chunks and numbered when they are packed, so a chunk is a run of consecutive sequence
numbers, of one pipeline and one lane: events, or everything else. Chunks lie in segments (tables) that are dropped
whole once the console has acknowledged all of them: a DROP writes 2 bytes a result where deletes write 550 and more.
When the buffer is full, results go before events, by the share of their pipeline and the oldest first, and leave
tombstones with their counts, so the numbering never has holes. A chain of hashes binds each chunk to the one before.

A damaged file does not keep the buffer from starting: it is set aside, and what can be read of it is moved over by
the writer's thread between its writes.
"""

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec

from edgeinfer.runtime.buffer_packing import groups, lane_of, pack, weight
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.buffer_store import BufferStore, NewChunk
from edgeinfer.runtime.chunk import MAX_BODY_BYTES, StoredChunk
from edgeinfer.runtime.config import Section
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.results import Kind, Result
from edgeinfer.runtime.wake import Wake

__all__ = ["Buffer", "BufferConfig", "BufferReader", "StoredChunk"]

logger = logging.getLogger(__name__)

# Beyond this many results and items in memory, some 15 MB, append() waits for the disk: a stuck one must not eat
# the memory.
_MAX_PENDING = 50_000
# With so many full chunks in memory they are written before their time is over. One commit for each would be as soon
# durable as the promise asks for, and costs a sync, 9 kB of flash and a turn of the interpreter a chunk.
_FULL_CHUNKS = 4
# Recorded frames can wait: with more in memory than this, some 1 MB, no new one is captured.
_ROOM = 4096
_STOP_POLL_S = 0.25
_CLOSE_GRACE_S = 0.3
_MAX_RETRY_WAIT_S = 5.0
# A salvage works for a third of the time at most: what is inferred meanwhile comes first.
_SALVAGE_PAUSE_S = 0.05
_SHORTEST_AGE_S = 10.0
# Whether something may go is asked at each flush, but not for each of many events.
_DROP_INTERVAL_S = 1.0


class BufferConfig(Section, frozen=True):
    """`max_bytes` caps the database file: 256 MiB hold some 10 million results. `flush_interval_s` bounds
    what a power cut can take; each commit writes 5 to 10 kB of flash, so one a second is less than 1 GB a day. Four
    full chunks, and events, are written sooner.
    `chunk_results` is how many results share a chunk: above 100 little is saved.

    When the buffer is full, results go before events. Among pipelines, the one that holds the most for its weight
    gives its oldest: `weights` maps a pipeline's name to how much of the buffer it is worth beside the others (1 where
    it is not named). `max_age_s` is how old a result may get before it is given up unsent; 0 is any age. Age is counted
    by a clock of the buffer's own that runs only while the daemon does: a time of day that jumps deletes nothing, and
    the time in which the device was off does not count."""

    path: str = ""
    max_bytes: Annotated[int, msgspec.Meta(ge=1 << 20, le=1 << 40)] = 256 << 20
    flush_interval_s: Annotated[float, msgspec.Meta(ge=0.01, le=3600.0)] = 1.0
    chunk_results: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100
    max_age_s: Annotated[float, msgspec.Meta(ge=0.0, le=1e9)] = 0.0
    weights: dict[str, Annotated[float, msgspec.Meta(gt=0.0, le=1e6)]] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        if 0.0 < self.max_age_s < _SHORTEST_AGE_S:
            raise ValueError(f"max_age_s: expected 0 or at least {_SHORTEST_AGE_S:g}, found {self.max_age_s:g}")


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
        self._store = BufferStore(
            Path(config.path), max_bytes=config.max_bytes, max_age_s=config.max_age_s, weights=config.weights
        )
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
        self._wake = Wake()
        self._pending: dict[tuple[str, int], list[Result]] = {}
        self._pending_count = 0
        self._pending_weight = 0
        self._full_chunks = 0
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
        key, heavy = (pipeline, lane_of(result)), weight(result)
        with self._lock:
            wait = wait and result.kind is not Kind.FRAMES
            while wait and self._is_full() and self._waits and not self._is_closed():
                self._ask_for_all()
                self._drained.wait()
            if self._is_closed():
                raise BufferStorageError(f"{self._config.path}: the buffer is closed")
            if self._is_full() and result.kind is not Kind.FRAMES:
                raise BufferStorageError(f"{self._config.path}: the disk is stuck and the memory for results is full")
            rows = self._pending.get(key)
            if rows is None:
                rows = self._pending[key] = []
            rows.append(result)
            self._pending_count += 1
            self._pending_weight += heavy
            if result.kind is Kind.EVENT:
                self._ask_for_all()
            elif len(rows) % self._config.chunk_results == 0:
                self._full_chunks += 1
                if self._full_chunks >= _FULL_CHUNKS:
                    self._wake.set()

    def wait_for_room(self, stop: threading.Event) -> None:
        """For who can wait before there is a result at all: returns once few results are in memory, or `stop` is set,
        or nobody may wait any more."""
        if self._pending_weight < _ROOM:
            return
        with self._drained:
            while self._pending_weight >= _ROOM and self._waits and not self._is_closed() and not stop.is_set():
                self._ask_for_all()
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
            self._ask_for_all()
            while self._pending_count:
                remaining = deadline - time.monotonic()
                if remaining <= 0 or not self._thread.is_alive():
                    return False
                self._drained.wait(remaining)
        return True

    def close(self, timeout_s: float = 10.0, *, slow_s: float = 0.0) -> bool:
        """Make everything durable and close the file. False if the disk did not take it within `timeout_s`, or within
        `slow_s` where that is more and it has refused nothing: then it is only slow."""
        deadline = time.monotonic() + timeout_s
        self.stop_waiting()
        if not self.flush(timeout_s) and not self.error:
            self.flush(slow_s - timeout_s)
        with self._lock:
            self._closing.set()
            self._drained.notify_all()
        self._wake.set()
        self._thread.join(max(_CLOSE_GRACE_S, deadline - time.monotonic()))
        lost = self._pending_count
        if lost:
            logger.error("event=buffer_lost results=%d error=%s", lost, self.error or "the disk is slow")
        return not lost

    def _ask_for_all(self) -> None:
        """Let the writer's thread write whatever is pending; with the lock held. Asked for twice, it is woken once."""
        if not self._flush_wanted:
            self._wake.set()
            self._flush_wanted = True

    def _is_full(self) -> bool:
        return self._pending_weight >= _MAX_PENDING

    def _is_closed(self) -> bool:
        return self._closing.is_set() or self._crashed

    def _keep_numbers_unique(self, seen: Callable[[int], int]) -> None:
        """Begin a new epoch where numbers that this file would give out next were given out before."""
        lost_epoch = self._store.lost_epoch
        if lost_epoch:  # what was delivered of a damaged file's epoch is not to be salvaged into the new one
            seen(lost_epoch)
            self._store.lost_acknowledged(self._acknowledged(lost_epoch))
        highest = seen(self._store.epoch)
        self._store.acknowledged = self._acknowledged(self._store.epoch)
        self._store.keep_numbers_unique(highest)

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
        next_drop, next_flush = 0.0, time.monotonic() + self._config.flush_interval_s
        while True:
            wait_s = max(0.0, next_flush - time.monotonic())
            self._wake.wait(min(wait_s, _SALVAGE_PAUSE_S) if self._store.is_salvaging else wait_s)
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
            if now >= next_drop:
                next_drop = now + min(self._config.flush_interval_s, _DROP_INTERVAL_S)
                self._drop_acknowledged()
            self._salvage_step()

    def _take(self, *, partial: bool) -> list[tuple[str, int, list[Result]]]:
        """Cut what is pending into chunks; without `partial`, full ones only."""
        size = self._config.chunk_results
        self._full_chunks = 0
        batches: list[tuple[str, int, list[Result]]] = []
        for (pipeline, lane), rows in self._pending.items():
            whole = len(rows) if partial else len(rows) - len(rows) % size
            batches += [(pipeline, lane, rows[start : min(start + size, whole)]) for start in range(0, whole, size)]
            del rows[:whole]
        return batches

    def _write(self, batches: Sequence[tuple[str, int, list[Result]]]) -> bool:
        """False where the buffer is being closed and the disk does not take it."""
        limit = self._store.commit_bytes
        largest = min(limit, MAX_BODY_BYTES)
        packed = [part for pipeline, lane, rows in batches for part in pack(pipeline, lane, rows, largest)]
        for group in groups(packed, limit):
            chunks = [part.chunk for part in group if part.chunk is not None]
            if chunks and not self._write_group(chunks):
                return False  # closing: what is pending now is lost
            durable_seq = self._store.next_seq - 1
            count, heavy = sum([part.n for part in group]), sum([part.weight for part in group])
            with self._drained:
                self._durable_seq = durable_seq
                self._pending_count -= count
                self._pending_weight -= heavy
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

    def _salvage_step(self) -> None:
        try:
            self._store.salvage_step()
        except BufferStorageError as error:
            logger.warning("event=buffer_salvage_failed error=%s", error)
