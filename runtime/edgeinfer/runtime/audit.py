"""What became of every result of this device: made, durable, sent, acknowledged, given up, missing.

    found = audit(Path("/var/lib/edgeinfer"), Path("/var/lib/edgeinfer-sync"))
    found.ok, found.gaps, found.chain.breaks_at

Walks over everything that the buffer holds, checks each chunk's checksum and its link of the hash chain. Reads only;
works while the daemon runs and after it has ended.
"""

import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from edgeinfer.runtime.buffer_file.salvage_report import Report, reports
from edgeinfer.runtime.buffer_file.timeline import FOREVER_NS, Ranges, intervals, numbers_between, overlap, size
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.chain import genesis, link_after
from edgeinfer.runtime.chunk import NO_LINK, TOMBSTONE, StoredChunk
from edgeinfer.runtime.handoff import SyncDb, is_made

__all__ = ["Audit", "Chain", "Continuity", "Head", "RangeAudit", "audit", "check_chain", "check_continuity"]

BUFFER_FILE = "buffer.db"
SYNC_FILE = "sync.db"
# The agent's counters: the highest number that it ever sent, up to where it has sent everything, and of which epoch.
_SENT, _SENT_THROUGH, _SENT_EPOCH, _REFUSED = "sent", "sent_through", "sent_epoch", "refused"
_PAGE = 64


class Chain(msgspec.Struct, frozen=True):
    """What the hash chain over the chunks tells. `verified` chunks have the link that follows from the one before;
    of `unlinked` ones that cannot be known: they come first, after a tombstone, or were written before there was a
    chain. `breaks_at` is the first number at which something was changed, exchanged or taken out; null if none was."""

    verified: int
    unlinked: int
    breaks_at: int | None


class RangeAudit(msgspec.Struct, frozen=True):
    """The same counts for what was numbered between two moments (UTC, ns since 1970; null for no bound): those that
    were asked for, rounded outwards to the buffer's marks. `evicted` is by reason, and complete where
    `evicted_is_complete`: of the distant past the buffer forgets."""

    since_ns: int | None
    until_ns: int | None
    numbers: Ranges
    made: int
    durable: int
    sent: int
    acknowledged: int
    evicted: dict[str, int]
    evicted_is_complete: bool
    gaps: Ranges


class Audit(msgspec.Struct, frozen=True):
    """What became of every result and every frame of this device, for the buffer's present epoch.

    `made` results were numbered, `durable` of them are on disk or were; `sent` is the highest number that the agent
    has ever sent, `sent_through` that up to which it has sent everything, `acknowledged` that up to which the console
    has stored everything. `evicted` were given up, for the reasons in `evicted_by_reason`. `gaps` are inclusive ranges
    that the buffer should hold and does not, `duplicates` the numbers that it holds twice,
    `refused` the results that the console had already when they came, as far as it has told, `damaged` the chunks whose
    checksum is wrong. `frames` counts by state.
    `left` are the numbers of earlier buffers (epoch, first, last) that were made, as far as the agent knows, and never
    acknowledged. `salvages` are the reports of damaged buffers; while one `is_salvaging`, what is not settled is not
    looked at.
    """

    epoch: int
    made: int
    durable: int
    sent: int
    sent_through: int
    acknowledged: int
    evicted: int
    evicted_by_reason: dict[str, int]
    gaps: Ranges
    duplicates: int
    refused: int
    frames: dict[str, int]
    damaged: int
    held: int
    bytes: int
    pipelines: dict[str, dict[str, int]]
    chain: Chain
    is_salvaging: bool
    salvages: tuple[Report, ...]
    left: tuple[tuple[int, int, int], ...] = ()
    range: RangeAudit | None = None

    @property
    def ok(self) -> bool:
        """Nothing is missing, doubled, damaged or tampered with."""
        return not (self.gaps or self.duplicates or self.damaged or self.left or self.chain.breaks_at is not None)


class Head(msgspec.Struct, frozen=True):
    """What continuity needs of a chunk."""

    first_seq: int
    last_seq: int
    is_tombstone: bool
    is_sound: bool


class Continuity(msgspec.Struct, frozen=True):
    """What a walk over the chunks found."""

    gaps: Ranges
    duplicates: int
    damaged: int
    held: int


def audit(state_dir: Path, sync_dir: Path | None, *, since_ns: int | None = None, until_ns: int | None = None) -> Audit:
    """Walk the whole buffer in `state_dir`. Raises BufferStorageError where there is none.

    `sync_dir` is the agent's folder; without one, or before its first start, nothing was sent. With `since_ns` or
    `until_ns` (UTC, since 1970) the counts are told for that range too.
    """
    path = state_dir / BUFFER_FILE
    with BufferReader(path) as reader:
        epoch, durable, settled = reader.epoch, reader.durable_seq(), reader.settled_seq()
        chain = _ChainCheck(epoch)
        chunks = [_head(chunk) for chunk in chain.passing(_all_chunks(reader, up_to=settled))]
        # In this order: what the daemon drops during the walk was acknowledged before it was dropped.
        delivered = _delivered(sync_dir, epoch)
        walk = check_continuity(chunks, last=settled, acknowledged=delivered.acknowledged)
        pipelines, by_reason = reader.frames(), reader.evicted_counts()
        ranged = None
        if since_ns is not None or until_ns is not None:
            bounds = (since_ns or 0, FOREVER_NS if until_ns is None else until_ns)
            ranged = _range(reader, bounds, durable=durable, delivered=delivered, gaps=walk.gaps)
        return Audit(
            epoch=epoch,
            made=durable,
            durable=durable,
            sent=delivered.sent,
            sent_through=delivered.sent_through,
            acknowledged=delivered.acknowledged,
            evicted=sum(by_reason.values()),
            evicted_by_reason=by_reason,
            gaps=walk.gaps,
            duplicates=walk.duplicates,
            refused=delivered.refused,
            frames=_totals(pipelines),
            damaged=walk.damaged,
            held=walk.held,
            bytes=reader.bytes(),
            pipelines=pipelines,
            chain=chain.found(),
            is_salvaging=settled < durable,
            salvages=tuple(reports(path)),
            left=delivered.left,
            range=ranged,
        )


def check_continuity(chunks: Iterable[Head], *, last: int, acknowledged: int) -> Continuity:
    """Whether `chunks`, in order, cover acknowledged + 1 .. last exactly once. What is acknowledged may be gone."""
    gaps: list[tuple[int, int]] = []
    duplicates = damaged = held = 0
    expected = 1
    for chunk in chunks:
        missing_from = max(expected, acknowledged + 1)
        if missing_from < chunk.first_seq:
            gaps.append((missing_from, chunk.first_seq - 1))
        damaged += not chunk.is_sound
        if not chunk.is_tombstone:
            # A tombstone that appeared during the walk may cover what was seen before it.
            duplicates += max(0, min(expected, chunk.last_seq + 1) - chunk.first_seq)
            held += chunk.last_seq - chunk.first_seq + 1
        expected = max(expected, chunk.last_seq + 1)
    missing_from = max(expected, acknowledged + 1)
    if missing_from <= last:
        gaps.append((missing_from, last))
    return Continuity(tuple(gaps), duplicates, damaged, held)


def check_chain(chunks: Iterable[StoredChunk], *, epoch: int) -> Chain:
    """Whether each chunk, in order, has the link that follows from the one before."""
    check = _ChainCheck(epoch)
    for _ in check.passing(chunks):
        pass
    return check.found()


class _ChainCheck:
    """Looks at chunks as they pass."""

    def __init__(self, epoch: int) -> None:
        self._link = genesis(epoch)
        self._next = 1
        self._verified = 0
        self._unlinked = 0
        self._breaks_at: int | None = None

    def passing(self, chunks: Iterable[StoredChunk]) -> Iterator[StoredChunk]:
        for chunk in chunks:
            self._look(chunk)
            yield chunk

    def found(self) -> Chain:
        return Chain(self._verified, self._unlinked, self._breaks_at)

    def _look(self, chunk: StoredChunk) -> None:
        before = self._link if chunk.first_seq == self._next else NO_LINK
        expected = link_after(before, chunk)
        if chunk.codec != TOMBSTONE:
            if expected == NO_LINK:
                self._unlinked += 1
            elif expected == chunk.link:
                self._verified += 1
            elif self._breaks_at is None:
                self._breaks_at = chunk.first_seq
        self._link, self._next = chunk.link, chunk.last_seq + 1


class _Delivered(msgspec.Struct, frozen=True):
    sent: int = 0
    sent_through: int = 0
    acknowledged: int = 0
    refused: int = 0
    left: tuple[tuple[int, int, int], ...] = ()


def _delivered(sync_dir: Path | None, epoch: int) -> _Delivered:
    """What was sent and acknowledged, as the agent's database says."""
    if sync_dir is None or not is_made(sync_dir / SYNC_FILE):
        return _Delivered()
    with SyncDb(sync_dir / SYNC_FILE, read_only=True) as sync:
        acknowledged = sync.acknowledged(epoch)
        is_known = sync.counter(_SENT_EPOCH) == epoch
        sent = max(acknowledged, sync.counter(_SENT) if is_known else 0)
        # An agent without lanes sent everything in order, and knew no other number.
        through = sync.counter(_SENT_THROUGH) if is_known else 0
        refused = sync.counter(_REFUSED) if is_known else 0
        left = tuple(sync.left(epoch))
        return _Delivered(sent, max(acknowledged, min(sent, through or sent)), acknowledged, refused, left)


def _range(
    reader: BufferReader, bounds: tuple[int, int], *, durable: int, delivered: _Delivered, gaps: Ranges
) -> RangeAudit:
    """Each count is an intersection of ranges of numbers."""
    found = intervals(reader.marks(), durable_seq=durable, clock_ns=reader.state().clock_ns)
    times = numbers_between(found, *bounds)
    runs, whole_from = reader.evicted()
    evicted: dict[str, int] = {}
    for run in runs:
        count = size(overlap(times.numbers, [(run.first_seq, run.last_seq)]))
        if count:
            evicted[run.reason] = evicted.get(run.reason, 0) + count
    made = size(times.numbers)
    return RangeAudit(
        since_ns=times.since_ns or None,
        until_ns=times.until_ns if times.until_ns < FOREVER_NS else None,
        numbers=times.numbers,
        made=made,
        durable=made,
        sent=size(overlap(times.numbers, [(1, delivered.sent_through)])),
        acknowledged=size(overlap(times.numbers, [(1, delivered.acknowledged)])),
        evicted=evicted,
        evicted_is_complete=not times.numbers or times.numbers[0][0] >= whole_from,
        gaps=overlap(times.numbers, gaps),
    )


def _head(chunk: StoredChunk) -> Head:
    return Head(chunk.first_seq, chunk.last_seq, chunk.codec == TOMBSTONE, zlib.crc32(chunk.body) == chunk.crc)


def _all_chunks(reader: BufferReader, *, up_to: int) -> Iterator[StoredChunk]:
    after_seq = 0
    while page := reader.chunks(after_seq, limit=_PAGE):
        for chunk in page:
            if chunk.first_seq > up_to:
                return
            yield chunk
        after_seq = page[-1].last_seq


def _totals(pipelines: dict[str, dict[str, int]]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for states in pipelines.values():
        for state, count in states.items():
            totals[state] = totals.get(state, 0) + count
    return totals
