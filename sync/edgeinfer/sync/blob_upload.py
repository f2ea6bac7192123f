"""Sending a file up in parts, as values: which part to send now, and what an answer means. No socket, no clock.

The console's answer is the truth about the offset: it durably has everything below it. So an upload begins by asking (a
part without any bytes), goes on from where the answer says, and asks again whenever it is in doubt: after a new
connection, after silence, after an answer that goes back. Nothing has to be remembered on the device for it.

    ASKING   it is not known how far the console is: one question, repeated with growing waits
    SENDING  up to a window of parts is on its way
    ENDED    the console has all of it, or will never take it

    state    answered  in_doubt  ended
    ASKING   SENDING   ASKING    ENDED
    SENDING  SENDING   ASKING    ENDED
    ENDED    ENDED     ENDED     ENDED
"""

import enum
from collections import deque
from typing import Annotated

import msgspec

from edgeinfer.runtime.config import Section
from edgeinfer.sync.messages import MAX_RANGE_BYTES, BlobStored
from edgeinfer.sync.pace import Pace

__all__ = ["TRANSITIONS", "BlobUpload", "BlobsConfig", "Event", "Part", "State"]

PositiveS = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
# A console whose answers go back again and again loses what it is given: this file has to wait for a new start.
_MAX_RESTARTS = 5


class BlobsConfig(Section, frozen=True, kw_only=True):
    """Pictures and windows that the daemon keeps, on their way to the console: `snapshots` of events, and hard
    `examples`. Both are off unless somebody wants them: they show what the cameras see. The newest go first, of
    snapshots and examples in turn, and only while nothing else waits; what the device's own quota removes before its
    turn is not sent. `bytes_per_day` is their own budget over all networks (0: none but the network's).

    `part_bytes` go in a message at most, `window` of them before the console has answered; on a slow line less, so that
    an event does not wait behind a picture."""

    snapshots: bool = False
    examples: bool = False
    # Three pictures of 100 kB an hour, with room to spare.
    bytes_per_day: Annotated[int, msgspec.Meta(ge=0, le=1 << 50)] = 10_000_000
    part_bytes: Annotated[int, msgspec.Meta(ge=1024, le=MAX_RANGE_BYTES)] = 64 << 10
    window: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    timeout_s: PositiveS = 10.0
    # A console that takes no files never answers.
    timeout_max_s: PositiveS = 600.0


class State(enum.Enum):
    ASKING = "asking"
    SENDING = "sending"
    ENDED = "ended"


class Event(enum.Enum):
    ANSWERED = "answered"
    IN_DOUBT = "in_doubt"
    ENDED = "ended"


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.ASKING: {Event.ANSWERED: State.SENDING, Event.IN_DOUBT: State.ASKING, Event.ENDED: State.ENDED},
    State.SENDING: {Event.ANSWERED: State.SENDING, Event.IN_DOUBT: State.ASKING, Event.ENDED: State.ENDED},
    State.ENDED: {Event.ANSWERED: State.ENDED, Event.IN_DOUBT: State.ENDED, Event.ENDED: State.ENDED},
}


class Part(msgspec.Struct, frozen=True):
    """Send `length` bytes from `offset` on; none: ask how far the console is."""

    offset: int
    length: int


class BlobUpload:
    """The upload of one file. `offset`: the console has all below it. `done`: it has all. `refused` says why the
    console will never take it, `given_up` why it is not tried any more for now; both are empty else. All times are
    seconds of one monotonic clock."""

    def __init__(self, config: BlobsConfig, *, sha256: str, size: int, pace: Pace | None = None) -> None:
        self.sha256 = sha256
        self.size = size
        self.offset = 0
        self.state = State.ASKING
        self.done = False
        self.refused = ""
        self.given_up = ""
        self._config = config
        self._pace = pace or Pace(most_bytes=config.part_bytes, window=config.window)
        self._on_way: deque[tuple[int, float]] = deque()  # where each part ends, and when it was sent
        self._next = 0
        self._asked_s: float | None = None
        self._moved_s = 0.0
        self._timeout_s = config.timeout_s
        self._restarts = 0

    @property
    def silent(self) -> bool:
        """Whether questions stay without an answer."""
        return self._timeout_s > self._config.timeout_s

    def connected(self) -> None:
        """A new connection: what was on its way is lost."""
        self._timeout_s = self._config.timeout_s
        self._doubt()

    def next_part(self, now_s: float) -> Part | None:
        """What to send now, or None when it is time to wait. It is not sent until `sent` says so."""
        awaits = self._next > self.offset or self.offset >= self.size
        if self.state is State.SENDING and awaits and now_s - self._moved_s >= self._timeout_s:
            self._doubt()
        if self.state is State.ASKING:
            is_due = self._asked_s is None or now_s - self._asked_s >= self._timeout_s
            return Part(self.offset, 0) if is_due else None
        if self.state is State.ENDED or self._next >= self.size or len(self._on_way) >= self._pace.window:
            return None
        return Part(self._next, min(self._pace.part_bytes, self.size - self._next))

    def sent(self, part: Part, now_s: float) -> None:
        """`part` is on its way."""
        if part.length == 0:
            if self._asked_s is not None:
                self._timeout_s = min(2 * self._timeout_s, self._config.timeout_max_s)
            self._asked_s = now_s
            return
        if self._next == self.offset:
            self._moved_s = now_s
        self._next = part.offset + part.length
        self._on_way.append((self._next, now_s))

    def take(self, answer: BlobStored, now_s: float) -> bool:
        """Take an answer of the console; False where it is about another file."""
        if answer.sha256 != self.sha256:
            return False
        if answer.done or answer.refused:
            self.done, self.refused = answer.done, "" if answer.done else answer.refused
            self.offset = self.size if answer.done else self.offset
            self._to(Event.ENDED)
        elif self.state is State.ASKING:
            self._begin_at(min(answer.offset, self.size), now_s)
        elif answer.offset > self.offset:
            self._move(min(answer.offset, self.size), now_s)
        elif answer.offset < self.offset:
            self._doubt()
        return True

    def _move(self, offset: int, now_s: float) -> None:
        self.offset = offset
        self._next = max(self._next, offset)
        self._moved_s, self._timeout_s = now_s, self._config.timeout_s
        while self._on_way and self._on_way[0][0] <= offset:
            _, sent_s = self._on_way.popleft()
            self._pace.answered(now_s - sent_s)

    def _begin_at(self, offset: int, now_s: float) -> None:
        if offset < self.offset or offset >= self.size:
            self._restarts += 1
        if self._restarts > _MAX_RESTARTS:
            self.given_up = f"the console went back {self._restarts} times, to {offset} of {self.size} bytes"
            self._to(Event.ENDED)
            return
        self._to(Event.ANSWERED)
        self.offset = self._next = offset
        self._on_way.clear()
        self._moved_s, self._timeout_s = now_s, self._config.timeout_s
        self._asked_s = None

    def _doubt(self) -> None:
        self._to(Event.IN_DOUBT)
        self._asked_s = None
        self._on_way.clear()

    def _to(self, event: Event) -> None:
        self.state = TRANSITIONS[self.state][event]
