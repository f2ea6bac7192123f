"""The upload session: its table, its windows, and that each result arrives once whatever the network does."""

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edgeinfer.sync.messages import Ack
from edgeinfer.sync.session import TRANSITIONS, AckVerdict, Event, State, UploadConfig, UploadSession, Want

CONFIG = UploadConfig(window=4, ack_timeout_s=10.0, ack_timeout_max_s=40.0, gap_retry_s=1.0)


def online(*, acked: int = 0, sent: int = 0, quota: int = 100, config: UploadConfig = CONFIG) -> UploadSession:
    session = UploadSession(config, epoch=7, acked_seq=acked, sent_seq=sent)
    session.connected(0.0, quota=quota)
    return session


def send(session: UploadSession, *, chunks: int, now_s: float = 0.0, n: int = 10, size: int = 100) -> list[int]:
    """Send up to `chunks` chunks of `n` results; returns the first sequence numbers that went out."""
    gone = []
    for _ in range(chunks):
        want = session.want()
        if want is None:
            break
        first_seq = want.after_seq // n * n + 1
        session.sent(first_seq, n, size=size, now_s=now_s)
        gone.append(first_seq)
    return gone


def state_of(session: UploadSession) -> State:
    """A call, so that type checkers do not take the state for unchanged."""
    return session.state


def test_the_table_is_complete() -> None:
    assert set(TRANSITIONS) == set(State)
    assert all(set(row) == set(Event) for row in TRANSITIONS.values())


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_the_table_has_two_laws(state: State, event: Event) -> None:
    after = TRANSITIONS[state][event]
    assert (after is State.OFFLINE) == (
        event is Event.LOST or (state is State.OFFLINE and event is not Event.CONNECTED)
    )
    assert (after is State.PROBING) == (state is not State.OFFLINE and event is Event.SILENCE)


def test_nothing_is_wanted_while_offline() -> None:
    assert UploadSession(CONFIG, epoch=7, acked_seq=0).want() is None


def test_the_window_is_filled_and_then_waited_for() -> None:
    session = online()
    assert session.want() == Want(after_seq=0, limit=4)
    assert send(session, chunks=9) == [1, 11, 21, 31]
    assert session.want() is None
    assert session.acknowledge(Ack(7, 20), 1.0) is AckVerdict.PROGRESS
    assert session.want() == Want(after_seq=40, limit=2)


@pytest.mark.parametrize(("quota", "window"), [(1, 1), (4, 1), (6, 2), (65535, 4)])
def test_the_window_stays_below_the_brokers_quota(quota: int, window: int) -> None:
    assert len(send(online(quota=quota), chunks=9)) == window


def test_large_chunks_narrow_the_window() -> None:
    config = UploadConfig(window=16, window_bytes=1000)
    session = online(config=config)
    session.sent(1, 10, size=400, now_s=0.0)
    assert session.want() == Want(after_seq=10, limit=1)
    session.sent(11, 10, size=400, now_s=0.0)
    assert session.want() is None


def test_a_chunk_above_the_byte_window_still_goes() -> None:
    session = online(config=UploadConfig(window=16, window_bytes=10))
    session.sent(1, 10, size=400, now_s=0.0)
    session.acknowledge(Ack(7, 10), 0.1)
    assert session.want() == Want(after_seq=10, limit=1)


def test_a_reconnect_starts_from_what_is_acknowledged() -> None:
    session = online()
    send(session, chunks=4)
    session.acknowledge(Ack(7, 10), 1.0)
    session.lost()
    assert session.want() is None
    session.connected(2.0, quota=100)
    assert session.want() == Want(after_seq=10, limit=4)


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


def test_a_gap_is_filled_at_once_and_then_not_again_too_soon() -> None:
    session = online()
    send(session, chunks=4)
    gap = Ack(7, 10, ((11, 20),))
    session.acknowledge(gap, 0.1)
    assert session.want() == Want(after_seq=10, limit=1)
    session.sent(11, 10, size=100, now_s=0.1)
    session.acknowledge(gap, 0.2)
    assert session.want() == Want(after_seq=40, limit=1)  # room that the first acknowledgement made
    session.acknowledge(gap, 1.2)
    assert session.want() == Want(after_seq=10, limit=1)


def test_gaps_outside_of_what_is_in_flight_are_ignored() -> None:
    session = online(acked=20)
    send(session, chunks=4)
    session.acknowledge(Ack(7, 20, ((1, 10), (1000, 2000), (50, 40))), 0.1)
    assert session.want() is None


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
    assert session.want() == Want(after_seq=45, limit=4)


def test_a_tombstone_replaces_the_chunks_that_it_covers() -> None:
    session = online()
    send(session, chunks=4)
    session.acknowledge(Ack(7, 0, ((11, 20),)), 0.1)
    assert session.want() == Want(after_seq=10, limit=1)
    session.sent(1, 35, size=50, now_s=0.2)  # the buffer was full: 1 to 35 are one tombstone now
    assert session.in_flight == 2
    session.acknowledge(Ack(7, 40), 0.3)
    assert session.in_flight == 0


class Upload(RuleBasedStateMachine):
    """Device, network and console, with loss, repetition, reordering and crashes of either side.

    The device has a durable buffer and a durable acknowledged number; the console has a durable set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.chunks: list[tuple[int, int]] = []  # (first_seq, n)
        self.now_s = 0.0
        self.up: list[tuple[int, int]] = []
        self.down: list[Ack] = []
        self.stored: set[int] = set()
        self.durable_acked = 0
        self.session = UploadSession(CONFIG, epoch=7, acked_seq=0)

    @property
    def durable_seq(self) -> int:
        return self.chunks[-1][0] + self.chunks[-1][1] - 1 if self.chunks else 0

    @rule(n=st.integers(1, 5))
    def produce(self, n: int) -> None:
        self.chunks.append((self.durable_seq + 1, n))

    @precondition(lambda self: len(self.chunks) >= 2)
    @rule(data=st.data())
    def evict(self, data: st.DataObject) -> None:
        """Neighbours become one tombstone."""
        at = data.draw(st.integers(0, len(self.chunks) - 2))
        (first, n), (_, m) = self.chunks[at : at + 2]
        self.chunks[at : at + 2] = [(first, n + m)]

    @rule()
    def connect(self) -> None:
        self.session.connected(self.now_s, quota=20)

    @rule()
    def lose_connection(self) -> None:
        self.session.lost()
        self.up.clear()
        self.down.clear()

    @rule()
    def send(self) -> None:
        while (want := self.session.want()) is not None:
            found = [chunk for chunk in self.chunks if chunk[0] + chunk[1] - 1 > want.after_seq][: want.limit]
            if not found:
                break
            for first_seq, n in found:
                self.up.append((first_seq, n))
                self.session.sent(first_seq, n, size=n, now_s=self.now_s)

    @precondition(lambda self: self.up)
    @rule(data=st.data(), fate=st.sampled_from(["arrive", "arrive", "lost", "twice"]))
    def deliver_up(self, data: st.DataObject, fate: str) -> None:
        first_seq, n = self.up.pop(data.draw(st.integers(0, len(self.up) - 1)))
        if fate == "twice":
            self.up.append((first_seq, n))
        if fate != "lost":
            self.stored.update(range(first_seq, first_seq + n))
            self.down.append(self.console_ack())

    @precondition(lambda self: self.down)
    @rule(data=st.data(), fate=st.sampled_from(["arrive", "arrive", "lost", "twice"]))
    def deliver_down(self, data: st.DataObject, fate: str) -> None:
        ack = self.down.pop(data.draw(st.integers(0, len(self.down) - 1)))
        if fate == "twice":
            self.down.append(ack)
        if fate != "lost":
            self.session.acknowledge(ack, self.now_s)

    @rule()
    def persist(self) -> None:
        self.durable_acked = self.session.acked_seq

    @rule()
    def device_crashes(self) -> None:
        self.session = UploadSession(CONFIG, epoch=7, acked_seq=self.durable_acked)
        self.up.clear()

    @rule(step_s=st.sampled_from([0.1, 1.5, 11.0, 45.0]))
    def time_passes(self, step_s: float) -> None:
        self.now_s += step_s
        self.session.tick(self.now_s)

    @rule(seq=st.integers(0, 100), epoch=st.sampled_from([6, 8]))
    def a_stranger_acknowledges(self, seq: int, epoch: int) -> None:
        assert self.session.acknowledge(Ack(epoch, seq), self.now_s) is AckVerdict.FOREIGN

    @invariant()
    def only_what_is_stored_counts_as_acknowledged(self) -> None:
        assert all(seq in self.stored for seq in range(1, self.session.acked_seq + 1))
        assert self.durable_acked <= self.session.acked_seq

    @invariant()
    def the_window_is_kept(self) -> None:
        assert self.session.in_flight <= CONFIG.window

    def teardown(self) -> None:
        """With a good network from now on, everything arrives within a bounded number of rounds."""
        self.lose_connection()
        self.connect()
        for _ in range(3 * len(self.chunks) + 3):
            self.send()
            for first_seq, n in self.up:
                self.stored.update(range(first_seq, first_seq + n))
                self.session.acknowledge(self.console_ack(), self.now_s)
            self.up.clear()
        assert self.stored == set(range(1, self.durable_seq + 1))
        assert self.session.acked_seq == self.durable_seq

    def console_ack(self) -> Ack:
        seq = next(seq for seq in itertools.count() if seq + 1 not in self.stored)
        above = sorted(number for number in self.stored if number > seq)
        pairs = zip([seq, *above], above, strict=False)
        return Ack(7, seq, tuple((low + 1, high - 1) for low, high in pairs if high > low + 1))


TestUpload = Upload.TestCase
TestUpload.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
