"""What to upload next, as values: no socket, no database, no clock.

Theory. The buffer is a row of chunks without holes; the console acknowledges, for an epoch, the highest sequence
number up to which it has committed everything, and says what it has beyond that and what it lacks (gaps). So the
device needs to remember one number, `acked_seq`, and everything else here may be forgotten at any moment: what
is in flight is sent again after a reconnect or when acknowledgements stay out, and the console ignores what it
has. At least once on the wire, once in the console.

There are two lanes through that row. RESULTS goes in order, one cursor behind which everything was sent; EVENTS has a
cursor of its own, and runs ahead of the backlog with the chunks of events. The first cursor skips what the second has
sent, as long as that is in flight or known to be stored: after a reconnect nothing is assumed.

What was lost is told by order: a chunk that the console lacks, while it has one that was sent later, did not arrive.
One that it lacks and has nothing later of is simply not there yet.

What the upload as a whole is doing is one of four states: see `edgeinfer.sync.upload_states`.

An acknowledgement is believed only up to what was sent without a hole: it lets the daemon delete.
"""

import enum
import random
from collections.abc import Callable, Container
from typing import Annotated

import msgspec

from edgeinfer.runtime.chunk import EVENTS, RESULTS
from edgeinfer.runtime.config import Section
from edgeinfer.sync.bundle import MAX_BUNDLE_CHUNKS
from edgeinfer.sync.flight import Flight, Sent, Settled
from edgeinfer.sync.holdings import Holdings
from edgeinfer.sync.messages import Ack
from edgeinfer.sync.reasons import Refusal
from edgeinfer.sync.upload_states import TRANSITIONS, Event, State
from edgeinfer.sync.window import Window

__all__ = ["TRANSITIONS", "AckVerdict", "Event", "State", "UploadConfig", "UploadSession", "Want"]

BOTH_LANES = frozenset({EVENTS, RESULTS})
# Packets of the connection's quota that are left to control messages.
_RESERVED_QUOTA = 4
# Chunks of events ahead of the backlog that the console has not said it has. Each may be a gap in its books.
_MAX_EVENTS_AHEAD = 64
# Acknowledgements in a row that tell of a lost bundle and of none that arrived. Before one has, the first is enough.
_BUNDLE_LOSSES = 3
# Seconds until a refused upload is tried again, the first time and at most.
_HOLDS_S = {Refusal.BUSY: (1.0, 60.0), Refusal.FORBIDDEN: (30.0, 600.0), Refusal.TOO_LARGE: (0.2, 5.0)}

Count = Annotated[int, msgspec.Meta(ge=1)]
PositiveS = Annotated[float, msgspec.Meta(gt=0)]


class UploadConfig(Section, frozen=True, kw_only=True):
    """How results go up."""

    # Messages in flight, at most. 16 chunks of 100 results hide a round trip of 100 ms at 16 000 results/s.
    window: Count = 16
    # Chunks of a backlog that go in one message, at most, where the console takes that; 1: each goes alone. With 32 of
    # them a console has the next transaction's worth while it commits the last. Whoever else reads results from the
    # broker has to know bundles.
    bundle: Annotated[int, msgspec.Meta(ge=1, le=MAX_BUNDLE_CHUNKS)] = 32
    # The same in bytes, which bounds memory when chunks are large.
    window_bytes: Count = 4 << 20
    # Silence after which what is in flight is sent again; doubles up to the maximum while nobody answers.
    ack_timeout_s: PositiveS = 10.0
    ack_timeout_max_s: PositiveS = 60.0
    # A gap that the console goes on naming is filled again after this, not at each acknowledgement.
    gap_retry_s: PositiveS = 1.0
    # How often progress is made durable. Each time costs about 9 kB of flash; a crash costs this much resending.
    persist_interval_s: PositiveS = 5.0


class AckVerdict(enum.Enum):
    """What an acknowledgement turned out to be."""

    PROGRESS = "progress"
    STALE = "stale"  # nothing new: repeated, overtaken, or a console that knows less than it acknowledged before
    FOREIGN = "foreign"  # of another epoch
    BEYOND = "beyond"  # claims more than was ever sent; believed only up to that


class Want(msgspec.Struct, frozen=True):
    """Read up to `limit` chunks of `lane` (RESULTS: of the whole row; EVENTS: chunks of events alone), the first being
    the first whose last sequence number is above `after_seq`."""

    after_seq: int
    limit: int
    lane: int = RESULTS


class UploadSession:
    """The upload of one epoch.

    Args:
        config: windows and waits.
        epoch: of the buffer that is being sent.
        acked_seq: up to here the console has everything, as far as is durably known.
        through_seq: up to here everything was sent at some time, as far as is known (at least `acked_seq`).
        sent_seq: the highest sequence number that was ever sent, as far as is known (at least `through_seq`).
        jitter: numbers from 0 to 1, that spread what a whole fleet would else do at once.

    All times are seconds of one monotonic clock.
    """

    def __init__(
        self,
        config: UploadConfig,
        *,
        epoch: int,
        acked_seq: int,
        through_seq: int = 0,
        sent_seq: int = 0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.epoch = epoch
        self.acked_seq = acked_seq
        self.through_seq = max(through_seq, acked_seq)
        self.sent_seq = max(sent_seq, self.through_seq)
        self.state = State.OFFLINE
        self.conflict = 0
        self._config = config
        self._jitter = jitter
        self._window = Window()
        self._flight = Flight()
        self._holdings = Holdings(acked_seq)
        self._again: set[int] = set()  # first numbers of chunks that are, or were, sent again
        self._losses_left = 1
        self.loses_bundles = False
        self._cursor = self._events_cursor = acked_seq
        self._last_progress_s = 0.0
        self._timeout_s = config.ack_timeout_s
        self._round_trip_s = 0.0
        self._refusals = 0
        self._held_until_s = 0.0

    @property
    def in_flight(self) -> int:
        """Chunks that were sent and are not acknowledged."""
        return len(self._flight)

    @property
    def cursor(self) -> int:
        """Behind it everything was sent, or needs not be."""
        return self._cursor

    @property
    def largest(self) -> int:
        """Bytes of the largest message in flight; 0 for none."""
        return max((chunk.size for chunk in self._flight), default=0)

    @property
    def bundled(self) -> bool:
        """Whether a bundle is on its way of which nothing is known yet."""
        return self._flight.bundled

    def connected(self, now_s: float, *, quota: int) -> None:
        """A connection has come, on which the broker takes `quota` messages at once: start from `acked_seq`."""
        self._to(Event.CONNECTED)
        self._window.opened(limit=min(self._config.window, quota - _RESERVED_QUOTA))
        self._timeout_s = self._config.ack_timeout_s
        self._round_trip_s = 0.0
        self._losses_left = 1
        self._rewind(now_s)

    def lost(self) -> None:
        """The connection is gone, and what was in flight with it."""
        self._to(Event.LOST)
        self._rewind(self._last_progress_s)

    def tick(self, now_s: float) -> bool:
        """Look at the clock. True: nobody acknowledged for too long, and sending starts again from `acked_seq`."""
        if self.state is State.HELD:
            if now_s >= self._held_until_s:
                self._to(Event.RELEASED)
                self._rewind(now_s)
            return False
        deadline = self.deadline_s()
        if deadline is None or now_s < deadline:
            return False
        self._to(Event.SILENCE)
        self._timeout_s = min(2 * self._timeout_s, max(self._timeout_s, self._config.ack_timeout_max_s))
        self._rewind(now_s)
        return True

    def deadline_s(self) -> float | None:
        """When `tick` has something to do; None while nothing is awaited."""
        if self.state is State.HELD:
            return self._held_until_s
        if not self._flight:
            # What was skipped as stored and is not acknowledged is awaited too.
            waits = self.state is not State.OFFLINE and self._cursor > self.acked_seq
            return self._last_progress_s + self._timeout_s if waits else None
        oldest = next(iter(self._flight))
        return max(self._last_progress_s, oldest.sent_s) + self._timeout_s

    def widen(self, chunks: int) -> None:
        """A message may hold so many chunks of the backlog from now on."""
        self._window.widen(chunks)

    def bundle(self, lane: int) -> int:
        """How many chunks of `lane` go in one message now. Events go alone, and so does what probes."""
        return self._window.bundle if lane == RESULTS and self.state is State.STREAMING else 1

    def want(self, durable_seq: int, lanes: Container[int] = BOTH_LANES) -> Want | None:
        """What to read and send next of a buffer that ends with `durable_seq`, or None when it is time to wait.
        `lanes`: the ones that may be sent now.

        A chunk that was lost is asked for once: should it not be sent now, silence brings it back.
        """
        if self.state in {State.OFFLINE, State.HELD}:
            return None
        lost = self._flight.next_due()
        if lost is not None and lost.lane in lanes:
            self._flight.take(lost.first_seq)
            return Want(lost.first_seq - 1, 1, lost.lane)
        for lane, cursor in ((EVENTS, self._events_cursor), (RESULTS, self._cursor)):
            if cursor < durable_seq and lane in lanes and (room := self.room(lane)) > 0:
                return Want(cursor, room, lane)
        return None

    def room(self, lane: int) -> int:
        """How many more chunks of `lane` may go now."""
        return self._events_room() if lane == EVENTS else self._results_room()

    def lacks(self, first_seq: int, last_seq: int) -> bool:
        """Whether this chunk should be sent: it is neither on its way nor known to be stored."""
        return not (self._flight.holds(first_seq, last_seq) or self._holdings.covers(first_seq, last_seq))

    def sent(
        self, first_seq: int, n: int, *, size: int, now_s: float, lane: int = RESULTS, bundled: bool = False
    ) -> None:
        """The chunk of `n` results from `first_seq` on, found in `lane`, is on its way, `size` bytes large; `bundled`:
        in one message with others."""
        last_seq = first_seq + n - 1
        again = first_seq in self._again
        self._flight.put(Sent(first_seq, last_seq, size, now_s, lane, again=again, bundled=bundled))
        self.sent_seq = max(self.sent_seq, last_seq)
        self.passed(lane, last_seq)

    def passed(self, lane: int, seq: int) -> None:
        """All of `lane` up to `seq` was sent, or needs not be."""
        if lane == EVENTS:
            self._events_cursor = max(self._events_cursor, seq)
        else:
            self._cursor = max(self._cursor, seq)
            self.through_seq = max(self.through_seq, self._cursor)

    def acknowledge(self, ack: Ack, now_s: float) -> AckVerdict:
        """Take an acknowledgement; `acked_seq` never goes back and never passes what was sent without a hole. After it,
        `loses_bundles` says whether bundles get lost, though what goes alone arrives: over 3.1.1 brokers drop without a
        word what they do not allow."""
        self.loses_bundles = False
        if ack.epoch != self.epoch:
            return AckVerdict.FOREIGN
        self.conflict = self.conflict or ack.conflict
        through = self._through(ack.seq)
        seq = max(self.acked_seq, min(ack.seq, through))
        before = self._holdings
        self._holdings = Holdings.told(ack, seq=seq, most=self.sent_seq, before=before)
        bundle_lost = self._mark_lost(now_s)
        settled = self._flight.settle(seq, self._holdings)
        self._losses_left = _BUNDLE_LOSSES if settled.bundled else self._losses_left - bundle_lost
        self.loses_bundles = bundle_lost and self._losses_left <= 0
        if not ack.complete:
            self._flight.forget_events(above=self._holdings.known, to=ack.highest)
        self._go_back(before.missing_since(self._holdings, below=self._cursor))
        progress = seq > self.acked_seq
        if settled.newest is not None or progress:
            self._advance(seq, settled, now_s)
        elif self.state is State.PROBING and seq == self.acked_seq:
            # Somebody is there again, and lacks what we probe with: do not sit out a long wait.
            self._timeout_s = min(self._timeout_s, self._config.ack_timeout_s)
        if ack.seq > through:
            return AckVerdict.BEYOND
        return AckVerdict.PROGRESS if progress else AckVerdict.STALE

    def refused(self, why: Refusal, now_s: float) -> float:
        """The broker did not take a chunk. Returns for how many seconds nothing is sent; 0 where that is settled
        already. Whatever was refused is sent again after it."""
        if self.state in {State.OFFLINE, State.HELD}:
            return 0.0
        self._to(Event.REFUSED)
        if why is Refusal.BUSY:
            self._window.shrink(now_s)
        first_s, longest_s = _HOLDS_S[why]
        hold_s = min(longest_s, first_s * float(1 << min(self._refusals, 16))) * (0.5 + 0.5 * self._jitter())
        self._refusals += 1
        self._held_until_s = now_s + hold_s
        return hold_s

    def _to(self, event: Event) -> None:
        self.state = TRANSITIONS[self.state][event]

    def _rewind(self, now_s: float) -> None:
        """Assume nothing but what is acknowledged."""
        self._flight.clear()
        self._again.clear()
        self._holdings = Holdings(self.acked_seq)
        self._cursor = self._events_cursor = self.acked_seq
        self._last_progress_s = now_s

    def _advance(self, seq: int, settled: Settled, now_s: float) -> None:
        self._to(Event.ACKNOWLEDGED)
        self.acked_seq = seq
        self.through_seq = max(self.through_seq, seq)
        self._cursor = max(self._cursor, seq)
        self._events_cursor = max(self._events_cursor, seq)
        self._last_progress_s = now_s
        self._refusals = 0
        newest = settled.newest
        if newest is not None and not newest.again:  # else nobody knows which of the two was answered
            self._round_trip_s = now_s - newest.sent_s
            self._window.acknowledged(settled.chunks, sent_s=newest.sent_s, now_s=now_s)
        self._timeout_s = max(self._config.ack_timeout_s, 3 * self._round_trip_s)

    def _through(self, seq: int) -> int:
        """How far everything was sent, as far as that matters to judge `seq`: events may close up with the backlog."""
        through = self.through_seq
        while through < seq:
            end = self._flight.end_at(through + 1) or self._holdings.end_at(through + 1)
            if not end:
                break
            through = end
        return through

    def _mark_lost(self, now_s: float) -> bool:
        """Whether that is news of a bundle."""
        wait_s = max(self._config.gap_retry_s, 2 * self._round_trip_s)
        bundled = False
        for chunk in self._flight.lost(self._holdings):
            if not chunk.again or now_s - chunk.sent_s >= wait_s:
                bundled |= chunk.bundled and not chunk.due
                chunk.due = True
                self._again.add(chunk.first_seq)
        return bundled

    def _go_back(self, missing: int) -> None:
        """The console took back that it has `missing`: walk from there again, past what is in flight."""
        if missing and not self._flight.end_at(missing):
            self._cursor = min(self._cursor, missing - 1)

    def _events_room(self) -> int:
        """How many more chunks of events may go. Probing goes by the backlog, which alone can move `acked_seq`."""
        if self.state is not State.STREAMING:
            return 0
        ahead = min(_MAX_EVENTS_AHEAD, max(1, self._window.size - 1)) - self._flight.events
        return self._bounded(min(ahead, max(1, self._window.size) - len(self._flight)))

    def _results_room(self) -> int:
        """How many more chunks may go; the backlog always has room for one, whatever the events do."""
        size = 1 if self.state is State.PROBING else self._window.size
        room = size - len(self._flight)
        if room < 1 and len(self._flight) == self._flight.events:
            return 1
        return self._bounded(room)

    def _bounded(self, room: int) -> int:
        """By bytes too, as if each chunk were as large as the largest yet."""
        largest = max(1, self._flight.largest)
        if not self._flight:
            return min(room, max(1, self._config.window_bytes // largest))
        return min(room, (self._config.window_bytes - self._flight.bytes) // largest)
