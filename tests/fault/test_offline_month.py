"""A month without a network, in a minute: the disk stays bounded, what is given up is counted, and once the network is
back the console's books are whole: made = stored + evicted."""

import random
from pathlib import Path

import pytest

from agents import DEVICE, agent_process, write_config
from brokers import Mosquitto
from consoles import RunningConsole, console_toml
from edgeinfer.runtime.buffer import Buffer, BufferConfig
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.chunk import TOMBSTONE
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.handoff import SyncDb
from edgeinfer.runtime.results import Item, Kind, Result
from fault_report import FaultReport
from stored import doubled, stored_results
from waiting import wait_until

DAYS = 30
DAY_NS = 86_400 * 1_000_000_000
START_NS = 1_700_000_000_000_000_000
PATIENCE_S = 240.0
EVENT_SHARE = 0.002
# The database stays below its cap; beside it lie its log, a quarter at most, and the ballast, another quarter.
LARGEST_SHARE = 1.6


def a_result(chance: random.Random, t_ns: int, frame: int) -> Result:
    if chance.random() < EVENT_SHARE:
        return Result(Kind.EVENT, t_ns, frame, extra={"rule": "queue", "value": chance.random()})
    x, y = chance.random() / 2, chance.random() / 2
    items = tuple(Item(label, chance.random(), (x, y, x + 0.3, y + 0.2)) for label in range(2))
    return Result(Kind.DETECTION, t_ns, frame, chance.randrange(900, 1400), 2000, items)


def bytes_below(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def acknowledged(folder: Path, epoch: int) -> int:
    try:
        with SyncDb(folder / "sync" / "sync.db", read_only=True) as sync:
            return sync.acknowledged(epoch)
    except BufferStorageError:  # the agent is just making it
        return 0


def live_offline(folder: Path, buffer: Buffer, a_day: int, chance: random.Random) -> int:
    """Fill the buffer with a month; the most bytes that it ever took on the disk."""
    largest = 0
    for day in range(DAYS):
        for number in range(a_day):
            t_ns = START_NS + day * DAY_NS + number * DAY_NS // a_day
            buffer.append("door", a_result(chance, t_ns, day * a_day + number))
            if number % 2000 == 0:
                assert buffer.flush(60.0)
                largest = max(largest, bytes_below(folder))
        assert buffer.flush(60.0)
        largest = max(largest, bytes_below(folder))
    return largest


@pytest.mark.timeout(1200)
def test_a_month_offline_is_bounded_and_counted(tmp_path: Path, faults: FaultReport) -> None:
    chance = random.Random(faults.seed)
    a_day, max_bytes = faults.size(ci=4_000, full=86_400), faults.size(ci=1 << 20, full=16 << 20)
    made = a_day * DAYS
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    config = BufferConfig(path=str(runtime / "buffer.db"), max_bytes=max_bytes, flush_interval_s=0.5)
    buffer = Buffer(config, acknowledged=lambda _: 0)
    largest = live_offline(runtime, buffer, a_day, chance)
    assert buffer.durable_seq == made
    assert largest < LARGEST_SHARE * max_bytes

    with BufferReader(runtime / "buffer.db") as reader:
        evicted = reader.audit_counts()["evicted"]
        chunks = reader.chunks(0, limit=10_000_000)
    tombstones = sum(chunk.n for chunk in chunks if chunk.codec == TOMBSTONE)
    assert evicted == tombstones > made // 4, "it was far too much for this buffer"
    assert sum(chunk.n for chunk in chunks) == made

    with Mosquitto(tmp_path) as broker, RunningConsole(console_toml(tmp_path, broker.port)) as console:
        with agent_process(write_config(tmp_path, broker)):
            wait_until(
                lambda: acknowledged(tmp_path, buffer.epoch) == made, timeout_s=PATIENCE_S, what="the month to arrive"
            )
        audit = console.audit(DEVICE)
        assert console.terminate() == 0
    assert buffer.close()
    rows = stored_results(tmp_path / "data" / "console.db", DEVICE)
    faults.add(
        "a month offline", times=1, made=made, durable=made, stored=len(rows), evicted=audit["evicted"],
        lost=made - len(rows) - audit["evicted"], doubled=doubled(rows),
        largest_share=round(largest / max_bytes, 2),
    )  # fmt: skip
    assert audit["evicted"] == evicted
    assert (audit["stored"], audit["gaps"], audit["missing"]) == (made - evicted, 0, 0)
    assert len(rows) == made - evicted
    events = [row.t_ns for row in rows if row.kind is Kind.EVENT]
    results = [row.t_ns for row in rows if row.kind is not Kind.EVENT]
    assert min(events) < min(results), "events are kept longer than results"
    assert max(results) > START_NS + DAYS * DAY_NS - DAY_NS // 10, "the newest are kept"
