"""What every repository of the console must do. A new implementation is added to `OPENERS`."""

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from edgeinfer.console.ledger import Ledger
from edgeinfer.console.repository import Repository, SqliteRepository, sqlite_records
from edgeinfer.console.repository.base import (
    Absent,
    Bucket,
    Conflict,
    Deployment,
    DeviceBlob,
    DeviceChange,
    KeptChunk,
    OverlapError,
    Package,
    PipelineCount,
    Refusal,
    SignedDesired,
    Span,
    StorageError,
    kind_bit,
)
from edgeinfer.runtime.chunk import StoredChunk
from edgeinfer.runtime.results import Item, Kind, Result
from kept_chunks import chunk_of, count_of

Opener = Callable[[Path], Repository]
OPENERS: dict[str, Opener] = {"sqlite": lambda folder: SqliteRepository(folder / "console.db")}


@pytest.fixture(params=sorted(OPENERS))
def opener(request: pytest.FixtureRequest) -> Opener:
    return OPENERS[request.param]


@pytest.fixture
def repository(opener: Opener, tmp_path: Path) -> Iterator[Repository]:
    opened = opener(tmp_path)
    yield opened
    opened.close()


def made(first: int, n: int = 1, *, kind: Kind = Kind.CLASSIFICATION) -> list[Result]:
    """Result k was made at 10 k ns."""
    return [Result(kind, seq * 10, items=(Item(3, 0.5),)) for seq in range(first, first + n)]


def chunk(first: int, n: int = 1, *, device: str = "dev-1", epoch: int = 1, pipeline: str = "door") -> KeptChunk:
    return chunk_of(made(first, n), first_seq=first, device=device, epoch=epoch, pipeline=pipeline)


def package(version: str = "1.0.0", digest: str = "d" * 64) -> Package:
    return Package(
        digest=digest,
        name="digits",
        version=version,
        task="classification",
        blob_sha256="b" * 64,
        blob_bytes=1000,
        added_ns=5,
        labels=("zero", "one"),
        label_offset=0,
        variants=({"id": "litert-fp32", "bytes": 7},),
        signed_by="",
    )


def deployment(rollout: int, *, device: str = "dev-1", state: str = "PENDING") -> Deployment:
    return Deployment(
        rollout=rollout,
        device=device,
        job=f"r{rollout}-1",
        digest="d" * 64,
        model="digits",
        state=state,
        desired_version=1,
        created_ns=1,
        changed_ns=2,
    )


# -- devices ------------------------------------------------------------------------------------------------


def test_a_device_keeps_what_a_change_does_not_name(repository: Repository) -> None:
    repository.change_device("dev-1", DeviceChange(online=True, groups=("a", "b"), profile={"cpu": {"n": 2}}), t_ns=7)
    repository.change_device("dev-1", DeviceChange(telemetry={"t_ns": 1}), t_ns=9)
    device = repository.device("dev-1")
    assert device is not None
    assert (device.online, device.groups, device.profile) == (True, ("a", "b"), {"cpu": {"n": 2}})
    assert (device.first_seen_ns, device.last_seen_ns, device.telemetry) == (7, 9, {"t_ns": 1})


def test_last_seen_never_goes_back(repository: Repository) -> None:
    repository.change_device("dev-1", DeviceChange(), t_ns=9)
    repository.change_device("dev-1", DeviceChange(), t_ns=3)
    device = repository.device("dev-1")
    assert device is not None
    assert device.last_seen_ns == 9


def test_devices_come_by_name_and_go_offline_together(repository: Repository) -> None:
    for name in ("b", "a"):
        repository.change_device(name, DeviceChange(online=True), t_ns=1)
    repository.all_offline()
    assert [(d.name, d.online) for d in repository.devices()] == [("a", False), ("b", False)]
    assert repository.device("nobody") is None


# -- accounting ---------------------------------------------------------------------------------------------


def test_a_ledger_comes_back_as_it_was_saved(repository: Repository) -> None:
    repository.change_device("dev-1", DeviceChange(), t_ns=1)
    ledger = Ledger()
    ledger.store(1, 10)
    ledger.store(21, 5)
    ledger.evict(30, 2)
    ledger.store(5, 2)
    ledger.conflicts, ledger.made = 9, 40
    repository.save_ledger("dev-1", 77, ledger)
    found = repository.ledgers("dev-1")[77]
    assert (found.conflicts, found.made) == (9, 40)
    assert (found.contiguous, found.ranges, found.stored, found.duplicates, found.evicted, found.missing) == (
        10,
        ((21, 25), (30, 31)),
        15,
        2,
        2,
        0,
    )
    assert repository.all_ledgers()["dev-1"][77].ranges == found.ranges
    assert repository.ledgers("nobody") == {}


def test_epochs_come_in_the_order_in_which_they_were_seen(repository: Repository) -> None:
    for device in ("dev-1", "dev-2"):
        repository.change_device(device, DeviceChange(), t_ns=1)
    for epoch in (900, 400, 600):
        repository.add_chunks([chunk(1, 2, epoch=epoch)])
    for epoch in (600, 900, 400):
        repository.save_ledger("dev-1", epoch, Ledger(contiguous=2))
    repository.save_ledger("dev-2", 400, Ledger())
    assert list(repository.ledgers("dev-1")) == list(repository.all_ledgers()["dev-1"]) == [900, 400, 600]
    places = [(r.epoch, r.seq) for r in repository.results("dev-1", after=(0, 0), limit=100)]
    assert places == [(900, 1), (900, 2), (400, 1), (400, 2), (600, 1), (600, 2)]
    assert [(r.epoch, r.seq) for r in repository.results("dev-1", limit=100)] == places[::-1]
    for n, place in enumerate(places, start=1):
        assert [(r.epoch, r.seq) for r in repository.results("dev-1", after=place, limit=2)] == places[n : n + 2]


def test_an_undone_epoch_is_not_remembered(repository: Repository) -> None:
    def see_and_fail() -> None:
        with repository.transaction():
            repository.add_chunks([chunk(1, epoch=5)])
            raise KeyError

    repository.change_device("dev-1", DeviceChange(), t_ns=1)
    with pytest.raises(KeyError):
        see_and_fail()
    repository.add_chunks([chunk(1, epoch=9), chunk(1, epoch=5)])
    assert [r.epoch for r in repository.results("dev-1", after=(0, 0), limit=9)] == [9, 5]


def test_a_retired_epoch_leaves_its_counts_its_place_and_its_results(repository: Repository) -> None:
    repository.change_device("dev-1", DeviceChange(), t_ns=1)
    for epoch in (8, 3):
        ledger = Ledger()
        ledger.store(1, 10)
        ledger.evict(11, 2)
        ledger.give_up(13, 4)
        ledger.store(5, 1)
        ledger.conflicts += 3
        repository.add_chunks([chunk(1, 10, epoch=epoch)])
        repository.save_ledger("dev-1", epoch, ledger)
        repository.retire_epoch("dev-1", epoch)
    assert repository.ledgers("dev-1") == {}
    counts = repository.retired()["dev-1"]
    assert (counts.stored, counts.evicted, counts.undecodable, counts.duplicates) == (20, 4, 8, 2)
    assert counts.conflicts == 6
    assert (repository.retired_seq("dev-1", 8), repository.retired_seq("dev-1", 4)) == (16, 0)
    assert [r.epoch for r in repository.results("dev-1", after=(8, 10), limit=9)] == [3] * 9
    repository.retire_epoch("dev-1", 8)
    assert repository.retired_seq("dev-1", 8) == 16


def test_absent_ranges_are_remembered_newest_first(repository: Repository) -> None:
    repository.change_device("dev-1", DeviceChange(), t_ns=1)
    ranges = [
        Absent("dev-1", 1, 1, 5, "evicted", "full", 7, b"l" * 16),
        Absent("dev-1", 1, 9, 9, "evicted", "full"),
        Absent("dev-1", 1, 20, 20, "missing", ""),
    ]
    repository.add_absent("dev-1", ranges)
    assert repository.absent("dev-1", limit=2) == ranges[:0:-1]
    assert repository.absent("dev-1", limit=9) == ranges[::-1]
    assert (repository.link_at("dev-1", 1, 5), repository.link_at("dev-1", 1, 4)) == (b"l" * 16, b"")


def test_an_absent_range_that_goes_on_is_one(repository: Repository) -> None:
    repository.change_device("dev-1", DeviceChange(), t_ns=1)
    repository.add_absent("dev-1", [Absent("dev-1", 1, 1, 5, "evicted", "full", 7, b"a" * 16)])
    repository.add_absent("dev-1", [Absent("dev-1", 1, 6, 9, "evicted", "full", 8, b"b" * 16)])
    others = [
        Absent("dev-1", 1, 10, 11, "missing", "full"),
        Absent("dev-1", 1, 12, 12, "missing", "lost"),
        Absent("dev-1", 2, 13, 13, "missing", "lost"),
    ]
    repository.add_absent("dev-1", others)
    joined = Absent("dev-1", 1, 1, 9, "evicted", "full", 7, b"b" * 16)
    assert repository.absent("dev-1", limit=9) == [*others[::-1], joined]


def test_part_of_an_absent_range_is_absent_no_more(repository: Repository) -> None:
    repository.change_device("dev-1", DeviceChange(), t_ns=1)
    runs = [
        Absent("dev-1", 1, 1, 10, "evicted", "full", 7, b"a"),
        Absent("dev-1", 1, 11, 20, "missing", "gone", 0, b"b"),
        Absent("dev-1", 2, 1, 99, "evicted", "full"),
    ]
    repository.add_absent("dev-1", runs)
    assert repository.absent_in("dev-1", 1, 21, 30) == []
    assert repository.absent_in("dev-1", 1, 4, 15) == [
        Absent("dev-1", 1, 4, 10, "evicted", "full", 0, b"a"),
        Absent("dev-1", 1, 11, 15, "missing", "gone", 0, b""),
    ]
    repository.forget_absent("dev-1", 1, 4, 15)
    assert repository.absent_in("dev-1", 1, 1, 20) == [
        Absent("dev-1", 1, 1, 3, "evicted", "full", 7, b""),
        Absent("dev-1", 1, 16, 20, "missing", "gone", 0, b"b"),
    ]
    repository.forget_absent("dev-1", 1, 1, 20)
    assert repository.absent("dev-1", limit=9) == [runs[2]]


def test_what_cannot_be_read_is_kept_as_it_came(repository: Repository) -> None:
    repository.change_device("dev-1", DeviceChange(), t_ns=1)
    assert repository.next_unread(0) is None
    first, second = (StoredChunk(seq, 5, 0, "door", 99, seq, bytes([seq]), b"link") for seq in (1, 6))
    repository.keep_unread("dev-1", 3, first)
    repository.keep_unread("dev-1", 3, second)
    found = repository.next_unread(0)
    assert found is not None
    assert (found.device, found.epoch, found.chunk) == ("dev-1", 3, first)
    after = repository.next_unread(found.id)
    assert after is not None
    assert after.chunk == second
    repository.drop_unread(found.id)
    assert repository.next_unread(0) == after
    assert repository.next_unread(after.id) is None


def test_of_too_much_that_cannot_be_read_the_oldest_goes(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_records, "_UNREAD_BYTES_KEPT", 5 * 4096)
    repository.change_device("dev-1", DeviceChange(), t_ns=1)
    repository.change_device("dev-2", DeviceChange(), t_ns=1)
    body = bytes(4096)
    repository.keep_unread("dev-2", 3, StoredChunk(1, 1, 0, "door", 99, 0, body))
    for seq in range(1, 8):
        repository.keep_unread("dev-1", 3, StoredChunk(seq, 1, 0, "door", 99, 0, body if seq % 2 else b"small"))
    with contextlib.suppress(ArithmeticError), repository.transaction():
        repository.keep_unread("dev-1", 3, StoredChunk(8, 1, 0, "door", 99, 0, 3 * body))
        raise ArithmeticError
    first = repository.next_unread(0)
    assert first is not None
    repository.drop_unread(first.id)
    assert (first.device, _unread(repository)) == ("dev-2", [3, 4, 5, 6, 7])
    repository.keep_unread("dev-1", 3, StoredChunk(8, 1, 0, "door", 99, 0, 3 * body))
    assert _unread(repository) == [6, 7, 8]


def _unread(repository: Repository) -> list[int]:
    found, last = [], 0
    while (unread := repository.next_unread(last)) is not None:
        found.append(unread.chunk.first_seq)
        last = unread.id
    return found


def test_a_conflict_is_remembered_once_and_counted(repository: Repository) -> None:
    repository.change_device("dev-1", DeviceChange(), t_ns=1)
    for t_ns in (5, 9):
        repository.add_conflict(Conflict("dev-1", 1, 101, 50, f"why {t_ns}", t_ns, t_ns, times=1))
    repository.add_conflict(Conflict("dev-1", 2, 101, 50, "why", 7, 7, times=1))
    assert repository.conflicts("dev-1", limit=9) == [
        Conflict("dev-1", 1, 101, 50, "why 9", 5, 9, times=2),
        Conflict("dev-1", 2, 101, 50, "why", 7, 7, times=1),
    ]
    with repository.transaction():  # 300 of them would be minutes on a slow disk
        for number in range(300):
            repository.add_conflict(Conflict("dev-1", 3, number, 1, "", 10 + number, 10 + number, times=1))
    kept = repository.conflicts("dev-1", limit=1000)
    assert 0 < len(kept) <= 201
    assert kept[0].first_seq == 299


def test_refusals_are_counted_for_all_and_remembered_for_some(repository: Repository) -> None:
    repository.change_device("dev-1", DeviceChange(), t_ns=1)
    with repository.transaction():  # as above
        for number in range(300):
            repository.add_refusal(Refusal(number, "dev-1" if number % 2 else "stranger", "t", "why", 3))
    assert repository.refused_count() == 300
    device = repository.device("dev-1")
    assert device is not None
    assert device.refused == 150
    kept = repository.refusals(limit=1000)
    assert 0 < len(kept) <= 200
    assert kept[0].t_ns == 299
    assert {r.device for r in repository.refusals(limit=10, device="dev-1")} == {"dev-1"}


# -- results ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", range(1, 12))
@pytest.mark.parametrize("n", [1, 2, 20])
def test_a_number_that_is_stored_is_not_stored_again(repository: Repository, first: int, n: int) -> None:
    repository.change_device("dev-1", DeviceChange(), t_ns=1)
    repository.add_chunks([chunk(3, 2), chunk(6, 3)])
    new, stored = set(range(first, first + n)), {3, 4, 6, 7, 8}
    if new & stored:
        with pytest.raises(OverlapError):
            repository.add_chunks([chunk(first, n)])
        new = set()
    else:
        repository.add_chunks([chunk(first, n)])
    assert [r.seq for r in repository.results("dev-1", after=(0, 0), limit=100)] == sorted(stored | new)


def test_the_same_sequence_number_in_another_epoch_or_device_is_another_result(repository: Repository) -> None:
    for name in ("dev-1", "dev-2"):
        repository.change_device(name, DeviceChange(), t_ns=1)
    repository.add_chunks([chunk(1), chunk(1, epoch=2), chunk(1, device="dev-2")])
    assert [(r.epoch, r.seq) for r in repository.results("dev-1", limit=9)] == [(2, 1), (1, 1)]
    assert [(r.epoch, r.seq) for r in repository.results("dev-2", limit=9)] == [(1, 1)]


def test_a_result_comes_back_whole(repository: Repository) -> None:
    repository.change_device("dev-1", DeviceChange(), t_ns=1)
    result = Result(
        kind=Kind.DETECTION,
        t_ns=-5,
        frame=2**63 - 1,
        latency_us=7,
        age_us=8,
        items=(Item(1, 0.25, (0.0, 0.0, 1.0, 1.0)), Item(-2, 3.5)),
        extra={"a": 1, "b": "x", "c": 0.5},
    )
    repository.add_chunks([chunk_of([result], first_seq=2**63 - 1, epoch=2**63 - 1, pipeline="p")])
    (found,) = repository.results("dev-1", limit=1)
    assert (found.device, found.epoch, found.seq, found.pipeline) == ("dev-1", 2**63 - 1, 2**63 - 1, "p")
    assert (found.kind, found.t_ns, found.frame, found.latency_us, found.age_us) == (2, -5, 2**63 - 1, 7, 8)
    assert (found.items, found.extra) == (result.items, result.extra)


def test_scores_that_are_no_numbers_come_back(repository: Repository) -> None:
    repository.change_device("dev-1", DeviceChange(), t_ns=1)
    items = (Item(1, math.inf), Item(2, math.nan))
    repository.add_chunks([chunk_of([Result(Kind.CLASSIFICATION, 1, items=items, extra={"a": math.nan})])])
    (found,) = repository.results("dev-1", limit=1)
    assert [math.isinf(found.items[0].score), math.isnan(found.items[1].score)] == [True, True]


def test_results_are_read_on_from_a_place_within_and_between_chunks(repository: Repository) -> None:
    repository.change_device("dev-1", DeviceChange(), t_ns=1)
    repository.add_chunks([chunk(1, 4, pipeline="a"), chunk(5, 3, pipeline="b"), chunk(8, 30, pipeline="a")])
    repository.add_chunks([chunk(38, pipeline="a"), chunk(1, 2, epoch=2, pipeline="a")])
    every = [(1, seq) for seq in range(1, 39)] + [(2, 1), (2, 2)]
    for n, place in enumerate([(0, 0), *every]):
        for limit in (1, 7, 100):
            found = [(r.epoch, r.seq) for r in repository.results("dev-1", after=place, limit=limit)]
            assert found == every[n : n + limit]
    of_a = [place for place in every if place[0] == 2 or not 5 <= place[1] <= 7]
    found_a = repository.results("dev-1", pipeline="a", after=(1, 3), limit=3)
    assert [(r.epoch, r.seq) for r in found_a] == [(1, 4), (1, 8), (1, 9)]
    assert [(r.epoch, r.seq) for r in repository.results("dev-1", pipeline="a", limit=99)] == of_a[::-1]
    assert [(r.epoch, r.seq) for r in repository.results("dev-1", limit=5)] == every[:-6:-1]
    assert repository.results("dev-1", pipeline="c", limit=3) == []
    assert repository.results("nobody", limit=3) == []


def test_many_small_chunks_are_paged_through(repository: Repository) -> None:
    repository.change_device("dev-1", DeviceChange(), t_ns=1)
    repository.add_chunks([chunk(seq) for seq in range(1, 41)])
    assert [r.seq for r in repository.results("dev-1", limit=100)] == list(range(40, 0, -1))
    assert [r.seq for r in repository.results("dev-1", after=(1, 5), limit=20)] == list(range(6, 26))


def test_results_of_a_kind_are_found_among_others(repository: Repository) -> None:
    repository.change_device("dev-1", DeviceChange(), t_ns=1)
    mixed = [*made(3, 2), *made(5, kind=Kind.EVENT), *made(6, kind=Kind.SWAP)]
    repository.add_chunks([chunk(1, 2), chunk_of(mixed, first_seq=3), chunk_of(made(7, kind=Kind.EVENT), first_seq=7)])
    events = repository.results("dev-1", kinds=kind_bit(Kind.EVENT), limit=9)
    assert [(r.seq, r.kind) for r in events] == [(7, Kind.EVENT), (5, Kind.EVENT)]
    either = kind_bit(Kind.EVENT) | kind_bit(Kind.SWAP)
    assert [r.seq for r in repository.results("dev-1", kinds=either, after=(1, 4), limit=2)] == [5, 6]


def test_events_of_a_moment_are_found(repository: Repository) -> None:
    repository.change_device("dev-1", DeviceChange(), t_ns=1)
    repository.add_chunks([chunk(1, 5), chunk_of([*made(6), *made(7, kind=Kind.EVENT), *made(8)], first_seq=6)])
    repository.add_chunks([chunk_of(made(7, kind=Kind.EVENT), first_seq=9), chunk(10, 9)])
    found = repository.results_at("dev-1", 70, kinds=kind_bit(Kind.EVENT), limit=9)
    assert sorted(result.seq for result in found) == [7, 9]
    assert repository.results_at("dev-1", 60, kinds=kind_bit(Kind.EVENT), limit=9) == []
    assert repository.results_at("nobody", 70, kinds=kind_bit(Kind.EVENT), limit=9) == []


def test_chunks_of_an_unknown_device_are_refused(repository: Repository) -> None:
    with pytest.raises(StorageError):
        repository.add_chunks([chunk(1, device="nobody")])


def test_links_and_chunks_are_found_by_their_numbers(repository: Repository) -> None:
    repository.change_device("dev-1", DeviceChange(), t_ns=1)
    linked = chunk_of(made(4, 3), first_seq=4, link=b"k" * 16)
    repository.add_chunks([chunk(1, 2), linked])
    assert [repository.link_at("dev-1", 1, seq) for seq in (2, 3, 5, 6, 7)] == [b"", b"", b"", b"k" * 16, b""]
    assert repository.chunk_at("dev-1", 1, 4) == linked
    assert repository.chunk_at("dev-1", 1, 5) is None
    heads = repository.heads("dev-1", 1, after=0, last=9, limit=9)
    assert [(h.first_seq, h.last_seq, h.link, h.whole) for h in heads] == [(1, 2, b"", True), (4, 6, b"k" * 16, True)]
    assert [h.first_seq for h in repository.heads("dev-1", 1, after=1, last=9, limit=9)] == [4]
    before, behind = repository.neighbours("dev-1", 1, 3)
    assert before is not None
    assert behind is not None
    assert (before.first_seq, behind.first_seq) == (1, 4)
    assert repository.neighbours("dev-1", 1, 5)[1] is None
    assert repository.neighbours("dev-1", 2, 5) == (None, None)


def test_chunks_are_found_by_time(repository: Repository) -> None:
    repository.change_device("dev-1", DeviceChange(), t_ns=1)
    repository.add_chunks([chunk(1, 3, epoch=9), chunk(1, 2, epoch=4), chunk(3, 2, epoch=4), chunk(7, 2, epoch=4)])
    assert repository.spans("dev-1", since_ns=20, until_ns=31) == [Span(9, 1, 3, 3), Span(4, 1, 4, 4)]
    assert repository.spans("dev-1", since_ns=31, until_ns=70) == [Span(4, 3, 4, 2)]
    assert repository.spans("dev-1", since_ns=41, until_ns=70) == []


def test_results_and_events_are_counted_by_pipeline(repository: Repository) -> None:
    repository.change_device("dev-1", DeviceChange(), t_ns=1)
    repository.add_counts([count_of(made(1)), count_of(made(3), pipeline="other")])
    repository.add_counts([count_of(made(2, kind=Kind.EVENT)), count_of(made(1))])
    assert repository.pipelines("dev-1") == [
        PipelineCount("dev-1", "door", 3, 1, 20),
        PipelineCount("dev-1", "other", 1, 0, 30),
    ]
    assert repository.pipelines("nobody") == []


def test_buckets_add_up(repository: Repository) -> None:
    repository.change_device("dev-1", DeviceChange(), t_ns=1)
    repository.add_buckets(
        [Bucket("dev-1", "door", 1, 100, 3, {5: 2, 6: 1}), Bucket("dev-1", "door", 1, 101, 1, {5: 1})]
    )
    repository.add_buckets([Bucket("dev-1", "door", 1, 100, 2, {6: 2})])
    assert repository.buckets(resolution_s=1, since_s=100, until_s=101) == [
        Bucket("dev-1", "door", 1, 100, 5, {5: 2, 6: 3})
    ]
    repository.drop_buckets(resolution_s=1, before_s=101)
    assert [b.t_s for b in repository.buckets(resolution_s=1, since_s=0, until_s=999, device="dev-1")] == [101]


# -- files from devices -------------------------------------------------------------------------------------


def test_files_from_devices(repository: Repository) -> None:
    for name in ("dev-1", "dev-2"):
        repository.change_device(name, DeviceChange(), t_ns=1)
    first = DeviceBlob(
        device="dev-1", sha256="a" * 64, kind="snapshot", name="1-door.jpg", pipeline="door", t_ns=5, total_bytes=100,
        received_ns=7, done=False,
    )  # fmt: skip
    second = msgspec.structs.replace(first, sha256="b" * 64, received_ns=9, done=True)
    other = msgspec.structs.replace(second, device="dev-2", total_bytes=5000)
    for blob in (first, second, other):
        repository.save_device_blob(blob)
    assert repository.device_blob("dev-1", "a" * 64) == first
    assert repository.device_blob("dev-2", "a" * 64) is None
    assert repository.device_blobs("dev-1", limit=9) == [second]
    assert repository.device_blobs("dev-1", done=False, limit=9) == [second, first]
    assert len(repository.device_blobs(done=False, limit=9)) == 3
    assert repository.device_blob_bytes() == {"dev-1": 8192, "dev-2": 5000}
    repository.save_device_blob(msgspec.structs.replace(first, done=True))
    assert len(repository.device_blobs("dev-1", limit=9)) == 2
    repository.drop_device_blob("dev-1", "a" * 64)
    assert repository.device_blobs("dev-1", done=False, limit=9) == [second]


# -- packages and rollouts ----------------------------------------------------------------------------------


def test_a_package_is_added_once_and_its_blob_follows_a_new_signature(repository: Repository) -> None:
    assert repository.add_package(package()) is True
    signed = msgspec.structs.replace(package(), blob_sha256="c" * 64, blob_bytes=1100, signed_by="k")
    assert repository.add_package(signed) is False
    assert repository.packages() == [signed]
    assert repository.package("d" * 64) == signed
    assert repository.package("e" * 64) is None
    assert (repository.blob_bytes("b" * 64), repository.blob_bytes("c" * 64)) == (1000, 1100)
    assert repository.blob_bytes("0" * 64) == 0


def test_rollouts_and_their_deployments(repository: Repository) -> None:
    first = repository.add_rollout(digest="d" * 64, target="all", state="RUNNING", t_ns=3)
    second = repository.add_rollout(digest="d" * 64, target="group:a", state="RUNNING", t_ns=4)
    assert second.id > first.id
    for name in ("b", "a"):
        repository.save_deployment(deployment(first.id, device=name))
    repository.save_deployment(deployment(second.id, device="a"))
    repository.save_deployment(msgspec.structs.replace(deployment(first.id, device="a"), state="FAILED", reason="why"))
    repository.set_rollout_state(first.id, "FINISHED", t_ns=9)
    assert [(d.device, d.state) for d in repository.deployments(rollout=first.id)] == [
        ("a", "FAILED"),
        ("b", "PENDING"),
    ]
    assert [d.rollout for d in repository.deployments(device="a")] == [second.id, first.id]
    assert [(r.id, r.state, r.finished_ns) for r in repository.rollouts(limit=5)] == [
        (second.id, "RUNNING", 0),
        (first.id, "FINISHED", 9),
    ]
    assert repository.rollout(first.id) == repository.rollouts(limit=5)[1]
    assert repository.rollout(999) is None


def test_a_rollout_is_unfinished_while_any_device_is(repository: Repository) -> None:
    for device, state in (("a", "FAILED"), ("b", "TRIAL")):
        repository.save_deployment(deployment(1, device=device, state=state))
    repository.save_deployment(deployment(2, state="PENDING"))
    assert repository.is_unfinished(1, final={"FAILED", "COMMITTED"})
    repository.save_deployment(deployment(1, device="b", state="COMMITTED"))
    assert not repository.is_unfinished(1, final={"FAILED", "COMMITTED"})


def test_what_a_device_was_told_is_replaced(repository: Repository) -> None:
    assert repository.desired("dev-1") is None
    repository.save_desired(SignedDesired("dev-1", 1, b"one"))
    repository.save_desired(SignedDesired("dev-1", 2, b"two"))
    assert repository.desired("dev-1") == SignedDesired("dev-1", 2, b"two")
    assert repository.all_desired() == [SignedDesired("dev-1", 2, b"two")]


# -- transactions -------------------------------------------------------------------------------------------


def test_a_transaction_is_whole_or_not_at_all(repository: Repository) -> None:
    def write_and_fail() -> None:
        with repository.transaction():
            repository.change_device("dev-1", DeviceChange(), t_ns=1)
            repository.add_chunks([chunk(1)])
            raise KeyError

    with pytest.raises(KeyError):
        write_and_fail()
    assert repository.devices() == []
    # What was remembered of the undone device must not be used for the new one.
    with repository.transaction():
        repository.change_device("dev-0", DeviceChange(), t_ns=1)
        repository.change_device("dev-1", DeviceChange(), t_ns=1)
        repository.add_chunks([chunk(1)])
    assert [r.seq for r in repository.results("dev-1", limit=9)] == [1]
    assert repository.results("dev-0", limit=9) == []


def test_a_transaction_reads_its_own_writes_and_others_do_not(repository: Repository) -> None:
    seen: list[int] = []
    with repository.transaction():
        repository.change_device("dev-1", DeviceChange(), t_ns=1)
        assert repository.device("dev-1") is not None
        other = threading.Thread(target=lambda: seen.append(len(repository.devices())))
        other.start()
        other.join(60)
    assert seen == [0]
    assert len(repository.devices()) == 1


def test_what_was_committed_is_there_after_opening_again(opener: Opener, tmp_path: Path) -> None:
    first = opener(tmp_path)
    first.change_device("dev-1", DeviceChange(), t_ns=1)
    first.add_chunks([chunk(1)])
    first.close()
    second = opener(tmp_path)
    assert [r.seq for r in second.results("dev-1", limit=9)] == [1]
    second.close()


def test_a_closed_repository_says_so(opener: Opener, tmp_path: Path) -> None:
    repository = opener(tmp_path)
    repository.close()
    with pytest.raises(StorageError, match="stopped"):
        repository.devices()
    with pytest.raises(StorageError):
        repository.change_device("dev-1", DeviceChange(), t_ns=1)
