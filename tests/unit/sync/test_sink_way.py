"""How the buffer's chunks go through a sink: the decisions of SinkWay, with a sink that does as it is told."""

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from agents import DEVICE, append, fill
from edgeinfer.runtime.buffer import Buffer
from edgeinfer.runtime.handoff import SyncDb
from edgeinfer.sync.allowance import UNLIMITED, Priority
from edgeinfer.sync.messages import Ack, Birth, decode, decode_chunk
from edgeinfer.sync.session import UploadConfig
from edgeinfer.sync.settings import SyncConfig
from edgeinfer.sync.sinks.base import Batch, BatchTooLargeError, SinkBusyError, SinkError, SinkRefusedError
from edgeinfer.sync.sinks.driver import SinkWay
from edgeinfer.sync.sinks.settings import HttpSinkConfig
from waiting import wait_until


class Script:
    """A sink whose other side stores what `answer` says. `batches` are all that were delivered."""

    local_address = "192.0.2.1"

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.has: set[int] = set()
        self.answer: Callable[[Batch], Ack | SinkError] = self.take
        self.aborted = threading.Event()

    def deliver(self, batch: Batch) -> Ack:
        self.batches.append(batch)
        answer = self.answer(batch)
        if isinstance(answer, SinkError):
            raise answer
        return answer

    def take(self, batch: Batch) -> Ack:
        for chunk in batch.chunks:
            self.has |= set(range(chunk.first_seq, chunk.last_seq + 1))
        return Ack(batch.epoch, self.contiguous)

    @property
    def contiguous(self) -> int:
        reached = 0
        while reached + 1 in self.has:
            reached += 1
        return reached

    def abort(self) -> None:
        self.aborted.set()

    def close(self) -> None:
        pass


class Rig:
    """A way from a real buffer through a scripted sink, on a clock of its own."""

    def __init__(self, folder: Path, sink: Script, **changes: object) -> None:
        self.config = SyncConfig(
            device=DEVICE,
            state_dir=str(folder / "sync"),
            runtime_dir=str(folder / "runtime"),
            upload=UploadConfig(persist_interval_s=1.0),
        )
        self.settings = msgspec.structs.replace(
            HttpSinkConfig(url="http://unused/", refused_wait_s=300.0, retry_max_s=8.0, batch_bytes=500), **changes
        )
        self.db = SyncDb(folder / "sync" / "sync.db")
        self.sink = sink
        self.way = SinkWay(self.config, self.settings, self.db, sink, allowance=UNLIMITED)
        self.now_s = 1000.0

    def turn(self, *, after_s: float = 0.01) -> None:
        """One step, and what the sink makes of it."""
        self.now_s += after_s
        self.way.step(self.now_s)
        wait_until(lambda: self.way._courier._batch is None, what="the sink's answer")

    def turns_until(self, done: Callable[[], bool], *, after_s: float = 0.01) -> None:
        for _ in range(2000):
            if done():
                return
            self.turn(after_s=after_s)
        raise AssertionError(f"not done after 2000 turns: {self.way.trouble}")

    def close(self) -> None:
        self.way.close(self.now_s)
        self.db.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "runtime").mkdir()
    return tmp_path


@pytest.fixture
def buffer(folder: Path) -> Iterator[Buffer]:
    made = fill(folder, 2000)
    yield made
    made.close()


@pytest.fixture
def rig(folder: Path, buffer: Buffer) -> Iterator[Rig]:  # noqa: ARG001 - it has to be there
    made = Rig(folder, Script())
    yield made
    made.close()


def test_all_of_the_buffer_arrives_in_order_and_sync_db_knows_it(rig: Rig, buffer: Buffer) -> None:
    rig.turns_until(lambda: rig.way.acked_seq == 2000)
    append(buffer, 2000, 50)
    rig.turns_until(lambda: rig.way.acked_seq == 2050)
    assert [batch.first_seq for batch in rig.sink.batches] == sorted(batch.first_seq for batch in rig.sink.batches)
    assert rig.sink.has == set(range(1, 2051))
    assert all(batch.size <= 500 or len(batch.chunks) == 1 for batch in rig.sink.batches[1:])
    rig.turn(after_s=2.0)
    assert rig.db.acknowledged(buffer.epoch) == 2050
    assert (rig.way.sent_results, rig.way.acknowledged_results) == (2050, 2050)
    assert rig.way.audit()["backlog"] == 0
    assert not rig.way.trouble


def test_progress_is_durable_every_now_and_then_and_not_each_time(rig: Rig, buffer: Buffer) -> None:
    rig.turn(after_s=2.0)
    rig.turn()
    rig.turn()
    assert rig.way.acked_seq > 0
    assert rig.db.acknowledged(buffer.epoch) == 0
    rig.turn(after_s=1.1)
    assert rig.db.acknowledged(buffer.epoch) > 0


def test_the_first_batch_says_who_sends_and_what_can_still_come(rig: Rig, buffer: Buffer) -> None:
    rig.turns_until(lambda: len(rig.sink.batches) == 2)
    first, second = rig.sink.batches[:2]
    assert decode(first.birth, Birth).epochs == {str(buffer.epoch): 1}
    assert second.birth == b""
    rig.sink.answer = lambda _batch: SinkError("away")
    rig.turns_until(lambda: len(rig.sink.batches) >= 4, after_s=60.0)
    acked = rig.way.acked_seq
    assert decode(rig.sink.batches[-1].birth, Birth).epochs == {str(buffer.epoch): acked + 1}


def test_failures_are_followed_by_growing_waits(rig: Rig) -> None:
    rig.sink.answer = lambda _batch: SinkError("away", hint="mend it")
    for _ in range(2000):
        rig.turn(after_s=0.1)
    assert 20 < len(rig.sink.batches) < 80  # 200 s with waits of up to 8 s
    assert rig.way.trouble == "away (mend it)"
    assert rig.way.acked_seq == 0
    rig.sink.answer = rig.sink.take
    rig.turns_until(lambda: rig.way.acked_seq == 2000, after_s=1.0)
    assert not rig.way.trouble


def test_a_side_that_asks_to_wait_is_left_alone(rig: Rig) -> None:
    rig.sink.answer = lambda _batch: SinkBusyError("later", retry_after_s=100.0)
    rig.turn()
    rig.turn()
    for _ in range(99):
        rig.turn(after_s=1.0)
    assert len(rig.sink.batches) == 1
    rig.turn(after_s=2.0)
    assert len(rig.sink.batches) == 2


def test_a_refusal_is_followed_by_a_long_wait_and_never_by_giving_up(rig: Rig) -> None:
    rig.sink.answer = lambda _batch: SinkRefusedError("who are you?")
    rig.turn()
    rig.turn()
    for _ in range(14):
        rig.turn(after_s=10.0)
    assert len(rig.sink.batches) == 1
    rig.sink.answer = rig.sink.take
    rig.turns_until(lambda: rig.way.acked_seq == 2000, after_s=10.0)


def test_batches_that_are_too_large_become_smaller_and_grow_again(rig: Rig) -> None:
    rig.sink.answer = lambda batch: BatchTooLargeError("413") if len(batch.chunks) > 1 else rig.sink.take(batch)
    rig.turns_until(lambda: rig.way.acked_seq >= 500)
    rig.sink.answer = rig.sink.take
    rig.turns_until(lambda: rig.way.acked_seq == 2000)
    assert max(len(batch.chunks) for batch in rig.sink.batches[-10:]) > 1


def test_a_single_chunk_that_is_too_large_waits_for_a_person(rig: Rig) -> None:
    rig.sink.answer = lambda _batch: BatchTooLargeError("413")
    for _ in range(100):
        rig.turn()
    assert len(rig.sink.batches[-1].chunks) == 1
    assert len(rig.sink.batches) < 15
    assert rig.way.acked_seq == 0


def test_a_part_is_gone_on_from_at_once(rig: Rig) -> None:
    def first_chunk(batch: Batch) -> Ack:
        return rig.sink.take(msgspec.structs.replace(batch, chunks=batch.chunks[:1]))

    rig.sink.answer = first_chunk
    rig.turns_until(lambda: rig.way.acked_seq == 2000)
    assert rig.now_s < 1060


@pytest.mark.parametrize("wrong", [Ack(1, 2000), Ack(0, 0)])
def test_an_answer_about_something_else_is_no_acknowledgement(rig: Rig, wrong: Ack) -> None:
    rig.sink.answer = lambda _batch: wrong
    for _ in range(20):
        rig.turn(after_s=1.0)
    assert rig.way.acked_seq == 0
    assert rig.way.trouble


def test_more_than_was_sent_is_not_believed(rig: Rig) -> None:
    rig.sink.answer = lambda batch: Ack(batch.epoch, 1 << 60)
    rig.turns_until(lambda: rig.way.acked_seq > 0)
    assert rig.way.acked_seq == rig.sink.batches[-1].last_seq or rig.way.acked_seq == rig.sink.batches[-2].last_seq


def test_a_side_that_lacks_what_was_acknowledged_hears_what_can_still_come(rig: Rig, buffer: Buffer) -> None:
    rig.turns_until(lambda: rig.way.acked_seq >= 1000)
    rig.sink.has.clear()  # another console, or one put back from a backup
    rig.turns_until(lambda: bool(rig.way.trouble))
    before = len(rig.sink.batches)
    rig.turns_until(lambda: len(rig.sink.batches) > before, after_s=10.0)
    lowest = decode(rig.sink.batches[-1].birth, Birth).epochs[str(buffer.epoch)]
    assert lowest == rig.sink.batches[-1].first_seq
    assert rig.way.acked_seq >= 1000


def test_a_conflict_is_told_and_nothing_is_believed_beyond_it(rig: Rig) -> None:
    """The other device of that name may have sent as much: its numbers are not this one's."""
    rig.sink.answer = lambda batch: Ack(batch.epoch, batch.last_seq, conflict=151)
    rig.turns_until(lambda: rig.way.conflict == 151)
    for _ in range(20):
        rig.turn(after_s=10.0)
    assert "two devices have one name" in rig.way.trouble
    assert rig.way.acked_seq <= 150


def _link_of(batch: Batch, index: int) -> str:
    return decode_chunk(batch.chunks[index].message).link.hex()


@pytest.mark.parametrize("within", [False, True])
def test_an_acknowledgement_of_another_chain_is_not_believed(rig: Rig, *, within: bool) -> None:
    """As where a copy of this buffer was faster: another chunk ends there, or one ends where none does here."""
    seq = 50 if within else 100

    def answer(batch: Batch) -> Ack:
        return Ack(batch.epoch, seq, link="ab" * 16)

    rig.sink.answer = answer
    for _ in range(10):
        rig.turn(after_s=10.0)
    assert (rig.way.acked_seq, rig.way.conflict) == (0, 1)
    assert "two devices have one name" in rig.way.trouble


def test_an_acknowledgement_of_this_chain_is_believed(rig: Rig) -> None:
    def answer(batch: Batch) -> Ack:
        return msgspec.structs.replace(rig.sink.take(batch), link=_link_of(batch, -1))

    rig.sink.answer = answer
    rig.turns_until(lambda: rig.way.acked_seq == 2000)
    assert rig.way.conflict == 0


def test_a_line_that_carries_only_small_batches_gets_them(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeinfer.sync.sinks.driver._LEAST_BATCH_BYTES", 100)
    rig.sink.answer = lambda batch: SinkError("timed out") if len(batch.chunks) > 1 else rig.sink.take(batch)
    rig.turns_until(lambda: rig.way.acked_seq == 2000, after_s=10.0)


@pytest.mark.parametrize(("receiver", "told"), [("console", True), ("webhook", False)])
def test_only_a_console_that_takes_results_hears_what_can_still_come(
    folder: Path, buffer: Buffer, receiver: str, told: bool
) -> None:
    """The one of the broker would take for lost what has gone elsewhere."""
    rig = Rig(folder, Script(), receiver=receiver)
    rig.turns_until(lambda: rig.way.acked_seq > 0)
    assert rig.way.floor() == ({str(buffer.epoch): rig.way.acked_seq + 1} if told else {})
    rig.close()


def test_what_nothing_may_be_spent_on_is_not_sent(folder: Path, buffer: Buffer) -> None:
    class Purse:
        left = 0

        def room(self, _priority: Priority, _now_s: float) -> int:
            return max(0, self.left)

        spare = room

        def spent(self, _priority: Priority, size: int, _now_s: float) -> None:
            self.left -= size

    rig, purse = Rig(folder, Script()), Purse()
    rig.way._allowance = purse
    for _ in range(10):
        rig.turn()
    assert rig.sink.batches == []
    purse.left = 1000
    for _ in range(50):
        rig.turn()
    assert 0 < rig.way.acked_seq < buffer.durable_seq
    assert purse.left <= 0
    rig.close()


def test_a_receipt_that_was_carried_counts(rig: Rig, buffer: Buffer) -> None:
    rig.sink.answer = lambda _batch: SinkError("no network")
    rig.turn()
    rig.way.stored(buffer.epoch, 1500, rig.now_s)
    assert rig.db.acknowledged(buffer.epoch) == 1500
    rig.sink.answer = rig.sink.take
    rig.turns_until(lambda: rig.sink.batches[-1].first_seq > 1400, after_s=10.0)
    assert rig.way.acked_seq == 1500


def test_damaged_chunks_go_as_tombstones(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeinfer.runtime.buffer_reader import BufferReader

    honest = BufferReader.chunks

    def rotten(reader: BufferReader, after_seq: int, *, limit: int) -> list[object]:
        return [
            msgspec.structs.replace(chunk, body=b"rotten") if chunk.first_seq <= 300 else chunk
            for chunk in honest(reader, after_seq, limit=limit)
        ]

    monkeypatch.setattr(BufferReader, "chunks", rotten)
    rig.turns_until(lambda: rig.way.acked_seq == 2000)
    sent = [decode_chunk(chunk.message) for batch in rig.sink.batches for chunk in batch.chunks]
    assert {chunk.codec == 0 for chunk in sent if chunk.first_seq <= 300} == {True}
    assert {chunk.codec == 0 for chunk in sent if chunk.first_seq > 300} == {False}
    assert rig.sink.batches[0].chunks[0].pipeline == "_evicted"


@pytest.mark.usefixtures("buffer")
def test_closing_ends_a_delivery_that_hangs(folder: Path) -> None:
    class Hanging(Script):
        def deliver(self, batch: Batch) -> Ack:
            self.batches.append(batch)
            self.aborted.wait(60.0)
            raise SinkError("aborted")

    rig = Rig(folder, Hanging())
    rig.now_s += 1
    rig.way.step(rig.now_s)
    wait_until(lambda: bool(rig.sink.batches), what="the delivery")
    assert rig.way.busy
    rig.close()
    assert rig.sink.aborted.is_set()
    wait_until(lambda: not rig.way._courier._thread.is_alive(), what="the sink's thread to end")


@pytest.mark.parametrize("seed", range(8))
def test_whatever_happens_nothing_counts_that_is_not_there(folder: Path, buffer: Buffer, seed: int) -> None:
    """Random failures, parts, forgotten answers and restarts: acknowledged is never beyond what the other side has, and
    in the end all is there."""
    rng, sink = random.Random(seed), Script()

    def misbehave(batch: Batch) -> Ack | SinkError:
        chance = rng.random()
        if chance < 0.2:
            return SinkError("away")
        if chance < 0.3:
            sink.take(batch)
            return SinkError("stored, and the answer was lost")
        if chance < 0.4:
            return BatchTooLargeError("413")
        if chance < 0.6:
            kept = tuple(chunk for chunk in batch.chunks if rng.random() < 0.5)
            return sink.take(msgspec.structs.replace(batch, chunks=kept))
        return sink.take(batch)

    sink.answer = misbehave
    rig = Rig(folder, sink)
    for _ in range(3000):
        rig.turn(after_s=5.0)
        assert rig.way.acked_seq <= sink.contiguous
        assert rig.db.acknowledged(buffer.epoch) <= rig.way.acked_seq
        if rng.random() < 0.05:  # killed: what was not made durable is forgotten
            rig.way._courier.stop(1.0)
            rig.db.close()
            rig = Rig(folder, sink)
        if rig.way.acked_seq == 2000:
            break
    rig.close()
    assert sink.has == set(range(1, 2001))
    with SyncDb(folder / "sync" / "sync.db") as db:
        assert db.acknowledged(buffer.epoch) == 2000
