"""What is on its way to the console, in the order in which it was sent. Values only."""

from collections.abc import Iterator

import msgspec

from edgeinfer.runtime.chunk import EVENTS
from edgeinfer.sync.holdings import Holdings

__all__ = ["Flight", "Sent", "Settled"]


class Sent(msgspec.Struct):
    """A chunk, or a part of one. `again`: it was sent before and did not arrive. `due`: it has to be, now. `seen`:
    the console has it, but not all before it. `bundled`: it went in one message with others."""

    first_seq: int
    last_seq: int
    size: int
    sent_s: float
    lane: int
    again: bool = False
    due: bool = False
    seen: bool = False
    bundled: bool = False


class Settled(msgspec.Struct, frozen=True):
    """What an acknowledgement settled: how many chunks for the first time, the newest of them, and whether one of them
    was bundled."""

    chunks: int
    newest: Sent | None
    bundled: bool


class Flight:
    """Chunks by their first number. `bytes` and `events` are of those that are held; `largest` was ever held."""

    def __init__(self) -> None:
        self._sent: dict[int, Sent] = {}
        self._end = 0  # no number above it is held
        self.bytes = 0
        self.events = 0
        self.largest = 0

    def __len__(self) -> int:
        return len(self._sent)

    @property
    def bundled(self) -> bool:
        """Whether a bundle is on its way of which nothing is known yet."""
        return any(chunk.bundled and not chunk.seen for chunk in self)

    def __iter__(self) -> Iterator[Sent]:
        """The oldest first."""
        return iter(self._sent.values())

    def clear(self) -> None:
        self._sent.clear()
        self._end = 0
        self.bytes = self.events = 0

    def put(self, chunk: Sent) -> None:
        """It has just been sent. What it covers is gone: a tombstone takes the place of several chunks."""
        if chunk.first_seq <= self._end:
            for covered in [one for one in self if chunk.first_seq <= one.first_seq <= one.last_seq <= chunk.last_seq]:
                self.take(covered.first_seq)
            self.take(chunk.first_seq)
        self._end = max(self._end, chunk.last_seq)
        self._sent[chunk.first_seq] = chunk
        self.bytes += chunk.size
        self.events += chunk.lane == EVENTS
        self.largest = max(self.largest, chunk.size)

    def take(self, first_seq: int) -> None:
        """It is not on its way any more."""
        chunk = self._sent.pop(first_seq, None)
        if chunk is not None:
            self.bytes -= chunk.size
            self.events -= chunk.lane == EVENTS

    def holds(self, first_seq: int, last_seq: int) -> bool:
        chunk = self._sent.get(first_seq)
        return chunk is not None and last_seq <= chunk.last_seq and not chunk.due

    def end_at(self, first_seq: int) -> int:
        """The last number of the chunk that begins with `first_seq`; 0 for none."""
        chunk = self._sent.get(first_seq)
        return 0 if chunk is None else chunk.last_seq

    def next_due(self) -> Sent | None:
        """A chunk that has to be sent again."""
        return next((chunk for chunk in self if chunk.due), None)

    def settle(self, seq: int, holdings: Holdings) -> Settled:
        """All up to `seq` is stored, and what `holdings` says beyond it. Chunks of events are done with that; others
        stay until all before them is stored too, and so keep the window closed behind a gap."""
        chunks, newest, bundled = 0, None, False
        for chunk in list(self):
            done = chunk.last_seq <= seq
            if not done and not holdings.covers(chunk.first_seq, chunk.last_seq):
                continue
            if not chunk.seen:
                chunk.seen, chunk.due = True, False
                chunks, newest, bundled = chunks + 1, chunk, bundled or chunk.bundled
            if done or chunk.lane == EVENTS:
                self.take(chunk.first_seq)
        return Settled(chunks, newest, bundled)

    def lost(self, holdings: Holdings) -> list[Sent]:
        """Chunks that the console lacks though it has one that was sent later, and those that were sent again and
        that it still lacks."""
        missing: list[Sent] = []
        found: list[Sent] = []
        for chunk in self:
            if chunk.seen or holdings.has(chunk.first_seq):
                found += missing
                missing = []
            elif holdings.lacks(chunk.first_seq):
                (found if chunk.again else missing).append(chunk)
        return found

    def forget_events(self, *, above: int, to: int) -> None:
        """Chunks of events within these numbers: nothing more will be heard of them for now."""
        for chunk in [one for one in self if one.lane == EVENTS and above < one.first_seq and one.last_seq <= to]:
            self.take(chunk.first_seq)
