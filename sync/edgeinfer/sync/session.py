"""What to upload next, as values: no socket, no database, no clock.

Theory. The buffer is a row of chunks without holes; the console acknowledges, for an epoch, the highest sequence
number up to which it has committed everything, and names what it misses below what lies beyond (gaps). So the
device needs to remember one number, `acked_seq`, and everything else here may be forgotten at any moment: what
is in flight is sent again after a reconnect or when acknowledgements stay out, and the console ignores what it
has. At least once on the wire, once in the console.

    OFFLINE    no connection; nothing is in flight
    STREAMING  up to a window of chunks is in flight
    PROBING    the broker is there but nobody acknowledges: one chunk at a time, with growing waits

    state      connected  lost     acknowledged  silence
    OFFLINE    STREAMING  OFFLINE  OFFLINE       OFFLINE
    STREAMING  STREAMING  OFFLINE  STREAMING     PROBING
    PROBING    STREAMING  OFFLINE  STREAMING     PROBING

An acknowledgement is believed only up to what was sent: it lets the daemon delete.
"""

import enum
from collections.abc import Iterator
from typing import Annotated

import msgspec

from edgeinfer.runtime.config import Section
from edgeinfer.sync.messages import Ack

__all__ = ["TRANSITIONS", "AckVerdict", "Event", "State", "UploadConfig", "UploadSession", "Want"]

# Packets of the connection's quota that are left to control messages.
_RESERVED_QUOTA = 4

Count = Annotated[int, msgspec.Meta(ge=1)]
PositiveS = Annotated[float, msgspec.Meta(gt=0)]


class UploadConfig(Section, frozen=True, kw_only=True):
    """How results go up."""

    # Chunks in flight. 16 of 100 results hide a round trip of 100 ms at 16 000 results/s.
    window: Count = 16
    # The same in bytes, which bounds memory when chunks are large.
    window_bytes: Count = 4 << 20
    # Silence after which what is in flight is sent again; doubles up to the maximum while nobody answers.
    ack_timeout_s: PositiveS = 10.0
    ack_timeout_max_s: PositiveS = 60.0
    # A gap that the console goes on naming is filled again after this, not at each acknowledgement.
    gap_retry_s: PositiveS = 1.0
    # How often progress is made durable. Each time costs about 9 kB of flash; a crash costs this much resending.
    persist_interval_s: PositiveS = 2.0


class State(enum.Enum):
    OFFLINE = "offline"
    STREAMING = "streaming"
    PROBING = "probing"


class Event(enum.Enum):
    CONNECTED = "connected"
    LOST = "lost"
    ACKNOWLEDGED = "acknowledged"
    SILENCE = "silence"


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.OFFLINE: {
        Event.CONNECTED: State.STREAMING,
        Event.LOST: State.OFFLINE,
        Event.ACKNOWLEDGED: State.OFFLINE,
        Event.SILENCE: State.OFFLINE,
    },
    State.STREAMING: {
        Event.CONNECTED: State.STREAMING,
        Event.LOST: State.OFFLINE,
        Event.ACKNOWLEDGED: State.STREAMING,
        Event.SILENCE: State.PROBING,
    },
    State.PROBING: {
        Event.CONNECTED: State.STREAMING,
        Event.LOST: State.OFFLINE,
        Event.ACKNOWLEDGED: State.STREAMING,
        Event.SILENCE: State.PROBING,
    },
}


class AckVerdict(enum.Enum):
    """What an acknowledgement turned out to be."""

    PROGRESS = "progress"
    STALE = "stale"  # nothing new: repeated, overtaken, or a console that knows less than it acknowledged before
    FOREIGN = "foreign"  # of another epoch
    BEYOND = "beyond"  # claims more than was ever sent; believed only up to that


class Want(msgspec.Struct, frozen=True):
    """Read up to `limit` chunks, the first being the first whose last sequence number is above `after_seq`."""

    after_seq: int
    limit: int


class _InFlight(msgspec.Struct):
    last_seq: int
    size: int
    sent_s: float
    filled: bool = False  # sent again for a gap


class UploadSession:
    """The upload of one epoch.

    Args:
        config: windows and waits.
        epoch: of the buffer that is being sent.
        acked_seq: up to here the console has everything, as far as is durably known.
        sent_seq: the highest sequence number that was ever sent, as far as is known (at least `acked_seq`).

    All times are seconds of one monotonic clock.
    """

    def __init__(self, config: UploadConfig, *, epoch: int, acked_seq: int, sent_seq: int = 0) -> None:
        self.epoch = epoch
        self.acked_seq = acked_seq
        self.sent_seq = max(sent_seq, acked_seq)
        self.state = State.OFFLINE
        self._config = config
        self._window = config.window
        self._cursor = acked_seq
        self._in_flight: dict[int, _InFlight] = {}  # by first_seq, in the order of first_seq
        self._refill: list[int] = []  # first_seq of chunks in flight that have to be sent again
        self._largest = 0
        self._last_progress_s = 0.0
        self._timeout_s = config.ack_timeout_s

    @property
    def in_flight(self) -> int:
        """Chunks that were sent and are not acknowledged."""
        return len(self._in_flight)

    def connected(self, now_s: float, *, quota: int) -> None:
        """A connection has come, on which the broker takes `quota` messages at once: start from `acked_seq`."""
        self._to(Event.CONNECTED)
        self._window = max(1, min(self._config.window, quota - _RESERVED_QUOTA))
        self._timeout_s = self._config.ack_timeout_s
        self._rewind(now_s)

    def lost(self) -> None:
        """The connection is gone, and what was in flight with it."""
        self._to(Event.LOST)
        self._rewind(self._last_progress_s)

    def tick(self, now_s: float) -> bool:
        """Look at the clock. True: nobody acknowledged for too long, and sending starts again from `acked_seq`."""
        deadline = self.deadline_s()
        if deadline is None or now_s < deadline:
            return False
        self._to(Event.SILENCE)
        self._timeout_s = min(2 * self._timeout_s, self._config.ack_timeout_max_s)
        self._rewind(now_s)
        return True

    def deadline_s(self) -> float | None:
        """When `tick` will lose its patience; None with nothing in flight."""
        if not self._in_flight:
            return None
        oldest = next(iter(self._in_flight.values()))
        return max(self._last_progress_s, oldest.sent_s) + self._timeout_s

    def want(self) -> Want | None:
        """What to read and send next, or None when it is time to wait.

        A chunk that fills a gap is asked for once: should it not be sent, the console will name the gap again.
        """
        if self.state is State.OFFLINE:
            return None
        while self._refill:
            first_seq = self._refill.pop(0)
            if first_seq in self._in_flight:
                return Want(after_seq=first_seq - 1, limit=1)
        room = self._room()
        return Want(after_seq=self._cursor, limit=room) if room > 0 else None

    def sent(self, first_seq: int, n: int, *, size: int, now_s: float) -> None:
        """The chunk of `n` results from `first_seq` on is on its way, `size` bytes large."""
        last_seq = first_seq + n - 1
        known = self._in_flight.get(first_seq)
        # A tombstone may have taken the place of several chunks since they were sent.
        covered = [seq for seq, c in self._in_flight.items() if first_seq < seq and c.last_seq <= last_seq]
        for seq in covered:
            del self._in_flight[seq]
        self._in_flight[first_seq] = _InFlight(last_seq, size, now_s, filled=known is not None)
        if known is None:
            self._in_flight = dict(sorted(self._in_flight.items()))
        self._largest = max(self._largest, size)
        self._cursor = max(self._cursor, last_seq)
        self.sent_seq = max(self.sent_seq, last_seq)

    def acknowledge(self, ack: Ack, now_s: float) -> AckVerdict:
        """Take an acknowledgement; `acked_seq` never goes back and never passes what was sent."""
        if ack.epoch != self.epoch:
            return AckVerdict.FOREIGN
        seq = min(ack.seq, self.sent_seq)
        progress = seq > self.acked_seq
        if progress:
            self._advance(seq, now_s)
        elif self.state is State.PROBING and seq == self.acked_seq:
            # Somebody is there again, and lacks what we probe with: do not sit out a long wait.
            self._timeout_s = min(self._timeout_s, self._config.ack_timeout_s)
        for first_seq, chunk in self._chunks_in(ack.gaps):
            if not chunk.filled or now_s - chunk.sent_s >= self._config.gap_retry_s:
                chunk.filled = True
                self._ask_again(first_seq)
        if ack.seq > self.sent_seq:
            return AckVerdict.BEYOND
        return AckVerdict.PROGRESS if progress else AckVerdict.STALE

    def _room(self) -> int:
        """How many more chunks may go: by count, and by bytes as if each were as large as the largest yet."""
        room = (1 if self.state is State.PROBING else self._window) - len(self._in_flight)
        if room < 1 or not self._in_flight:
            return min(room, max(1, self._config.window_bytes // max(1, self._largest)))
        left = self._config.window_bytes - sum(chunk.size for chunk in self._in_flight.values())
        return min(room, left // max(1, self._largest))

    def _to(self, event: Event) -> None:
        self.state = TRANSITIONS[self.state][event]

    def _rewind(self, now_s: float) -> None:
        self._in_flight.clear()
        self._refill.clear()
        self._cursor = self.acked_seq
        self._last_progress_s = now_s

    def _advance(self, seq: int, now_s: float) -> None:
        self._to(Event.ACKNOWLEDGED)
        self.acked_seq = seq
        self._cursor = max(self._cursor, seq)
        self._last_progress_s = now_s
        self._timeout_s = self._config.ack_timeout_s
        for first_seq in [first for first, chunk in self._in_flight.items() if chunk.last_seq <= seq]:
            del self._in_flight[first_seq]

    def _chunks_in(self, gaps: tuple[tuple[int, int], ...]) -> Iterator[tuple[int, _InFlight]]:
        """Chunks in flight that lie in one of `gaps`. Bounded by the window, however many gaps are named."""
        for first_seq, chunk in self._in_flight.items():
            if any(first_seq <= high and low <= chunk.last_seq for low, high in gaps):
                yield first_seq, chunk

    def _ask_again(self, first_seq: int) -> None:
        if first_seq not in self._refill:
            self._refill.append(first_seq)
            self._refill.sort()
