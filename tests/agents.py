"""What the tests of the agent share: an agent in a thread or a process, its configuration, a buffer with results."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from brokers import Mosquitto
from edgeinfer.runtime.buffer import Buffer, BufferConfig
from edgeinfer.runtime.results import Item, Kind, Result
from edgeinfer.sync.agent import Agent
from edgeinfer.sync.mqtt import BrokerConfig
from edgeinfer.sync.session import UploadConfig
from edgeinfer.sync.settings import SyncConfig

__all__ = [
    "DEVICE",
    "PATIENT",
    "UPLOAD",
    "agent_process",
    "append",
    "fill",
    "result",
    "running",
    "sync_config",
    "write_config",
]

DEVICE = "dev-1"
UPLOAD = UploadConfig(ack_timeout_s=0.5, ack_timeout_max_s=1.0, gap_retry_s=0.1, persist_interval_s=0.1)
# For who counts what comes twice: no answer takes so long that something is sent again for want of it.
PATIENT = msgspec.structs.replace(UPLOAD, ack_timeout_s=300.0, ack_timeout_max_s=300.0)


def result(number: int) -> Result:
    return Result(
        Kind.CLASSIFICATION, 1_700_000_000_000_000_000 + number, number, 1200, 1500, (Item(number % 10, 0.5),)
    )


def fill(folder: Path, n: int, *, chunk_results: int = 100) -> Buffer:
    """A buffer with `n` results of one pipeline, all of them durable, so many in a chunk at most."""
    path = str(folder / "runtime" / "buffer.db")
    config = BufferConfig(path=path, flush_interval_s=0.05, chunk_results=chunk_results)
    buffer = Buffer(config, acknowledged=lambda _epoch: 0)
    append(buffer, 0, n)
    return buffer


def append(buffer: Buffer, first: int, n: int) -> None:
    for number in range(first, first + n):
        buffer.append("door", result(number))
    assert buffer.flush(60.0)


def sync_config(folder: Path, broker: Mosquitto, **changes: object) -> SyncConfig:
    config = SyncConfig(
        device=DEVICE,
        state_dir=str(folder / "sync"),
        runtime_dir=str(folder / "runtime"),
        broker=BrokerConfig(port=broker.port, reconnect_max_s=0.5),
        upload=UPLOAD,
        telemetry_interval_s=0.5,
        report_interval_s=0.5,
    )
    return msgspec.structs.replace(config, **changes)


@contextmanager
def running(config: SyncConfig) -> Iterator[Agent]:
    agent, stop = Agent(config), threading.Event()
    thread = threading.Thread(target=agent.run, args=(stop,), name="agent")
    thread.start()
    try:
        yield agent
    finally:
        stop.set()
        thread.join(60.0)
        assert not thread.is_alive()


def write_config(folder: Path, broker: Mosquitto, *, ack_timeout_s: float = UPLOAD.ack_timeout_s) -> Path:
    file = folder / "sync.toml"
    file.write_text(
        f'device = "{DEVICE}"\nstate_dir = "{folder}/sync"\nruntime_dir = "{folder}/runtime"\n'
        f"[broker]\nport = {broker.port}\nreconnect_max_s = 0.5\n"
        f"[upload]\nack_timeout_s = {ack_timeout_s}\nack_timeout_max_s = {max(60.0, ack_timeout_s)}\n"
        "persist_interval_s = 0.1\n"
    )
    return file


@contextmanager
def agent_process(config: Path) -> Iterator[subprocess.Popen[bytes]]:
    code = "import sys; from edgeinfer.sync.service import main; sys.exit(main(sys.argv[1:]))"
    with (config.parent / "agent.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-c", code, "--config", str(config)], stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait(60.0)
