"""A console whose disk is full, and one that a device floods: it has what it acknowledged, in bounded memory."""

import random
import threading
import zlib
from pathlib import Path

import httpx
import psutil
import pytest

from brokers import Mosquitto
from consoles import RunningConsole, WireDevice, console_toml, made_results
from edgeinfer.runtime.chunk import COLUMNS
from edgeinfer.runtime.codec import encode
from edgeinfer.sync.messages import ChunkMessage, Telemetry, encode_chunk
from edgeinfer.sync.messages import encode as encode_message
from fault_report import FaultReport
from small_disks import filled, small_disk
from stored import doubled, integrity, stored_results
from waiting import wait_until

CHUNK = 50
# 64 MB of messages may wait in memory by design; the rest is what an allocator makes of it.
MAX_GROWTH_BYTES = 160 << 20


def send(device: WireDevice, chunks: int, chance: random.Random) -> None:
    """Results that compress badly."""
    for _ in range(chunks):
        device.send("door", made_results(CHUNK, first_frame=chance.getrandbits(40), latency_us=chance.getrandbits(20)))


def test_a_disk_that_is_full_at_the_console(tmp_path: Path, faults: FaultReport) -> None:
    chance = random.Random(faults.seed)
    bouts = faults.size(ci=2, full=20)
    with small_disk(tmp_path / "data", mebibytes=24), Mosquitto(tmp_path) as broker:
        config = console_toml(tmp_path, broker.port)
        with RunningConsole(config) as console, WireDevice("dev-1", broker.port) as device:
            device.come_online()
            for _ in range(bouts):
                send(device, 10, chance)
                device.wait_acked(device.next_seq - 1)
                with filled(tmp_path / "data"):
                    while not console.get("/api/status")["storage_error"]:
                        send(device, 1, chance)
                        threading.Event().wait(0.02)
                    assert httpx.get(console.url + "/healthz", timeout=60).status_code == 503
                    acknowledged = device.acked()
                wait_until(
                    lambda: not console.get("/api/status")["storage_error"], timeout_s=60, what="the console to be well"
                )
                # What an agent does: send again from what was acknowledged.
                for first in range(acknowledged + 1, device.next_seq, CHUNK):
                    device.send("door", made_results(CHUNK), first_seq=first)
                device.wait_acked(device.next_seq - 1)
            made = device.next_seq - 1
            audit = console.audit("dev-1")
            assert "Traceback" not in console.log.read_text()
            assert console.terminate() == 0
        rows = stored_results(tmp_path / "data" / "console.db", "dev-1")
        faults.add(
            "disk full at the console", times=bouts, made=made, durable=made, stored=len(rows),
            refused=audit["duplicates"], lost=made - len(rows), doubled=doubled(rows),
        )  # fmt: skip
        assert [row.seq for row in rows] == list(range(1, made + 1))
        assert integrity(tmp_path / "data" / "console.db") == ["ok"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_device_that_floods_the_console(tmp_path: Path, faults: FaultReport) -> None:
    """It waits for nothing: the console's memory stays bounded, and an honest device is served all the while."""
    chance = random.Random(faults.seed)
    megabytes = faults.size(ci=4, full=40)
    body = encode(made_results(2000, first_frame=chance.getrandbits(40)), COLUMNS)
    with Mosquitto(tmp_path, extra="max_queued_messages 0\nmax_queued_bytes 200000000") as broker:
        config = console_toml(tmp_path, broker.port)
        with RunningConsole(config) as console, WireDevice("dev-1", broker.port) as honest:
            assert console._process is not None
            usage = psutil.Process(console._process.pid)
            honest.come_online()
            send(honest, 5, chance)
            honest.wait_acked(honest.next_seq - 1)
            before = largest = int(usage.memory_info().rss)
            with WireDevice("dev-2", broker.port) as flooding:
                flooding.come_online()
                said = 0
                while said < megabytes << 20:
                    said += flood(flooding, body, chance)
                    largest = max(largest, int(usage.memory_info().rss))
                send(honest, 5, chance)
                honest.wait_acked(honest.next_seq - 1, timeout_s=600)
                largest = max(largest, int(usage.memory_info().rss))
            made = honest.next_seq - 1
            audit = console.audit("dev-1")
            assert "Traceback" not in console.log.read_text()
            assert console.terminate() == 0
    rows = stored_results(tmp_path / "data" / "console.db", "dev-1")
    faults.add(
        "a device floods", times=1, made=made, durable=made, stored=len(rows), refused=audit["duplicates"],
        lost=made - len(rows), doubled=doubled(rows), flood_mb=megabytes, growth_mb=(largest - before) >> 20,
    )  # fmt: skip
    assert [row.seq for row in rows] == list(range(1, made + 1))
    assert largest - before < MAX_GROWTH_BYTES


def flood(device: WireDevice, body: bytes, chance: random.Random) -> int:
    """One message of any kind, as fast as the link takes it; its bytes."""
    kind = chance.random()
    if kind < 0.5:
        n = 2000
        payload = encode_chunk(ChunkMessage(COLUMNS, device.epoch, device.next_seq, n, zlib.crc32(body), body))
        device.next_seq += n
        topic = "up/res/door"
    elif kind < 0.8:
        payload, topic = encode_message(Telemetry(0, pipelines={f"p{i}": {"fps": 1.0} for i in range(200)})), "up/tel"
    else:
        payload, topic = chance.randbytes(20_000), "up/res/door"
    while not device.link.publish(device.topic(topic), payload, qos=1):
        threading.Event().wait(0.01)
    device.link.receive(0)
    return len(payload)
