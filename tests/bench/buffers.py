"""The results buffer over raw sqlite3 with the same pragmas and packing; what it writes; how it grows."""

import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from edgeinfer.runtime.buffer import Buffer, BufferConfig
from edgeinfer.runtime.buffer_file.connection import transaction
from edgeinfer.runtime.buffer_packing import pack
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.buffer_store import BufferStore, NewChunk
from edgeinfer.runtime.chunk import EVENTS, RESULTS
from edgeinfer.runtime.handoff import SyncDb
from edgeinfer.runtime.results import Item, Kind, Result

BUILD = Path(__file__).resolve().parents[2] / "build"

RESULTS_INSERTED = 50_000
BATCH = 100
ROUNDS = 5
COMMITS = 300
# One chunk a commit, one commit a second; the agent makes its progress durable every two seconds.
WRITTEN_CHUNKS = 10_000
CHUNKS_AN_ACKNOWLEDGEMENT = 2
SMALL, LARGE = 10_000, 10_000_000
CAP = 4 << 30
# Segments that are dropped one by one are of equal size in both files.
DROPPED_CHUNKS = 5
DROPS = 20


def measure(_data: Path) -> dict[str, float]:
    figures = {**insert_figures(), "buffer_bytes_per_result": written_bytes()}
    with tempfile.TemporaryDirectory() as folder:
        figures["buffer_commit_ratio"] = commit_ratio(Path(folder))
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        figures |= growth_figures(Path(folder))
    return figures


def result(number: int) -> Result:
    """A classification as a pipeline makes it, with its jitter."""
    jitter = (number * 7919) % 997
    items = (Item(jitter % 10, 0.9 - jitter / 4000), Item((jitter + 1) % 10, 0.05 + jitter / 9000))
    return Result(
        kind=Kind.CLASSIFICATION,
        t_ns=1_700_000_000_000_000_000 + number * 33_333_333 + jitter * 1000,
        frame=number,
        latency_us=4000 + jitter,
        age_us=9000 + 2 * jitter,
        items=items,
    )


def detection(number: int) -> Result:
    """Two boxes that move, with a detector's noise: some 18 bytes a result (a recorded SSD: 1.3 boxes, 13)."""
    chance = random.Random(number)
    time_ns = 1_700_000_000_000_000_000 + number * 33_333_333 + chance.randrange(1_000_000)
    x = 0.2 + number % 300 / 600
    items = tuple(
        Item(label, chance.gauss(0.8, 0.05), tuple(at + chance.gauss(0, 0.0006) for at in (x, 0.2, x + 0.1, 0.6)))  # type: ignore[arg-type]  # four
        for label in (0, 2)
    )
    return Result(Kind.DETECTION, time_ns, number, chance.randrange(4000, 5000), chance.randrange(9000, 11_000), items)


def event(number: int) -> Result:
    return Result(Kind.EVENT, number * 33_333_333, number, extra={"rule": "entered", "zone": "yard", "track": number})


def chunks(make: Callable[[int], Result], count: int, *, lane: int = RESULTS, n: int = BATCH) -> list[NewChunk]:
    found = []
    for start in range(0, count * n, n):
        (part,) = pack("bench", lane, [make(number) for number in range(start, start + n)], CAP)
        assert part.chunk is not None
        found.append(part.chunk)
    return found


class Raw:
    """A plain loop over one table: pack, insert, commit with synchronous=FULL."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path, isolation_level=None)
        for pragma in ("page_size=512", "journal_mode=WAL", "synchronous=FULL", "secure_delete=OFF"):
            self.db.execute(f"PRAGMA {pragma}").fetchone()
        self.db.execute("CREATE TABLE chunk (first_seq INTEGER PRIMARY KEY, n, t0_ns, pipeline, codec, crc, body)")
        self.seq = 1

    def append(self, results: list[Result]) -> None:
        ((_, _, chunk),) = [(part.n, part.weight, part.chunk) for part in pack("bench", RESULTS, results, CAP)]
        assert chunk is not None
        row = (self.seq, chunk.n, chunk.t0_ns, chunk.pipeline, chunk.codec, zlib.crc32(chunk.body), chunk.body)
        self.db.execute("BEGIN IMMEDIATE")
        self.db.execute("INSERT INTO chunk VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        self.db.execute("COMMIT")
        self.seq += chunk.n


def insert_figures() -> dict[str, float]:
    results = [result(number) for number in range(RESULTS_INSERTED)]
    ratios, rates = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(ROUNDS):
            raw = raw_rate(Path(folder) / f"raw-{number}.db", results)
            ours = buffer_rate(Path(folder) / f"buffer-{number}.db", results)
            ratios.append(ours / raw)
            rates.append(ours)
    return {"buffer_insert_ratio": statistics.median(ratios), "buffer_insert_per_s": statistics.median(rates)}


def raw_rate(path: Path, results: list[Result]) -> float:
    raw = Raw(path)
    began = time.perf_counter()
    for start in range(0, len(results), BATCH):
        raw.append(results[start : start + BATCH])
    seconds = time.perf_counter() - began
    raw.db.close()
    return len(results) / seconds


def buffer_rate(path: Path, results: list[Result]) -> float:
    """Results/s from append() to durable."""
    buffer = Buffer(BufferConfig(path=str(path), chunk_results=BATCH), acknowledged=lambda _epoch: 0)
    began = time.perf_counter()
    for one in results:
        buffer.append("bench", one)
    assert buffer.flush(60)
    seconds = time.perf_counter() - began
    assert buffer.durable_seq == len(results)
    buffer.close()
    return len(results) / seconds


def commit_ratio(folder: Path) -> float:
    """One event from append() to durable, over packing, inserting and committing it in a plain loop."""
    raw = Raw(folder / "raw.db")
    buffer = Buffer(BufferConfig(path=str(folder / "buffer.db"), flush_interval_s=3600), acknowledged=lambda _epoch: 0)
    plain, ours = [], []
    for number in range(COMMITS):
        one = event(number)
        plain.append(timed(lambda one=one: raw.append([one])))  # type: ignore[misc]  # bound at once
        ours.append(timed(lambda one=one: append_and_wait(buffer, one)))  # type: ignore[misc]
    buffer.close()
    raw.db.close()
    return statistics.median(ours) / statistics.median(plain)


def append_and_wait(buffer: Buffer, one: Result) -> None:
    buffer.append("bench", one)
    assert buffer.flush(60)


def written_bytes() -> float:
    """Bytes that a process writes for each result that it inserts, acknowledges and drops again: /proc/self/io's
    write_bytes (whole pages of the page cache), with the log, its checkpoints and the agent's database."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(Path(__file__).resolve()), folder]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    return float(done.stdout)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def write_and_drop(folder: Path) -> float:
    """The child process: detections, the largest of the common results."""
    made = chunks(detection, 500)
    with SyncDb(folder / "sync.db") as sync:
        store = BufferStore(folder / "buffer.db", max_bytes=256 << 20)
        before = bytes_written()
        for number in range(WRITTEN_CHUNKS):
            store.write([made[number % len(made)]])
            if number % CHUNKS_AN_ACKNOWLEDGEMENT == 0:
                seq = store.next_seq - 1
                sync.set_upload_progress(store.epoch, seq, sent_through=seq, sent=seq)
            store.drop_up_to(sync.acknowledged(store.epoch))
        store.close()
    return (bytes_written() - before) / (WRITTEN_CHUNKS * BATCH)


def bytes_written() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["write_bytes"])


def growth_figures(folder: Path) -> dict[str, float]:
    """Insert, read-oldest and drop in a buffer of 10^7 results over one of 10^4, in turns; opening the large one."""
    made = chunks(detection, 500)
    built = [build(folder / f"{size}.db", size, made) for size in (SMALL, LARGE)]
    opened = [timed(lambda: reopened(folder / f"{LARGE}.db")) for _ in range(ROUNDS)]
    stores = [BufferStore(path, max_bytes=CAP) for path in built]
    readers = [BufferReader(path) for path in built]
    acts: dict[str, Callable[[int], object]] = {
        "insert": lambda which: stores[which].write(made[:1]),
        "read": lambda which: readers[which].chunks(stores[which].acknowledged, limit=16),
        "drop": lambda which: drop_one(stores[which]),
    }
    ratios = {}
    for name, act in acts.items():
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(DROPS if name == "drop" else 10 * DROPS):
            for which in (0, 1):
                times[which].append(timed(lambda act=act, which=which: act(which)))  # type: ignore[misc]  # bound at once
        ratios[f"buffer_growth_{name}"] = statistics.median(times[1]) / statistics.median(times[0])
    for reader in readers:
        reader.close()
    for store in stores:
        store.close()
    return {
        **ratios,
        "buffer_growth_ratio": max(ratios.values()),
        "buffer_open_ms": 1000 * statistics.median(opened),
    }


def build(path: Path, results: int, made: list[NewChunk]) -> Path:
    """By the store itself, with many chunks a commit. The oldest segments are small ones of equal size."""
    store = BufferStore(path, max_bytes=CAP)
    for number in range(DROPS + 1):
        store.write(made[:DROPPED_CHUNKS])
        store.write([chunk_of_events(number)])
        with transaction(store._file.db) as db:
            closed = [store._file.segments.close(db, segment) for segment in store._file.tails.values()]
        store._file.segments.keep(closed, store._file.tails)
    while store.next_seq <= results:
        store.write(made[: max(1, min(len(made), (results - store.next_seq + 1) // BATCH))])
    store.close()
    return path


def chunk_of_events(number: int) -> NewChunk:
    (part,) = pack("bench", EVENTS, [event(number)], CAP)
    assert part.chunk is not None
    return part.chunk


def drop_one(store: BufferStore) -> None:
    oldest = min((segment for segment in store._file.lanes if segment.lane == RESULTS), key=lambda one: one.first_seq)
    store.drop_up_to(oldest.last_seq)


def reopened(path: Path) -> None:
    BufferStore(path, max_bytes=CAP).close()


def timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


if __name__ == "__main__":
    print(write_and_drop(Path(sys.argv[1])))
