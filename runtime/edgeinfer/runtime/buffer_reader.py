"""Reads the results buffer from any process, and never blocks its writer. Imports nothing heavy.

Chunks lie in segments of several lanes, whose numbers lie between each other. What is asked for is found by what the
segments say of themselves; only the chunks that are returned are read whole.
"""

import heapq
import sqlite3
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice, takewhile
from pathlib import Path
from typing import Self, TypeVar

import msgspec

from edgeinfer.runtime.buffer_file.schema import (
    EVICTED,
    FRAMES,
    LAYOUT_V1,
    LOG_FLOOR,
    SALVAGE,
    SCHEMA_VERSION,
    STATE,
    BufferState,
    Newest,
    add_frames,
    newest_rows,
    state_after,
    table_name,
    unpack_state,
)
from edgeinfer.runtime.buffer_file.timeline import Mark
from edgeinfer.runtime.chain import genesis
from edgeinfer.runtime.chunk import EVENTS, NO_LINK, TOMBSTONE, StoredChunk, tombstone
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.handoff import open_read_only

__all__ = ["BufferReader", "Evicted"]

T = TypeVar("T")

_NO_HORIZON = 1 << 62
_SEGMENTS = "SELECT id, lane, first_seq, layout FROM segment"


class Evicted(msgspec.Struct, frozen=True, array_like=True):
    """A run of results that were given up, and why: "full", "age" or "damaged"."""

    first_seq: int
    n: int
    reason: str

    @property
    def last_seq(self) -> int:
        return self.first_seq + self.n - 1


class BufferReader:
    """Reads the buffer from any process without ever blocking its writer. Raises BufferStorageError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = open_read_only(path)
        try:
            self._check_version()
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    @property
    def epoch(self) -> int:
        """Names the numbering; read anew, because the writer may begin another one in the same file."""
        return self._saved().epoch

    def state(self) -> BufferState:
        """What the writer's last commit left."""
        with self._snapshot():
            saved = self._saved()
            return state_after(saved, self._newest(saved.next_seq))

    def durable_seq(self) -> int:
        """The highest sequence number on disk; 0 for none."""
        return self.state().next_seq - 1

    def settled_seq(self) -> int:
        """Up to which number everything is where it will be: `durable_seq`, but while a damaged file is salvaged."""
        with self._snapshot():
            return min(self.durable_seq(), self._horizon())

    def first_seq(self) -> int:
        """The lowest sequence number that is still held, as a result or as a tombstone, or may still be salvaged."""
        with self._snapshot():
            if self._horizon() != _NO_HORIZON:
                return 1
            held = [self._number(f"SELECT min(first_seq) FROM {table}") for table in ("segment", "tombstone")]  # noqa: S608 - our own names
            return min((seq for seq in held if seq is not None), default=self.state().next_seq)

    def chunks(self, after_seq: int, *, limit: int) -> list[StoredChunk]:
        """Up to `limit` chunks and tombstones in order, beginning with the one that holds the first number beyond
        `after_seq`. Nothing that is not settled yet: while a damaged file is salvaged, the list ends before it."""
        with self._snapshot():
            return self._whole(self._in_order(self._segments(after_seq), after_seq, self._tombstones(after_seq)), limit)

    def events(self, after_seq: int, *, limit: int) -> list[StoredChunk]:
        """As `chunks`, but only those of the lane of events; what lies between them is not told."""
        with self._snapshot():
            segments = [segment for segment in self._segments(after_seq) if segment.lane == EVENTS]
            return self._whole(self._in_order(segments, after_seq), limit)

    def link_before(self, seq: int) -> bytes:
        """The link of the hash chain after number `seq` - 1; NO_LINK where it is not known (any more)."""
        with self._snapshot():
            state = self.state()
            if seq <= 1:
                return genesis(state.epoch)
            if seq == state.next_seq:
                return state.link
            found = self._one(_Link, "SELECT first_seq, n, link FROM tombstone WHERE first_seq + n = ?", seq)
            for segment in self._segments(seq - 2) if found is None else ():
                found = found or self._one(
                    _Link,
                    f"""SELECT first_seq, n, {segment.link} FROM {segment.table} WHERE first_seq =
                    (SELECT max(first_seq) FROM {segment.table} WHERE first_seq < ?1) AND first_seq + n = ?1""",  # noqa: S608 - our own name
                    seq,
                )
        return NO_LINK if found is None else found.link

    def audit_counts(self) -> dict[str, int]:
        """`made` and `durable`: results numbered so far; `evicted`: given up, for whatever reason."""
        durable = self.durable_seq()
        return {"made": durable, "durable": durable, "evicted": sum(self.evicted_counts().values())}

    def evicted_counts(self) -> dict[str, int]:
        """How many results of this epoch were given up, by reason."""
        return {reason.removeprefix(EVICTED): count for reason, count in self._counters(EVICTED)}

    def evicted(self) -> tuple[list[Evicted], int]:
        """Every run that was given up, in order, also of what is acknowledged; and the number from which on the list
        is whole (the log of the past is bounded)."""
        with self._snapshot():
            held = self._rows(Evicted, "SELECT first_seq, n, reason FROM tombstone ORDER BY first_seq")
            past = self._rows(Evicted, "SELECT first_seq, n, reason FROM evicted ORDER BY first_seq")
            floor = self._number("SELECT value FROM meta WHERE key = ?", LOG_FLOOR)
        return list(heapq.merge(past, held, key=lambda run: run.first_seq)), floor or 1

    def marks(self) -> list[Mark]:
        """When which numbers were given."""
        return self._rows(Mark, "SELECT first_seq, t_ns, clock_ns FROM mark ORDER BY first_seq")

    def frames(self) -> dict[str, dict[str, int]]:
        """Per pipeline, how many frames ended in each state, over the life of this buffer."""
        with self._snapshot():
            counters = dict(self._counters(FRAMES))
            for row in self._newest(self._saved().next_seq):
                add_frames(counters, row.pipeline, row.frames)
        totals: dict[str, dict[str, int]] = {}
        for key, count in counters.items():
            state, _, pipeline = key.removeprefix(FRAMES).partition("/")
            totals.setdefault(pipeline, {})[state] = count
        return {pipeline: totals[pipeline] for pipeline in sorted(totals)}

    def pipelines(self) -> set[str]:
        """Those that there are results of, or that ever had a frame counted."""
        held = {row.pipeline for row in self._rows(_Named, "SELECT DISTINCT pipeline FROM segment")}
        return held | set(self.frames())

    def bytes(self) -> int:
        """Bytes of the database and its WAL on disk."""
        parts = (self._path, self._path.with_name(self._path.name + "-wal"))
        return sum(part.stat().st_size for part in parts if part.exists())

    def _check_version(self) -> None:
        """Refuse what is no buffer, and one of another version."""
        found = self._number("SELECT value FROM meta WHERE key = 'schema'")
        if found is None:
            raise BufferStorageError(f"{self._path}: is no results buffer: its meta table lacks 'schema'")
        if found != SCHEMA_VERSION:
            hint = (
                "start the daemon once: it brings the file up to date"
                if found < SCHEMA_VERSION
                else ("a newer edgeinfer has written it: use that one to read it")
            )
            raise BufferStorageError(
                f"{self._path}: expected a buffer of schema version {SCHEMA_VERSION}, found {found}", hint=hint
            )

    def _saved(self) -> BufferState:
        row = self._one(_Blob, "SELECT value FROM meta WHERE key = ?", STATE)
        state = unpack_state(row.value) if row is not None else None
        if state is None:
            raise BufferStorageError(f"{self._path}: is no results buffer: its state is missing or damaged")
        return state

    def _newest(self, first_seq: int) -> list[Newest]:
        """The chunks that were written since the state was saved, as the ends of open segments tell."""
        tables = [row.table for row in self._rows(_Segment, f"{_SEGMENTS} WHERE last_seq = 0")]
        return [row for table in tables for row in self._rows(Newest, newest_rows(table), first_seq)]

    def _horizon(self) -> int:
        """The highest number that readers may see; no limit but while a damaged file is salvaged."""
        settled = self._number("SELECT value FROM meta WHERE key = ?", SALVAGE)
        return _NO_HORIZON if settled is None else settled - 1

    def _segments(self, after_seq: int) -> list["_Segment"]:
        """Those that may hold something beyond `after_seq`."""
        return self._rows(
            _Segment,
            f"{_SEGMENTS} WHERE last_seq = 0 OR last_seq > ? ORDER BY first_seq",
            after_seq,
        )

    def _in_order(self, segments: Sequence["_Segment"], after_seq: int, tombstones: "_Heads | None" = None) -> "_Heads":
        """What the segments and tombstones hold beyond `after_seq`, by number. No segment is looked into before its
        turn comes."""
        waiting = list(reversed(segments))
        reached: list[tuple[int, int, _Head, _Heads]] = []
        try:
            if tombstones is not None:
                _push(reached, 0, tombstones)
            while waiting or reached:
                while waiting and (not reached or waiting[-1].first_seq <= max(after_seq + 1, reached[0][0])):
                    segment = waiting.pop()
                    _push(reached, segment.id, self._heads(segment, after_seq))
                if reached:
                    _, number, head, heads = heapq.heappop(reached)
                    _push(reached, number, heads)
                    yield head
        finally:
            for _, _, _, heads in reached:
                heads.close()

    def _heads(self, segment: "_Segment", after_seq: int) -> "_Heads":
        """The chunks of a segment without their bodies, each when it is asked for."""
        rows = self._each(
            f"""SELECT first_seq, n, t0_ns, pipeline, codec, crc, {segment.link} FROM {segment.table}
            WHERE first_seq >= coalesce((SELECT max(first_seq) FROM {segment.table} WHERE first_seq <= ?1), 0)
            ORDER BY first_seq""",  # noqa: S608 - our own name
            after_seq + 1,
        )
        with closing(rows):
            for row in rows:
                head = self._typed((*row, segment.table), _Head)
                if head.last_seq > after_seq:
                    yield head

    def _tombstones(self, after_seq: int) -> "_Heads":
        rows = self._each(
            """SELECT first_seq, n, t0_ns, reason, link FROM tombstone
            WHERE first_seq >= coalesce((SELECT max(first_seq) FROM tombstone WHERE first_seq <= ?1), 0)
            ORDER BY first_seq""",
            after_seq + 1,
        )
        with closing(rows):
            for first_seq, n, t0_ns, reason, link in rows:
                head = self._typed((first_seq, n, t0_ns, reason, TOMBSTONE, 0, link, ""), _Head)
                if head.last_seq > after_seq:
                    yield head

    def _whole(self, heads: "_Heads", limit: int) -> list[StoredChunk]:
        # A query that is not ended would keep its view of the file, and the writer's log from being worked off.
        with closing(heads):
            horizon = self._horizon()
            settled = takewhile(lambda head: head.last_seq <= horizon, heads)
            return [self._chunk(head) for head in islice(settled, limit)]

    def _chunk(self, head: "_Head") -> StoredChunk:
        if head.codec == TOMBSTONE:
            return tombstone(head.first_seq, head.n, t0_ns=head.t0_ns, reason=head.pipeline, link=head.link)
        row = self._one(_Blob, f"SELECT body FROM {head.table} WHERE first_seq = ?", head.first_seq)  # noqa: S608 - our own name
        if row is None:
            raise BufferStorageError(f"{self._path}: is damaged: chunk {head.first_seq} is there and cannot be found")
        return StoredChunk(
            head.first_seq, head.n, head.t0_ns, head.pipeline, head.codec, head.crc, row.value, head.link
        )  # fmt: skip

    def _counters(self, prefix: str) -> list[tuple[str, int]]:
        rows = self._rows(
            _Counter, "SELECT key, value FROM meta WHERE key >= ?1 AND key < ?1 || x'ff' ORDER BY key", prefix
        )
        return [(row.key, row.value) for row in rows]

    def _number(self, query: str, *values: object) -> int | None:
        row = self._one(_Number, query, *values)
        return None if row is None else row.value

    def _one(self, type_: type[T], query: str, *values: object) -> T | None:
        return next(iter(self._rows(type_, query, *values)), None)

    def _rows(self, type_: type[T], query: str, *values: object) -> list[T]:
        with closing(self._each(query, *values)) as rows:
            return [self._typed(row, type_) for row in rows]

    def _each(self, query: str, *values: object) -> Generator[tuple[object, ...], None, None]:
        """The rows of a query; to be closed by whoever does not take them all."""
        try:
            cursor = self._db.execute(query, values)
            try:
                yield from cursor
            finally:
                cursor.close()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise BufferStorageError(f"{self._path}: cannot be read: {error}") from error

    def _typed(self, row: Iterable[object], type_: type[T]) -> T:
        """A row as a struct: in a damaged file a number may have become something else."""
        try:
            return msgspec.convert(row, type_)
        except msgspec.ValidationError as error:
            raise BufferStorageError(f"{self._path}: is damaged: {error}") from error

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """One view of the file for several queries: a segment may be dropped between them."""
        is_inner = self._db.in_transaction
        if is_inner:
            yield
            return
        try:
            self._db.execute("BEGIN")
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise BufferStorageError(f"{self._path}: cannot be read: {error}") from error
        try:
            yield
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")


class _Named(msgspec.Struct, frozen=True, array_like=True):
    pipeline: str


class _Segment(msgspec.Struct, frozen=True, array_like=True):
    id: int
    lane: int
    first_seq: int
    layout: int

    @property
    def table(self) -> str:
        return table_name(self.id)

    @property
    def link(self) -> str:
        """What a query reads the link of a chunk from: the tables of version 1 have none."""
        return "x''" if self.layout == LAYOUT_V1 else "link"


class _Head(msgspec.Struct, frozen=True, array_like=True):
    """A chunk without its body, and the table that has it; of a tombstone, the reason as the pipeline."""

    first_seq: int
    n: int
    t0_ns: int
    pipeline: str
    codec: int
    crc: int
    link: bytes
    table: str

    @property
    def last_seq(self) -> int:
        return self.first_seq + self.n - 1


_Heads = Generator[_Head, None, None]


def _push(reached: list[tuple[int, int, _Head, _Heads]], number: int, heads: _Heads) -> None:
    """Put the next of the heads, if there is one, where its number belongs."""
    head = next(heads, None)
    if head is not None:
        heapq.heappush(reached, (head.first_seq, number, head, heads))


class _Link(msgspec.Struct, frozen=True, array_like=True):
    first_seq: int
    n: int
    link: bytes


class _Counter(msgspec.Struct, frozen=True, array_like=True):
    key: str
    value: int


class _Number(msgspec.Struct, frozen=True, array_like=True):
    value: int | None


class _Blob(msgspec.Struct, frozen=True, array_like=True):
    value: bytes
