"""Pulling a blob in ranges: what is asked for, what is believed."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.runtime.handoff import Download, SyncDb
from edgeinfer.sync.download import BlobFile
from edgeinfer.sync.messages import BlobRange, BlobRequest
from edgeinfer.sync.transfer import BlobDownload, DownloadConfig, RangeVerdict

CONFIG = DownloadConfig(range_bytes=10, window=4, timeout_s=5.0, timeout_max_s=20.0, checkpoint_bytes=20)
BLOB = random.Random(3).randbytes(95)
SHA256 = hashlib.sha256(BLOB).hexdigest()


def answer(request: BlobRequest, *, blob: bytes = BLOB) -> BlobRange:
    return BlobRange(request.sha256, request.offset, len(blob), blob[request.offset : request.offset + request.length])


def download(*, offset: int = 0) -> BlobDownload:
    return BlobDownload(CONFIG, sha256=SHA256, size=len(BLOB), offset=offset)


def test_the_window_moves_with_what_arrives() -> None:
    transfer = download()
    first = transfer.requests(0.0)
    assert [(r.offset, r.length) for r in first] == [(0, 10), (10, 10), (20, 10), (30, 10)]
    assert transfer.requests(0.1) == []
    assert transfer.receive(answer(first[2]), 0.0) is RangeVerdict.TAKEN
    assert transfer.offset == 0
    assert transfer.requests(0.2) == []  # what came early still fills the window
    assert transfer.receive(answer(first[0]), 0.0) is RangeVerdict.TAKEN
    assert transfer.offset == 10
    assert [r.offset for r in transfer.requests(0.3)] == [40]


def test_no_more_is_asked_for_than_there_is_room_for() -> None:
    transfer = download()
    assert transfer.requests(0.0, room=0) == []
    assert [r.offset for r in transfer.requests(0.0, room=1)] == [0]  # one, or it would never begin
    assert transfer.requests(0.1, room=19) == []
    assert [r.offset for r in transfer.requests(0.2, room=30)] == [10, 20]
    assert transfer.requests(6.0, room=0) == []
    assert [r.offset for r in transfer.requests(6.0, room=1)] == [0]  # overdue


def test_it_goes_on_where_it_was() -> None:
    assert download(offset=90).requests(0.0) == [BlobRequest(SHA256, 90, 5)]
    assert download(offset=95).complete
    assert download(offset=1000).complete


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (BlobRange("0" * 64, 0, 95, BLOB[:10]), RangeVerdict.FOREIGN),
        (BlobRange(SHA256, 0, 0, b""), RangeVerdict.MISSING),
        (BlobRange(SHA256, 0, 96, BLOB[:10]), RangeVerdict.WRONG_SIZE),
        (BlobRange(SHA256, 0, 95, BLOB[:9]), RangeVerdict.UNASKED),
        (BlobRange(SHA256, 0, 95, BLOB[:11]), RangeVerdict.UNASKED),
        (BlobRange(SHA256, 0, 95, b""), RangeVerdict.UNASKED),
        (BlobRange(SHA256, 5, 95, BLOB[5:15]), RangeVerdict.UNASKED),
        (BlobRange(SHA256, 40, 95, BLOB[40:50]), RangeVerdict.UNASKED),
        (BlobRange(SHA256, 1 << 62, 95, BLOB[:10]), RangeVerdict.UNASKED),
        (BlobRange(SHA256, 0, 95, BLOB[:10]), RangeVerdict.TAKEN),
    ],
)
def test_only_what_was_asked_for_is_taken(found: BlobRange, verdict: RangeVerdict) -> None:
    transfer = download()
    transfer.requests(0.0)
    assert transfer.receive(found, 0.0) is verdict


def test_a_range_that_comes_twice_is_taken_once() -> None:
    transfer = download()
    request = transfer.requests(0.0)[0]
    assert transfer.receive(answer(request), 0.0) is RangeVerdict.TAKEN
    assert transfer.receive(answer(request), 0.0) is RangeVerdict.UNASKED


def test_silence_is_probed_with_one_request_and_growing_waits() -> None:
    transfer = download()
    assert len(transfer.requests(0.0)) == 4
    probes = [now_s for now_s in range(1, 100) if len(transfer.requests(float(now_s))) == 1]
    assert probes == [5, 15, 35, 55, 75, 95]
    assert transfer.receive(answer(BlobRequest(SHA256, 0, 10)), 0.0) is RangeVerdict.TAKEN
    assert [r.offset for r in transfer.requests(100.0)] == [10, 20, 30, 40]


def test_one_lost_range_is_asked_for_again() -> None:
    transfer = download()
    requests = transfer.requests(0.0)
    for request in requests[1:]:
        transfer.receive(answer(request), 0.0)
    assert transfer.requests(4.9) == []
    assert transfer.requests(5.0) == [requests[0]]


def test_a_reconnect_asks_again_at_once() -> None:
    transfer = download()
    requests = transfer.requests(0.0)
    transfer.receive(answer(requests[1]), 0.0)
    transfer.forget_requests()
    assert [r.offset for r in transfer.requests(0.1)] == [0, 10, 20, 30]


def test_a_slow_line_is_asked_for_little_at_once_and_a_fast_one_for_much() -> None:
    size = 10 << 20
    transfer = BlobDownload(DownloadConfig(), sha256=SHA256, size=size)

    def answered(request: BlobRequest, now_s: float) -> None:
        found = BlobRange(SHA256, request.offset, size, bytes(request.length))
        assert transfer.receive(found, now_s) is RangeVerdict.TAKEN

    sizes = []
    for turn in range(3):
        (request,) = transfer.requests(float(turn))
        sizes.append(request.length)
        answered(request, turn + 0.1)
    assert sizes == [8192, 16_384, 32_768]
    many = transfer.requests(10.0)
    assert [request.length for request in many] == [65_536] * 8
    assert [request.length for request in transfer.requests(15.0)] == [32_768], "nothing came: a smaller one to probe"
    transfer.forget_requests()
    (request,) = transfer.requests(16.0)
    assert (request.offset, request.length) == (transfer.offset, 8192)
    answered(request, 20.5)
    assert [request.length for request in transfer.requests(20.5)] == [4096]


@given(seed=st.integers(0, 1 << 32), size=st.integers(1, 300))
@settings(max_examples=100, deadline=None)
def test_any_order_and_loss_ends_with_the_blob(seed: int, size: int) -> None:
    chance = random.Random(seed)
    blob = chance.randbytes(size)
    transfer = BlobDownload(CONFIG, sha256=SHA256, size=size)
    found = bytearray(size)
    wire: list[BlobRequest] = []
    for turn in range(100_000):
        wire += transfer.requests(turn * 1.0)
        chance.shuffle(wire)
        if wire and chance.random() < 0.8:
            request = wire.pop()
            if chance.random() < 0.2:
                wire.append(request)
            taken = transfer.receive(answer(request, blob=blob), 0.0)
            if taken is RangeVerdict.TAKEN:
                found[request.offset : request.offset + request.length] = answer(request, blob=blob).data
        elif wire:
            wire.pop()
        if transfer.complete:
            break
    assert bytes(found) == blob


class Disk:
    """A BlobFile in a folder, with the database beside it."""

    def __init__(self, folder: Path) -> None:
        self.incoming = folder / "models" / "incoming"
        self.db = SyncDb(folder / "sync.db")
        self._opened: list[BlobFile] = []

    def blob(self, *, sha256: str = SHA256, size: int = len(BLOB)) -> BlobFile:
        self._opened.append(BlobFile(self.incoming, self.db, CONFIG, sha256=sha256, size=size))
        return self._opened[-1]

    def close(self) -> None:
        for blob in self._opened:
            blob.close()
        self.db.close()

    def known(self) -> Download | None:
        return self.db.download(SHA256)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with closing(Disk(tmp_path)) as made:
        yield made


def pull(blob: BlobFile, *, ranges: int, source: bytes = BLOB) -> int:
    """Answer up to `ranges` requests; returns how many were answered."""
    answered = 0
    while answered < ranges and not blob.ended:
        requests = blob.requests(0.0)
        if not requests:
            blob.forget_requests()
            requests = blob.requests(0.0)
        for request in requests:
            if answered < ranges:
                blob.receive(answer(request, blob=source), 0.0)
                answered += 1
        verify(blob)
    return answered


def verify(blob: BlobFile) -> None:
    while blob.verifying:
        blob.verify()


def test_a_whole_blob_becomes_a_package_file(disk: Disk) -> None:
    blob = disk.blob()
    pull(blob, ranges=100)
    assert blob.done
    assert blob.offset == 95
    assert (disk.incoming / f"{SHA256}.edgepkg").read_bytes() == BLOB
    assert not list(disk.incoming.glob("*.part"))
    assert disk.known() == Download(SHA256, 95, 95, done=True)


@pytest.mark.parametrize("cut", range(1, 10))
def test_a_cut_after_any_range_costs_no_more_than_a_checkpoint(disk: Disk, cut: int) -> None:
    blob = disk.blob()
    pull(blob, ranges=cut)
    known = disk.known()
    assert known is not None
    assert blob.offset - known.offset < CONFIG.checkpoint_bytes + CONFIG.range_bytes
    again = disk.blob()  # the process died: nothing was closed
    assert again.offset == known.offset
    pull(again, ranges=100)
    assert again.done
    blob.close()


def test_a_clean_end_keeps_every_byte(disk: Disk) -> None:
    blob = disk.blob()
    pull(blob, ranges=3)
    blob.close()
    assert disk.blob().offset == 30


def test_what_the_disk_lost_is_fetched_again(disk: Disk) -> None:
    blob = disk.blob()
    pull(blob, ranges=5)
    blob.close()
    (disk.incoming / f"{SHA256}.part").write_bytes(BLOB[:7])
    again = disk.blob()
    assert again.offset == 7
    pull(again, ranges=100)
    assert again.done


def test_a_wrong_hash_is_tried_three_times(disk: Disk) -> None:
    wrong = bytes(95)
    blob = disk.blob()
    assert pull(blob, ranges=1000, source=wrong) == 30
    assert "in 3 attempts" in blob.error
    known = disk.known()
    assert known is not None
    assert (known.done, known.offset) == (False, 0)
    assert known.error == blob.error
    assert not list(disk.incoming.iterdir())


def test_a_wrong_hash_may_be_right_the_next_time(disk: Disk) -> None:
    blob = disk.blob()
    pull(blob, ranges=10, source=bytes(95))
    assert not blob.ended
    pull(blob, ranges=10)
    assert blob.done


def test_a_console_without_the_blob_ends_it(disk: Disk) -> None:
    blob = disk.blob()
    blob.requests(0.0)
    assert blob.receive(BlobRange(SHA256, 0, 0, b""), 0.0) is RangeVerdict.MISSING
    assert blob.error == "console has no such blob"


def test_an_error_is_forgotten_when_it_is_tried_again(disk: Disk) -> None:
    blob = disk.blob()
    blob.receive(BlobRange(SHA256, 0, 0, b""), 0.0)
    again = disk.blob()
    assert not again.ended
    assert disk.known() == Download(SHA256, 95, 0, done=False)
    again.close()


def test_a_blob_that_is_there_is_not_fetched(disk: Disk) -> None:
    disk.incoming.mkdir(parents=True)
    (disk.incoming / f"{SHA256}.edgepkg").write_bytes(BLOB)
    there = disk.blob()
    assert there.requests(0.0) == []
    verify(there)
    assert there.done
    (disk.incoming / f"{SHA256}.edgepkg").write_bytes(bytes(95))
    again = disk.blob()
    verify(again)
    assert not again.done
    pull(again, ranges=10)
    assert again.done


def test_the_hash_is_computed_in_slices_with_time_for_others_in_between(disk: Disk) -> None:
    large = bytes(9 << 20)
    sha256 = hashlib.sha256(large).hexdigest()
    disk.incoming.mkdir(parents=True)
    (disk.incoming / f"{sha256}.edgepkg").write_bytes(large)
    blob = disk.blob(sha256=sha256, size=len(large))
    steps = []
    while blob.verifying:
        steps.append(blob.verified_bytes)
        blob.verify()
    assert blob.done
    assert steps == [0, 4 << 20, 8 << 20]


def test_a_hash_that_was_interrupted_is_computed_again(disk: Disk) -> None:
    blob = disk.blob()
    while not blob.verifying:
        for request in blob.requests(0.0):
            blob.receive(answer(request), 0.0)
    blob.verify(10)
    blob.close()
    again = disk.blob()
    assert (again.verifying, again.requests(0.0)) == (True, [])
    verify(again)
    assert again.done


def test_parts_of_other_blobs_are_removed(disk: Disk) -> None:
    pull(disk.blob(), ranges=3)
    other = disk.blob(sha256="a" * 64)
    assert [part.name for part in disk.incoming.glob("*.part")] == [f"{'a' * 64}.part"]
    assert disk.known() is None
    other.close()


def test_no_room_is_an_error_and_not_a_full_disk(disk: Disk) -> None:
    blob = disk.blob(size=1 << 50)
    assert "cannot be written" in blob.error
