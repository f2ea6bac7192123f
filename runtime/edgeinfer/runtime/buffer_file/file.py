"""An open `buffer.db`: what it holds, and the changes that can be made to it, each all or nothing.

Used by one thread. Every method raises sqlite3.Error with nothing changed; what errors mean is
`edgeinfer.runtime.buffer_store`'s business.
"""

import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from edgeinfer.runtime.buffer_file import log, marks, tombstones
from edgeinfer.runtime.buffer_file.connection import SqliteErrors, connect, transaction, used_bytes
from edgeinfer.runtime.buffer_file.lanes import Lanes, Segment
from edgeinfer.runtime.buffer_file.ledger import Ledger
from edgeinfer.runtime.buffer_file.marks import Marks, OwnClock
from edgeinfer.runtime.buffer_file.renumber import renumber
from edgeinfer.runtime.buffer_file.schema import (
    SCHEMA_VERSION,
    STATE,
    TABLES,
    BufferState,
    add_frames,
    pack_frames,
    pack_state,
)
from edgeinfer.runtime.buffer_file.segments import LaneChunk, Segments, Tails, read_segments
from edgeinfer.runtime.buffer_file.timeline import Mark
from edgeinfer.runtime.chain import genesis, next_link
from edgeinfer.runtime.chunk import PACKED, RESULTS, StoredChunk
from edgeinfer.runtime.errors import BufferStorageError

__all__ = ["BufferFile", "Limits", "NewChunk", "open_file"]

# A segment takes chunks for a part of the age that results may have, so that what is too old goes in time.
_SEGMENTS_AN_AGE = 8
_SECOND_NS = 1_000_000_000


class Limits(msgspec.Struct, frozen=True):
    """What a buffer may hold; `max_age_s` 0 is any age."""

    max_bytes: int
    max_age_s: float = 0.0
    weights: Mapping[str, float] = {}

    @property
    def commit_bytes(self) -> int:
        """What one commit may hold, in bytes of chunks: more might never fit."""
        return min(4 << 20, self.max_bytes // 8)


class NewChunk(msgspec.Struct, frozen=True):
    """A chunk that has no sequence number yet. `frames` are counts by state to add to the totals."""

    pipeline: str
    n: int
    t0_ns: int
    body: bytes
    frames: dict[str, int]
    lane: int = RESULTS
    codec: int = PACKED


class BufferFile:
    """The writer's view of the file."""

    def __init__(self, db: sqlite3.Connection, limits: Limits) -> None:
        self.db = db
        self._limits = limits
        self.segments = Segments(Lanes(read_segments(db), weights=limits.weights), max_bytes=limits.max_bytes)
        self.tails: Tails = {}
        self._adopt_tails()
        self._ledger = Ledger(db, self.lanes)
        self.clock = OwnClock(self.state.clock_ns)
        self._marks = Marks(max_age_s=limits.max_age_s)

    @property
    def state(self) -> BufferState:
        """As the last commit left it."""
        return self._ledger.state

    @property
    def epoch(self) -> int:
        return self._ledger.state.epoch

    @property
    def next_seq(self) -> int:
        return self._ledger.state.next_seq

    @property
    def lanes(self) -> Lanes:
        return self.segments.lanes

    def close(self) -> None:
        """What only the ends of lanes tell is written down, so that whoever finds the file damaged need not look."""
        if not self._ledger.is_saved:
            with suppress(*SqliteErrors), self.change():
                pass
        self.db.close()

    def append(self, chunks: Sequence[NewChunk]) -> None:
        """Number the chunks and make them durable in one commit."""
        clock_ns = self.clock.now_ns()
        numbered, state, frames = self._numbered(chunks, clock_ns)
        with transaction(self.db) as db:
            changed = self.segments.insert(db, numbered, self.tails, epoch=self.epoch)
            mark = self._marks.note(db, Mark(self.next_seq, time.time_ns(), clock_ns))
            goes_on = all(segment.is_open and segment in self.lanes for segment in changed)
            is_saved = not goes_on or self._ledger.is_due(len(chunks))
            if is_saved:
                self._ledger.save(db, state, frames)
        self.segments.keep(changed, self.tails)
        self._marks.keep(mark)
        self._ledger.committed(state, frames, chunks=len(chunks), is_saved=is_saved)

    @contextmanager
    def change(self, chunks: Sequence[NewChunk] = ()) -> Iterator[sqlite3.Connection]:
        """A transaction that changes more than the ends of lanes; `chunks` are appended too."""
        clock_ns = self.clock.now_ns() if chunks else self.state.clock_ns
        numbered, state, frames = self._numbered(chunks, clock_ns)
        with transaction(self.db) as db:
            changed = self.segments.insert(db, numbered, self.tails, epoch=self.epoch)
            self._ledger.save(db, state, frames)
            yield db
        self.segments.keep(changed, self.tails)
        self._ledger.committed(state, frames, chunks=0, is_saved=True)

    def drop_acknowledged(self, acknowledged: int, *, also_open: bool = False) -> bool:
        """Drop the oldest segment of which all is acknowledged: a closed one, or with `also_open` any. False where
        there is none."""
        found = self.lanes.acknowledged(acknowledged, limit=self.segments.limit, also_open=also_open)
        if found:
            self._drop(found[0])
        return bool(found)

    def forget_tombstones(self, acknowledged: int) -> None:
        """Move the tombstones that are acknowledged into the log."""
        (lowest,) = self.db.execute("SELECT min(first_seq) FROM tombstone").fetchone()
        while lowest is not None and lowest <= acknowledged:
            with transaction(self.db) as db:
                if not tombstones.move_acknowledged(db, acknowledged):
                    return

    def make_room(self, limit: int, acknowledged: int) -> list[tuple[Segment, int]]:
        """Get down to `limit` bytes: what is acknowledged goes first, then segments of results, then of events. What
        was given up, each with the number of its results."""
        evicted = []
        while used_bytes(self.db) > limit:
            if self.drop_acknowledged(acknowledged) or self.drop_acknowledged(acknowledged, also_open=True):
                continue
            victim = self.lanes.victim()
            if victim is None:
                break
            evicted.append((victim, self.evict(victim, acknowledged, reason="full")))
        return evicted

    def evict(self, segment: Segment, acknowledged: int, *, reason: str) -> int:
        """Give up a segment: tombstones keep the places of what was not acknowledged. How many results that were."""
        runs = tombstones.clip(self.segments.runs(self.db, segment), acknowledged)
        with self.change() as db:
            count = tombstones.add(db, runs, reason=reason)
            self.segments.drop(db, segment)
        self._forget(segment)
        return count

    def expired(self) -> list[Segment]:
        """The segments whose newest result is older than it may be. Closes those that have been open for long, so
        that their oldest results do not stay with their newest ones."""
        max_age_ns = round(self._limits.max_age_s * _SECOND_NS)
        if not max_age_ns:
            return []
        long_open = self._first_younger(max_age_ns // _SEGMENTS_AN_AGE)
        stale = [segment for segment in self.tails.values() if segment.first_seq < long_open]
        if stale:
            with self.change() as db:
                changed = [self.segments.close(db, segment) for segment in stale]
            self.segments.keep(changed, self.tails)
        return self.lanes.older_than(self._first_younger(max_age_ns))

    def begin_epoch(self, acknowledged: int, *, beside: Callable[[sqlite3.Connection], None] | None = None) -> None:
        """Number anew: what is acknowledged goes; the rest is kept, numbered from 1 in a new epoch."""
        epoch, clock_ns = _new_epoch(), self.clock.now_ns()
        with transaction(self.db) as db:
            found = renumber(db, self.segments, epoch=epoch, acknowledged=acknowledged)
            state = BufferState(epoch, found.next_seq, clock_ns, found.link)
            self._ledger.save(db, state, {})
            if beside is not None:
                beside(db)
        self._ledger.committed(state, {}, chunks=0, is_saved=True)
        self.segments = Segments(Lanes(found.segments, weights=self._limits.weights), max_bytes=self._limits.max_bytes)
        self._adopt_tails()

    def skip_to(self, next_seq: int, *, beside: Callable[[sqlite3.Connection], None]) -> None:
        """The numbers before `next_seq` were given out by a file that is lost: they are not given out again."""
        state = BufferState(self.epoch, next_seq, self.clock.now_ns())
        with transaction(self.db) as db:
            self._ledger.save(db, state, {})
            beside(db)
        self._ledger.committed(state, {}, chunks=0, is_saved=True)

    def _numbered(
        self, chunks: Sequence[NewChunk], clock_ns: int
    ) -> tuple[list[LaneChunk], BufferState, dict[str, int]]:
        """The chunks with their numbers and links, the state after them, and what they add to the counters."""
        seq, link = self.next_seq, self.state.link
        numbered, frames = [], dict[str, int]()
        for new in chunks:
            link = next_link(link, first_seq=seq, n=new.n, codec=new.codec, pipeline=new.pipeline, body=new.body)
            crc = zlib.crc32(new.body)
            chunk = StoredChunk(seq, new.n, new.t0_ns, new.pipeline, new.codec, crc, new.body, link)
            packed = pack_frames(new.frames)
            add_frames(frames, new.pipeline, packed)
            numbered.append(LaneChunk(chunk, new.lane, clock_ns, packed))
            seq += new.n
        return numbered, BufferState(self.epoch, seq, clock_ns, link), frames

    def _first_younger(self, age_ns: int) -> int:
        """Every number below it is older than `age_ns`."""
        moment_ns = self.clock.now_ns() - age_ns
        return self.next_seq if self.state.clock_ns <= moment_ns else marks.first_younger(self.db, moment_ns)

    def _drop(self, segment: Segment) -> None:
        with self.change() as db:
            self.segments.drop(db, segment)
        self._forget(segment)

    def _forget(self, segment: Segment) -> None:
        self.segments.forget(segment)
        if self.tails.get(segment.key, segment).id == segment.id:
            self.tails.pop(segment.key, None)

    def _adopt_tails(self) -> None:
        """The newest open segment of each lane takes its next chunk. There are others after a salvage was cut off."""
        self.tails.clear()
        for segment in sorted(self.lanes, key=lambda segment: segment.first_seq):
            if segment.is_open:
                self.tails[segment.key] = segment


def open_file(path: Path, limits: Limits, *, fill: Callable[[sqlite3.Connection], None] | None = None) -> BufferFile:
    """Open `path`, or make it, bringing an older version up to date; `fill` is done in the commit that makes a new one.

    Raises sqlite3.OperationalError where it cannot be opened just now, sqlite3.DatabaseError where it is damaged or no
    buffer, BufferStorageError where a newer program has written it, OSError where its log cannot be read.
    """
    if log.is_broken(path, path.with_name(path.name + "-wal")):
        raise sqlite3.DatabaseError("its log is damaged: commits are missing")
    db = connect(path, max_bytes=limits.max_bytes, log_bytes=limits.commit_bytes)
    try:
        version = schema_version(db)
        _refuse_newer(path, version)
        if version == 0:
            _create(db, fill)
        elif version < SCHEMA_VERSION:
            from edgeinfer.runtime.buffer_file.migration import migrate

            migrate(db, version=version)
        return BufferFile(db, limits)
    except BaseException:
        db.close()
        raise


def schema_version(db: sqlite3.Connection) -> int:
    """The version of the file's schema; 0 for a new file. Raises sqlite3.DatabaseError for what is no buffer."""
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return 0
    row = db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone() if "meta" in tables else None
    if row is None or not isinstance(row[0], int) or row[0] < 1:
        raise sqlite3.DatabaseError("it is no results buffer, or its meta rows are missing")
    return row[0]


def _new_epoch() -> int:
    """Random, not a time: the clock of a new device may say 1970 twice. Odd, so never 0, and below 2^62."""
    return int.from_bytes(os.urandom(8), "big") >> 2 | 1


def _refuse_newer(path: Path, version: int) -> None:
    if version > SCHEMA_VERSION:
        raise BufferStorageError(
            f"{path}: expected a buffer of schema version {SCHEMA_VERSION} or older, found {version}",
            hint="a newer edgeinfer has written it: install that one again, or move the file away",
        )


def _create(db: sqlite3.Connection, fill: Callable[[sqlite3.Connection], None] | None) -> None:
    epoch = _new_epoch()
    with transaction(db):
        for statement in TABLES:
            db.execute(statement)
        db.execute("INSERT INTO meta VALUES ('schema', ?)", (SCHEMA_VERSION,))
        db.execute("INSERT INTO meta VALUES (?, ?)", (STATE, pack_state(BufferState(epoch, 1, 0, genesis(epoch)))))
        if fill is not None:
            fill(db)
