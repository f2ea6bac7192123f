"""What tests of the console share: a real console process, and a device that speaks the real wire.

with RunningConsole(folder, broker.port) as console:
    with WireDevice("dev-1", broker.port) as device:
        device.come_online()
        device.send("door", made_results(100))
"""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import httpx

from edgeinfer.runtime.chain import genesis, next_link
from edgeinfer.runtime.chunk import COLUMNS
from edgeinfer.runtime.codec import encode
from edgeinfer.runtime.manifest import ClassifyPost, Manifest, TensorPre, TensorSpec, Variant
from edgeinfer.runtime.package import encode_manifest, write_package
from edgeinfer.runtime.results import Item, Kind, Result
from edgeinfer.runtime.trust import SigningKey
from edgeinfer.sync import messages
from edgeinfer.sync.mqtt import BrokerConfig, MqttLink
from waiting import ENDS_WITHIN_S, wait_until

__all__ = ["RunningConsole", "WireDevice", "console_toml", "made_package", "made_results"]

_MAIN = "import sys; from edgeinfer.console.service import main; sys.exit(main(sys.argv[1:]))"


def made_results(
    n: int, *, first_frame: int = 0, label: int = 3, latency_us: int = 900, now_ns: int = 0
) -> list[Result]:
    """`n` classifications, the last of them made now."""
    end_ns = now_ns or time.time_ns()
    return [
        Result(
            Kind.CLASSIFICATION,
            end_ns - (n - 1 - i) * 10_000_000,
            frame=first_frame + i,
            latency_us=latency_us + i % 50,
            age_us=2000,
            items=(Item(label, 0.9),),
        )
        for i in range(n)
    ]


def made_package(
    path: Path,
    *,
    name: str = "digits",
    version: str = "1.0.0",
    labels: Sequence[str] = (),
    key: SigningKey | None = None,
    content: bytes = b"no real model",
) -> Path:
    """A package that is sound in its structure; nobody could run its model."""
    label_bytes = "\n".join(labels).encode()
    manifest = encode_manifest(
        Manifest(
            schema_version=1,
            name=name,
            version=version,
            task="classification",
            preprocess=TensorPre(),
            postprocess=ClassifyPost(),
            variants=(
                Variant(
                    id="litert-fp32",
                    engine="litert",
                    file="model.tflite",
                    sha256=hashlib.sha256(content).hexdigest(),
                    bytes=len(content),
                    precision="fp32",
                    inputs=(TensorSpec("x", (1, 64), "float32"),),
                    outputs=(TensorSpec("y", (1, 10), "float32"),),
                ),
            ),
            labels=("labels.txt", hashlib.sha256(label_bytes).hexdigest()) if labels else None,
        )
    )
    files: dict[str, bytes | Path] = {"model.tflite": content}
    if labels:
        files["labels.txt"] = label_bytes
    write_package(path, manifest, files, [key.sign(manifest)] if key is not None else [])
    return path


def console_toml(folder: Path, broker_port: int, *, web: str = "", more: str = "") -> Path:
    """Write a configuration with its data beside it; the page's port is free to choose."""
    path = folder / "console.toml"
    path.write_text(f'data_dir = "data"\n{more}\n[broker]\nport = {broker_port}\n[web]\nport = 0\n{web}\n')
    return path


class RunningConsole:
    """`edgeinfer console` as a process of its own. `url` ends without a slash."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.log = config.with_name("console.log")
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(60)

    def start(self) -> None:
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _MAIN, "--config", str(self.config)],
                stdout=subprocess.DEVNULL,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        wait_until(self._answers, what="the console to serve its page")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        found = re.search(r"http://\S+", self.log.read_text())
        if found is None:
            return False
        self.url = found[0].rstrip("/")
        try:
            return "ok" in self.get("/healthz")
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """As a power cut would end it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(60)

    def terminate(self) -> int:
        """SIGTERM; the exit status. Raises subprocess.TimeoutExpired where it does not end in time."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(ENDS_WITHIN_S)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def get(self, path: str) -> dict[str, Any]:
        document: dict[str, Any] = httpx.get(self.url + path, timeout=60).json()
        return document

    def audit(self, device: str) -> dict[str, Any]:
        """The audit of one device; of one that is not known, nothing."""
        found: list[dict[str, Any]] = [a for a in self.get("/api/audit")["devices"] if a["device"] == device]
        return found[0] if found else {"stored": 0, "epochs": [], "refused": 0}


class WireDevice:
    """An agent reduced to what goes over the wire. It keeps what it received in `acks`, `desired`, `ranges`,
    `job_acks`, `stored_blobs` and `commands` (sealed)."""

    def __init__(self, name: str, broker_port: int, *, epoch: int = 1, tenant: str = "default") -> None:
        self.name, self.epoch, self.tenant = name, epoch, tenant
        self.next_seq = 1
        self.acks: list[messages.Ack] = []
        self.desired: list[bytes] = []
        self.ranges: list[messages.BlobRange] = []
        self.job_acks: list[messages.JobAck] = []
        self.stored_blobs: list[messages.BlobStored] = []
        self.commands: list[bytes] = []
        self.link_before = genesis(epoch)
        offline = messages.encode(messages.StateMessage(online=False, session="s"))
        self.link = MqttLink(
            BrokerConfig(port=broker_port),
            client_id=f"test-{name}"[:60],
            will=(self.topic("up/state"), offline),
            subscriptions=[(self.topic("down/#"), 1)],
        )

    def __enter__(self) -> Self:
        self.link.start()
        wait_until(lambda: self.link.connected, what=f"{self.name} to reach the broker")
        return self

    def __exit__(self, *exc: object) -> None:
        self.link.stop()

    def topic(self, rest: str) -> str:
        return messages.topic(self.tenant, self.name, rest)

    def say(self, rest: str, message: Any, *, retain: bool = False) -> None:
        self.raw(rest, messages.encode(message), retain=retain)

    def raw(self, rest: str, payload: bytes, *, retain: bool = False) -> None:
        assert self.link.publish(self.topic(rest), payload, qos=1, retain=retain)

    def come_online(
        self, *, groups: Sequence[str] = (), lowest: int = 1, profile: dict[str, Any] | None = None
    ) -> None:
        self.say("up/state", messages.StateMessage(online=True, session="s"), retain=True)
        self.say(
            "up/birth",
            messages.Birth(
                session="s",
                agent_version="0.1.0",
                epochs={str(self.epoch): lowest},
                profile=profile or {"machine": "x86_64", "cpu": {"cores": 2}, "memory_bytes": 4_000_000_000},
                engines={"litert": "2.3.0"},
                groups=tuple(groups),
            ),
        )

    def send(self, pipeline: str, results: Sequence[Result], *, first_seq: int = 0) -> tuple[int, int]:
        """Send one chunk; without `first_seq`, the next. Returns its first and last sequence number."""
        first = first_seq or self.next_seq
        self.raw(f"up/res/{pipeline}", self.chunk(results, first))
        self.next_seq = max(self.next_seq, first + len(results))
        return first, first + len(results) - 1

    def send_linked(self, pipeline: str, results: Sequence[Result]) -> bytes:
        """Send one chunk, the next, with its link; returns it as it went out."""
        first, n, body = self.next_seq, len(results), encode(results, COLUMNS)
        link = next_link(self.link_before, first_seq=first, n=n, codec=COLUMNS, pipeline=pipeline, body=body)
        chunk = messages.ChunkMessage(COLUMNS, self.epoch, first, n, zlib.crc32(body), body, link)
        raw = messages.encode_chunk(chunk)
        self.raw(f"up/res/{pipeline}", raw)
        self.link_before, self.next_seq = link, first + n
        return raw

    def send_blob(self, content: bytes, *, name: str, t_ns: int = 0, kind: str = "snapshot") -> str:
        """Send a small file of the pipeline `door` whole; returns its hash."""
        sha256 = hashlib.sha256(content).hexdigest()
        label = messages.BlobLabel(kind, name, "door", t_ns)
        part = messages.BlobPart(sha256, 0, len(content), label, content)
        self.raw("up/blob", messages.encode_blob_part(part))
        return sha256

    def chunk(self, results: Sequence[Result], first_seq: int) -> bytes:
        body = encode(results, COLUMNS)
        return messages.encode_chunk(
            messages.ChunkMessage(COLUMNS, self.epoch, first_seq, len(results), zlib.crc32(body), body)
        )

    def evicted(self, first_seq: int, n: int, reason: str) -> None:
        body = json.dumps({"reason": reason, "n": n}).encode()
        chunk = messages.ChunkMessage(0, self.epoch, first_seq, n, zlib.crc32(body), body)
        self.raw("up/res/_evicted", messages.encode_chunk(chunk))
        self.next_seq = max(self.next_seq, first_seq + n)

    def acked(self) -> int:
        """The highest sequence number that was acknowledged."""
        self._read()
        return max((ack.seq for ack in self.acks if ack.epoch == self.epoch), default=0)

    def wait_acked(self, seq: int, *, timeout_s: float = 120.0) -> None:
        wait_until(lambda: self.acked() >= seq, timeout_s=timeout_s, what=f"acknowledgement up to {seq}")

    def received_desired(self) -> list[bytes]:
        self._read()
        return self.desired

    def received_ranges(self) -> list[messages.BlobRange]:
        self._read()
        return self.ranges

    def received_job_acks(self) -> list[messages.JobAck]:
        self._read()
        return self.job_acks

    def received_blobs(self) -> list[messages.BlobStored]:
        self._read()
        return self.stored_blobs

    def received_commands(self) -> list[bytes]:
        self._read()
        return self.commands

    def _read(self) -> None:
        for name, payload in iter(lambda: self.link.receive(0), None):
            rest = messages.parse_topic(name).rest
            if rest == "down/ack":
                self.acks.append(messages.decode(payload, messages.Ack))
            elif rest == "down/desired":
                self.desired.append(payload)
            elif rest == "down/data":
                self.ranges.append(messages.decode_blob_range(payload))
            elif rest == "down/blob":
                self.stored_blobs.append(messages.decode(payload, messages.BlobStored))
            elif rest == "down/cmd":
                self.commands.append(payload)
            elif rest.startswith("down/job/"):
                self.job_acks.append(messages.decode(payload, messages.JobAck))
