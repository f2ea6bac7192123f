"""Whether anything is missing: what became of every result that a device numbered, for any stretch of time.

Times are the device's own, of when results were made. A result that is stored has one, and is in the range or not,
exactly. One that is not stored has none: what lies between two stored chunks is counted where it may have been made,
anywhere from the beginning of the one before (or from when its tombstone says) to the end of the one behind, and a
little around that: numbers are given when chunks are packed, and an event's at once. Where the clock went back between
the two, it may have been made at any time. So a range never shows less than what is missing in it, and names what it
counts.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from edgeinfer.console.chain_audit import ChainAudit, ChainReport
from edgeinfer.console.ledger import Ledger, Range
from edgeinfer.console.repository import Repository
from edgeinfer.console.repository.base import Absent, ChunkHead, KeptChunk, Span
from edgeinfer.runtime.chain import genesis
from edgeinfer.runtime.codec import summarize
from edgeinfer.runtime.errors import CodecError

__all__ = ["Auditor", "Hole", "RangeAudit"]

_FIRST_NS, _END_NS = -(1 << 63), 1 << 63
_PAGE = 256
_HOLES_NAMED = 100
_GAPS = 10_000
_ABSENT = 10_000
# How much earlier or later than its neighbours' times say a chunk may have been made: how long one is gathered.
_GATHERED_NS = 60 * 10**9

# Why a result is not stored, the worst first. Vanished: it was stored, and is not any more. Unlisted: it was settled
# without being stored, and more such are known of the device than are kept by name. Left: the device said that it had
# made it, has begun another buffer since, and has not sent it. Awaited: the device still has it, or has not said
# otherwise. Unsent: the device says that it has made it, after all that has come.
CAUSES = ("vanished", "missing", "left", "undecodable", "unlisted", "awaited", "unsent", "evicted")


class Hole(msgspec.Struct, frozen=True):
    """Results `first` to `last` of an epoch that are not stored; `cause` is one of CAUSES. They were made between
    `from_ns` and `to_ns`, None where nobody knows."""

    epoch: int
    first: int
    last: int
    cause: str
    reason: str = ""
    from_ns: int | None = None
    to_ns: int | None = None

    @property
    def n(self) -> int:
        return self.last - self.first + 1


class RangeAudit(msgspec.Struct, frozen=True, kw_only=True):
    """Results of a device with `since_ns` <= t < `until_ns` (None: from the first, to the last).

    `made` is `stored` and what `not_stored` counts by cause, together. `acknowledged`: the device was told that they
    are stored, or need not be. `duplicates` and `conflicts` were refused since the epochs in question began: what is
    refused has no time. `device_says` are the device's own counts, for its present epoch and all of its time.
    """

    device: str
    since_ns: int | None
    until_ns: int | None
    epochs: tuple[int, ...]
    made: int
    stored: int
    acknowledged: int
    not_stored: dict[str, int]
    evicted_because: dict[str, int]
    duplicates: int
    conflicts: int
    holes: tuple[Hole, ...]
    holes_in_all: int
    chain: ChainReport
    device_says: dict[str, int]

    @property
    def complete(self) -> bool:
        """Every result that was made is stored, and is what the device sent."""
        return self.made == self.stored and not self.chain.breaks


class Auditor:
    """Reads only, a chunk at a time."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def audit(self, device: str, *, since_ns: int | None = None, until_ns: int | None = None) -> RangeAudit | None:
        """None for an unknown device. Raises StorageError."""
        known = self._repository.device(device)
        if known is None:
            return None
        low, end = _bound(since_ns, _FIRST_NS), _bound(until_ns, _END_NS)
        says = _counts(known.reported.get("audit"))
        ledgers = self._repository.ledgers(device)
        absents = self._repository.absent(device, limit=_ABSENT)
        totals = self._spans(device, _FIRST_NS, _END_NS)
        spans = totals if (low, end) == (_FIRST_NS, _END_NS) else self._spans(device, low, end)
        chain, holes, stored, asked = ChainAudit(), list[Hole](), 0, list[int]()
        for number in dict.fromkeys([*totals, *ledgers, *(absent.epoch for absent in absents)]):
            epoch = _Epoch(self._repository, device, number, ledgers.get(number), low=low, end=end)
            made = says.get("made", 0) if says.get("epoch") == number else 0
            ended = says.get("epoch", number) != number
            named = [absent for absent in absents if absent.epoch == number]
            unnamed = "vanished" if len(absents) < _ABSENT else "unlisted"
            found = list(epoch.holes(named, totals.get(number), made=made, ended=ended, unnamed=unnamed))
            stored += epoch.walk(spans.get(number), chain)
            holes += found
            asked += [number] if found or number in spans else []
        return _report(
            RangeAudit(
                device=device, since_ns=since_ns, until_ns=until_ns, epochs=tuple(asked), made=0, stored=stored,
                acknowledged=0, not_stored={}, evicted_because={}, holes=(), holes_in_all=0, chain=chain.report(),
                device_says=says, **self._refused(device, asked, ledgers),
            ),
            holes,
        )  # fmt: skip

    def _spans(self, device: str, low: int, end: int) -> dict[int, Span]:
        return {span.epoch: span for span in self._repository.spans(device, since_ns=low, until_ns=end)}

    def _refused(self, device: str, asked: Sequence[int], ledgers: dict[int, Ledger]) -> dict[str, int]:
        found = [ledgers[epoch] for epoch in asked if epoch in ledgers]
        retired = self._repository.retired().get(device)
        if retired is not None and len(found) < len(asked):  # their counts are known together only
            found.append(retired)
        return {name: sum(getattr(ledger, name) for ledger in found) for name in ("duplicates", "conflicts")}


class _Epoch:
    """One epoch of a device, within a stretch of time."""

    def __init__(
        self, repository: Repository, device: str, epoch: int, ledger: Ledger | None, *, low: int, end: int
    ) -> None:
        self._repository = repository
        self._device = device
        self._epoch = epoch
        self._retired = ledger is None
        self._ledger = ledger or Ledger(contiguous=repository.retired_seq(device, epoch))
        self._low, self._end = low, end

    def walk(self, span: Span | None, chain: ChainAudit) -> int:
        """Check the chain over the chunks of `span`; returns how many of their results are in the time."""
        if span is None:
            return 0
        stored = 0
        for head in self._heads(span):
            if not self._ledger.is_settled(head.first_seq):
                continue  # it came since the ledger was read, which counts it as awaited or unsent
            chunk = self._repository.chunk_at(self._device, self._epoch, head.first_seq)
            if chunk is not None:
                chain.check(chunk, self._link)
                stored += self._count(chunk)
        return stored

    def holes(
        self, absents: list[Absent], total: Span | None, *, made: int, ended: bool, unnamed: str
    ) -> Iterator[Hole]:
        """What is not stored and may have been made in the time. `total`: all that is stored of the epoch; `ended`: the
        device has begun another one; `unnamed`: the cause of what is settled, not stored, and not among `absents`."""
        highest, made = self._ledger.highest, max(made, self._ledger.made)
        if made > highest and not self._retired:
            yield from self._timed(Hole(self._epoch, highest + 1, made, "left" if ended else "unsent"))
        gaps = self._ledger.gaps(_GAPS)
        for first, last in gaps:
            yield from self._timed(Hole(self._epoch, first, last, "awaited"))
        for absent in absents:
            hole = Hole(self._epoch, absent.first, absent.last, absent.cause, absent.reason, absent.t_ns or None)
            yield from self._timed(hole)
        explained = sorted([*gaps, *((absent.first, absent.last) for absent in absents)])
        for first, last in self._unexplained(explained, total):
            yield from self._timed(Hole(self._epoch, first, last, unnamed))

    def _unexplained(self, explained: list[Range], total: Span | None) -> Iterator[Range]:
        """What is settled, and neither stored nor known to be absent. Only looked for where the sum says that there
        is something."""
        stored = total.results if total is not None else 0
        if stored + sum(last - first + 1 for first, last in explained) == self._ledger.highest:
            return
        after = 0
        for head in self._heads(total) if total is not None else ():
            yield from _without(after + 1, head.first_seq - 1, explained)
            after = head.last_seq
        yield from _without(after + 1, self._ledger.highest, explained)

    def _heads(self, span: Span) -> Iterator[ChunkHead]:
        after = span.first - 1
        while heads := self._repository.heads(self._device, self._epoch, after=after, last=span.last, limit=_PAGE):
            yield from heads
            after = heads[-1].first_seq

    def _link(self, seq: int) -> bytes:
        return genesis(self._epoch) if seq == 0 else self._repository.link_at(self._device, self._epoch, seq)

    def _count(self, chunk: KeptChunk) -> int:
        """How many of its results are in the time, exactly."""
        if self._low <= chunk.t_min_ns and chunk.t_max_ns < self._end:
            return chunk.n
        if chunk.t_max_ns < self._low or chunk.t_min_ns >= self._end:
            return 0
        try:
            times = summarize(chunk.codec, chunk.body, n=chunk.n).t_ns
        except CodecError:  # it is not what came: the chain says so
            return 0
        return int(((times >= self._low) & (times <= self._end - 1)).sum())

    def _timed(self, hole: Hole) -> Iterator[Hole]:
        """The hole with its times, where they touch the stretch that is asked for."""
        before, _ = self._repository.neighbours(self._device, self._epoch, hole.first)
        _, behind = self._repository.neighbours(self._device, self._epoch, hole.last)
        from_ns = hole.from_ns
        if from_ns is None and before is not None:
            from_ns = before.t_min_ns
        to_ns = behind.t_max_ns if behind is not None else None
        if from_ns is not None and to_ns is not None and from_ns > to_ns:
            from_ns = to_ns = None
        starts_ns, ends_ns = _bound(from_ns, _FIRST_NS) - _GATHERED_NS, _bound(to_ns, _END_NS) + _GATHERED_NS
        if starts_ns < self._end and ends_ns >= self._low:
            yield msgspec.structs.replace(hole, from_ns=from_ns, to_ns=to_ns)


def _report(found: RangeAudit, holes: list[Hole]) -> RangeAudit:
    """`found` with what comes of the holes."""
    counts = dict.fromkeys(CAUSES, 0)
    because: dict[str, int] = {}
    for hole in holes:
        counts[hole.cause] += hole.n
        if hole.cause == "evicted":
            because[hole.reason] = because.get(hole.reason, 0) + hole.n
    holes.sort(key=lambda hole: CAUSES.index(hole.cause))
    return msgspec.structs.replace(
        found,
        made=found.stored + sum(counts.values()),
        acknowledged=found.stored + sum(counts.values()) - counts["awaited"] - counts["unsent"] - counts["left"],
        not_stored=counts,
        evicted_because=dict(sorted(because.items())[:_HOLES_NAMED]),
        holes=tuple(holes[:_HOLES_NAMED]),
        holes_in_all=len(holes),
    )


def _without(first: int, last: int, taken: Sequence[Range]) -> Iterator[Range]:
    """The parts of first..last that lie in none of `taken`, which are sorted and disjoint."""
    for at in range(bisect_left(taken, first, key=lambda pair: pair[1]), len(taken)):
        low, high = taken[at]
        if low > last:
            break
        if low > first:
            yield (first, low - 1)
        first = high + 1
    if first <= last:
        yield (first, last)


def _counts(audit: object) -> dict[str, int]:
    """What a device reports of itself, as far as it is numbers."""
    found: dict[Any, Any] = audit if isinstance(audit, dict) else {}
    return {
        str(name): value
        for name, value in found.items()
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _END_NS
    }


def _bound(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else max(_FIRST_NS, min(_END_NS, value))
