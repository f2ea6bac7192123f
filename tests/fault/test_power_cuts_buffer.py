"""Power cuts under the buffer, simulated sector by sector: what was called durable is there, whole and in order.

The real writer runs in a process whose every write is logged; the power is then cut at random places of that log, and
what might be left is opened as a daemon would. With a writer or a medium that is careless the same tests find loss:
they have teeth.
"""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from buffer_writer import SERIES, Promise, made, read_promises
from disk_log import DiskLog
from edgeinfer.runtime.buffer import Buffer, BufferConfig
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.chain import link_after
from edgeinfer.runtime.chunk import NO_LINK, TOMBSTONE, StoredChunk
from edgeinfer.runtime.codec import decode
from edgeinfer.runtime.errors import EdgeInferError
from edgeinfer.runtime.results import Kind, Result
from fault_report import FaultReport
from power_cuts import Medium, cuts_at_random

pytestmark = pytest.mark.timeout(1200)

WRITER = Path(__file__).resolve().parent.parent / "buffer_writer.py"
NOTHING = Promise(epoch=0, durable=0, acknowledged=0, made=dict.fromkeys(SERIES, 0))


class Left(msgspec.Struct):
    """What a buffer held after a cut."""

    durable: int = 0
    evicted: int = 0
    results: int = 0


class Device:
    """A folder with a buffer, written in runs; each run begins where a power cut has left the one before."""

    def __init__(self, folder: Path, library: Path, *, seed: int) -> None:
        self.state = folder / "state"
        self.state.mkdir(parents=True)
        self._folder, self._library, self._seed = folder, library, seed
        self._run = 0
        self._chance = random.Random(seed)
        self.promised = NOTHING

    def cuts(
        self, times: int, *, results: int, fail_every: int = 0, synchronous: str = "FULL", lies: bool = False
    ) -> Iterator[tuple[Path, Promise]]:
        """Run the writer once and cut its power at `times` places: what is left, and what had been promised."""
        self._run += 1
        log = DiskLog(self._folder / f"disk-{self._run}.log", watched=self.state)
        medium = Medium(log.watched, lies=lies, seed=self._seed + self._run)
        arguments = [
            f"--results={results}",
            f"--synchronous={synchronous}",
            f"--acknowledged={self.promised.acknowledged}",
        ]
        command = [sys.executable, str(WRITER), str(self.state), str(self._run), *arguments]
        environment = {**os.environ, **log.environment(self._library, fail_every=fail_every)}
        subprocess.run(command, env=environment, check=True, timeout=900, capture_output=True)
        for number, cut in enumerate(cuts_at_random(log, medium, times=times, chance=self._chance)):
            left = self._folder / f"left-{self._run}-{number}"
            medium.after_cut(left, cut)
            promises = read_promises(medium.notes)
            print(f"run {self._run}: {cut}")  # shown where what follows fails
            yield left, promises[-1] if promises else self.promised
        log.path.unlink()

    def begin_again_from(self, left: Path, promise: Promise) -> None:
        shutil.rmtree(self.state)
        left.rename(self.state)
        self.promised = promise


def opened(folder: Path, promise: Promise) -> Buffer:
    """As a daemon opens it; raises AssertionError where the file does not keep what was promised of it."""
    buffer = Buffer(BufferConfig(path=str(folder / "buffer.db"), max_bytes=1 << 20), acknowledged=lambda _: 0)
    try:
        if promise.durable:
            assert buffer.epoch == promise.epoch, "another numbering"
        assert buffer.durable_seq >= promise.durable, f"durable were {promise.durable}, found {buffer.durable_seq}"
    except BaseException:
        buffer.close()
        raise
    return buffer


def check(folder: Path, promise: Promise) -> Left:
    """Everything that can be asked of a buffer after a power cut. Raises AssertionError and EdgeInferError."""
    assert opened(folder, promise).close()
    assert not list(folder.glob("*.damaged-*")), "damaged"
    found = list(_integrity(folder / "buffer.db"))
    assert found == ["ok"], found
    with BufferReader(folder / "buffer.db") as reader:
        left = Left(durable=reader.durable_seq(), evicted=reader.audit_counts()["evicted"])
        first = reader.first_seq()
        chunks = reader.chunks(0, limit=1_000_000)
    assert first <= promise.acknowledged + 1, f"{first - 1} are gone, acknowledged were {promise.acknowledged}"
    _check_numbering(chunks, first=first, last=left.durable, acknowledged=promise.acknowledged)
    left.results = _check_content(chunks, promise)
    return left


def _integrity(path: Path) -> Iterator[str]:
    db = sqlite3.connect(path)
    try:
        for (line,) in db.execute("PRAGMA integrity_check"):
            yield line
    finally:
        db.close()


def _check_numbering(chunks: list[StoredChunk], *, first: int, last: int, acknowledged: int) -> None:
    """No number is missing beyond what is acknowledged; below that, things are dropped one after the other."""
    following, link = first, NO_LINK
    for chunk in chunks:
        if chunk.first_seq != following:
            assert following < chunk.first_seq <= acknowledged + 1, f"after {following - 1} comes {chunk.first_seq}"
            link = NO_LINK
        following = chunk.last_seq + 1
        assert chunk.link != NO_LINK or chunk.codec == TOMBSTONE
        if (expected := link_after(link, chunk)) != NO_LINK:
            assert chunk.link == expected, f"the chain is broken at {chunk.first_seq}"
        link = chunk.link
    assert following == last + 1, f"the last is {following - 1}, called durable were {last}"


def _check_content(chunks: list[StoredChunk], promise: Promise) -> int:
    """Each result is the one that was made, none comes twice, and those beyond the promise are newer than it."""
    seen: set[tuple[str, int]] = set()
    newest: dict[tuple[str, bool], int] = {}
    for chunk in chunks:
        assert zlib.crc32(chunk.body) == chunk.crc
        if chunk.codec == TOMBSTONE:
            continue
        for seq, result in enumerate(decode(chunk.codec, chunk.body, n=chunk.n), start=chunk.first_seq):
            lane = (chunk.pipeline, result.kind is Kind.EVENT)
            assert _is_as_made(result, made(chunk.pipeline, result.frame))
            assert (chunk.pipeline, result.frame) not in seen, "doubled"
            assert result.frame > newest.get(lane, -1), "out of order"
            assert (seq <= promise.durable) == (result.frame < promise.made[chunk.pipeline])
            newest[lane] = result.frame
            seen.add((chunk.pipeline, result.frame))
    return len(seen)


def _is_as_made(found: Result, expected: Result) -> bool:
    """Scores are stored with fewer digits."""
    pairs = zip(found.items, expected.items, strict=True)
    return (
        (found.kind, found.t_ns, found.frame) == (expected.kind, expected.t_ns, expected.frame)
        and (found.extra or {}) == (expected.extra or {})
        and all(a.label == b.label and abs(a.score - b.score) < 1e-3 for a, b in pairs)
    )


def test_what_is_durable_survives_power_cuts(tmp_path: Path, disk_log_library: Path, faults: FaultReport) -> None:
    device = Device(tmp_path, disk_log_library, seed=faults.seed)
    runs, cuts = faults.size(ci=3, full=10), faults.size(ci=14, full=50)
    promised = held = evicted = 0
    for _ in range(runs):
        choice = (device.state, device.promised)
        for left, promise in device.cuts(cuts, results=12_000):
            found = check(left, promise)
            promised, held, evicted = promised + promise.durable, held + found.results, max(evicted, found.evicted)
            choice = (left, promise)
        device.begin_again_from(*choice)
    assert evicted, "the buffer was full now and then"
    faults.add("power cut, buffer", times=runs * cuts, lost=0, doubled=0, damaged=0, promised=promised, checked=held)


def test_syncs_that_fail_are_not_believed(tmp_path: Path, disk_log_library: Path, faults: FaultReport) -> None:
    """Every eleventh sync says EIO, and what it should have written is lost for good, as Linux has it."""
    device = Device(tmp_path, disk_log_library, seed=faults.seed)
    runs, cuts = faults.size(ci=2, full=6), faults.size(ci=10, full=50)
    promised = held = 0
    for _ in range(runs):
        choice = (device.state, device.promised)
        for left, promise in device.cuts(cuts, results=3_000, fail_every=11):
            promised, held = promised + promise.durable, held + check(left, promise).results
            choice = (left, promise)
        device.begin_again_from(*choice)
    faults.add("power cut while syncs fail", times=runs * cuts, lost=0, doubled=0, promised=promised, checked=held)


@pytest.mark.parametrize(
    ("careless", "options"),
    [
        ("synchronous=NORMAL", {"synchronous": "NORMAL"}),
        ("synchronous=OFF", {"synchronous": "OFF"}),
        ("a medium that lies", {"lies": True}),
    ],
)
def test_the_same_power_cuts_find_a_careless_writer(
    tmp_path: Path, disk_log_library: Path, faults: FaultReport, careless: str, options: dict[str, object]
) -> None:
    device = Device(tmp_path, disk_log_library, seed=faults.seed)
    cuts, found = 40, 0
    for left, promise in device.cuts(cuts, results=12_000, **options):  # type: ignore[arg-type]  # two kinds of value
        try:
            check(left, promise)
        except (AssertionError, EdgeInferError, sqlite3.Error):
            found += 1
    assert found >= 3, "the simulated power cuts have lost their teeth"
    faults.add(f"teeth: {careless}", times=cuts, found=found)
