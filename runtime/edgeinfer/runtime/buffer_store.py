"""The buffer's file, and what is done when it fails: no room, errors of the medium, damage. One thread uses it.

What lies in the file and how it changes is `edgeinfer.runtime.buffer_file`'s; this is what goes on when that raises.
A commit that was reported as failed is looked for before it is written again. On a full disk the ballast is given
back, then the oldest goes. A damaged file is set aside, a new one takes its place at once, and what can be read of the
old one is moved into it by `salvage_step`.
"""

import logging
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeinfer.runtime.ballast import Ballast
from edgeinfer.runtime.buffer_file import aside
from edgeinfer.runtime.buffer_file.connection import (
    SqliteErrors,
    checkpoint_quietly,
    file_bytes,
    is_damage,
    primary_code,
    used_bytes,
)
from edgeinfer.runtime.buffer_file.file import Limits, NewChunk
from edgeinfer.runtime.buffer_file.lanes import Segment
from edgeinfer.runtime.buffer_file.patrol import Patrol
from edgeinfer.runtime.buffer_file.recovery import open_or_replace, set_aside
from edgeinfer.runtime.buffer_file.salvage_job import save_job
from edgeinfer.runtime.chunk import NO_LINK
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.locking import lock, unlock

if TYPE_CHECKING:
    from edgeinfer.runtime.buffer_file.salvage import Salvage

__all__ = ["BufferStore", "NewChunk"]

logger = logging.getLogger(__name__)

# Evict before the cap: the commit itself and the tables need some room.
_FULL_SHARE = 0.85
_ANY_SIZE = 1 << 62
# Each flush asks whether something may go; where nothing was acknowledged since, once a second is enough.
_TEND_NS = 1_000_000_000
# What a chunk may take beside its body: its row, and where its lane has no open segment, a table.
_CHUNK_BYTES = 300
_NEW_LANE_BYTES = 4096


class BufferStore:
    """The writer's connection. Raises BufferStorageError.

    Attributes: `acknowledged`, to be set by the owner: nothing up to it is needed any more.
    """

    def __init__(
        self, path: Path, *, max_bytes: int, max_age_s: float = 0.0, weights: Mapping[str, float] | None = None
    ) -> None:
        self._path = path
        self._limits = Limits(max_bytes, max_age_s, weights or {})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BufferStorageError(f"{path.parent}: cannot be made: {error.strerror}") from error
        self.acknowledged = 0
        self._lock_file = lock(path, hint="is edgeinfer already running with this state_dir?")
        # After an error: whether the connection is to be opened anew, and why the file is to be replaced.
        self._is_lost = False
        self._damage = ""
        self._out_of_room = False
        # The size that the file had when the disk was full; above all sizes while there is room.
        self._disk_limit = _ANY_SIZE
        # Room that is known to be there, so that it is not asked for with every commit.
        self._spare = 0
        # When to look next for what has become too old.
        self._tend_ns = 0
        # Enough for the log that has to be copied into the file before either can be used again.
        self._ballast = Ballast(path.with_name(path.name + ".ballast"), size=2 * self.commit_bytes)
        self._patrol = Patrol()
        try:
            self._file, self._salvage = open_or_replace(path, self._limits, state=None, make_room=self._ballast.release)
        except BaseException:
            unlock(self._lock_file)
            raise
        self._ballast.hold()

    @property
    def epoch(self) -> int:
        """Names the numbering."""
        return self._file.epoch

    @property
    def next_seq(self) -> int:
        """The number that the next result gets."""
        return self._file.next_seq

    @property
    def commit_bytes(self) -> int:
        """What one `write` may hold, in bytes of chunks: more might never fit."""
        return self._limits.commit_bytes

    @property
    def is_salvaging(self) -> bool:
        """Whether `salvage_step` has something to do."""
        return self._salvage is not None and not self._is_lost and not self._out_of_room

    @property
    def lost_epoch(self) -> int:
        """The epoch of a damaged file that is being salvaged under a new one; 0 for none."""
        job = self._salvage.job if self._salvage is not None else None
        return job.epoch if job is not None and job.epoch != self.epoch else 0

    def close(self) -> None:
        self._file.close()
        self._drop_salvage()
        unlock(self._lock_file)

    def write(self, chunks: Sequence[NewChunk]) -> None:
        """Make the chunks durable in one commit, or raise BufferStorageError with nothing changed."""
        try:
            if self._is_lost and self._reopen_finds(chunks):
                return
            if self._out_of_room:
                self._relieve()
            size = sum([len(chunk.body) for chunk in chunks])
            # A rough upper bound: where that fits, nothing is looked at.
            self._spare -= size + _NEW_LANE_BYTES * len(chunks)
            if self._spare < 0:
                tables = {(chunk.pipeline, chunk.lane) for chunk in chunks} - self._file.tails.keys()
                self._make_room(size + _CHUNK_BYTES * len(chunks) + _NEW_LANE_BYTES * len(tables))
            self._file.append(chunks)
        except SqliteErrors as error:
            raise self._failed(error) from error
        self._out_of_room = False

    def drop_up_to(self, acknowledged_seq: int) -> None:
        """Drop what holds nothing beyond `acknowledged_seq`, and what is older than it may be."""
        now_ns = self._file.clock.now_ns()
        is_due = acknowledged_seq != self.acknowledged or now_ns >= self._tend_ns
        self.acknowledged = acknowledged_seq
        if self._is_lost or self._out_of_room or not is_due:
            return
        self._tend_ns = now_ns + _TEND_NS
        try:
            while self._file.drop_acknowledged(acknowledged_seq):
                pass
            self._file.forget_tombstones(acknowledged_seq)
            self._expire()
            self._patrol.look(self._file.db, self._file.lanes, now_ns=now_ns)
        except SqliteErrors as error:
            raise self._failed(error) from error
        if self._ballast.hold():
            self._disk_limit = _ANY_SIZE

    def keep_numbers_unique(self, seen: int) -> None:
        """Never give out a number up to `seen` again: others know it. Where this file would, the medium has lost
        commits, and a new epoch begins. A file that has just taken the place of a damaged one goes on behind that
        number instead: what lies before it is salvaged or lost."""
        if seen < self.next_seq:
            return
        salvage = self._salvage
        try:
            if salvage is not None and salvage.job.start == self.next_seq:
                job = msgspec.structs.replace(salvage.job, start=seen + 1, beyond=seen + 1, beyond_link=NO_LINK)
                self._file.skip_to(seen + 1, beside=lambda db: save_job(db, job))
                salvage.job = job
                return
            logger.error(
                "event=buffer_behind next_seq=%d seen=%d reason=%r",
                self.next_seq, seen, "the medium lost commits, or an old copy was put back",
            )  # fmt: skip
            self.begin_epoch()
        except SqliteErrors as error:
            raise self._failed(error) from error

    def begin_epoch(self) -> None:
        """Number anew: what is acknowledged goes; the rest is kept, numbered from 1 in the new epoch. Raises
        sqlite3.Error."""
        old, salvage = self.epoch, self._salvage
        job = None
        if salvage is not None:  # what has not been salvaged yet gets new numbers too
            job = msgspec.structs.replace(salvage.job, start=0, acknowledged=self.acknowledged, beyond=salvage.job.at)
        self._file.begin_epoch(self.acknowledged, beside=lambda db: save_job(db, job) if job is not None else None)
        if salvage is not None and job is not None:
            salvage.job = job
        self.acknowledged = 0
        logger.error("event=buffer_epoch_begun old=%d new=%d kept=%d", old, self.epoch, self.next_seq - 1)

    def lost_acknowledged(self, acknowledged: int) -> None:
        """What is known to be delivered of `lost_epoch`: it is not salvaged."""
        salvage = self._salvage
        if salvage is not None and self.lost_epoch:
            known = max(acknowledged, salvage.job.acknowledged)
            salvage.job = msgspec.structs.replace(salvage.job, acknowledged=known)

    def salvage_step(self) -> None:
        """Move a little of what can be read of a damaged file; some 30 ms."""
        salvage = self._salvage
        if salvage is None or not self.is_salvaging:
            return
        try:
            self._make_room(salvage.needed)
            if salvage.step(self._file, self.acknowledged):
                self._finish(salvage)
        except SqliteErrors as error:
            raise self._failed(error) from error
        except OSError as error:
            logger.error("event=buffer_salvage_unreadable source=%s error=%s", salvage.job.source, error)  # noqa: TRY400 - said in full
            salvage.give_up()

    def _finish(self, salvage: "Salvage") -> None:
        from edgeinfer.runtime.buffer_file.salvage_report import report, write_report

        found = report(salvage.job)
        try:
            write_report(self._path.parent, found)
        except OSError as error:
            logger.warning("event=buffer_report_failed error=%s", error)
        salvage.finish(self._file)
        self._drop_salvage()
        logger.warning(
            "event=buffer_salvaged source=%s salvaged=%d renumbered=%d lost=%s",
            found.file, found.salvaged, found.renumbered, "unknown" if found.lost is None else found.lost,
        )  # fmt: skip

    def _drop_salvage(self) -> None:
        if self._salvage is not None:
            self._salvage.close()
        self._salvage = None

    def _expire(self) -> None:
        evicted = [(one, self._file.evict(one, self.acknowledged, reason="age")) for one in self._file.expired()]
        self._tell(evicted, reason="age")

    @staticmethod
    def _tell(evicted: Sequence[tuple[Segment, int]], *, reason: str) -> None:
        if evicted:
            pipelines = sorted({segment.pipeline for segment, _ in evicted})
            logger.warning(
                "event=buffer_evicted reason=%s n=%d pipelines=%s",
                reason, sum(count for _, count in evicted), ",".join(pipelines),
            )  # fmt: skip

    def _make_room(self, incoming_bytes: int) -> None:
        """Give up what is needed for so many bytes, and find out how many more there are."""
        cap = min(int(_FULL_SHARE * self._limits.max_bytes), self._disk_limit - self.commit_bytes // 2)
        self._tell(self._file.make_room(cap - incoming_bytes, self.acknowledged), reason="full")
        self._spare = max(0, cap - incoming_bytes - used_bytes(self._file.db))

    def _relieve(self) -> None:
        """The disk is full: give back the ballast, what was set aside and what is acknowledged, and from now on make
        do with the room that the file has."""
        self._ballast.release()
        if self._salvage is None:
            aside.forget_quietly(self._path)
        checkpoint_quietly(self._file.db)
        self._disk_limit = min(self._disk_limit, max(file_bytes(self._file.db), 3 * self.commit_bytes))
        self._spare = 0
        while self._file.drop_acknowledged(self.acknowledged, also_open=True):
            pass
        checkpoint_quietly(self._file.db)

    def _reopen_finds(self, chunks: Sequence[NewChunk]) -> bool:
        """Open the file again after an error. True where the commit of `chunks` that was reported as failed
        took place after all: writing them once more would double them."""
        epoch, next_seq = self.epoch, self.next_seq
        state = self._file.state
        self._drop_salvage()
        if self._damage:
            set_aside(self._path, why=self._damage)
            self._damage = ""
        self._file, self._salvage = open_or_replace(
            self._path, self._limits, state=state, make_room=self._ballast.release
        )
        self._is_lost, self._spare = False, 0
        found = (epoch, next_seq + sum(chunk.n for chunk in chunks)) == (self.epoch, self.next_seq)
        if found:
            logger.warning("event=buffer_commit_found next_seq=%d", self.next_seq)
        elif epoch == self.epoch and self.next_seq < next_seq:
            logger.error("event=buffer_commits_lost next_seq=%d was=%d", self.next_seq, next_seq)
            self.begin_epoch()
        return found

    def _failed(self, error: Exception) -> BufferStorageError:
        """Forget the connection: after an I/O error its state is not to be trusted. Where only room was lacking,
        nothing happened, and opening would need room too."""
        self._out_of_room = primary_code(error) == sqlite3.SQLITE_FULL or self._ballast.disk_is_full()
        if primary_code(error) != sqlite3.SQLITE_FULL:
            self._file.db.close()
            self._is_lost = True
        if is_damage(error):
            self._damage = str(error)
        return BufferStorageError(
            f"{self._path}: cannot be written: {error}", hint="is the disk full, read-only or failing?"
        )
