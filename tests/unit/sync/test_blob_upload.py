"""The upload of a file as values, against a console as the protocol describes it."""

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.sync.blob_upload import TRANSITIONS, BlobsConfig, BlobUpload, Event, Part, State
from edgeinfer.sync.messages import BlobStored
from edgeinfer.sync.pace import Pace

CONFIG = BlobsConfig(part_bytes=1024, window=4, timeout_s=10, timeout_max_s=80)
DATA = bytes(random.Random(1).randbytes(10_000))
SHA256 = hashlib.sha256(DATA).hexdigest()


def upload(size: int = len(DATA), config: BlobsConfig = CONFIG) -> BlobUpload:
    return BlobUpload(config, sha256=SHA256, size=size)


def stored(offset: int, *, done: bool = False, refused: str = "") -> BlobStored:
    return BlobStored(SHA256, offset, done, refused)


def send_all(sending: BlobUpload, now_s: float) -> list[Part]:
    parts = []
    while (part := sending.next_part(now_s)) is not None:
        sending.sent(part, now_s)
        parts.append(part)
    return parts


def test_a_slow_line_gets_small_parts_one_at_a_time() -> None:
    pace = Pace(most_bytes=65_536, window=4)
    assert (pace.part_bytes, pace.window) == (8192, 1)
    for _ in range(3):
        pace.answered(0.2)
    assert (pace.part_bytes, pace.window) == (65_536, 4)
    pace.answered(2.0)
    assert pace.window == 4
    for _ in range(9):
        pace.answered(5.0)
    assert (pace.part_bytes, pace.window) == (2048, 1)
    assert Pace(most_bytes=1024, window=4).part_bytes == 1024


def test_how_long_answers_take_sets_the_pace() -> None:
    pace = Pace(most_bytes=16_384, window=2)
    sending = BlobUpload(BlobsConfig(part_bytes=16_384, window=2), sha256=SHA256, size=100_000, pace=pace)
    send_all(sending, 0.0)
    sending.take(stored(0), 0.0)
    assert send_all(sending, 0.0) == [Part(0, 8192)]
    sending.take(stored(8192), 0.5)
    assert send_all(sending, 0.5) == [Part(8192, 16_384), Part(24_576, 16_384)]
    sending.take(stored(24_576), 6.0)
    assert pace.part_bytes == 8192


def test_it_begins_by_asking_and_goes_on_from_the_answer() -> None:
    sending = upload()
    assert send_all(sending, 0.0) == [Part(0, 0)]
    assert sending.take(stored(4096), 1.0)
    assert send_all(sending, 1.0) == [Part(4096, 1024), Part(5120, 1024), Part(6144, 1024), Part(7168, 1024)]
    sending.take(stored(5120), 2.0)
    assert send_all(sending, 2.0) == [Part(8192, 1024)]
    sending.take(stored(9216), 3.0)
    assert send_all(sending, 3.0) == [Part(9216, 10_000 - 9216)]
    sending.take(stored(10_000, done=True), 4.0)
    assert (sending.done, sending.state, sending.offset) == (True, State.ENDED, 10_000)
    assert send_all(sending, 99.0) == []


def test_what_the_console_has_is_not_sent() -> None:
    sending = upload()
    send_all(sending, 0.0)
    sending.take(stored(10_000, done=True), 0.1)
    assert sending.done
    assert send_all(sending, 0.2) == []


def test_a_refusal_is_the_end() -> None:
    sending = upload()
    send_all(sending, 0.0)
    sending.take(stored(0, refused="too large"), 0.1)
    assert (sending.done, sending.refused, sending.state) == (False, "too large", State.ENDED)


def test_silence_makes_it_ask_with_growing_waits() -> None:
    sending, asked = upload(), []
    for second in range(300):
        asked += [second for _ in send_all(sending, float(second))]
    assert asked == [0, 10, 30, 70, 150, 230]
    was_silent = sending.silent
    sending.take(stored(0), 300.0)
    assert (was_silent, sending.silent) == (True, False)
    assert len(send_all(sending, 300.0)) == 4
    assert send_all(sending, 309.0) == []
    assert send_all(sending, 310.0) == [Part(0, 0)]


def test_all_sent_and_not_done_is_asked_about() -> None:
    sending = upload(size=1000)
    send_all(sending, 0.0)
    sending.take(stored(0), 0.0)
    assert send_all(sending, 0.0) == [Part(0, 1000)]
    sending.take(stored(1000), 1.0)  # and its hash is being computed
    assert send_all(sending, 2.0) == []
    assert send_all(sending, 11.0) == [Part(1000, 0)]


def test_a_new_connection_begins_with_the_question() -> None:
    sending = upload()
    send_all(sending, 0.0)
    sending.take(stored(2048), 0.0)
    send_all(sending, 0.0)
    sending.connected()
    assert send_all(sending, 0.5) == [Part(2048, 0)]


def test_a_console_that_goes_back_is_believed_but_not_for_ever() -> None:
    sending = upload()
    for now_s in range(1000):
        send_all(sending, float(now_s))
        if sending.state is State.ENDED:
            break
        sending.take(stored(0 if sending.state is State.ASKING else 2048), float(now_s))
        sending.take(stored(0), float(now_s))
    assert "went back" in sending.given_up
    assert not sending.refused


def test_answers_about_other_files_are_not_taken() -> None:
    sending = upload()
    assert not sending.take(BlobStored("0" * 64, 10_000, done=True), 0.0)
    assert sending.state is State.ASKING


def test_the_table_is_whole() -> None:
    assert set(TRANSITIONS) == set(State)
    assert all(set(row) == set(Event) for row in TRANSITIONS.values())
    assert all(target is State.ENDED for target in TRANSITIONS[State.ENDED].values())


class Console:
    """Takes parts in order, keeps what is below a checkpoint over a crash."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.durable = 0

    def take(self, part: Part, data: bytes) -> BlobStored:
        if part.offset <= len(self.data) < part.offset + len(data):
            self.data += data[len(self.data) - part.offset :]
        if len(self.data) % 3 == 0 or len(self.data) == len(DATA):
            self.durable = len(self.data)
        is_done = len(self.data) == len(DATA) and hashlib.sha256(self.data).hexdigest() == SHA256
        return stored(self.durable, done=is_done)

    def crash(self) -> None:
        del self.data[self.durable :]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(["ok", "ok", "ok", "lose", "lose answer", "crash", "reconnect", "twice"]), max_size=60))
def test_whatever_gets_lost_the_console_ends_with_the_file(events: list[str]) -> None:
    sending, console, now_s, faults = upload(), Console(), 0.0, iter(events)
    sent_parts = 0
    for _ in range(2000):
        now_s += 5.0
        while (part := sending.next_part(now_s)) is not None:
            sending.sent(part, now_s)
            sent_parts += 1
            event = next(faults, "ok")
            if event == "crash":
                console.crash()
            if event in {"lose", "crash"}:
                continue
            answers = [console.take(part, DATA[part.offset : part.offset + part.length])]
            for answer in answers * (2 if event == "twice" else 0 if event == "lose answer" else 1):
                sending.take(answer, now_s)
            if event == "reconnect":
                sending.connected()
        if sending.state is State.ENDED:
            break
    assert sending.state is State.ENDED
    assert bytes(console.data) == DATA if sending.done else sending.given_up


@pytest.mark.parametrize("wrong", [{"part_bytes": 100}, {"part_bytes": 1 << 20}, {"window": 0}, {"timeout_s": 0}])
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    import msgspec

    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, BlobsConfig)
