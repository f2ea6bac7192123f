"""Inserting into the results buffer, over raw sqlite3 with the same pragmas and the same packing."""

import sqlite3
import statistics
import tempfile
import time
import zlib
from pathlib import Path

from edgeinfer.runtime.buffer import Buffer, BufferConfig
from edgeinfer.runtime.codec import encode
from edgeinfer.runtime.results import Item, Kind, Result

RESULTS = 50_000
BATCH = 100
ROUNDS = 5


def measure(_data: Path) -> dict[str, float]:
    results = [result(number) for number in range(RESULTS)]
    ratios, rates = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(ROUNDS):
            raw = raw_rate(Path(folder) / f"raw-{number}.db", results)
            ours = buffer_rate(Path(folder) / f"buffer-{number}.db", results)
            ratios.append(ours / raw)
            rates.append(ours)
    return {"buffer_insert_ratio": statistics.median(ratios), "buffer_insert_per_s": statistics.median(rates)}


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


def raw_rate(path: Path, results: list[Result]) -> float:
    """Results/s of a plain loop: pack 100, insert, commit with synchronous=FULL."""
    db = sqlite3.connect(path, isolation_level=None)
    for pragma in ("page_size=4096", "journal_mode=WAL", "synchronous=FULL", "secure_delete=OFF"):
        db.execute(f"PRAGMA {pragma}").fetchone()
    db.execute("CREATE TABLE chunk (first_seq INTEGER PRIMARY KEY, n, t0_ns, pipeline, codec, crc, body)")
    began = time.perf_counter()
    for start in range(0, len(results), BATCH):
        batch = results[start : start + BATCH]
        body = encode(batch)
        row = (start + 1, len(batch), batch[0].t_ns, "bench", 1, zlib.crc32(body), body)
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO chunk VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        db.execute("COMMIT")
    seconds = time.perf_counter() - began
    db.close()
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
