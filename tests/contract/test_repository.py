"""What every repository of the console must do. A new implementation is added to `OPENERS`."""

import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from edgeinfer.console.ledger import Ledger
from edgeinfer.console.repository import Repository, SqliteRepository
from edgeinfer.console.repository.base import (
    Bucket,
    Deployment,
    DeviceChange,
    Package,
    Refusal,
    SignedDesired,
    StorageError,
    StoredResult,
)
from edgeinfer.runtime.results import Item, Kind

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


def result(seq: int, *, device: str = "dev-1", epoch: int = 1, pipeline: str = "door", kind: int = 1) -> StoredResult:
    return StoredResult(
        device=device, epoch=epoch, seq=seq, pipeline=pipeline, kind=kind, t_ns=seq * 10, items=(Item(3, 0.5),)
    )


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
    repository.save_ledger("dev-1", 77, ledger)
    found = repository.ledgers("dev-1")[77]
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
        repository.add_results([result(seq, epoch=epoch) for seq in (1, 2)])
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
            repository.add_results([result(1, epoch=5)])
            raise KeyError

    repository.change_device("dev-1", DeviceChange(), t_ns=1)
    with pytest.raises(KeyError):
        see_and_fail()
    repository.add_results([result(1, epoch=9)])
    repository.add_results([result(1, epoch=5)])
    assert [r.epoch for r in repository.results("dev-1", after=(0, 0), limit=9)] == [9, 5]


def test_a_retired_epoch_leaves_its_counts_its_place_and_its_results(repository: Repository) -> None:
    repository.change_device("dev-1", DeviceChange(), t_ns=1)
    for epoch in (8, 3):
        ledger = Ledger()
        ledger.store(1, 10)
        ledger.evict(11, 2)
        ledger.give_up(13, 4)
        ledger.store(5, 1)
        repository.add_results([result(seq, epoch=epoch) for seq in range(1, 11)])
        repository.save_ledger("dev-1", epoch, ledger)
        repository.retire_epoch("dev-1", epoch)
    assert repository.ledgers("dev-1") == {}
    counts = repository.retired()["dev-1"]
    assert (counts.stored, counts.evicted, counts.undecodable, counts.duplicates) == (20, 4, 8, 2)
    assert (repository.retired_seq("dev-1", 8), repository.retired_seq("dev-1", 4)) == (16, 0)
    assert [r.epoch for r in repository.results("dev-1", after=(8, 10), limit=9)] == [3] * 9
    repository.retire_epoch("dev-1", 8)
    assert repository.retired_seq("dev-1", 8) == 16


def test_absent_ranges_are_remembered_newest_first(repository: Repository) -> None:
    repository.change_device("dev-1", DeviceChange(), t_ns=1)
    repository.add_absent("dev-1", 1, [(1, 5), (9, 9)], cause="evicted", reason="full")
    repository.add_absent("dev-1", 1, [(20, 20)], cause="missing", reason="")
    assert [(a.first, a.last, a.cause) for a in repository.absent("dev-1", limit=2)] == [
        (20, 20, "missing"),
        (9, 9, "evicted"),
    ]


def test_refusals_are_counted_for_all_and_remembered_for_some(repository: Repository) -> None:
    repository.change_device("dev-1", DeviceChange(), t_ns=1)
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


def test_results_are_stored_once(repository: Repository) -> None:
    repository.change_device("dev-1", DeviceChange(), t_ns=1)
    assert repository.add_results([result(seq) for seq in range(1, 11)]) == 10
    assert repository.add_results([result(seq) for seq in range(6, 13)]) == 2
    assert [r.seq for r in repository.results("dev-1", limit=100)] == list(range(12, 0, -1))
    assert repository.pipelines("dev-1")[0].results == 12


def test_the_same_sequence_number_in_another_epoch_or_device_is_another_result(repository: Repository) -> None:
    for name in ("dev-1", "dev-2"):
        repository.change_device(name, DeviceChange(), t_ns=1)
    assert repository.add_results([result(1)]) == 1
    assert repository.add_results([result(1, epoch=2)]) == 1
    assert repository.add_results([result(1, device="dev-2")]) == 1


def test_a_result_comes_back_whole(repository: Repository) -> None:
    repository.change_device("dev-1", DeviceChange(), t_ns=1)
    made = StoredResult(
        device="dev-1",
        epoch=2**63 - 1,
        seq=2**63 - 1,
        pipeline="p",
        kind=Kind.DETECTION,
        t_ns=-5,
        frame=2**63 - 1,
        latency_us=7,
        age_us=8,
        items=(Item(1, 0.25, (0.0, 0.5, 1.0, 0.75)), Item(-2, 3.5)),
        extra={"a": 1, "b": "x", "c": 0.5},
    )
    repository.add_results([made])
    assert repository.results("dev-1", limit=1) == [made]


def test_scores_that_are_no_numbers_come_back(repository: Repository) -> None:
    repository.change_device("dev-1", DeviceChange(), t_ns=1)
    items = (Item(1, math.inf), Item(2, math.nan))
    repository.add_results([msgspec.structs.replace(result(1), items=items, extra={"a": math.nan})])
    (found,) = repository.results("dev-1", limit=1)
    assert [math.isinf(found.items[0].score), math.isnan(found.items[1].score)] == [True, True]


def test_results_are_read_on_from_a_place(repository: Repository) -> None:
    repository.change_device("dev-1", DeviceChange(), t_ns=1)
    repository.add_results([result(seq, pipeline="a" if seq % 2 else "b") for seq in range(1, 9)])
    repository.add_results([result(1, epoch=2, pipeline="a")])
    found = repository.results("dev-1", pipeline="a", after=(1, 3), limit=2)
    assert [(r.epoch, r.seq) for r in found] == [(1, 5), (1, 7)]
    assert [(r.epoch, r.seq) for r in repository.results("dev-1", pipeline="a", after=(1, 7), limit=9)] == [(2, 1)]
    assert repository.results("nobody", limit=3) == []


def test_results_of_an_unknown_device_are_refused(repository: Repository) -> None:
    with pytest.raises(StorageError):
        repository.add_results([result(1, device="nobody")])


def test_events_are_counted_apart(repository: Repository) -> None:
    repository.change_device("dev-1", DeviceChange(), t_ns=1)
    repository.add_results([result(1), result(2, kind=Kind.EVENT), result(3, pipeline="other")])
    assert [(c.pipeline, c.results, c.events, c.last_t_ns) for c in repository.pipelines()] == [
        ("door", 2, 1, 20),
        ("other", 1, 0, 30),
    ]


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
            repository.add_results([result(1)])
            raise KeyError

    with pytest.raises(KeyError):
        write_and_fail()
    assert repository.devices() == []
    # What was remembered of the undone device must not be used for the new one.
    with repository.transaction():
        repository.change_device("dev-0", DeviceChange(), t_ns=1)
        repository.change_device("dev-1", DeviceChange(), t_ns=1)
        repository.add_results([result(1)])
    assert [r.seq for r in repository.results("dev-1", limit=9)] == [1]
    assert repository.results("dev-0", limit=9) == []


def test_a_transaction_reads_its_own_writes_and_others_do_not(repository: Repository) -> None:
    seen: list[int] = []
    with repository.transaction():
        repository.change_device("dev-1", DeviceChange(), t_ns=1)
        assert repository.device("dev-1") is not None
        other = threading.Thread(target=lambda: seen.append(len(repository.devices())))
        other.start()
        other.join(10)
    assert seen == [0]
    assert len(repository.devices()) == 1


def test_what_was_committed_is_there_after_opening_again(opener: Opener, tmp_path: Path) -> None:
    first = opener(tmp_path)
    first.change_device("dev-1", DeviceChange(), t_ns=1)
    first.add_results([result(1)])
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
