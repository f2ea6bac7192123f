"""The uploader between models of the buffer, of `sync.db` and of the link: what goes out, and what is said."""

from collections.abc import Callable
from typing import cast

import pytest

from edgeinfer.console.ledger import Ledger
from edgeinfer.runtime.chunk import EVENTS, NO_LINK, RESULTS, TOMBSTONE
from edgeinfer.runtime.handoff import SyncDb
from edgeinfer.sync.allowance import UNLIMITED, Allowance, Priority
from edgeinfer.sync.messages import Ack, ChunkMessage, decode_chunk, encode
from edgeinfer.sync.mqtt import MqttLink
from edgeinfer.sync.session import UploadConfig
from edgeinfer.sync.settings import SyncConfig
from edgeinfer.sync.uploader import Uploader
from upload_models import ModelBuffer, ModelDb, ModelLink

CONFIG = UploadConfig(window=16, bundle=16, ack_timeout_s=10.0, persist_interval_s=2.0)


class Bench:
    """An uploader that is online, and what came out of it."""

    def __init__(self, allowance: Allowance = UNLIMITED) -> None:
        self.buffer, self.db, self.link = ModelBuffer(), ModelDb(), ModelLink()
        self.allowance = allowance
        self.now_s = 0.0
        self.uploader = self.restart()

    def restart(self) -> Uploader:
        config = SyncConfig(device="dev-1", upload=CONFIG)
        uploader = Uploader(config, cast("SyncDb", self.db), cast("MqttLink", self.link), self.allowance)
        uploader._buffer = self.buffer  # type: ignore[assignment]  # a model of it
        self.link.connected = True
        uploader.connected(0.0)
        self.uploader = uploader
        return uploader

    def sent(self, now_s: float = 0.0) -> list[ChunkMessage]:
        """What a step brings out."""
        self.link.up.clear()
        self.uploader.step(now_s)
        return [decode_chunk(raw) for message in self.link.up for raw in message.chunks]

    def drain(self, *, rounds: int, takes: int = 64) -> list[int]:
        """Over so many round trips, each a tenth of a second, after which nothing is in flight; how many chunks each
        message held in the last."""
        for _ in range(rounds):
            self.sent(self.now_s)
            self.now_s += 0.1
            through = self.link.sent_through()
            self.acknowledge(Ack(7, through, bundle=takes), self.now_s)
        return self.held()

    def held(self) -> list[int]:
        """How many chunks each message of the last step held."""
        return [len(message.chunks) for message in self.link.up]

    def acknowledge(self, ack: Ack, now_s: float = 0.1) -> None:
        self.uploader.acknowledge(encode(ack), now_s)


class Turnpike:
    """Lets pass what `open` says, and counts."""

    def __init__(self, *open_: Priority) -> None:
        self.open = set(open_)
        self.budget = 1 << 40
        self.paid: list[tuple[Priority, int]] = []

    def room(self, priority: Priority, _now_s: float) -> int:
        return self.budget if priority in self.open else 0

    spare = room

    def spent(self, priority: Priority, size: int, _now_s: float) -> None:
        self.paid.append((priority, size))
        self.budget -= size


def numbers(chunks: list[ChunkMessage]) -> list[tuple[int, int]]:
    return [(chunk.first_seq, chunk.n) for chunk in chunks]


# -- lanes --------------------------------------------------------------------------------------------------------


def test_events_go_before_the_backlog_and_are_not_sent_again() -> None:
    bench = Bench()
    for _ in range(6):
        bench.buffer.append([0] * 10, RESULTS)
    bench.buffer.append([0], EVENTS)
    bench.buffer.append([0] * 10, RESULTS)
    bench.buffer.append([0], EVENTS)
    assert numbers(bench.sent()) == [(61, 1), (72, 1), (1, 10), (11, 10)]
    bench.acknowledge(Ack(7, 20, ((21, 60), (62, 71)), highest=72))
    assert numbers(bench.sent()) == [(21, 10), (31, 10), (41, 10), (51, 10), (62, 10)]
    bench.acknowledge(Ack(7, 72))
    assert bench.uploader.acked_seq == 72
    assert not bench.uploader.busy


def test_an_event_that_comes_while_the_backlog_goes_is_next() -> None:
    bench = Bench()
    for _ in range(40):
        bench.buffer.append([0] * 10, RESULTS)
    bench.sent()
    bench.buffer.append([0], EVENTS)
    bench.acknowledge(Ack(7, 20))
    assert numbers(bench.sent(0.2))[0] == (401, 1)


def test_while_a_buffer_is_salvaged_nothing_beyond_is_passed_over() -> None:
    bench = Bench()
    bench.buffer.append([0] * 10, RESULTS)
    bench.buffer.append([0], EVENTS)
    bench.buffer.horizon = 0
    assert bench.sent() == []
    bench.buffer.horizon = None
    assert numbers(bench.sent(1.0)) == [(11, 1), (1, 10)]


# -- what the line allows -----------------------------------------------------------------------------------------


def test_each_chunk_is_asked_for_and_paid() -> None:
    turnpike = Turnpike(Priority.EVENTS, Priority.RESULTS)
    bench = Bench(turnpike)
    bench.buffer.append([0] * 10, RESULTS)
    bench.buffer.append([0], EVENTS)
    bench.sent()
    sizes = [len(raw) for raw in bench.link.up]
    assert turnpike.paid == [(Priority.EVENTS, sizes[0]), (Priority.RESULTS, sizes[1])]
    assert bench.uploader.sent_bytes == sum(sizes)


def test_events_alone_pass_where_the_backlog_may_not() -> None:
    turnpike = Turnpike(Priority.EVENTS)
    bench = Bench(turnpike)
    bench.buffer.append([0] * 10, RESULTS)
    bench.buffer.append([0], EVENTS)
    assert numbers(bench.sent()) == [(11, 1)]
    turnpike.open.add(Priority.RESULTS)
    assert numbers(bench.sent()) == [(1, 10)]


def test_a_day_of_events_passes_though_no_result_does() -> None:
    """More than the console names gaps, and more than may be unsettled."""
    turnpike = Turnpike(Priority.EVENTS)
    bench = Bench(turnpike)
    stored: list[int] = []
    for now_s in range(400):
        bench.buffer.append([0], RESULTS)
        bench.buffer.append([0], EVENTS)
        stored += [chunk.first_seq for chunk in bench.sent(now_s)]
        gaps = tuple((seq - 1, seq - 1) for seq in stored[:100])
        bench.acknowledge(Ack(7, 0, gaps, highest=stored[-1] if stored else 0, complete=len(stored) <= 100), now_s)
    assert stored == list(range(2, 801, 2))


def test_a_budget_ends_in_the_middle_of_a_window() -> None:
    turnpike = Turnpike(Priority.EVENTS, Priority.RESULTS)
    bench = Bench(turnpike)
    for _ in range(4):
        bench.buffer.append([0] * 10, RESULTS)
    turnpike.budget = 1
    assert numbers(bench.sent()) == [(1, 10)]
    assert bench.sent() == []
    turnpike.budget = 1 << 20
    assert numbers(bench.sent()) == [(11, 10), (21, 10), (31, 10)]


# -- sizes --------------------------------------------------------------------------------------------------------


def test_a_chunk_above_the_brokers_limit_goes_in_parts() -> None:
    bench = Bench()
    bench.buffer.append([300] * 8, RESULTS)
    bench.link.limit = 1000
    found = bench.sent()
    assert sum(chunk.n for chunk in found) == 8
    assert all(len(raw) <= 1000 for raw in bench.link.up)
    assert [bool(chunk.link) for chunk in found] == [False] * (len(found) - 1) + [True]


def test_a_part_that_was_lost_is_sent_alone() -> None:
    bench = Bench()
    bench.buffer.append([300] * 4, RESULTS)
    bench.link.limit = 450
    assert numbers(bench.sent()) == [(1, 1), (2, 1), (3, 1), (4, 1)]
    bench.acknowledge(Ack(7, 1, ((2, 2),), highest=4))
    assert numbers(bench.sent()) == [(2, 1)]


def test_a_result_above_the_brokers_limit_becomes_a_tombstone(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.buffer.append([0, 3000, 0, 0], RESULTS)
    bench.link.limit = 1000
    found = bench.sent()
    assert [(chunk.first_seq, chunk.n, chunk.codec == TOMBSTONE) for chunk in found] == [
        (1, 1, False),
        (2, 1, True),
        (3, 2, False),
    ]
    assert "event=chunk_given_up reason='too large' first_seq=2" in caplog.text


def test_a_message_that_is_called_too_large_is_split_after_a_moment() -> None:
    bench = Bench()
    bench.buffer.append([3000] * 8, RESULTS)
    (whole,) = bench.sent()
    bench.link.complain(0x95, len(bench.link.up[0]))
    assert bench.sent(1.0) == []
    found = bench.sent(2.0)
    assert (found[0].first_seq, found[0].n) == (1, 4)
    assert whole.n == 8


def test_a_connection_that_ends_thrice_with_the_same_message_gets_smaller_ones() -> None:
    bench = Bench()
    bench.buffer.append([3000] * 8, RESULTS)
    for now_s in range(3):
        assert numbers(bench.sent(now_s)) == [(1, 8)]
        bench.link.complain(0, len(bench.link.up[0]), ended=True)
        bench.uploader.lost()
        bench.uploader.connected(now_s + 0.5)
    assert numbers(bench.sent(5.0))[0] == (1, 4)


def test_silence_thrice_gets_smaller_messages_too() -> None:
    """As over 3.1.1, where mosquitto confirms a message above its limit, and drops it."""
    bench = Bench()
    bench.buffer.append([3000] * 8, RESULTS)
    found, now_s = numbers(bench.sent()), 0.0
    while found == [(1, 8)] or not found:
        now_s += 5.0
        assert now_s < 300
        found = numbers(bench.sent(now_s))
    assert found[0] == (1, 4)


@pytest.mark.parametrize("ends", [True, False])
def test_that_nothing_gets_through_is_said_once_until_something_does(
    caplog: pytest.LogCaptureFixture, *, ends: bool
) -> None:
    bench = Bench()
    bench.buffer.append([500], RESULTS)
    now_s = 0.0

    def tries(times: int) -> int:
        nonlocal now_s
        for _ in range(times):
            now_s += 25.0
            found = bench.sent(now_s)
            if ends and found:
                bench.link.complain(0, 600, ended=True)
                bench.uploader.lost()
                bench.uploader.connected(now_s + 0.5)
        return caplog.text.count("nothing_gets_through")

    assert tries(2) == 0
    assert tries(40) == 1
    assert "max_packet_size" in caplog.text
    bench.acknowledge(Ack(7, 1), now_s)
    bench.buffer.append([500], RESULTS)
    assert tries(40) == 2


def test_where_nobody_listens_the_size_is_not_to_blame(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.link.unheard = True
    bench.buffer.append([500], RESULTS)
    for step in range(40):
        bench.sent(25.0 * step)
    assert "no_acknowledgement" in caplog.text
    assert "nothing_gets_through" not in caplog.text


def test_a_damaged_chunk_becomes_a_tombstone_with_its_link(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.buffer.append([0] * 5, RESULTS)
    bench.buffer.rot(0)
    (found,) = bench.sent()
    assert (found.codec, found.first_seq, found.n) == (TOMBSTONE, 1, 5)
    assert found.link != NO_LINK
    assert "reason='damaged'" in caplog.text


# -- refusals and silence -----------------------------------------------------------------------------------------


def test_what_may_not_be_published_is_said_once_and_waited_out(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    for _ in range(4):
        bench.buffer.append([0], RESULTS)
    bench.sent()
    for raw in bench.link.up:
        bench.link.complain(0x87, len(raw))
    assert bench.sent(1.0) == []
    assert bench.uploader.trouble.startswith("the broker takes no results: not authorized (0x87): ")
    assert "access list" in bench.uploader.trouble
    assert bench.sent(10.0) == []
    assert caplog.text.count("event=results_refused") == 1
    assert numbers(bench.sent(40.0)) == [(1, 1)], "one, to see"
    assert bench.uploader.trouble == ""


def test_complaints_of_other_messages_are_nobodys_here() -> None:
    bench = Bench()
    bench.buffer.append([0], RESULTS)
    bench.link.complain(0x87, 5, topic="ei/v1/default/d/dev-1/up/reported")
    assert numbers(bench.sent()) == [(1, 1)]


def test_what_the_broker_has_not_confirmed_is_not_sent_again() -> None:
    bench = Bench()
    bench.buffer.append([0], RESULTS)
    bench.sent()
    bench.link.owes = True
    assert bench.sent(100.0) == []
    bench.link.owes = False
    assert numbers(bench.sent(101.0)) == [(1, 1)]


def test_silence_tells_of_a_broker_to_which_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.buffer.append([0], RESULTS)
    bench.sent()
    bench.link.unheard = True
    bench.sent(11.0)
    assert "event=no_acknowledgement acked=0 state=probing subscriber=none" in caplog.text


def test_a_conflict_is_said_once_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.buffer.append([0], RESULTS)
    bench.sent()
    for _ in range(3):
        bench.acknowledge(Ack(7, 0, conflict=1))
    assert bench.uploader.conflict == 1
    assert caplog.text.count("event=conflict epoch=7 seq=1") == 1


# -- what is durable ----------------------------------------------------------------------------------------------


def test_progress_is_made_durable_now_and_then_and_in_one_commit() -> None:
    bench = Bench()
    for _ in range(3):
        bench.buffer.append([0] * 10, RESULTS)
    bench.buffer.append([0], EVENTS)
    bench.sent(10.0)
    bench.acknowledge(Ack(7, 20, ((21, 30),), highest=31), 10.5)
    bench.sent(11.0)
    assert bench.db.acknowledged(7) == 0
    bench.sent(13.0)
    assert bench.db.acknowledged(7) == 20
    assert (bench.db.counter("sent"), bench.db.counter("sent_through")) == (31, 31)
    assert bench.db.made == 31


def test_how_far_a_buffer_had_come_is_known_when_it_is_gone() -> None:
    bench = Bench()
    bench.buffer.append([0] * 10, RESULTS)
    bench.sent(10.0)
    bench.uploader.lost()
    bench.buffer.append([0] * 10, RESULTS)
    for now_s in (20.0, 30.0):
        bench.sent(now_s)
        assert bench.db.made == 10, "not worth a commit of its own"
    seen: list[tuple[int, int]] = []
    keep = bench.db.set_upload_progress

    def keeps(epoch: int, seq: int, *, sent_through: int, sent: int, refused: int = 0, made: int = 0) -> None:
        seen.append((epoch, made))
        keep(epoch, seq, sent_through=sent_through, sent=sent, refused=refused, made=made)

    bench.db.set_upload_progress = keeps  # type: ignore[method-assign]  # and says so
    bench.buffer.begin_anew(8)
    bench.sent(40.0)
    assert seen == [(7, 20), (8, 0)]


def test_after_a_restart_only_what_went_without_a_hole_is_believed() -> None:
    bench = Bench()
    for _ in range(8):
        bench.buffer.append([0] * 10, RESULTS)
    bench.buffer.append([0], EVENTS)
    assert numbers(bench.sent(10.0)) == [(81, 1), (1, 10), (11, 10), (21, 10)]
    bench.uploader.close(10.0)
    assert (bench.db.counter("sent"), bench.db.counter("sent_through")) == (81, 30)
    bench.restart()
    bench.sent(20.0)
    bench.acknowledge(Ack(7, 81))
    assert bench.uploader.acked_seq == 30


def test_a_new_numbering_of_the_same_file_is_a_new_epoch() -> None:
    bench = Bench()
    bench.buffer.append([0] * 10, RESULTS)
    bench.sent()
    bench.acknowledge(Ack(7, 10))
    bench.buffer.begin_anew(8)
    bench.buffer.append([0] * 5, RESULTS)
    found = bench.sent(1.0)
    assert [(chunk.epoch, chunk.first_seq, chunk.n) for chunk in found] == [(8, 1, 5)]
    bench.acknowledge(Ack(7, 10))
    assert bench.uploader.acked_seq == 0
    assert bench.db.acknowledged(7) == 10


def test_chunks_read_under_one_numbering_are_not_sent_under_another() -> None:
    bench = Bench()
    bench.buffer.append([0] * 10, RESULTS)
    bench.uploader.lost()
    bench.uploader.step(0.0)  # has seen the buffer, and sends nothing
    bench.buffer.begin_anew(8)
    bench.buffer.append([0] * 5, RESULTS)
    bench.uploader.connected(0.05)
    found = [*bench.sent(0.05), *bench.sent(1.0)]
    assert {chunk.epoch for chunk in found} == {8}


def test_the_floor_is_where_the_buffer_begins() -> None:
    bench = Bench()
    bench.buffer.append([0] * 10, RESULTS)
    bench.buffer.append([0] * 10, RESULTS)
    bench.sent()
    assert bench.uploader.floor() == {"7": 1}
    bench.acknowledge(Ack(7, 10))
    bench.buffer.drop(10)
    bench.sent()
    assert bench.uploader.floor() == {"7": 11}


# -- several in one message ---------------------------------------------------------------------------------------


def backlog(chunks: int = 2000, allowance: Allowance = UNLIMITED, *, ballast: int = 0) -> Bench:
    bench = Bench(allowance)
    for _ in range(chunks):
        bench.buffer.append([ballast], RESULTS)
    return bench


def test_a_backlog_goes_in_bundles_once_the_window_has_opened() -> None:
    bench = backlog()
    assert bench.drain(rounds=1) == [1] * 4
    held = bench.drain(rounds=7)
    assert (sum(held), max(held)) == (256, 16)
    assert len(held) <= 20, "a message more where what was read ahead ends"


def test_a_console_that_says_nothing_of_bundles_gets_none() -> None:
    assert backlog().drain(rounds=8, takes=0) == [1] * 16


def test_a_console_gets_no_more_in_one_than_it_takes() -> None:
    held = backlog().drain(rounds=8, takes=3)
    assert (sum(held), max(held)) == (48, 3)


def test_another_connection_has_to_be_told_anew() -> None:
    bench = backlog()
    assert max(bench.drain(rounds=6)) > 1
    bench.uploader.lost()
    bench.uploader.connected(bench.now_s)
    assert bench.drain(rounds=1) == [1] * 4


def test_what_trickles_and_what_is_an_event_goes_alone() -> None:
    bench = backlog(300)
    bench.drain(rounds=5)
    for _ in range(5):
        bench.buffer.append([0], EVENTS)
    assert numbers(bench.sent(bench.now_s))[:5] == [(seq, 1) for seq in range(301, 306)]
    assert bench.held()[:5] == [1] * 5
    assert max(bench.held()) > 1
    bench.drain(rounds=5)
    assert bench.uploader.acked_seq == 305
    bench.buffer.append([0], RESULTS)
    assert numbers(bench.sent(bench.now_s)) == [(306, 1)]
    assert not bench.link.up[0].is_bundle


def test_a_bundle_costs_no_more_than_is_left() -> None:
    turnpike = Turnpike(Priority.RESULTS)
    bench = backlog(allowance=turnpike)
    bench.drain(rounds=8)
    turnpike.budget = 3000
    bench.sent(bench.now_s)
    largest = max(len(raw) for message in bench.link.up for raw in message.chunks)
    assert 3000 - largest < sum(map(len, bench.link.up)) < 3000 + largest, "the last one may overdraw, and goes alone"
    assert bench.held()[0] > 1


def test_a_bundle_is_no_larger_than_brokers_take() -> None:
    bench = backlog(400, ballast=20_000)
    bench.drain(rounds=5)
    bench.sent(bench.now_s)
    assert 1 < max(bench.held()) < 16
    assert max(map(len, bench.link.up)) <= 96 << 10
    bench.acknowledge(Ack(7, bench.link.sent_through(), bundle=64), bench.now_s)
    bench.link.limit = 50_000
    bench.sent(bench.now_s)
    assert max(bench.held()) > 1
    assert max(map(len, bench.link.up)) <= 50_000


@pytest.mark.parametrize(
    ("code", "ended"), [(0x95, False), (0x95, True), (0x87, False), (0x87, True), (0x99, False), (0, True)]
)
def test_a_bundle_that_is_refused_goes_in_single_chunks_that_are_not_split(code: int, *, ended: bool) -> None:
    bench = backlog()
    bench.drain(rounds=6)
    bench.sent(bench.now_s)
    refused, acked = next(message for message in bench.link.up if message.is_bundle), bench.uploader.acked_seq
    bench.link.complain(code, len(refused), ended=ended, topic=refused.topic)
    if ended:
        bench.uploader.lost()
        bench.uploader.connected(bench.now_s)
    bench.sent(bench.now_s)
    bench.now_s += 10.0
    assert set(bench.drain(rounds=8)) == {1}
    assert bench.uploader.acked_seq > acked + 8
    assert {chunk.n for chunk in bench.sent(bench.now_s)} == {1}


def test_a_quota_that_is_used_up_slows_bundles_down_as_it_does_chunks() -> None:
    bench = backlog()
    assert max(bench.drain(rounds=8)) == 16
    bench.sent(bench.now_s)
    bench.link.complain(0x97, 1000, topic=bench.link.up[0].topic)
    assert bench.sent(bench.now_s) == []
    assert bench.uploader.trouble


def test_silence_after_bundles_ends_them_for_a_while() -> None:
    bench = backlog()
    assert max(bench.drain(rounds=6)) > 1
    bench.sent(bench.now_s)
    bench.now_s += 30.0
    assert set(bench.drain(rounds=8)) == {1}
    bench.now_s += 60.0
    assert max(bench.drain(rounds=8)) > 1


def test_silence_with_a_bundle_on_its_way_is_not_held_against_the_size_of_chunks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also where single chunks got through after the bundle was sent."""
    bench = backlog(44)
    bench.drain(rounds=2)
    assert len(bench.sent(bench.now_s)) == 16
    bench.acknowledge(Ack(7, 20, bundle=64), bench.now_s + 0.1)
    bench.sent(bench.now_s + 0.1)
    assert max(bench.held()) > 1
    bench.acknowledge(Ack(7, 28, bundle=64), bench.now_s + 0.2)
    assert bench.sent(bench.now_s + 0.3) == [], "nothing is left to send"
    bench.sent(bench.now_s + 20.0)
    assert "event=chunks_go_alone reason='no acknowledgement'" in caplog.text


def drain_through_what_drops_bundles(bench: Bench, *, drops: Callable[[int], bool]) -> int:
    """Round trips of a tenth of a second with an event in each, over what takes every message and drops the bundles of
    which `drops` says so, until all has arrived. Returns how many chunks were lost that way."""
    ledger, lost, bundles = Ledger(), 0, 0
    for _ in range(2000):
        bench.buffer.append([0], EVENTS)
        bench.sent(bench.now_s)
        for message in bench.link.up:
            bundles += message.is_bundle
            if message.is_bundle and drops(bundles):
                lost += len(message.chunks)
                continue
            for chunk in map(decode_chunk, message.chunks):
                ledger.store(chunk.first_seq, chunk.n)
        bench.now_s += 0.1
        gaps, highest = ledger.gaps(100), ledger.highest
        complete = len(ledger.ranges) <= 100
        ack = Ack(7, ledger.contiguous, gaps, highest=highest, complete=complete, bundle=64)
        bench.acknowledge(ack, bench.now_s)
        if ledger.contiguous == bench.buffer.made:
            return lost
    raise AssertionError(f"stuck at {ledger.contiguous} of {bench.buffer.made}")


def test_bundles_that_are_lost_while_events_get_through_are_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """As mosquitto drops, over 3.1.1, what its access list does not allow: no refusal, and there is no silence."""
    bench = backlog()
    assert drain_through_what_drops_bundles(bench, drops=lambda _: True) < 100
    assert caplog.text.count("event=chunks_go_alone reason='they get lost'") == 1
    assert "event=no_acknowledgement" not in caplog.text


def test_a_bundle_that_is_lost_where_others_arrive_is_no_reason_to_give_them_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = backlog()
    assert drain_through_what_drops_bundles(bench, drops=lambda number: number % 16 == 5) > 0
    assert "event=chunks_go_alone" not in caplog.text


def test_what_the_link_does_not_take_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = backlog()
    bench.drain(rounds=6)
    acked = bench.uploader.acked_seq
    with monkeypatch.context() as patched:
        patched.setattr(bench.link, "publish", lambda *_, **__: False)
        bench.sent(bench.now_s)
        assert not bench.uploader.busy
    assert bench.sent(bench.now_s)[0].first_seq == acked + 1
    assert max(bench.held()) > 1
