"""A disk that the buffer itself has filled: it heals when results are acknowledged, and without that too."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeinfer.runtime.ballast import Ballast
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.buffer_store import BufferStore, NewChunk
from edgeinfer.runtime.chunk import TOMBSTONE
from edgeinfer.runtime.errors import BufferStorageError
from small_disks import small_disk

CHUNK = 50_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB, far below the buffer's cap."""
    with small_disk(tmp_path / "disk", mebibytes=24):
        yield tmp_path / "disk"


def write(store: BufferStore) -> bool:
    try:
        store.write([NewChunk("p", 10, 0, os.urandom(CHUNK), {})])
    except BufferStorageError:
        return False
    return True


def fill(store: BufferStore) -> None:
    for _ in range(2000):
        if not write(store):
            return
    raise AssertionError("the disk should be full by now")


def test_it_heals_once_everything_is_acknowledged(disk: Path) -> None:
    path = disk / "buffer.db"
    store = BufferStore(path, max_bytes=256 << 20)
    fill(store)
    durable = store.next_seq - 1
    store.acknowledged = durable
    tries = [write(store) for _ in range(600)]
    assert tries.count(False) < 30
    assert all(tries[:3]) or all(tries[3:6])
    with BufferReader(path) as reader:
        assert reader.durable_seq() == durable + 10 * tries.count(True)
        assert reader.first_seq() > durable, "all that was acknowledged is gone"
    store.drop_up_to(store.next_seq - 1)
    store.close()


def test_it_goes_on_by_giving_up_the_oldest(disk: Path) -> None:
    """Nobody acknowledges: newer results are worth more than older ones, as with the cap."""
    path = disk / "buffer.db"
    store = BufferStore(path, max_bytes=256 << 20)
    fill(store)
    tries = [write(store) for _ in range(1200)]  # 60 MB, twice the disk
    assert tries.count(True) > 1000
    following = 1
    with BufferReader(path) as reader:
        for chunk in reader.chunks(0, limit=100_000):
            assert chunk.first_seq == following
            following = chunk.last_seq + 1
        assert following == store.next_seq
        evicted = sum(chunk.n for chunk in reader.chunks(0, limit=100_000) if chunk.codec == TOMBSTONE)
        assert reader.audit_counts()["evicted"] == evicted > 0
    store.close()


def test_a_disk_that_was_full_at_the_start_is_opened_with_the_ballast(disk: Path) -> None:
    path = disk / "buffer.db"
    store = BufferStore(path, max_bytes=256 << 20)
    assert write(store)
    store.close()
    ballast = path.with_name("buffer.db.ballast")
    assert ballast.stat().st_blocks > 0
    fill_up(disk / "other")
    store = BufferStore(path, max_bytes=256 << 20)
    assert store.next_seq == 11
    assert not write(store) or not ballast.exists()
    assert write(store), "the ballast has given its room"
    assert not ballast.exists()
    store.close()


def fill_up(file: Path) -> None:
    with file.open("wb", buffering=0) as other:
        try:
            while True:
                other.write(bytes(4096))
        except OSError:
            return


class TestBallast:
    def test_it_takes_room_once_and_gives_it_back_once(self, tmp_path: Path) -> None:
        ballast = Ballast(tmp_path / "b", size=100_000)
        assert not ballast.release()
        ballast.hold()
        ballast.hold()
        assert (tmp_path / "b").stat().st_size == 100_000
        assert Ballast(tmp_path / "b", size=100_000).release()
        assert not (tmp_path / "b").exists()

    def test_it_never_fills_a_disk(self, disk: Path) -> None:
        ballast = Ballast(disk / "b", size=1 << 30)
        ballast.hold()
        assert (disk / "b").stat().st_size == (24 << 20) // 5
        assert not ballast.disk_is_full()
        fill_up(disk / "other")
        assert ballast.disk_is_full()
        assert ballast.release()
        ballast.hold()
        assert not (disk / "b").exists(), "not before there is plenty again"

    def test_a_folder_that_cannot_be_written_is_none_of_its_concern(self, tmp_path: Path) -> None:
        ballast = Ballast(tmp_path / "none" / "b", size=1000)
        ballast.hold()
        assert not ballast.release()
        assert not ballast.disk_is_full()
