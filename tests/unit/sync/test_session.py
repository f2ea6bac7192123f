"""The upload session: its table, its windows, its two lanes, and what it believes of an acknowledgement."""

import itertools

import pytest

from edgeinfer.runtime.chunk import EVENTS, RESULTS
from edgeinfer.sync.messages import Ack
from edgeinfer.sync.reasons import Refusal
from edgeinfer.sync.session import AckVerdict, UploadConfig, UploadSession, Want
from edgeinfer.sync.upload_states import TRANSITIONS, Event, State

CONFIG = UploadConfig(window=4, ack_timeout_s=10.0, ack_timeout_max_s=40.0, gap_retry_s=1.0)
FAR = 1 << 40  # a buffer that goes on and on
BACKLOG = frozenset({RESULTS})


def online(
    *, acked: int = 0, sent: int = 0, quota: int = 100, config: UploadConfig = CONFIG, events: bool = False
) -> UploadSession:
    """Connected; without `events`, to a buffer that has none."""
    session = UploadSession(config, epoch=7, acked_seq=acked, through_seq=sent, jitter=lambda: 1.0)
    session.connected(0.0, quota=quota)
    if not events:
        session.passed(EVENTS, FAR)
    return session


def send(session: UploadSession, *, chunks: int, now_s: float = 0.0, n: int = 10, size: int = 100) -> list[int]:
    """Send up to `chunks` chunks of `n` results; returns the first sequence numbers that went out."""
    gone = []
    for _ in range(chunks):
        want = session.want(FAR, BACKLOG)
        if want is None:
            break
        first_seq = want.after_seq // n * n + 1
        session.sent(first_seq, n, size=size, now_s=now_s)
        gone.append(first_seq)
    return gone


def send_event(session: UploadSession, first_seq: int, *, now_s: float = 0.0) -> None:
    session.sent(first_seq, 1, size=50, now_s=now_s, lane=EVENTS)


def state_of(session: UploadSession) -> State:
    """A call, so that type checkers do not take the state for unchanged."""
    return session.state


# -- the table ----------------------------------------------------------------------------------------------------


def test_the_table_is_complete() -> None:
    assert set(TRANSITIONS) == set(State)
    assert all(set(row) == set(Event) for row in TRANSITIONS.values())


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_the_table_has_its_laws(state: State, event: Event) -> None:
    after = TRANSITIONS[state][event]
    assert (after is State.OFFLINE) == (
        event is Event.LOST or (state is State.OFFLINE and event is not Event.CONNECTED)
    ), "offline is left by a connection, and entered by its loss"
    if state is not State.OFFLINE and event is Event.REFUSED:
        assert after is State.HELD
    if state is State.HELD:
        assert after is State.HELD or event in {Event.CONNECTED, Event.LOST, Event.RELEASED}
    if after is State.PROBING:
        assert event in {Event.SILENCE, Event.RELEASED}
        assert state in {State.STREAMING, State.PROBING, State.HELD}


# -- windows ------------------------------------------------------------------------------------------------------


def test_nothing_is_wanted_while_offline() -> None:
    assert UploadSession(CONFIG, epoch=7, acked_seq=0).want(FAR) is None


def test_nothing_is_wanted_beyond_the_end_of_the_buffer() -> None:
    session = online()
    assert session.want(0) is None
    assert session.want(5) == Want(after_seq=0, limit=4)
    session.sent(1, 5, size=1, now_s=0.0)
    assert session.want(5) is None


def test_the_window_is_filled_and_then_waited_for() -> None:
    session = online()
    assert session.want(FAR) == Want(after_seq=0, limit=4)
    assert send(session, chunks=9) == [1, 11, 21, 31]
    assert session.want(FAR) is None
    assert session.acknowledge(Ack(7, 20), 1.0) is AckVerdict.PROGRESS
    assert session.want(FAR) == Want(after_seq=40, limit=2)


@pytest.mark.parametrize(("quota", "window"), [(1, 1), (4, 1), (6, 2), (65535, 4)])
def test_the_window_stays_below_the_brokers_quota(quota: int, window: int) -> None:
    assert len(send(online(quota=quota), chunks=9)) == window


def test_large_chunks_narrow_the_window() -> None:
    session = online(config=UploadConfig(window=16, window_bytes=1000))
    session.sent(1, 10, size=400, now_s=0.0)
    assert session.want(FAR) == Want(after_seq=10, limit=1)
    session.sent(11, 10, size=400, now_s=0.0)
    assert session.want(FAR) is None


def test_a_chunk_above_the_byte_window_still_goes() -> None:
    session = online(config=UploadConfig(window=16, window_bytes=10))
    session.sent(1, 10, size=400, now_s=0.0)
    session.acknowledge(Ack(7, 10), 0.1)
    assert session.want(FAR) == Want(after_seq=10, limit=1)


def test_the_window_opens_as_acknowledgements_come() -> None:
    session = online(config=UploadConfig(window=16))
    seen = []
    for now_s in (0.1, 0.2, 0.3, 0.4):
        gone = send(session, chunks=99, now_s=now_s)
        seen.append(session.in_flight)
        session.acknowledge(Ack(7, gone[-1] + 9), now_s)
    assert seen == [4, 8, 16, 16]


def test_late_acknowledgements_close_the_window() -> None:
    session = online(config=UploadConfig(window=16))
    now_s, sizes = 0.0, []
    for took_s in (0.1, 0.1, 0.1, 6.0, 6.0, 6.0):
        gone = send(session, chunks=99, now_s=now_s)
        now_s += took_s
        session.acknowledge(Ack(7, gone[-1] + 9), now_s)
        now_s += 0.1
        sizes.append(session.room(RESULTS))
    assert sizes == [8, 16, 16, 8, 4, 2]


# -- reconnects, silence ------------------------------------------------------------------------------------------


def test_a_reconnect_starts_from_what_is_acknowledged() -> None:
    session = online()
    send(session, chunks=4)
    session.acknowledge(Ack(7, 10), 1.0)
    session.lost()
    assert session.want(FAR) is None
    session.connected(2.0, quota=100)
    assert session.want(FAR, BACKLOG) == Want(after_seq=10, limit=4)


def test_a_reconnect_whose_loss_was_not_seen_starts_anew_too() -> None:
    session = online()
    send(session, chunks=4)
    session.connected(2.0, quota=100)
    assert (session.in_flight, session.want(FAR, BACKLOG)) == (0, Want(after_seq=0, limit=4))


def test_silence_leads_to_a_probe_with_growing_waits() -> None:
    session = online()
    send(session, chunks=4)
    assert not session.tick(9.9)
    moments = []
    now_s = 0.0
    for _ in range(4):
        deadline = session.deadline_s()
        assert deadline is not None
        now_s = deadline
        assert session.tick(now_s)
        moments.append(now_s)
        assert send(session, chunks=9, now_s=now_s) == [1]
    assert state_of(session) is State.PROBING
    assert moments == [10.0, 30.0, 70.0, 110.0]
    session.acknowledge(Ack(7, 10), now_s + 1)
    assert state_of(session) is State.STREAMING
    assert len(send(session, chunks=9, now_s=now_s + 1)) == 4


def test_any_answer_shortens_a_long_wait() -> None:
    session = online()
    send(session, chunks=4)
    session.tick(10.0)
    send(session, chunks=1, now_s=10.0)
    assert session.deadline_s() == 30.0
    assert session.acknowledge(Ack(7, 0), 11.0) is AckVerdict.STALE
    assert session.deadline_s() == 20.0


def test_a_slow_line_is_given_more_time() -> None:
    session = online()
    send(session, chunks=1)
    session.acknowledge(Ack(7, 10), 6.0)
    send(session, chunks=1, now_s=6.0)
    assert session.deadline_s() == 6.0 + 3 * 6.0


def test_probing_asks_the_backlog_and_no_events() -> None:
    session = online(events=True)
    send(session, chunks=1)
    session.tick(10.0)
    assert session.want(FAR) == Want(after_seq=0, limit=1)


# -- gaps ---------------------------------------------------------------------------------------------------------


def test_a_gap_is_filled_at_once_and_then_not_again_too_soon() -> None:
    session = online()
    send(session, chunks=4)
    gap = Ack(7, 10, ((11, 20),), highest=40)
    session.acknowledge(gap, 0.1)
    assert session.want(FAR) == Want(after_seq=10, limit=1)
    session.sent(11, 10, size=100, now_s=0.1)
    session.acknowledge(gap, 0.2)
    assert session.want(FAR) == Want(after_seq=40, limit=1)  # room that the first acknowledgement made
    session.acknowledge(gap, 1.2)
    assert session.want(FAR) == Want(after_seq=10, limit=1)


def test_what_is_only_not_there_yet_is_no_gap() -> None:
    """An event has overtaken the backlog: what is named before it was sent after it."""
    session = online(events=True)
    send_event(session, 500)
    session.passed(EVENTS, FAR)
    assert send(session, chunks=3) == [1, 11, 21]
    session.acknowledge(Ack(7, 10, ((11, 499),), highest=500), 0.1)
    assert session.want(FAR) == Want(after_seq=30, limit=2)
    session.acknowledge(Ack(7, 10, ((11, 20), (31, 499)), highest=500), 0.2)  # 21 came, 11 did not
    assert session.want(FAR) == Want(after_seq=10, limit=1)


def test_a_console_that_names_only_gaps_is_understood() -> None:
    """One of an older version says neither what is highest nor that the list is complete."""
    session = online()
    send(session, chunks=4)
    session.acknowledge(Ack(7, 0, ((1, 10),)), 0.1)
    assert session.want(FAR) == Want(after_seq=0, limit=1)


def test_gaps_outside_of_what_is_in_flight_are_ignored() -> None:
    session = online(acked=20)
    send(session, chunks=4)
    session.acknowledge(Ack(7, 20, ((1, 10), (1000, 2000), (50, 40))), 0.1)
    assert session.want(FAR) is None


def test_a_tombstone_replaces_the_chunks_that_it_covers() -> None:
    session = online()
    send(session, chunks=4)
    session.acknowledge(Ack(7, 0, ((11, 20),)), 0.1)
    assert session.want(FAR) == Want(after_seq=10, limit=1)
    session.sent(1, 35, size=50, now_s=0.2)  # the buffer was full: 1 to 35 are one tombstone now
    assert session.in_flight == 2
    session.acknowledge(Ack(7, 40), 0.3)
    assert session.in_flight == 0


# -- what is believed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ack", "verdict", "acked"),
    [
        (Ack(8, 30), AckVerdict.FOREIGN, 10),
        (Ack(7, 5), AckVerdict.STALE, 10),
        (Ack(7, 10), AckVerdict.STALE, 10),
        (Ack(7, 25), AckVerdict.PROGRESS, 25),
        (Ack(7, 40), AckVerdict.PROGRESS, 40),
        (Ack(7, 41), AckVerdict.BEYOND, 40),
        (Ack(7, (1 << 63) - 1), AckVerdict.BEYOND, 40),
    ],
)
def test_an_acknowledgement_is_weighed(ack: Ack, verdict: AckVerdict, acked: int) -> None:
    session = online(acked=10)
    send(session, chunks=3)
    assert session.acknowledge(ack, 1.0) is verdict
    assert session.acked_seq == acked


def test_what_an_earlier_life_sent_may_be_acknowledged() -> None:
    session = online(acked=10, sent=50)
    assert session.acknowledge(Ack(7, 45), 1.0) is AckVerdict.PROGRESS
    assert session.want(FAR) == Want(after_seq=45, limit=4)


def test_an_event_far_ahead_does_not_vouch_for_what_lies_before_it() -> None:
    session = online(events=True)
    send_event(session, 500)
    send(session, chunks=1)
    assert session.acknowledge(Ack(7, 500), 0.1) is AckVerdict.BEYOND
    assert session.acked_seq == 10
    assert session.sent_seq == 500


def test_an_event_that_closes_up_with_the_backlog_is_believed() -> None:
    session = online(events=True)
    send_event(session, 11)
    send_event(session, 12)
    send(session, chunks=1)
    assert session.acknowledge(Ack(7, 12), 0.1) is AckVerdict.PROGRESS
    assert session.acked_seq == 12


def test_an_overtaken_acknowledgement_takes_nothing_back() -> None:
    session = online(events=True)
    send_event(session, 500)
    send(session, chunks=2)
    session.acknowledge(Ack(7, 20), 0.2)
    session.acknowledge(Ack(7, 10, ((11, 499),), highest=500), 0.3)  # from before, and it settles the event
    assert session.acked_seq == 20


def test_a_conflict_is_kept() -> None:
    session = online()
    session.acknowledge(Ack(7, 0, conflict=5), 0.1)
    session.acknowledge(Ack(7, 0), 0.2)
    assert session.conflict == 5


# -- the lane of events -------------------------------------------------------------------------------------------


def test_events_go_first_and_leave_room_for_the_backlog() -> None:
    session = online(events=True, config=UploadConfig(window=4))
    assert session.want(FAR) == Want(after_seq=0, limit=3, lane=EVENTS)
    for first_seq in (100, 200, 300):
        send_event(session, first_seq)
    assert session.want(FAR) == Want(after_seq=0, limit=1)
    send(session, chunks=1)
    assert session.want(FAR) is None
    session.acknowledge(Ack(7, 0, ((1, 99), (101, 199)), highest=200), 0.1)
    assert session.want(FAR) == Want(after_seq=300, limit=2, lane=EVENTS)


def test_no_more_than_64_events_are_ahead_of_what_the_console_says() -> None:
    session = online(events=True, config=UploadConfig(window=1000))
    for turn in range(1, 12):  # opens the window
        gone = send(session, chunks=999, now_s=turn)
        session.acknowledge(Ack(7, gone[-1] + 9), turn)
    want = session.want(FAR)
    assert want is not None
    assert (want.lane, want.limit) == (EVENTS, 64)


def test_the_cursor_skips_events_in_flight_and_stored_ones() -> None:
    session = online(events=True)
    send_event(session, 5)
    send_event(session, 9)
    session.acknowledge(Ack(7, 0, ((1, 4),), highest=5), 0.1)
    assert not session.lacks(5, 5)  # stored
    assert not session.lacks(9, 9)  # on its way
    assert session.lacks(6, 8)
    assert session.lacks(5, 6)


def test_after_a_reconnect_nothing_is_assumed() -> None:
    session = online(events=True)
    send_event(session, 5)
    session.acknowledge(Ack(7, 0, ((1, 4),), highest=5), 0.1)
    session.lost()
    session.connected(1.0, quota=100)
    assert session.lacks(5, 5)
    assert session.want(FAR) == Want(after_seq=0, limit=3, lane=EVENTS)


def test_what_the_first_answer_on_a_connection_names_is_not_sent_again() -> None:
    session = UploadSession(CONFIG, epoch=7, acked_seq=0, sent_seq=500)
    session.connected(0.0, quota=100)
    session.acknowledge(Ack(7, 0, ((1, 499),), highest=500), 0.1)
    assert not session.lacks(500, 500)


def test_a_console_that_takes_back_what_it_had_gets_it_again() -> None:
    session = online(events=True)
    send_event(session, 11)
    session.passed(EVENTS, FAR)
    session.acknowledge(Ack(7, 0, ((1, 10),), highest=11), 0.1)
    send(session, chunks=1)
    session.passed(RESULTS, 11)  # skipped, for the console has it
    session.acknowledge(Ack(7, 10, ((11, 11),), highest=12), 0.2)
    session.acknowledge(Ack(7, 10, ((11, 15),), highest=16), 0.3)
    assert session.want(FAR) == Want(after_seq=10, limit=4)


def test_events_beyond_the_gaps_that_are_named_do_not_block_the_lane() -> None:
    session = online(events=True)
    for first_seq in (100, 200, 300):
        send_event(session, first_seq)
    assert session.room(EVENTS) == 0
    session.acknowledge(Ack(7, 0, ((1, 99),), highest=300, complete=False), 0.1)
    assert session.room(EVENTS) == 3
    assert not session.lacks(100, 100)
    assert session.lacks(200, 200)  # when the cursor comes to it, to be sure


def test_a_lane_that_may_not_go_is_not_wanted() -> None:
    session = online(events=True)
    assert session.want(FAR, frozenset({EVENTS})) == Want(after_seq=0, limit=3, lane=EVENTS)
    assert session.want(FAR, BACKLOG) == Want(after_seq=0, limit=4)
    assert session.want(FAR, frozenset()) is None


# -- refusals -----------------------------------------------------------------------------------------------------


def test_a_quota_that_is_used_up_slows_the_upload_down() -> None:
    session = online(config=UploadConfig(window=16))
    gone = send(session, chunks=99)
    session.acknowledge(Ack(7, gone[-1] + 9), 0.1)
    send(session, chunks=99, now_s=0.1)
    assert session.refused(Refusal.BUSY, 0.2) == 1.0
    assert state_of(session) is State.HELD
    assert session.want(FAR) is None
    assert session.refused(Refusal.BUSY, 0.3) == 0.0, "one refusal at a time"
    session.tick(1.19)
    assert state_of(session) is State.HELD
    session.tick(1.2)
    assert state_of(session) is State.PROBING
    assert send(session, chunks=99, now_s=1.2) == [41], "from what is acknowledged, one chunk"
    session.acknowledge(Ack(7, 50), 1.3)
    assert state_of(session) is State.STREAMING
    assert session.room(RESULTS) == 4, "half of the eight that were too many"


def test_refusals_in_a_row_wait_longer_and_longer() -> None:
    session = online()
    waits, now_s = [], 0.0
    for _ in range(8):
        send(session, chunks=1, now_s=now_s)
        waits.append(session.refused(Refusal.BUSY, now_s))
        now_s += waits[-1]
        session.tick(now_s)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    send(session, chunks=1, now_s=now_s)
    session.acknowledge(Ack(7, 10), now_s)
    assert session.refused(Refusal.BUSY, now_s) == 1.0


def test_what_is_forbidden_is_tried_again_much_later() -> None:
    session = online()
    send(session, chunks=1)
    assert session.refused(Refusal.FORBIDDEN, 0.1) == 30.0
    assert session.deadline_s() == 30.1


def test_a_new_connection_ends_the_wait_but_not_its_growth() -> None:
    session = online()
    send(session, chunks=1)
    session.refused(Refusal.FORBIDDEN, 0.1)
    session.lost()
    session.connected(1.0, quota=100)
    assert state_of(session) is State.STREAMING
    assert session.refused(Refusal.FORBIDDEN, 1.0) == 60.0


def test_what_was_skipped_as_stored_is_waited_for_too() -> None:
    """Nothing is in flight, and yet not all is acknowledged: a console that forgot must not be waited for in vain."""
    session = online(events=True)
    send_event(session, 11)
    session.passed(EVENTS, FAR)
    send(session, chunks=1)
    session.acknowledge(Ack(7, 10, highest=10), 0.1)
    session.acknowledge(Ack(7, 10, highest=11), 0.2)
    session.passed(RESULTS, 11)
    assert session.in_flight == 0
    assert session.deadline_s() == 10.2
    assert session.tick(10.2)
    assert session.want(11) == Want(after_seq=10, limit=1)


def test_half_a_chunk_is_not_settled() -> None:
    session = online()
    send(session, chunks=1)
    session.acknowledge(Ack(7, 5), 0.1)
    assert (session.acked_seq, session.in_flight) == (5, 1)
