"""The agent, a real buffer and a real mosquitto that has limits, rules and a second of its kind."""

import random
import string
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from agents import DEVICE, PATIENT, UPLOAD, fill, result, running, sync_config
from brokers import Mosquitto
from edgeinfer.runtime.buffer import Buffer, BufferConfig
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.codec import decode
from edgeinfer.runtime.results import Kind
from edgeinfer.sync.mqtt import BrokerConfig
from tiny_console import TinyConsole
from waiting import wait_until

PROTOCOLS = pytest.mark.parametrize("protocol", [5, 4], ids=["mqtt5", "mqtt311"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "runtime").mkdir()
    return tmp_path


@contextmanager
def console(broker: Mosquitto, **more: object) -> Iterator[TinyConsole]:
    with TinyConsole(BrokerConfig(port=broker.port), device=DEVICE, **more) as made:  # type: ignore[arg-type]  # tests pass what the test is about
        wait_until(lambda: made.link is not None and made.link.connected, what="the console")
        yield made


def large_chunks(folder: Path, n: int) -> Buffer:
    """A buffer of one chunk with `n` results, some hundred bytes each."""
    path = folder / "runtime" / "buffer.db"
    buffer = Buffer(BufferConfig(path=str(path), flush_interval_s=3600.0, chunk_results=n), acknowledged=lambda _e: 0)
    noise = random.Random(7)
    for number in range(n):
        text = "".join(noise.choices(string.printable, k=100))
        buffer.append("door", msgspec.structs.replace(result(number), extra={"text": text}))
    assert buffer.flush(60.0)
    return buffer


def is_exact(found: TinyConsole, buffer: Buffer) -> bool:
    return sorted(found.results) == [(buffer.epoch, seq) for seq in range(1, buffer.durable_seq + 1)]


@PROTOCOLS
def test_events_arrive_before_a_backlog_that_is_older(folder: Path, protocol: int) -> None:
    buffer = fill(folder, 5_000)
    for number in range(3):
        buffer.append("door", msgspec.structs.replace(result(5_000 + number), kind=Kind.EVENT))
        assert buffer.flush(60.0)
    with Mosquitto(folder) as broker, console(broker) as found:
        config = sync_config(folder, broker, upload=PATIENT)
        config = msgspec.structs.replace(config, broker=msgspec.structs.replace(config.broker, protocol=protocol))
        with running(config):
            wait_until(lambda: is_exact(found, buffer), what="the upload")
        first = [decode(chunk.codec, chunk.body, n=chunk.n) for chunk in found.chunks[:3]]
        assert [[one.kind for one in results] for results in first] == [[Kind.EVENT]] * 3
        assert found.refused == 0, "nothing came twice"
    buffer.close()


def test_a_chunk_above_the_brokers_limit_arrives_in_parts(folder: Path) -> None:
    buffer = large_chunks(folder, 200)
    with BufferReader(folder / "runtime" / "buffer.db") as reader:
        (whole,) = reader.chunks(0, limit=10)
    assert len(whole.body) > 8_000
    with Mosquitto(folder, extra="max_packet_size 4000") as broker:
        config = sync_config(folder, broker)
        with console(broker) as found, running(config):
            wait_until(lambda: is_exact(found, buffer), what="the upload")
        results = [one for chunk in found.chunks for one in decode(chunk.codec, chunk.body, n=chunk.n)]
        assert results == decode(whole.codec, whole.body, n=whole.n)
        assert [chunk.link for chunk in found.chunks[:-1]] == [b""] * (len(found.chunks) - 1)
        assert found.chunks[-1].link == whole.link
    buffer.close()


@PROTOCOLS
def test_a_limit_that_the_broker_does_not_announce_is_found_out(folder: Path, protocol: int) -> None:
    """In MQTT 5 mosquitto refuses what is larger; in 3.1.1 it says yes, and drops it."""
    buffer = large_chunks(folder, 200)
    with Mosquitto(folder, extra="message_size_limit 6000") as broker, console(broker) as found:
        upload = msgspec.structs.replace(UPLOAD, ack_timeout_s=0.2, ack_timeout_max_s=0.4)
        config = sync_config(folder, broker, upload=upload)
        config = msgspec.structs.replace(config, broker=msgspec.structs.replace(config.broker, protocol=protocol))
        with running(config):
            wait_until(lambda: is_exact(found, buffer), what="the upload")
    buffer.close()


def test_what_may_not_be_published_arrives_once_it_may(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    buffer = fill(folder, 2_000)
    access = folder / "acl"
    access.write_text(f"topic readwrite ei/v1/default/d/{DEVICE}/down/#\n")
    with Mosquitto(folder, extra=f"acl_file {access}") as broker, running(sync_config(folder, broker)):
        wait_until(lambda: "event=results_refused" in caplog.text, what="the refusal")
        broker.stop()
        access.write_text("topic readwrite #\n")
        broker.start()
        with console(broker) as found:
            wait_until(lambda: is_exact(found, buffer), what="the upload")
    assert caplog.text.count("event=results_refused") == 1
    buffer.close()


def test_a_second_broker_takes_over_and_nothing_is_lost(folder: Path) -> None:
    """The console follows by the same configuration."""
    buffer = fill(folder, 20_000)
    for name in ("first", "second"):
        (folder / name).mkdir()
    with Mosquitto(folder / "first") as first, Mosquitto(folder / "second") as second:
        both = BrokerConfig(port=first.port, fallbacks=(f"127.0.0.1:{second.port}",), reconnect_max_s=0.2)
        config = msgspec.structs.replace(sync_config(folder, first), broker=both)
        with TinyConsole(both, device=DEVICE) as found, running(config):
            wait_until(lambda: len(found.results) >= 1_000, what="a part")
            first.kill()
            wait_until(lambda: is_exact(found, buffer), what="the rest")
    buffer.close()
