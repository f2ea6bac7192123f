"""The states of an upload, as a table.

OFFLINE    no connection; nothing is in flight
STREAMING  up to a window of chunks is in flight
PROBING    the broker is there but nobody acknowledges: one chunk at a time, with growing waits
HELD       the broker refuses what is sent: nothing goes for a while, with growing waits

state      connected  lost     acknowledged  silence  refused  released
OFFLINE    STREAMING  OFFLINE  OFFLINE       OFFLINE  OFFLINE  OFFLINE
STREAMING  STREAMING  OFFLINE  STREAMING     PROBING  HELD     STREAMING
PROBING    STREAMING  OFFLINE  STREAMING     PROBING  HELD     PROBING
HELD       STREAMING  OFFLINE  HELD          HELD     HELD     PROBING
"""

import enum

__all__ = ["TRANSITIONS", "Event", "State"]


class State(enum.Enum):
    OFFLINE = "offline"
    STREAMING = "streaming"
    PROBING = "probing"
    HELD = "held"


class Event(enum.Enum):
    CONNECTED = "connected"
    LOST = "lost"
    ACKNOWLEDGED = "acknowledged"
    SILENCE = "silence"
    REFUSED = "refused"
    RELEASED = "released"


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.OFFLINE: {
        Event.CONNECTED: State.STREAMING,
        Event.LOST: State.OFFLINE,
        Event.ACKNOWLEDGED: State.OFFLINE,
        Event.SILENCE: State.OFFLINE,
        Event.REFUSED: State.OFFLINE,
        Event.RELEASED: State.OFFLINE,
    },
    State.STREAMING: {
        Event.CONNECTED: State.STREAMING,
        Event.LOST: State.OFFLINE,
        Event.ACKNOWLEDGED: State.STREAMING,
        Event.SILENCE: State.PROBING,
        Event.REFUSED: State.HELD,
        Event.RELEASED: State.STREAMING,
    },
    State.PROBING: {
        Event.CONNECTED: State.STREAMING,
        Event.LOST: State.OFFLINE,
        Event.ACKNOWLEDGED: State.STREAMING,
        Event.SILENCE: State.PROBING,
        Event.REFUSED: State.HELD,
        Event.RELEASED: State.PROBING,
    },
    State.HELD: {
        Event.CONNECTED: State.STREAMING,
        Event.LOST: State.OFFLINE,
        Event.ACKNOWLEDGED: State.HELD,
        Event.SILENCE: State.HELD,
        Event.REFUSED: State.HELD,
        Event.RELEASED: State.PROBING,
    },
}
