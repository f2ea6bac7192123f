"""What can be read of a damaged buffer, moved into the one that took its place, a little at a time.

Two passes over the file that was set aside. The first looks through its pages for rows of chunks and tombstones, and
notes where each is. The second goes through what was found in the order of its numbers and writes it into the new
file; a number whose chunk was not found, or is not what was written, gets a tombstone of reason "damaged". How far it
has come is part of each commit, so it goes on where it was after a kill -9.

Rows of dropped tables are still in the file's free pages. They are told by their numbers: what is acknowledged, or has
a tombstone, is left out. A chunk has to carry the epoch, fit its CRC, and where the chunk before it is known to be
good, its link of the hash chain.

Where the state of the damaged file could be read, the numbering goes on and every chunk keeps its number (`start` is
the first number that is the new file's). Chunks beyond that, or all where there was no state, are numbered anew.
"""

import logging
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from edgeinfer.runtime.buffer_file.file import BufferFile, NewChunk
from edgeinfer.runtime.buffer_file.lanes import Segment
from edgeinfer.runtime.buffer_file.ledger import count
from edgeinfer.runtime.buffer_file.salvage_job import FOUND, Job, forget_job, save_job
from edgeinfer.runtime.buffer_file.schema import add_frames
from edgeinfer.runtime.buffer_file.segments import LaneChunk, Tails
from edgeinfer.runtime.buffer_file.timeline import Mark
from edgeinfer.runtime.buffer_file.tombstones import Run, add, tidy
from edgeinfer.runtime.buffer_file.wreckage import Carved, CarvedChunk, CarvedEvicted, CarvedTombstone, Wreckage
from edgeinfer.runtime.chain import genesis, next_link
from edgeinfer.runtime.chunk import NO_LINK, StoredChunk

__all__ = ["DAMAGED", "Salvage"]

logger = logging.getLogger(__name__)

# The reason of the tombstones of what is lost.
DAMAGED = "damaged"
# A step takes about this long; whoever writes waits no longer for it.
_STEP_NS = 15_000_000
_PAGES_A_LOOK = 16
_CHUNKS_A_BATCH = 256
_BATCH_BYTES = 128 << 10


class Salvage:
    """One salvage, by steps. Used by the buffer's thread. Raises sqlite3.Error for the new file, OSError for the old.

    Attributes: `job`, how far it has come.
    """

    # What room a step may need.
    needed = 4 * _BATCH_BYTES

    def __init__(self, job: Job, folder: Path) -> None:
        self.job = job
        self._wreckage: Wreckage | None = None
        try:
            self._wreckage = Wreckage(folder / job.source)
        except OSError as error:  # somebody has taken it away: what is not moved yet is lost
            logger.error("event=buffer_salvage_unreadable source=%s error=%s", job.source, error)  # noqa: TRY400 - said in full
        self._tails: Tails = {}

    def close(self) -> None:
        self.give_up()

    def give_up(self) -> None:
        """Read nothing more: what has not been moved yet is lost."""
        if self._wreckage is not None:
            self._wreckage.close()
        self._wreckage = None

    def step(self, file: BufferFile, acknowledged: int) -> bool:
        """Do a little. True once everything is moved or known to be lost; then only `finish` is to be called."""
        if not self.job.is_scanned:
            self._scan(file)
            return False
        return self._move(file, acknowledged)

    def finish(self, file: BufferFile) -> None:
        """Forget the job: readers may go on."""
        with file.change() as db:
            tails = [segment for segment in self._tails.values() if segment in file.lanes]
            changed = [file.segments.close(db, segment) for segment in tails]
            forget_job(db)
        file.segments.keep(changed, self._tails)

    def _scan(self, file: BufferFile) -> None:
        """The first pass: look through some pages."""
        look = self._look()
        with file.change() as db:
            look.save(db)
        self.job = look.job

    def _move(self, file: BufferFile, acknowledged: int) -> bool:
        """The second pass: write some of what was found."""
        walk, is_last = self._gather(file, acknowledged)
        if is_last and walk.job.start > 1:
            walk.fill(walk.job.start - 1)
        self._tails = {key: segment for key, segment in self._tails.items() if segment in file.lanes}
        with file.change(walk.renumbered) as db:
            changed = file.segments.insert(db, walk.kept, self._tails, epoch=file.epoch)
            add(db, walk.lost, reason=DAMAGED)
            count(db, walk.frames)
            for seq in walk.unlinked:
                _unlink(db, seq, (*self._tails.values(), *changed))
            save_job(db, walk.job)
        file.segments.keep(changed, self._tails)
        self.job = walk.job
        return is_last

    def _look(self) -> "_Look":
        look, until_ns = _Look(self.job), time.monotonic_ns() + _STEP_NS
        page, pages = self.job.page, 0 if self._wreckage is None else self._wreckage.pages
        while self._wreckage is not None and page <= pages:
            for number in range(page, min(page + _PAGES_A_LOOK, pages + 1)):
                look.take(number, self._wreckage.rows(number))
            page += _PAGES_A_LOOK
            if time.monotonic_ns() > until_ns:
                break
        look.job = msgspec.structs.replace(look.job, page=page, is_scanned=page > pages)
        return look

    def _gather(self, file: BufferFile, acknowledged: int) -> tuple["_Walk", bool]:
        """Some of what was found, in order; True with the last of it."""
        walk = _Walk(self.job, file, acknowledged)
        found = file.db.execute(
            f"SELECT first_seq, page, place FROM {FOUND} WHERE first_seq >= ? AND first_seq + n > ?"  # noqa: S608 - our own name
            " ORDER BY first_seq LIMIT ?",
            (walk.job.cursor, walk.job.at, _CHUNKS_A_BATCH),
        ).fetchall()
        until_ns, size = time.monotonic_ns() + _STEP_NS, 0
        for first_seq, page, place in found:
            row = self._wreckage.row(page, place) if self._wreckage is not None else None
            if isinstance(row, CarvedChunk) and row.first_seq == first_seq and row.is_whole:
                size += walk.take(row)
            walk.passed(first_seq)
            if size > _BATCH_BYTES or time.monotonic_ns() > until_ns:
                return walk, False
        return walk, len(found) < _CHUNKS_A_BATCH


class _Look:
    """What is found in some pages; `job` is how far it is then."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._chunks: list[tuple[int, int, int, int]] = []
        self._tombstones: list[CarvedTombstone] = []
        self._past: list[CarvedEvicted] = []
        self._marks: list[Mark] = []

    def take(self, page: int, rows: Iterable[tuple[int, Carved]]) -> None:
        for place, row in rows:
            if isinstance(row, CarvedChunk):
                self._take_chunk(row, page, place)
            elif row.first_seq > self.job.start:
                continue  # of another epoch, or behind what is known
            elif isinstance(row, CarvedTombstone):
                self._tombstones.append(row)
            elif isinstance(row, CarvedEvicted):
                self._past.append(row)
            else:
                self._marks.append(row)

    def save(self, db: sqlite3.Connection) -> None:
        """Where a row is there twice (an old copy of its page), one is as good as the other; tombstones grow."""
        db.executemany(f"INSERT OR IGNORE INTO {FOUND} VALUES (?, ?, ?, ?)", self._chunks)  # noqa: S608 - our own name
        db.executemany(
            "INSERT INTO tombstone VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET n = excluded.n, link = excluded.link WHERE excluded.n > n",
            map(msgspec.structs.astuple, self._tombstones),
        )
        db.executemany("INSERT OR IGNORE INTO evicted VALUES (?, ?, ?)", map(msgspec.structs.astuple, self._past))
        db.executemany("INSERT OR IGNORE INTO mark VALUES (?, ?, ?)", map(msgspec.structs.astuple, self._marks))
        if self.job.is_scanned:
            tidy(db, below=self.job.start, count=not self.job.has_counters)
        save_job(db, self.job)

    def _take_chunk(self, row: CarvedChunk, page: int, place: int) -> None:
        if not row.is_whole:
            self.job = msgspec.structs.replace(self.job, unreadable_chunks=self.job.unreadable_chunks + 1)
        elif self.job.epoch and row.epoch in {0, self.job.epoch}:
            self._chunks.append((row.first_seq, row.n, page, place))


class _Walk:
    """Goes through chunks in the order of their numbers; `job` is how far it is then.

    `kept` are chunks that keep their numbers, `lost` runs that are gone, `renumbered` chunks to be numbered anew;
    `frames` are counters to be added, of commits that were not in those of the old file; `unlinked` are numbers that
    the link before is not to be trusted for.
    """

    def __init__(self, job: Job, file: BufferFile, acknowledged: int) -> None:
        self._db = file.db
        self._delivered = acknowledged if job.start > 1 else job.acknowledged
        if job.at <= self._delivered:
            job = msgspec.structs.replace(job, at=self._delivered + 1, link=NO_LINK, is_sure=False)
        elif job.at == 1 and job.epoch == file.epoch:
            job = msgspec.structs.replace(job, link=genesis(file.epoch), is_sure=True)
        self.job = job
        self.kept: list[LaneChunk] = []
        self.lost: list[Run] = []
        self.unlinked: list[int] = []
        self.frames: dict[str, int] = {}
        self.renumbered: list[NewChunk] = []

    def passed(self, first_seq: int) -> None:
        self.job = msgspec.structs.replace(self.job, cursor=first_seq + 1)

    def take(self, row: CarvedChunk) -> int:
        """The bytes that are to be written for the chunk."""
        if row.last_seq >= self.job.start:
            return self._take_anew(row)
        self.fill(row.first_seq - 1)
        starts_here = self.job.at == row.first_seq or row.first_seq <= self._delivered + 1 == self.job.at
        if not starts_here or self._tombstones(row.first_seq, row.last_seq):
            return 0  # these numbers are settled
        link, is_sure = self._expected_link(row)
        if link != row.link and is_sure:
            return 0  # something that the CRC does not cover has changed: its number, its length, its pipeline
        if link not in {row.link, NO_LINK}:  # one of the two links has changed: what lies before has none from now on
            self.unlinked.append(row.first_seq)
        self.kept.append(LaneChunk(_stored(row), row.lane, row.clock_ns))
        if row.first_seq >= self.job.counted_seq:
            add_frames(self.frames, row.pipeline, row.frames)
        self.job = msgspec.structs.replace(
            self.job,
            at=row.last_seq + 1,
            link=row.link,
            is_sure=link == row.link and row.link != NO_LINK,
            kept=self.job.kept + row.n,
        )
        return len(row.body)

    def _take_anew(self, row: CarvedChunk) -> int:
        if not self._goes_on(row):
            return 0
        self.renumbered.append(NewChunk(row.pipeline, row.n, row.t0_ns, row.body, {}, row.lane, row.codec))
        if row.first_seq >= self.job.counted_seq:
            add_frames(self.frames, row.pipeline, row.frames)
        self.job = msgspec.structs.replace(
            self.job, beyond=row.last_seq + 1, beyond_link=row.link, renumbered=self.job.renumbered + row.n
        )
        return len(row.body)

    def _goes_on(self, row: CarvedChunk) -> bool:
        """Whether a chunk that is numbered anew follows those before it. What lies behind a state that is known follows
        it without a hole: any other number there is a damaged one, and its chunk may be there twice."""
        if self.job.start <= 1:
            return row.first_seq >= self.job.beyond
        link = self._link_after(self.job.beyond_link, row)
        return row.first_seq == self.job.beyond and link in {row.link, NO_LINK}

    def fill(self, last_seq: int) -> None:
        """Settle every number up to `last_seq`: it has a tombstone already, or gets one."""
        at, link = self.job.at, self.job.link
        lost = 0
        for run in [*self._tombstones(at, last_seq), Run(last_seq + 1, 0, 0)]:
            if run.first_seq > at:
                self.lost.append(Run(at, run.first_seq - at, 0))
                lost, link = lost + run.first_seq - at, NO_LINK
            if run.n:
                link = run.link
            at = max(at, run.last_seq + 1)
        if at != self.job.at:
            self.job = msgspec.structs.replace(self.job, at=at, link=link, is_sure=False, lost=self.job.lost + lost)

    def _expected_link(self, row: CarvedChunk) -> tuple[bytes, bool]:
        """The link that the chunk should have, and whether that is for sure."""
        link = self._link_after(self.job.link, row)
        return link, self.job.is_sure and link != NO_LINK

    @staticmethod
    def _link_after(before: bytes, row: CarvedChunk) -> bytes:
        """NO_LINK where one of the two is not known."""
        if NO_LINK in {before, row.link}:
            return NO_LINK
        return next_link(
            before, first_seq=row.first_seq, n=row.n, codec=row.codec, pipeline=row.pipeline, body=row.body
        )

    def _tombstones(self, first_seq: int, last_seq: int) -> list[Run]:
        """Those that have any of these numbers."""
        rows = self._db.execute(
            """SELECT first_seq, n, t0_ns, link FROM tombstone WHERE first_seq <= ?2 AND first_seq + n > ?1
            AND first_seq >= coalesce((SELECT max(first_seq) FROM tombstone WHERE first_seq <= ?1), 0)
            ORDER BY first_seq""",
            (first_seq, last_seq),
        )
        return [Run(*row) for row in rows]


def _unlink(db: sqlite3.Connection, seq: int, segments: Iterable[Segment]) -> None:
    """Forget the link of whatever ends just before `seq`."""
    for table in {"tombstone", *(segment.table for segment in segments)}:
        db.execute(
            f"""UPDATE {table} SET link = x'' WHERE first_seq + n = ?1
            AND first_seq = (SELECT max(first_seq) FROM {table} WHERE first_seq < ?1)""",  # noqa: S608 - our own name
            (seq,),
        )


def _stored(row: CarvedChunk) -> StoredChunk:
    return StoredChunk(row.first_seq, row.n, row.t0_ns, row.pipeline, row.codec, row.crc, row.body, row.link)
