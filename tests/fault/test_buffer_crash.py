"""The buffer against what breaks devices: kill -9, a full disk, a read-only one."""

import os
import random
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeinfer.runtime.buffer import Buffer, BufferConfig
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.chunk import TOMBSTONE
from edgeinfer.runtime.codec import decode
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.results import Item, Kind, Result
from small_disks import small_disk
from waiting import wait_until

# Appends without end; each line says what was durable at that moment.
WRITER = """
import sys, random
from edgeinfer.runtime.buffer import Buffer, BufferConfig
from edgeinfer.runtime.results import Item, Kind, Result
buffer = Buffer(BufferConfig(path=sys.argv[1], flush_interval_s=0.01, chunk_results=20, max_bytes=int(sys.argv[3])),
                acknowledged=lambda epoch: 0)
number = int(sys.argv[2])
while True:
    for _ in range(50):
        items = tuple(Item(1, random.random(), tuple(random.random() for _ in range(4))) for _ in range(16))
        buffer.append("ab"[number % 2], Result(Kind.DETECTION, random.getrandbits(60), number, items=items))
        number += 1
    print(buffer.durable_seq, flush=True)
"""


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("max_bytes", [64 << 20, 1 << 20], ids=["room", "full"])
def test_kill_9_loses_nothing_that_was_durable(tmp_path: Path, max_bytes: int) -> None:
    path = tmp_path / "buffer.db"
    # Fixed, so that a failure can be looked at again; the moment of the kill is what varies.
    rng = random.Random(7)
    highest, epochs = 0, set()
    for kill in range(20):
        command = [sys.executable, "-c", WRITER, str(path), str(kill * 1_000_000), str(max_bytes)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            said, enough = highest, highest + rng.randrange(1, 3_000)
            while said < enough:  # what is appended and what is durable are as far apart as the disk is slow
                said = int(writer.stdout.readline())
            for _ in range(rng.randrange(5)):
                said = int(writer.stdout.readline())
            os.kill(writer.pid, signal.SIGKILL)
            for line in writer.stdout:
                said = int(line) if line.endswith("\n") else said
        assert said >= highest, "numbering goes on"
        with BufferReader(path) as reader:
            assert reader.durable_seq() >= said, "what was called durable is there"
            highest = reader.durable_seq()
            epochs.add(reader.epoch)
    assert len(epochs) == 1
    evicted = assert_whole(path, highest)
    assert bool(evicted) == (max_bytes == 1 << 20)


def assert_whole(path: Path, last: int) -> int:
    """Every number from 1 to `last` once; within each run and pipeline the results are in order, none twice.
    Returns how many were evicted."""
    seen: dict[tuple[str, int], list[int]] = {}
    following, evicted = 1, 0
    with BufferReader(path) as reader:
        for chunk in reader.chunks(0, limit=1_000_000):
            assert chunk.first_seq == following
            following = chunk.last_seq + 1
            assert zlib.crc32(chunk.body) == chunk.crc
            if chunk.codec == TOMBSTONE:
                evicted += chunk.n
                continue
            for row in decode(chunk.codec, chunk.body, n=chunk.n):
                seen.setdefault((chunk.pipeline, row.frame // 1_000_000), []).append(row.frame)
        assert reader.audit_counts()["evicted"] == evicted
    assert following == last + 1
    for frames in seen.values():
        assert frames == list(range(frames[0], frames[-1] + 2, 2)), "each pipeline has every second number"
    return evicted


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB."""
    with small_disk(tmp_path / "disk", mebibytes=3):
        yield tmp_path / "disk"


def noise(number: int) -> Result:
    """A result that does not compress."""
    rng = random.Random(number)
    items = tuple(Item(rng.getrandbits(50), rng.random(), (0.0, 0.1, rng.random(), rng.random())) for _ in range(5))
    return Result(Kind.DETECTION, rng.getrandbits(60), number, rng.getrandbits(30), rng.getrandbits(30), items)


def test_a_full_disk_is_waited_out_and_nothing_is_lost(disk: Path) -> None:
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(1200 << 10))
    buffer = Buffer(BufferConfig(path=str(disk / "buffer.db"), flush_interval_s=0.02), acknowledged=lambda _: 0)
    number = 0
    while not buffer.error:
        for _ in range(200):
            buffer.append("p", noise(number))
            number += 1
        buffer.flush(0.2)
        assert number < 100_000, "the disk should be full by now"
    durable = buffer.durable_seq
    assert 0 < durable < number
    with BufferReader(disk / "buffer.db") as reader:
        assert reader.durable_seq() == durable
    ballast.unlink()
    wait_until(lambda: not buffer.pending, what="the buffer to recover")
    assert buffer.error == ""
    assert buffer.durable_seq == number
    assert buffer.close()
    with BufferReader(disk / "buffer.db") as reader:
        frames = [row.frame for c in reader.chunks(0, limit=10_000) for row in decode(c.codec, c.body, n=c.n)]
    assert frames == list(range(number))


def test_a_disk_that_stays_full_lets_the_daemon_end(disk: Path) -> None:
    (disk / "ballast").write_bytes(bytes(2 << 20))
    buffer = Buffer(BufferConfig(path=str(disk / "buffer.db"), flush_interval_s=0.02), acknowledged=lambda _: 0)
    number = 0
    while not buffer.error:
        for _ in range(200):
            buffer.append("p", noise(number))
            number += 1
        buffer.flush(0.2)
    assert not buffer.close(timeout_s=0.5), "it says that not everything is durable"
    assert 0 < buffer.pending <= number
    buffer._thread.join(60.0)
    assert not buffer._thread.is_alive()


def test_a_read_only_disk_is_refused_and_one_that_becomes_so_is_waited_out(disk: Path) -> None:
    path = disk / "buffer.db"
    config = BufferConfig(path=str(path), flush_interval_s=0.02)
    assert Buffer(config, acknowledged=lambda _: 0).close()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(BufferStorageError, match="cannot be opened"):
        Buffer(config, acknowledged=lambda _: 0)
    with BufferReader(path) as reader:
        assert reader.durable_seq() == 0
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    buffer = Buffer(config, acknowledged=lambda _: 0)
    buffer.append("p", noise(0))
    assert buffer.flush(60.0)
    assert buffer.close()


def test_a_stuck_disk_bounds_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """append() waits once so much is pending, and the wait ends with the buffer."""
    monkeypatch.setattr("edgeinfer.runtime.buffer._MAX_PENDING", 100)
    buffer = Buffer(BufferConfig(path=str(tmp_path / "buffer.db"), flush_interval_s=3600), acknowledged=lambda _: 0)
    tries = 0

    def refuse(_: object) -> None:
        nonlocal tries
        tries += 1
        raise BufferStorageError("the disk is stuck")

    monkeypatch.setattr(buffer._store, "write", refuse)
    ended = threading.Event()

    def fill() -> None:
        try:
            while True:
                buffer.append("p", noise(0))
        except BufferStorageError:
            ended.set()

    threading.Thread(target=fill, daemon=True).start()
    wait_until(lambda: buffer.pending >= 17)
    wait_until(lambda: tries >= 2)
    assert buffer.pending == 17, "each counts for six: itself and its five items"
    assert tries < 20, "waits between the tries grow, however many results come"
    assert not buffer.close(timeout_s=0.2)
    wait_until(ended.is_set)
