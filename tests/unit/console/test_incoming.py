"""Files from devices: taken part by part, resumed, checked, kept within quotas. Real files, a real database."""

import hashlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeinfer.console.incoming import Incoming
from edgeinfer.console.repository import SqliteRepository
from edgeinfer.console.repository.base import DeviceChange, StorageError
from edgeinfer.console.settings import LimitsConfig
from edgeinfer.sync.messages import BlobLabel, BlobPart, BlobStored

LIMITS = LimitsConfig(max_blob_bytes=100_000, max_device_blob_bytes=200_000, max_all_blob_bytes=300_000)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = SqliteRepository(folder / "console.db")
        for device in ("dev-1", "dev-2"):
            self.repository.change_device(device, DeviceChange(), t_ns=1)
        self.said: list[tuple[str, BlobStored]] = []
        self.changed: list[str] = []
        self.now_ns = 0
        self.incoming = self.made()

    def made(self) -> Incoming:
        """As after a restart."""

        def clock() -> int:
            self.now_ns += 1
            return self.now_ns

        return Incoming(
            self.folder / "in",
            self.repository,
            LIMITS,
            answer=lambda device, answer: self.said.append((device, answer)),
            changed=self.changed.append,
            clock_ns=clock,
        )

    def sends(
        self, content: bytes, *spans: tuple[int, int], device: str = "dev-1", name: str = "1.jpg"
    ) -> BlobStored | None:
        """Parts from..to of `content` (none: a question); returns the last answer."""
        self.said.clear()
        sha256 = hashlib.sha256(content).hexdigest()
        for low, high in spans or ((0, 0),):
            part = BlobPart(sha256, low, len(content), BlobLabel("snapshot", name, "door", 5), content[low:high])
            self.incoming.offer(device, part)
        self.incoming.turn(0)
        return self.said[-1][1] if self.said else None

    def names(self, device: str = "dev-1") -> list[str]:
        return [blob.name for blob in self.repository.device_blobs(device, limit=99)]

    def files(self) -> set[str]:
        return {path.name[:4] + path.suffix for path in (self.folder / "in").rglob("*") if path.is_file()}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.repository.close()


def _content(seed: int, size: int = 1000) -> bytes:
    return random.Random(seed).randbytes(size)


def _stored(content: bytes, offset: int, *, done: bool = False, refused: str = "") -> BlobStored:
    return BlobStored(hashlib.sha256(content).hexdigest(), offset, done=done, refused=refused)


def test_a_file_comes_in_parts_and_is_resumed_where_it_was(bench: Bench) -> None:
    content = _content(1)
    assert bench.sends(content) == _stored(content, 0)
    assert bench.sends(content, (0, 300), (300, 500)) == _stored(content, 500)
    bench.incoming = bench.made()
    assert bench.sends(content) == _stored(content, 500)
    assert bench.names() == []
    assert bench.sends(content, (500, 1000)) == _stored(content, 1000, done=True)
    (blob,) = bench.repository.device_blobs("dev-1", limit=9)
    assert bench.incoming.path(blob).read_bytes() == content
    assert (blob.name, blob.pipeline, blob.kind, blob.t_ns, bench.changed) == (
        "1.jpg",
        "door",
        "snapshot",
        5,
        ["dev-1"],
    )
    assert bench.sends(content, (0, 1000)) == _stored(content, 1000, done=True)


@pytest.mark.parametrize("seed", range(10))
def test_parts_may_be_lost_doubled_and_disordered(bench: Bench, seed: int) -> None:
    choose, content, offset = random.Random(seed), _content(seed), 0
    for _ in range(200):
        spans = [(low, min(1000, low + choose.randint(1, 200))) for low in choose.sample(range(0, 1000, 50), 4)]
        spans += [(offset, min(1000, offset + choose.randint(0, 100)))]
        answer = bench.sends(content, *choose.sample(spans, choose.randint(1, 5)))
        assert answer is not None
        assert answer.offset >= offset
        offset = answer.offset
        if answer.done:
            break
    (blob,) = bench.repository.device_blobs("dev-1", limit=9)
    assert bench.incoming.path(blob).read_bytes() == content


def test_an_empty_file_is_a_file(bench: Bench) -> None:
    assert bench.sends(b"") == _stored(b"", 0, done=True)


def test_what_has_not_its_hash_is_asked_for_again_once_and_then_refused(bench: Bench) -> None:
    content = _content(1)
    sha256 = hashlib.sha256(content).hexdigest()
    for expected in (BlobStored(sha256, 0), "hash"):
        bench.said.clear()
        bench.incoming.offer("dev-1", BlobPart(sha256, 0, 1000, BlobLabel("snapshot", "n"), _content(2)))
        bench.incoming.turn(0)
        ((_, answer),) = bench.said
        assert answer == expected or (isinstance(expected, str) and expected in answer.refused)
    assert bench.files() == set()
    assert bench.sends(content, (0, 1000)) == _stored(content, 1000, done=True)


def test_a_file_that_is_too_large_is_refused(bench: Bench) -> None:
    answer = bench.sends(_content(1, 100_001), (0, 10))
    assert answer is not None
    assert "at most 100000" in answer.refused


def test_over_its_quota_a_device_loses_its_oldest(bench: Bench) -> None:
    for number in range(3):
        bench.sends(_content(number, 90_000), (0, 90_000), name=str(number))
    assert bench.names() == ["2", "1"]
    assert len(bench.files()) == 2
    half = _content(3, 90_000)
    bench.sends(half, (0, 10), name="3")  # what is only coming has its room, too
    assert bench.names() == ["2"]
    bench.sends(_content(4, 90_000), (0, 90_000), name="4")
    assert bench.names() == ["4"]
    assert bench.sends(half, (10, 90_000)) == _stored(half, 90_000, done=True)


def test_when_all_have_too_much_who_has_most_loses_its_oldest(bench: Bench) -> None:
    for number in range(2):
        bench.sends(_content(number, 95_000), (0, 95_000), name=str(number))
    for number in range(2, 4):
        bench.sends(_content(number, 60_000), (0, 60_000), name=str(number), device="dev-2")
    assert (bench.names("dev-1"), bench.names("dev-2")) == (["1"], ["3", "2"])


def test_no_name_is_a_path(bench: Bench) -> None:
    content = _content(1)
    bench.sends(content, (0, 1000), name="../../../etc/passwd\x00\n")
    assert [path.parent.name for path in (bench.folder / "in").rglob("*") if path.is_file()] == ["dev-1"]


@pytest.mark.parametrize("break_it", ["disk", "database"])
def test_a_disk_that_fails_gives_no_answer(bench: Bench, monkeypatch: pytest.MonkeyPatch, break_it: str) -> None:
    def fail(error: Exception) -> Callable[..., None]:
        def failing(*_: object) -> None:
            raise error

        return failing

    content = _content(1)
    if break_it == "disk":
        monkeypatch.setattr("edgeinfer.console.incoming.os.fsync", fail(OSError(5, "Input/output error")))
    else:
        monkeypatch.setattr(bench.repository, "save_device_blob", fail(StorageError("locked")))
    assert bench.sends(content, (0, 1000)) is None
    monkeypatch.undo()
    assert bench.sends(content, (0, 1000)) == _stored(content, 1000, done=True)


def test_a_power_cut_after_the_last_move_is_mended(bench: Bench) -> None:
    content = _content(1)
    bench.sends(content, (0, 500))
    (blob,) = bench.repository.device_blobs("dev-1", done=False, limit=9)
    bench.incoming.path(blob).write_bytes(content)
    assert bench.sends(content) == _stored(content, 1000, done=True)
    assert bench.names() == ["1.jpg"]


def test_what_waits_is_bounded(bench: Bench) -> None:
    content = _content(1, 90_000)
    for _ in range(200):
        bench.incoming.offer("dev-1", BlobPart("a" * 64, 0, 90_000, BlobLabel("snapshot", "n"), content))
    assert bench.incoming.turn(0) == (8 << 20) // 90_000
