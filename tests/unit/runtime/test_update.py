"""The update machine's table, looked at as data and walked at random."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.runtime.rows import UpdateRow
from edgeinfer.runtime.update import FINAL, MAX_ATTEMPTS, TRANSITIONS, Event, State, advance, resume, state_diagram


def test_every_state_can_be_reached_and_left() -> None:
    reached, frontier = {State.IDLE}, [State.IDLE]
    while frontier:
        state = frontier.pop()
        for (source, _), target in TRANSITIONS.items():
            if source is state and target not in reached:
                reached.add(target)
                frontier.append(target)
    assert reached == set(State)
    assert {source for source, _ in TRANSITIONS} == set(State)


def test_every_event_is_used() -> None:
    assert {event for _, event in TRANSITIONS} == set(Event)


def test_only_a_trial_or_an_active_package_is_committed() -> None:
    into = {source for (source, _), target in TRANSITIONS.items() if target is State.COMMITTED}
    assert into == {State.TRIAL, State.ASSIGNED}
    assert TRANSITIONS[State.ASSIGNED, Event.ALREADY_ACTIVE] is State.COMMITTED
    assert {source for (source, _), target in TRANSITIONS.items() if target is State.TRIAL} == {State.SHADOW}
    assert {source for (source, _), target in TRANSITIONS.items() if target is State.SHADOW} == {State.GATE}


def test_a_model_that_runs_can_only_be_committed_or_rolled_back() -> None:
    assert {event for state, event in TRANSITIONS if state is State.TRIAL} == {Event.TRIAL_PASSED, Event.TRIAL_FAILED}
    assert {event for state, event in TRANSITIONS if state is State.ROLLING_BACK} == {Event.ROLLED_BACK, Event.REFUSED}
    assert TRANSITIONS[State.ROLLING_BACK, Event.REFUSED] is State.FAILED, "no version is left to go back to"


def test_what_the_table_does_not_have_is_an_error() -> None:
    for state in State:
        for event in Event:
            row = UpdateRow(state=state.value)
            if (state, event) in TRANSITIONS:
                assert advance(row, event).state == TRANSITIONS[state, event].value
            else:
                with pytest.raises(ValueError, match="has no"):
                    advance(row, event)


def test_a_reason_stays_until_there_is_another() -> None:
    row = advance(UpdateRow(state="TRIAL"), Event.TRIAL_FAILED, reason="it failed")
    assert advance(row, Event.ROLLED_BACK).reason == "it failed"


@pytest.mark.parametrize("state", [state for state in State if state is not State.TRIAL])
def test_resume_can_be_repeated(state: State) -> None:
    row = UpdateRow(state=state.value, job="j", attempts=1)
    once = resume(row)
    assert resume(once) == once


@pytest.mark.parametrize("state", [State.IDLE, State.ASSIGNED, State.DOWNLOADING, State.ROLLING_BACK, *FINAL])
def test_resume_leaves_what_goes_on_by_itself(state: State) -> None:
    row = UpdateRow(state=state.value, job="j")
    assert resume(row) == row


@pytest.mark.parametrize("state", [State.DOWNLOADED, State.STAGED, State.GATE, State.SHADOW])
def test_resume_checks_again_what_was_being_checked(state: State) -> None:
    assert resume(UpdateRow(state=state.value)).state == State.METADATA_OK


def test_trials_that_are_cut_are_counted_and_end() -> None:
    row = UpdateRow(state="TRIAL", attempts=1)
    for attempt in range(2, MAX_ATTEMPTS + 1):
        row = resume(row)
        assert (row.state, row.attempts) == ("TRIAL", attempt)
    row = resume(row)
    assert row.state == State.ROLLING_BACK
    assert "3 trials" in row.reason


@given(st.lists(st.one_of(st.sampled_from(Event), st.just("power cut")), max_size=60))
def test_nothing_is_committed_without_gate_and_trial(walk: list[Event | str]) -> None:
    """At random, with power cuts: since its assignment, what is committed has passed both."""
    row = UpdateRow()
    passed: list[Event] = []
    for step in walk:
        if isinstance(step, Event):
            try:
                row = advance(row, step)
            except ValueError:
                continue
            passed = [] if step is Event.ASSIGN else [*passed, step]
        else:
            row = resume(row)
        if row.state == State.COMMITTED and Event.ALREADY_ACTIVE not in passed:
            assert passed.index(Event.INSTALLED) < passed.index(Event.GATE_PASSED) < passed.index(Event.TRIAL_PASSED)
        assert row.attempts <= MAX_ATTEMPTS


def test_the_diagram_shows_the_whole_table() -> None:
    lines = state_diagram().splitlines()
    assert lines[0] == "stateDiagram-v2"
    assert len(lines) == len(TRANSITIONS) + 2
    assert "    TRIAL --> COMMITTED: trial_passed" in lines


def test_the_row_survives_its_encoding() -> None:
    row = UpdateRow("TRIAL", 3, "j", "m", "1.0.0", "d", "b", 5, 1, "r", 1.5, {"i": "COMMITTED"})
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(row), type=UpdateRow) == row
