"""The update machine of a device, as a table. No I/O: the updater does what a state asks for and says what
came of it.

The machine's row is written before each side effect, and every step can be repeated, so that a power cut at
any moment leads back here: DOWNLOADING goes on at its offset (the agent knows it); DOWNLOADED, STAGED, GATE and
SHADOW begin again from a fresh hash; TRIAL counts an attempt and rolls back past the limit. Nothing is
called current before COMMITTED.
"""

import enum

import msgspec

from edgeinfer.runtime.rows import UpdateRow

__all__ = ["CHECKING", "FINAL", "MAX_ATTEMPTS", "TRANSITIONS", "Event", "State", "advance", "resume", "state_diagram"]

MAX_ATTEMPTS = 3


class State(enum.StrEnum):
    IDLE = "IDLE"
    ASSIGNED = "ASSIGNED"
    METADATA_OK = "METADATA_OK"
    DOWNLOADING = "DOWNLOADING"
    DOWNLOADED = "DOWNLOADED"
    STAGED = "STAGED"
    GATE = "GATE"
    SHADOW = "SHADOW"
    TRIAL = "TRIAL"
    COMMITTED = "COMMITTED"
    REPORTED = "REPORTED"
    ROLLING_BACK = "ROLLING_BACK"
    ROLLED_BACK = "ROLLED_BACK"
    FAILED = "FAILED"


class Event(enum.StrEnum):
    ASSIGN = "assign"  # the console wants another version here
    VERIFIED = "verified"  # the assignment's signature and device are right
    NEED_BLOB = "need_blob"  # the package is not on this device yet
    BLOB_ARRIVED = "blob_arrived"  # the agent has put it into incoming/
    INSTALLED = "installed"  # hashes and signature checked, unpacked, synced
    GATE_BEGAN = "gate_began"
    GATE_PASSED = "gate_passed"  # loads, golden vectors agree
    SHADOW_PASSED = "shadow_passed"
    TRIAL_PASSED = "trial_passed"
    TRIAL_FAILED = "trial_failed"
    ROLLED_BACK = "rolled_back"  # the old version is running again
    REPORTED = "reported"  # the agent has told the console
    REST = "rest"
    REFUSED = "refused"  # a check said no, with a reason
    ALREADY_ACTIVE = "already_active"


CHECKING = (
    State.ASSIGNED,
    State.METADATA_OK,
    State.DOWNLOADING,
    State.DOWNLOADED,
    State.STAGED,
    State.GATE,
    State.SHADOW,
)
FINAL = (State.COMMITTED, State.REPORTED, State.ROLLED_BACK, State.FAILED)

TRANSITIONS: dict[tuple[State, Event], State] = {
    **{(state, Event.ASSIGN): State.ASSIGNED for state in (State.IDLE, *FINAL)},
    (State.ASSIGNED, Event.VERIFIED): State.METADATA_OK,
    (State.ASSIGNED, Event.ALREADY_ACTIVE): State.COMMITTED,
    (State.METADATA_OK, Event.NEED_BLOB): State.DOWNLOADING,
    (State.METADATA_OK, Event.BLOB_ARRIVED): State.DOWNLOADED,
    (State.METADATA_OK, Event.INSTALLED): State.STAGED,  # a power cut came after it had been installed
    (State.DOWNLOADING, Event.BLOB_ARRIVED): State.DOWNLOADED,
    (State.DOWNLOADED, Event.INSTALLED): State.STAGED,
    (State.STAGED, Event.GATE_BEGAN): State.GATE,
    (State.GATE, Event.GATE_PASSED): State.SHADOW,
    (State.SHADOW, Event.SHADOW_PASSED): State.TRIAL,
    (State.TRIAL, Event.TRIAL_PASSED): State.COMMITTED,
    (State.TRIAL, Event.TRIAL_FAILED): State.ROLLING_BACK,
    (State.ROLLING_BACK, Event.ROLLED_BACK): State.ROLLED_BACK,
    (State.COMMITTED, Event.REPORTED): State.REPORTED,
    (State.REPORTED, Event.REST): State.IDLE,
    **{(state, Event.REFUSED): State.FAILED for state in CHECKING},
    (State.ROLLING_BACK, Event.REFUSED): State.FAILED,  # there is no version left to go back to
    # A newer wish of the console replaces one that has not touched the running model yet.
    **{(state, Event.ASSIGN): State.ASSIGNED for state in CHECKING},
}


def advance(row: UpdateRow, event: Event, *, reason: str = "") -> UpdateRow:
    """The row after `event`. Raises ValueError for an event that the table does not have in this state."""
    state = TRANSITIONS.get((State(row.state), event))
    if state is None:
        raise ValueError(f"the update machine has no {event.value} in {row.state}")
    return msgspec.structs.replace(row, state=state.value, reason=reason or row.reason)


def resume(row: UpdateRow) -> UpdateRow:
    """The row to go on with after a start of the daemon.

    What was being checked is checked again from the blob; a trial that was cut counts as an attempt, and one
    attempt too many rolls back.
    """
    state = State(row.state)
    if state in {State.DOWNLOADED, State.STAGED, State.GATE, State.SHADOW}:
        return msgspec.structs.replace(row, state=State.METADATA_OK.value)
    if state is State.TRIAL:
        if row.attempts >= MAX_ATTEMPTS:
            return advance(row, Event.TRIAL_FAILED, reason=f"the daemon ended in each of {row.attempts} trials")
        return msgspec.structs.replace(row, attempts=row.attempts + 1)
    return row


def state_diagram() -> str:
    """The table as a Mermaid state diagram, for the documentation."""
    lines = ["stateDiagram-v2", "    [*] --> IDLE"]
    lines += [f"    {state.value} --> {target.value}: {event.value}" for (state, event), target in TRANSITIONS.items()]
    return "\n".join(lines) + "\n"
