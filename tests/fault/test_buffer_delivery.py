"""Chunks that can never be delivered as they are do not keep back the ones behind them."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import DEVICE, append, fill, running, sync_config
from brokers import Mosquitto
from edgeinfer.runtime.results import Kind, Result
from edgeinfer.sync.mqtt import BrokerConfig
from tiny_console import TinyConsole
from waiting import wait_until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "runtime").mkdir()
    return tmp_path


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as started:
        yield started


def test_a_damaged_chunk_is_sent_as_a_tombstone(
    folder: Path, broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    buffer = fill(folder, 1000)
    assert buffer.close()
    with sqlite3.connect(folder / "runtime" / "buffer.db") as db:
        ((first, n, t0_ns, body),) = db.execute(
            "SELECT first_seq, n, t0_ns, body FROM seg_1 LIMIT 1 OFFSET 3"
        ).fetchall()
        db.execute(
            "UPDATE seg_1 SET body = ? WHERE first_seq = ?", (body[:9] + bytes([body[9] ^ 1]) + body[10:], first)
        )
    db.close()
    with TinyConsole(BrokerConfig(port=broker.port), device=DEVICE) as console, running(sync_config(folder, broker)):
        wait_until(lambda: console.contiguous(buffer.epoch) == 1000, what="all the rest")
        assert json.loads(console.stored[buffer.epoch, first]) == {"reason": "damaged", "n": n, "t0_ns": t0_ns}
        assert console.bad == 0
    assert caplog.text.count("event=chunk_given_up reason='damaged'") == 1


def test_a_chunk_that_the_broker_never_takes_is_sent_as_a_tombstone(folder: Path, tmp_path: Path) -> None:
    buffer = fill(folder, 100)
    for number in range(3):
        buffer.append("door", Result(Kind.EVENT, number, extra={"text": "".join(map(str, range(number, 20_000)))}))
    assert buffer.flush(60.0)
    append(buffer, 200, 100)
    with (
        Mosquitto(tmp_path, extra="max_packet_size 20000") as broker,
        TinyConsole(BrokerConfig(port=broker.port), device=DEVICE) as console,
        running(sync_config(folder, broker)),
    ):
        wait_until(lambda: console.contiguous(buffer.epoch) == 203, what="all the rest")
        tombstones = [body for body in console.stored.values() if body.startswith(b"{")]
    assert buffer.close()
    assert {json.loads(body)["reason"] for body in tombstones} == {"too large"}
    assert sum(json.loads(body)["n"] for body in tombstones) == 3
