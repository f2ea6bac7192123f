"""Ingest over a real database and a scripted line: what is kept, retried, acknowledged, and when."""

import threading
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from edgeinfer.console.batch import Passed
from edgeinfer.console.blobs import BlobStore
from edgeinfer.console.deliveries import BusyError
from edgeinfer.console.deployer import Deployer
from edgeinfer.console.ingest import Ingest
from edgeinfer.console.intake import Inbound, read_message
from edgeinfer.console.ledger import Ledger
from edgeinfer.console.live import LiveFeed
from edgeinfer.console.registry import Registry
from edgeinfer.console.repository import SqliteRepository
from edgeinfer.console.repository.base import Absent, Deployment, DeviceChange, Package, StorageError, Unread
from edgeinfer.console.settings import LimitsConfig
from edgeinfer.runtime.chunk import StoredChunk
from edgeinfer.runtime.codec import encode as encode_results
from edgeinfer.runtime.errors import ConsoleError
from edgeinfer.runtime.results import Kind, Result
from edgeinfer.runtime.trust import SigningKey
from edgeinfer.sync.bundle import BUNDLE, MAX_BUNDLE_CHUNKS, encode_bundle
from edgeinfer.sync.messages import (
    Ack,
    Birth,
    BlobLabel,
    BlobPart,
    BlobRequest,
    ChunkMessage,
    CommandResult,
    JobAck,
    JobStatus,
    StateMessage,
    decode,
    encode,
    encode_blob_part,
    encode_chunk,
    parse_topic,
    topic,
)
from edgeinfer.sync.sinks.framing import Frame
from waiting import wait_until


class Line:
    """A link that hands out what is put on it and remembers what is said."""

    connected = True
    generation = 0

    def __init__(self) -> None:
        self.waiting: deque[tuple[str, bytes]] = deque()
        self.changed = threading.Event()
        self.said: list[tuple[str, bytes]] = []

    def publish(self, name: str, payload: bytes, *, qos: int, retain: bool = False) -> bool:
        del qos, retain
        self.said.append((parse_topic(name).rest, payload))
        return True

    def receive(self, timeout_s: float) -> tuple[str, bytes] | None:
        if not self.waiting and timeout_s:
            self.changed.wait(timeout_s)
            self.changed.clear()
        return self.waiting.popleft() if self.waiting else None

    def wake(self) -> None:
        self.changed.set()

    def acks(self) -> list[Ack]:
        return [decode(payload, Ack) for rest, payload in self.said if rest == "down/ack"]


class SickRepository(SqliteRepository):
    """Refuses as many transactions as `failures` says."""

    failures = 0

    @contextmanager
    def transaction(self) -> Iterator[None]:
        if self.failures:
            self.failures -= 1
            raise StorageError("console.db: cannot be written: database is locked")
        with super().transaction():
            yield


class Bench:
    def __init__(self, folder: Path, limits: LimitsConfig) -> None:
        self.line = Line()
        self.passed: list[tuple[str, Passed]] = []
        self.repository = SickRepository(folder / "console.db")
        self.blobs = BlobStore(folder / "blobs", self.repository)
        registry = Registry(self.repository, self.blobs, release_keys=())
        self.deployer = Deployer(self.repository, registry, self.line, key=SigningKey(b"k" * 32), tenant="t")
        self.ingest = Ingest(
            self.line,
            self.repository,
            deployer=self.deployer,
            blobs=self.blobs,
            feed=LiveFeed(),
            tenant="t",
            limits=limits,
            pass_on=lambda device, message: self.passed.append((device, message)),
        )
        self.ingest.turn(0)  # the first turn tidies

    def hears(self, rest: str, message: msgspec.Struct | bytes) -> None:
        payload = message if isinstance(message, bytes) else encode(message)
        self.line.waiting.append((topic("t", "dev-1", rest), payload))

    def hears_chunk(self, first_seq: int, n: int, *, epoch: int = 1) -> None:
        self.line.waiting.extend(self.chunks(first_seq, n, epoch=epoch))

    def chunks(self, first_seq: int, n: int, *, epoch: int = 1) -> list[tuple[str, bytes]]:
        body = encode_results([Result(Kind.ANOMALY, first_seq + i) for i in range(n)], 1)
        raw = encode_chunk(ChunkMessage(1, epoch, first_seq, n, zlib.crc32(body), body))
        return [(topic("t", "dev-1", "up/res/p"), raw)]

    def deployed(self, job: str, state: str = "PENDING") -> None:
        self.repository.save_deployment(
            Deployment(
                rollout=1, device="dev-1", job=job, digest="d" * 64, model="m", state=state, desired_version=1,
                created_ns=1, changed_ns=1,
            )
        )  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, LimitsConfig(max_epochs=2))
    yield made
    made.repository.close()


def test_what_cannot_be_stored_is_kept_and_nothing_more_is_taken(bench: Bench) -> None:
    bench.deployed("r1-1")
    bench.hears("up/birth", Birth(session="s", agent_version="9", epochs={"1": 1}))
    bench.hears("up/job/r1-1", JobStatus("r1-1", 1, "COMMITTED"))
    bench.hears_chunk(1, 5)
    bench.repository.failures = 3
    for _ in range(3):
        with pytest.raises(StorageError):
            bench.ingest.turn(0)
        bench.hears_chunk(6, 1)
        assert bench.line.said == []
    assert len(bench.line.waiting) == 3
    assert bench.ingest.turn(0) == 3
    device = bench.repository.device("dev-1")
    assert device is not None
    assert device.agent_version == "9"
    assert bench.repository.deployments(device="dev-1")[0].state == "COMMITTED"
    assert [(ack.epoch, ack.seq) for ack in bench.line.acks()] == [(1, 5)]
    assert bench.repository.ledgers("dev-1")[1].duplicates == 0
    assert bench.ingest.turn(0) == 3


def test_the_thread_goes_on_by_itself_when_the_database_does(bench: Bench) -> None:
    bench.hears_chunk(1, 5)
    bench.repository.failures = 2
    bench.ingest.start()
    wait_until(lambda: bool(bench.line.acks()), what="the acknowledgement")
    wait_until(lambda: bench.ingest.storage_error == "", what="the error to be gone")
    bench.ingest.stop()


def test_what_an_older_console_could_not_read_is_looked_at_again_at_the_start(bench: Bench) -> None:
    body = encode_results([Result(Kind.ANOMALY, i) for i in range(3)], 1)
    with bench.repository.transaction():  # as that one left it
        bench.repository.change_device("dev-1", DeviceChange(), t_ns=1)
        bench.repository.save_ledger("dev-1", 1, Ledger(contiguous=3, undecodable=3))
        bench.repository.add_absent("dev-1", [Absent("dev-1", 1, 1, 3, "undecodable", "of a later version")])
        bench.repository.keep_unread("dev-1", 1, StoredChunk(1, 3, 0, "p", 1, zlib.crc32(body), body))
    bench.ingest.start()
    wait_until(lambda: bench.repository.ledgers("dev-1")[1].stored == 3, what="the second look")
    bench.ingest.stop(30.0)
    assert bench.repository.next_unread(0) is None
    assert bench.repository.absent("dev-1", limit=9) == []


def test_who_sends_something_does_not_wait_for_the_second_look(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench.repository.transaction():
        bench.repository.change_device("dev-1", DeviceChange(), t_ns=1)
        for seq in range(1, 101):
            bench.repository.keep_unread("dev-1", 1, StoredChunk(seq, 1, 0, "p", 99, zlib.crc32(b"later"), b"later"))
    read: list[int] = []
    next_unread = bench.repository.next_unread

    def reads(after_id: int) -> Unread | None:
        if bench.line.acks():
            raise StorageError("that is enough")
        read.append(after_id)
        return next_unread(after_id)

    monkeypatch.setattr(bench.repository, "next_unread", reads)
    bench.hears_chunk(1, 5)
    bench.ingest.start()
    wait_until(lambda: bool(bench.line.acks()), what="the acknowledgement")
    bench.hears_chunk(6, 5)
    bench.line.wake()
    wait_until(lambda: bench.repository.ledgers("dev-1")[1].stored == 10, what="what came after it")
    bench.ingest.stop(30.0)
    assert 0 < len(read) < 100


@pytest.mark.parametrize("state", ["COMMITTED", "ROLLED_BACK", "FAILED"])
def test_an_end_is_acknowledged_after_the_commit_each_time_it_is_said(bench: Bench, state: str) -> None:
    bench.deployed("r1-1")
    for _ in range(2):
        bench.hears("up/job/r1-1", JobStatus("r1-1", 1, state))
        bench.hears("up/job/unknown", JobStatus("unknown", 1, state))
        bench.hears("up/job/r1-2", JobStatus("r1-2", 1, "TRIAL"))
        bench.ingest.turn(0)
    said = [(rest, decode(payload, JobAck)) for rest, payload in bench.line.said]
    assert (
        said
        == [
            ("down/job/r1-1", JobAck("r1-1", state)),
            ("down/job/unknown", JobAck("unknown", state)),
        ]
        * 2
    )


def test_the_newest_epoch_is_acknowledged_on_a_new_connection_whatever_its_number(bench: Bench) -> None:
    for epoch in (900, 400):
        bench.hears_chunk(1, epoch // 100, epoch=epoch)
    bench.ingest.turn(0)
    bench.line.said.clear()
    bench.line.generation = 7
    bench.ingest.turn(0)
    assert [(ack.epoch, ack.seq) for ack in bench.line.acks()] == [(400, 4)]


def test_the_oldest_settled_epoch_gives_way_and_may_come_back(bench: Bench) -> None:
    for epoch, first_seq in ((70, 2), (60, 1), (50, 1), (40, 1)):
        bench.hears_chunk(first_seq, 3, epoch=epoch)
        bench.ingest.turn(0)
    assert list(bench.repository.ledgers("dev-1")) == [70, 40]  # 70 has a gap
    bench.line.said.clear()
    bench.hears_chunk(2, 4, epoch=60)
    bench.ingest.turn(0)
    assert [(ack.epoch, ack.seq) for ack in bench.line.acks()] == [(60, 5)]
    retired = bench.repository.retired()["dev-1"]
    live = bench.repository.ledgers("dev-1")
    assert list(live) == [70, 60]
    assert retired.stored + sum(ledger.stored for ledger in live.values()) == 14
    assert len(bench.repository.results("dev-1", limit=100)) == 14


def test_epochs_that_all_have_gaps_stay_and_one_more_is_refused(bench: Bench) -> None:
    for epoch in (70, 60, 50):
        bench.hears_chunk(2, 3, epoch=epoch)
        bench.ingest.turn(0)
    assert list(bench.repository.ledgers("dev-1")) == [70, 60]
    assert "epochs" in bench.repository.refusals(limit=1)[0].reason


def test_a_disk_that_fails_gives_no_answer_where_a_blob_that_is_not_there_does(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    bench.repository.change_device("dev-1", DeviceChange(), t_ns=1)
    bench.repository.add_package(
        Package(
            digest="d" * 64, name="m", version="1.0.0", task="t", blob_sha256="b" * 64, blob_bytes=4, added_ns=1,
            labels=(), label_offset=0, variants=(), signed_by="",
        )
    )  # fmt: skip
    request = BlobRequest("b" * 64, 0, 4)
    missing = bench.blobs.read(request)
    assert missing is not None
    assert missing.total_bytes == 0
    bench.blobs.path("b" * 64).write_bytes(b"blob")
    monkeypatch.setattr("edgeinfer.console.blobs.os.pread", fail)
    bench.hears("up/get", request)
    bench.ingest.turn(0)
    assert bench.line.said == []
    monkeypatch.undo()
    bench.hears("up/get", request)
    bench.ingest.turn(0)
    assert [rest for rest, _ in bench.line.said] == ["down/data"]


def test_a_new_rollout_ends_the_old_one_once_for_all_its_devices(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def package(digest: str, version: str) -> Package:
        return Package(
            digest=digest * 64, name="m", version=version, task="t", blob_sha256="b" * 64, blob_bytes=4, added_ns=1,
            labels=(), label_offset=0, variants=(), signed_by="",
        )  # fmt: skip

    for n in range(50):
        bench.repository.change_device(f"dev-{n}", DeviceChange(agent_version="1"), t_ns=1)
    for made in (package("a", "1.0.0"), package("b", "2.0.0")):
        bench.repository.add_package(made)
    first = bench.deployer.create("m:1.0.0", "all")
    calls: list[str] = []
    for name in ("packages", "is_unfinished", "set_rollout_state"):
        real = getattr(bench.repository, name)

        def counted(*arguments: object, _name: str = name, _real: object = real, **named: object) -> object:
            calls.append(_name)
            return _real(*arguments, **named)  # type: ignore[operator]  # a method of the repository

        monkeypatch.setattr(bench.repository, name, counted)
    bench.deployer.create("m:2.0.0", "all")
    assert sorted(calls) == ["is_unfinished", "packages", "packages", "set_rollout_state"]
    ended = bench.repository.rollout(first.id)
    assert ended is not None
    assert ended.state == "FINISHED"


# -- delivered without a broker -----------------------------------------------------------------------------------


def test_what_is_delivered_is_acknowledged_after_the_commit(bench: Bench) -> None:
    bench.ingest.start()
    found = bench.ingest.deliver([*bench.chunks(1, 5, epoch=1), *bench.chunks(3, 5, epoch=2)], timeout_s=30)
    assert {device: [(a.epoch, a.seq, a.gaps) for a in acks] for device, acks in found.items()} == {
        "dev-1": [(1, 5, ()), (2, 0, ((1, 2),))]
    }
    assert bench.repository.ledgers("dev-1")[1].stored == 5
    bench.ingest.stop()
    with pytest.raises(ConsoleError, match="stopped"):
        bench.ingest.deliver(bench.chunks(6, 1), timeout_s=30)


def test_a_delivery_that_cannot_be_stored_is_given_back_to_who_brought_it(bench: Bench) -> None:
    bench.repository.failures = 1
    bench.ingest.start()
    with pytest.raises(StorageError, match="locked"):
        bench.ingest.deliver(bench.chunks(6, 5), timeout_s=30)
    wait_until(lambda: bench.ingest.storage_error == "", what="the error to be gone, though nothing more came")
    bench.hears_chunk(1, 5)
    wait_until(lambda: bool(bench.line.acks()), what="what the link brought")
    assert bench.ingest.deliver(bench.chunks(6, 5), timeout_s=30)["dev-1"][0].seq == 10
    bench.ingest.stop()
    assert bench.repository.ledgers("dev-1")[1].duplicates == 0


def test_a_large_delivery_goes_in_pieces_and_one_that_nobody_takes_ends_in_time(bench: Bench) -> None:
    with pytest.raises(BusyError, match="in time"):
        bench.ingest.deliver(bench.chunks(1, 5), timeout_s=0.01)
    assert bench.ingest.turn(0) == 0  # it was withdrawn
    bench.ingest.start()
    many = [message for seq in range(1, 601) for message in bench.chunks(seq, 1)]
    assert bench.ingest.deliver(many, timeout_s=60)["dev-1"][0].seq == 600
    bench.ingest.stop()


def test_one_transaction_takes_no_more_bytes_than_it_may(bench: Bench) -> None:
    for number in range(40):
        bench.hears("up/res/p", b"?" * (1 << 20) if number < 39 else b"")
    assert [bench.ingest.turn(0) for _ in range(5)] == [8, 8, 8, 8, 8]


def test_one_transaction_holds_no_more_results_than_it_may(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeinfer.console.ingest._MAX_BATCH_RESULTS", 5)
    for first_seq in range(1, 14, 2):
        bench.hears_chunk(first_seq, 2)
    assert [bench.ingest.turn(0) for _ in range(4)] == [3, 3, 1, 0]
    assert bench.line.acks()[-1].seq == 14


def bundled(*messages: tuple[str, bytes]) -> bytes:
    return encode_bundle([Frame(parse_topic(name).rest, payload) for name, payload in messages])


def test_a_bundle_is_its_messages_and_whoever_acknowledges_says_that_it_takes_them(bench: Bench) -> None:
    bench.hears(BUNDLE, bundled(*bench.chunks(1, 5), *bench.chunks(6, 5), *bench.chunks(6, 5), *bench.chunks(21, 5)))
    assert bench.ingest.turn(0) == 4
    (ack,) = bench.line.acks()
    assert (ack.seq, ack.gaps, ack.highest, ack.duplicates) == (10, ((11, 20),), 25, 5)
    assert ack.bundle == MAX_BUNDLE_CHUNKS


def test_a_transaction_that_is_full_in_the_middle_of_a_bundle_goes_on_in_the_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeinfer.console.ingest._MAX_BATCH_RESULTS", 5)
    bench.hears(BUNDLE, bundled(*(message for seq in range(1, 14, 2) for message in bench.chunks(seq, 2))))
    bench.hears_chunk(15, 2)
    assert [bench.ingest.turn(0) for _ in range(4)] == [3, 3, 2, 0]
    assert [ack.seq for ack in bench.line.acks()] == [6, 12, 16]


def test_what_is_bad_in_a_bundle_is_refused_alone_and_a_bad_bundle_as_a_whole(bench: Bench) -> None:
    good = bundled(*bench.chunks(1, 5))
    bad = (topic("t", "dev-1", "up/res/p"), b"EI is no chunk, though it begins like one")
    bench.hears(BUNDLE, bundled(*bench.chunks(6, 5), bad, *bench.chunks(11, 5)))
    bench.hears(BUNDLE, good[:-1])
    bench.hears(BUNDLE, bundled((topic("t", "dev-1", BUNDLE), good)))
    bench.hears(BUNDLE, bundled((topic("t", "dev-1", "up/state"), b"{}")))
    bench.ingest.turn(0)
    (ack,) = bench.line.acks()
    assert (ack.seq, ack.highest) == (0, 15)
    assert [refusal.topic for refusal in bench.repository.refusals(limit=10)] == [
        topic("t", "dev-1", rest) for rest in (BUNDLE, BUNDLE, BUNDLE, "up/res/p")
    ]


def test_what_waits_of_a_bundle_while_nothing_can_be_stored_is_stored_later(bench: Bench) -> None:
    bench.hears(BUNDLE, bundled(*bench.chunks(1, 5), *bench.chunks(6, 5)))
    bench.repository.failures = 1
    with pytest.raises(StorageError):
        bench.ingest.turn(0)
    assert bench.line.acks() == []
    assert bench.ingest.turn(0) == 2
    assert bench.line.acks()[-1].seq == 10


def test_a_bundle_that_is_delivered_by_another_way_is_refused(bench: Bench) -> None:
    bench.ingest.start()
    assert bench.ingest.deliver([(topic("t", "dev-1", BUNDLE), bundled(*bench.chunks(1, 5)))], timeout_s=60) == {}
    bench.ingest.stop()
    assert "expected a bundle from the broker" in bench.repository.refusals(limit=1)[0].reason


def test_messages_are_read_outside_the_transaction_and_what_comes_meanwhile_shares_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = [bench.chunks(6, 5), bench.chunks(11, 5)]

    def reads(name: str, payload: bytes, *, tenant: str) -> Inbound:
        with ThreadPoolExecutor(1) as other:  # a writer of its own, which would wait for a transaction
            other.submit(bench.repository.all_offline).result(timeout=60)
        if more:
            bench.line.waiting.extend(more.pop(0))
        return read_message(name, payload, tenant=tenant)

    monkeypatch.setattr("edgeinfer.console.ingest.read_message", reads)
    bench.hears_chunk(1, 5)
    assert bench.ingest.turn(0) == 3
    assert [ack.seq for ack in bench.line.acks()] == [15]


def test_what_breaks_the_reader_is_refused_and_what_came_with_it_is_stored(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reads(name: str, payload: bytes, *, tenant: str) -> Inbound:
        if payload == b"breaks it":
            raise RuntimeError("a defect")
        return read_message(name, payload, tenant=tenant)

    for module in ("ingest", "batch"):
        monkeypatch.setattr(f"edgeinfer.console.{module}.read_message", reads)
    bench.hears_chunk(1, 5)
    bench.hears("up/res/p", b"breaks it")
    bench.hears_chunk(6, 5)
    assert bench.ingest.turn(0) == 3
    assert bench.line.acks()[-1].seq == 10
    assert [refusal.reason for refusal in bench.repository.refusals(limit=10)] == ["internal error: RuntimeError"]


def test_files_and_answers_of_known_devices_are_passed_on(bench: Bench) -> None:
    answer = CommandResult("c1", ok=True)
    part = BlobPart("a" * 64, 0, 4, BlobLabel("snapshot", "1.jpg"), b"data")
    for _ in range(2):
        bench.hears("up/cmdres", answer)
        bench.hears("up/blob", encode_blob_part(part))
        bench.ingest.turn(0)
        bench.hears_chunk(1, 1)
        bench.ingest.turn(0)
    assert bench.passed == [("dev-1", answer), ("dev-1", part)]


def test_the_last_will_of_an_agent_that_was_replaced_says_nothing_of_the_new_one(bench: Bench) -> None:
    def is_online() -> bool:
        bench.ingest.turn(0)
        device = bench.repository.device("dev-1")
        assert device is not None
        return device.online

    bench.hears("up/state", StateMessage(online=True, session="a"))
    assert is_online()
    bench.hears("up/state", StateMessage(online=True, session="b"))
    bench.hears("up/state", StateMessage(online=False, session="a"))
    assert is_online()
    bench.hears("up/state", StateMessage(online=False, session="b"))
    assert not is_online()
