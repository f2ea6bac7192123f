"""Draining a backlog to a real console through a real mosquitto, over what the same broker confirms to a bare client.

PUBACK-only is the limit that everybody knows: a loop over paho, QoS 1, with the agent's window of 16, that reads the
same chunks from the same buffer with the same reader, and is done when the broker has confirmed the last one; nobody is
subscribed, so nothing is stored anywhere. End to end is `edgeinfer sync --once` with a real console process: from its
start, connecting included, until the console's acknowledgement of the last result, which it gives after COMMIT. All of
them share the machine's cores, as they would not in a plant.
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import daemons
import live
import models
import videos
from brokers import Mosquitto
from consoles import RunningConsole, console_toml
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.buffer_store import BufferStore, NewChunk
from edgeinfer.runtime.chunk import PACKED
from edgeinfer.runtime.codec import encode
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.handoff import RuntimeDb, SyncDb
from edgeinfer.runtime.results import Item, Kind, Result

DEVICE = "bench"
WINDOW = 16
ROUNDS = 3
BACKLOG = {100: 10_000, 1000: 8_000}  # results a chunk: chunks
BODIES = 50  # different ones, over and over
IDLE_S = 20.0


def measure(data: Path) -> dict[str, float]:
    if shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin") is None:
        sys.stderr.write("edgeinfer: figures of the drain left out: mosquitto is not installed\n")
        return {}
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for n in BACKLOG:
            figures |= ratio(Path(folder) / f"by-{n}", n)
        figures |= agent(Path(folder) / "agent")
        figures |= frames(Path(folder) / "frames", data)
    return figures


def ratio(work: Path, n: int) -> dict[str, float]:
    """End-to-end acknowledged over PUBACK-only, rounds of both in turn."""
    bare, ours = [], []
    for number in range(ROUNDS):
        folder = work / str(number)
        total = fill(folder / "runtime" / "buffer.db", n, BACKLOG[n])
        with Mosquitto(folder) as broker:
            bare.append(bare_rate(folder / "runtime" / "buffer.db", broker.port))
        with Mosquitto(folder) as broker, RunningConsole(console_toml(folder, broker.port)):
            ours.append(drain_rate(sync_toml(folder, broker.port), total))
        shutil.rmtree(folder)
    figures = {f"drain_ratio_{n}": statistics.median(ours) / statistics.median(bare)}
    if n == max(BACKLOG):
        figures["drain_results_per_s"] = statistics.median(ours)
    return figures


def detections(n: int, seed: int) -> list[Result]:
    """`n` results of a detector with two boxes, as they jitter from frame to frame."""
    return [
        Result(
            kind=Kind.DETECTION,
            t_ns=1_700_000_000_000_000_000 + frame * 33_333_333 + jitter * 1000,
            frame=frame,
            latency_us=4000 + jitter,
            age_us=9000 + 2 * jitter,
            items=(
                Item(1, 0.9 - jitter / 4000, (0.1 + jitter / 9000, 0.2, 0.4 + jitter / 8000, 0.6)),
                Item(17, 0.5 + jitter / 3000, (0.6, 0.3 + jitter / 7000, 0.8, 0.5 + jitter / 6000)),
            ),
        )
        for frame in range(n)
        for jitter in [(frame * 7919 + seed * 104_729) % 997]
    ]


def fill(path: Path, n: int, chunks: int) -> int:
    """A buffer of `chunks` chunks of `n` results each; returns how many results that is."""
    bodies = [encode(detections(n, seed)) for seed in range(BODIES)]
    store = BufferStore(path, max_bytes=8 << 30)
    for start in range(0, chunks, 100):
        store.write(
            [
                NewChunk("yard", n, 1_700_000_000_000_000_000, bodies[number % BODIES], {}, codec=PACKED)
                for number in range(start, min(start + 100, chunks))
            ]
        )
    store.close()
    return n * chunks


_BARE = """
import sys, threading, time
from pathlib import Path
from socket import IPPROTO_TCP, TCP_NODELAY
from paho.mqtt.client import CallbackAPIVersion, Client
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.sync.messages import ChunkMessage, encode_chunk

path, port, window = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
room, connected, confirmed = threading.Semaphore(window), threading.Event(), [0]

def on_publish(*_):
    confirmed[0] += 1
    room.release()

client = Client(CallbackAPIVersion.VERSION2, client_id="bare", protocol=5)
client.max_inflight_messages = window
client.on_socket_open = lambda _c, _u, sock: sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
client.on_connect = lambda *_: connected.set()
client.on_publish = on_publish
client.connect("127.0.0.1", port)
client.loop_start()
assert connected.wait(10)
with BufferReader(path) as reader:
    epoch, seq, published, began = reader.epoch, 0, 0, time.perf_counter()
    while chunks := reader.chunks(seq, limit=window):
        for chunk in chunks:
            room.acquire()
            message = ChunkMessage(
                chunk.codec, epoch, chunk.first_seq, chunk.n, chunk.crc, chunk.body, chunk.link
            )
            client.publish("ei/v1/default/d/bench/up/res/" + chunk.pipeline, encode_chunk(message), qos=1)
            published += 1
        seq = chunks[-1].last_seq
    while confirmed[0] < published:
        time.sleep(0.0005)
print(seq / (time.perf_counter() - began))
"""


def bare_rate(buffer: Path, port: int) -> float:
    """Results/s that the broker confirms to a bare paho loop over the same chunks."""
    done = subprocess.run(
        [sys.executable, "-c", _BARE, str(buffer), str(port), str(WINDOW)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


_SYNC = "import sys; from edgeinfer.sync.service import main; sys.exit(main(sys.argv[1:]))"


def sync_toml(folder: Path, port: int, *, runtime: Path | None = None) -> Path:
    path = folder / "sync.toml"
    path.write_text(
        f'device = "{DEVICE}"\nstate_dir = "{folder / "sync"}"\nruntime_dir = "{runtime or folder / "runtime"}"\n'
        f"[broker]\nport = {port}\n[upload]\nwindow = {WINDOW}\n"
    )
    return path


def drain_rate(config: Path, total: int) -> float:
    """Results/s that the console acknowledges."""
    done = subprocess.run(
        [sys.executable, "-c", _SYNC, "--config", str(config), "--once", "--json", "--log-level", "error"],
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(done.stdout)
    assert report["acknowledged"] == total, report
    return float(total / report["seconds"])


def agent(work: Path) -> dict[str, float]:
    """The agent's memory and CPU while nothing happens, and its memory while a million results drain."""
    buffer = work / "runtime" / "buffer.db"
    fill(buffer, 100, 10)
    with (
        Mosquitto(work) as broker,
        RunningConsole(console_toml(work, broker.port)),
        agent_process(sync_toml(work, broker.port)) as process,
    ):
        daemons.wait_for(lambda: acknowledged(work, buffer) == 1000)
        time.sleep(5.0)
        idle_bytes = daemons.resident_bytes(process.pid)
        before, began = daemons.cpu_s(process.pid), time.monotonic()
        time.sleep(IDLE_S)
        idle_cpu = (daemons.cpu_s(process.pid) - before) / (time.monotonic() - began)
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # the peak is counted from here
        total = 1000 + fill(buffer, 100, BACKLOG[100])
        daemons.wait_for(lambda: acknowledged(work, buffer) == total, timeout_s=600.0)
        peak_bytes = peak(process.pid)
    return {
        "agent_rss_mb": idle_bytes / 1e6,
        "agent_idle_cpu": idle_cpu,
        "drain_rss_growth_mb": (peak_bytes - idle_bytes) / 1e6,
    }


def frames(work: Path, data: Path) -> dict[str, float]:
    """What a camera of 30 frames/s loses of them while the agent drains millions of results, broker and console on the
    same machine."""
    if not (data / videos.VIDEO).is_file() or shutil.which("ffmpeg") is None:
        sys.stderr.write(f"edgeinfer: drain_fps_drop left out: ffmpeg or data missing: {videos.MISSING}\n")
        return {}
    package = models.package(work, data, models.MOBILENET_LITERT)
    config = daemons.configure(
        work / "device",
        live.pipeline(package, live.clip(work / "live.mp4", data, still=False)),
        device=f"[buffer]\nmax_bytes = {8 << 30}\n",
    )
    state = work / "device" / "state"
    total = fill(state / "buffer.db", 100, 8 * BACKLOG[100])
    with Mosquitto(work) as broker, RunningConsole(console_toml(work, broker.port)), daemons.running(config):
        daemons.wait_for(lambda: inferred(state)[1] > 60)
        alone = rate(state, lambda: time.sleep(IDLE_S))
        with agent_process(sync_toml(work, broker.port, runtime=state)):
            daemons.wait_for(lambda: acknowledged(work, state / "buffer.db") > 0)
            drain = lambda: daemons.wait_for(  # noqa: E731 - said once, where it belongs
                lambda: acknowledged(work, state / "buffer.db") >= total, timeout_s=600.0
            )
            meanwhile = rate(state, drain)
    return {"drain_fps_drop": 1.0 - meanwhile / alone}


def rate(state: Path, work: Callable[[], None]) -> float:
    """Frames/s that the daemon infers while `work` goes on, from one of its status documents to another."""
    began_ns, before = inferred(state)
    daemons.wait_for(lambda: inferred(state)[0] > began_ns)
    began_ns, before = inferred(state)
    work()
    ended_ns, after = inferred(state)
    return (after - before) / ((ended_ns - began_ns) / 1e9)


def inferred(state: Path) -> tuple[int, int]:
    """When the daemon wrote its last status document, and how many frames it had inferred."""
    try:
        with RuntimeDb(state / "runtime.db", read_only=True) as db:
            document = json.loads(db.status())
        return document["t_ns"], document["pipelines"]["live"]["frames"].get("inferred", 0)
    except (BufferStorageError, KeyError):
        return 0, 0


def acknowledged(work: Path, buffer: Path) -> int:
    try:
        with BufferReader(buffer) as reader, SyncDb(work / "sync" / "sync.db", read_only=True) as db:
            return db.acknowledged(reader.epoch)
    except BufferStorageError:
        return 0  # it is just being made


def peak(pid: int) -> int:
    """The most bytes that were resident since the peak was reset."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@contextmanager
def agent_process(config: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", _SYNC, "--config", str(config), "--log-level", "error"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=20)
