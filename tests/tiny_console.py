"""A console for tests of the agent: stores what arrives, acknowledges it, serves blobs; and misbehaves on request."""

import hashlib
import random
import threading
import zlib
from collections.abc import Callable
from typing import Self

from edgeinfer.runtime.errors import MessageError
from edgeinfer.sync.bundle import BUNDLE, MAX_BUNDLE_CHUNKS, decode_bundle
from edgeinfer.sync.jobs import FINAL_STATES
from edgeinfer.sync.messages import (
    Ack,
    BlobRange,
    BlobRequest,
    ChunkMessage,
    JobAck,
    JobStatus,
    decode,
    decode_chunk,
    encode,
    encode_blob_range,
    parse_topic,
    topic,
)
from edgeinfer.sync.mqtt import BrokerConfig, MqttLink

__all__ = ["TinyConsole"]

_MAX_GAPS = 100


class TinyConsole:
    """One device's console in a thread. What it stored survives `die()` and `live()`, as a database would.

    `lose` and `repeat` are the shares of messages that it drops unseen, and of acknowledgements that it sends
    twice. `takes` is how many chunks it takes in one message; 0: as before there were bundles. `results` has
    the CRC of the chunk that each (epoch, seq) was stored from; what came again is in `refused` and in `chunks`.
    """

    def __init__(
        self,
        broker: BrokerConfig,
        *,
        device: str,
        lose: float = 0.0,
        repeat: float = 0.0,
        mute: bool = False,
        takes: int = MAX_BUNDLE_CHUNKS,
        seed: int = 1,
    ) -> None:
        self.device = device
        self.mute = mute
        self.takes = takes
        self.bundles = 0  # that came, whether they were taken or not
        self.stored: dict[tuple[int, int], bytes] = {}  # (epoch, first_seq): body
        self.chunks: list[ChunkMessage] = []  # that came, again and again too, in that order
        self.results: dict[tuple[int, int], int] = {}
        self.refused = 0  # results that came again and were not stored a second time
        self.bad = 0
        self.seen: list[tuple[str, bytes]] = []  # everything but chunks and requests, in order
        self.blobs: dict[str, bytes] = {}
        self.blob_filter: Callable[[BlobRequest, bytes], bytes | None] = lambda _request, data: data
        self.blob_requests: list[BlobRequest] = []
        self._broker = broker
        self._lose = lose
        self._repeat = repeat
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.link: MqttLink | None = None

    def __enter__(self) -> Self:
        self.live()
        return self

    def __exit__(self, *exc: object) -> None:
        self.die()

    def live(self) -> None:
        self._stop = threading.Event()
        self.link = MqttLink(
            self._broker,
            client_id=f"console-{self.device}",
            will=None,
            subscriptions=[(topic("default", self.device, "up/#"), 1)],
        )
        self.link.start()
        self._thread = threading.Thread(target=self._run, args=(self.link, self._stop), name="tiny-console")
        self._thread.start()

    def die(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(60.0)
        if self.link is not None:
            self.link.stop()

    def add_blob(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        self.blobs[sha256] = data
        return sha256

    def contiguous(self, epoch: int) -> int:
        """The highest sequence number up to which everything is stored."""
        seq = 0
        while (epoch, seq + 1) in self.results:
            seq += 1
        return seq

    def ack(self, epoch: int) -> Ack:
        gaps, highest = self._gaps(epoch), max((seq for of, seq in self.results if of == epoch), default=0)
        is_complete, named = len(gaps) <= _MAX_GAPS, gaps[:_MAX_GAPS]
        return Ack(epoch, self.contiguous(epoch), named, highest=highest, complete=is_complete, bundle=self.takes)

    def of(self, rest: str) -> list[bytes]:
        """Payloads that came on `rest`, in order."""
        return [payload for name, payload in list(self.seen) if parse_topic(name).rest == rest]

    def say(self, rest: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> bool:
        assert self.link is not None
        return self.link.publish(topic("default", self.device, rest), payload, qos=qos, retain=retain)

    def _run(self, link: MqttLink, stop: threading.Event) -> None:
        while not stop.is_set():
            message = link.receive(0.05)
            if message is None:
                continue
            rest = parse_topic(message[0]).rest
            if rest == BUNDLE:
                self._take_bundle(message[1])
            elif rest.startswith("up/res/"):
                self._take_chunk(message[1])
            elif rest == "up/get":
                self._serve(decode(message[1], BlobRequest))
            else:
                self.seen.append(message)
                if rest.startswith("up/job/") and not self.mute:
                    self._acknowledge_end(decode(message[1], JobStatus))

    def _take_bundle(self, raw: bytes) -> None:
        self.bundles += 1
        frames = decode_bundle(raw)
        if len(frames) > self.takes:
            self.bad += 1
        elif self._random.random() >= self._lose:
            for frame in frames:
                self._take_chunk(frame.payload)

    def _take_chunk(self, raw: bytes) -> None:
        try:
            chunk = decode_chunk(raw)
        except MessageError:
            self.bad += 1
            return
        if self._random.random() < self._lose:
            return
        self._store(chunk)
        if not self.mute:
            ack = encode(self.ack(chunk.epoch))
            for _ in range(2 if self._random.random() < self._repeat else 1):
                self.say("down/ack", ack)

    def _acknowledge_end(self, status: JobStatus) -> None:
        if status.state in FINAL_STATES:
            self.say(f"down/job/{status.job}", encode(JobAck(status.job, status.state)))

    def _store(self, chunk: ChunkMessage) -> None:
        self.stored.setdefault((chunk.epoch, chunk.first_seq), chunk.body)
        self.chunks.append(chunk)
        for seq in range(chunk.first_seq, chunk.first_seq + chunk.n):
            if (chunk.epoch, seq) in self.results:
                self.refused += 1
            else:
                self.results[chunk.epoch, seq] = zlib.crc32(chunk.body)

    def _gaps(self, epoch: int) -> tuple[tuple[int, int], ...]:
        seqs = sorted(seq for stored, seq in self.results if stored == epoch)
        pairs = zip([0, *seqs], seqs, strict=False)
        return tuple((low + 1, high - 1) for low, high in pairs if high > low + 1)

    def _serve(self, request: BlobRequest) -> None:
        self.blob_requests.append(request)
        blob = self.blobs.get(request.sha256, b"")
        data = self.blob_filter(request, blob[request.offset : request.offset + request.length])
        if data is not None:
            self.say("down/data", encode_blob_range(BlobRange(request.sha256, request.offset, len(blob), data)), qos=0)
