"""What an uploader stands between, as models: the daemon's buffer, `sync.db`, and a link whose other end is a list."""

import itertools
import random
import zlib
from collections.abc import Container
from typing import Self

import msgspec

from edgeinfer.runtime.chain import genesis, next_link
from edgeinfer.runtime.chunk import EVENTS, JSON, NO_LINK, RESULTS, TOMBSTONE, StoredChunk, tombstone
from edgeinfer.runtime.codec import encode as encode_results
from edgeinfer.runtime.results import Kind, Result
from edgeinfer.sync.bundle import BUNDLE, decode_bundle
from edgeinfer.sync.messages import decode_chunk
from edgeinfer.sync.mqtt import Complaint

__all__ = ["PIPELINE", "ROOMY", "ModelBuffer", "ModelDb", "ModelLink", "Payload"]

QUOTA = 20
ROOMY = 1 << 20
PIPELINE = "door"
_RESULTS = f"ei/v1/default/d/dev-1/up/res/{PIPELINE}"


class ModelBuffer:
    """What the daemon has on disk. Numbers are without holes: what is gone lies under a tombstone."""

    def __init__(self) -> None:
        self.epoch = 7
        self.rows: list[tuple[StoredChunk, int]] = []  # and its lane
        self.written: list[StoredChunk] = []  # all that ever was in it, as somebody may still have it
        self.made = 0
        self.link = genesis(self.epoch)
        self.horizon: int | None = None  # beyond it, a damaged file is still being salvaged
        self.evicted: set[int] = set()
        self.large: set[int] = set()  # that a broker's limit may keep back

    def append(self, sizes: list[int], lane: int) -> None:
        """Results that name their own number, with so many characters of ballast each."""
        first = self.made + 1
        self.large.update(seq for seq, size in enumerate(sizes, first) if size)
        kind = Kind.EVENT if lane == EVENTS else Kind.CLASSIFICATION
        results = [
            Result(kind, 0, seq, 0, 0, (), {"ballast": _noise(seq, size)}) for seq, size in enumerate(sizes, first)
        ]
        body = encode_results(results, JSON)
        self.link = next_link(self.link, first_seq=first, n=len(sizes), codec=JSON, pipeline=PIPELINE, body=body)
        chunk = StoredChunk(first, len(sizes), 0, PIPELINE, JSON, zlib.crc32(body), body, self.link)
        self.rows.append((chunk, lane))
        self.written.append(chunk)
        self.made += len(sizes)

    def evict(self, at: int) -> None:
        """A chunk becomes a tombstone, one with its neighbours that are."""
        low = high = at
        while low and self.rows[low - 1][0].codec == TOMBSTONE:
            low -= 1
        while high + 1 < len(self.rows) and self.rows[high + 1][0].codec == TOMBSTONE:
            high += 1
        first, last = self.rows[low][0].first_seq, self.rows[high][0].last_seq
        self.evicted.update(range(first, last + 1))
        link = self.rows[high][0].link
        self.rows[low : high + 1] = [(tombstone(first, last - first + 1, t0_ns=0, reason="full", link=link), RESULTS)]

    def rot(self, at: int) -> None:
        """A bit of a chunk's body falls over on the disk."""
        chunk, lane = self.rows[at]
        self.rows[at] = (msgspec.structs.replace(chunk, body=bytes((chunk.body[0] ^ 1,)) + chunk.body[1:]), lane)

    def begin_anew(self, epoch: int) -> None:
        self.epoch, self.made, self.rows, self.link = epoch, 0, [], genesis(epoch)

    def drop(self, acknowledged: int) -> None:
        self.rows = [(chunk, lane) for chunk, lane in self.rows if chunk.last_seq > acknowledged]

    # what the uploader asks of a BufferReader

    def durable_seq(self) -> int:
        return self.made

    def settled_seq(self) -> int:
        return self.made if self.horizon is None else self.horizon

    def first_seq(self) -> int:
        return self.rows[0][0].first_seq if self.rows else self.made + 1

    def link_before(self, seq: int) -> bytes:
        if seq <= 1:
            return genesis(self.epoch)
        if seq == self.made + 1:
            return self.link
        return next((chunk.link for chunk, _ in self.rows if chunk.last_seq == seq - 1), NO_LINK)

    def chunks(self, after_seq: int, *, limit: int) -> list[StoredChunk]:
        return self._found(after_seq, (RESULTS, EVENTS))[:limit]

    def events(self, after_seq: int, *, limit: int) -> list[StoredChunk]:
        return self._found(after_seq, (EVENTS,))[:limit]

    def _found(self, after_seq: int, lanes: tuple[int, ...]) -> list[StoredChunk]:
        rows = ((chunk, lane) for chunk, lane in self.rows if after_seq < chunk.last_seq <= self.settled_seq())
        return [chunk for chunk, lane in rows if lane in lanes]

    # and of what watches one

    def current(self) -> "ModelBuffer":
        return self

    def close(self) -> None:
        pass


class ModelDb:
    """The rows of `sync.db` that an upload needs; what is set is durable."""

    def __init__(self) -> None:
        self.acked: dict[int, int] = {}
        self.counters: dict[str, int] = {}
        self.made = 0

    def acknowledged(self, epoch: int) -> int:
        return self.acked.get(epoch, 0)

    def counter(self, name: str) -> int:
        return self.counters.get(name, 0)

    def set_upload_progress(
        self, epoch: int, seq: int, *, sent_through: int, sent: int, refused: int = 0, made: int = 0
    ) -> None:
        self.made = made
        self.acked[epoch] = max(seq, self.acknowledged(epoch))
        self.counters = {"sent_through": sent_through, "sent": sent, "sent_epoch": epoch, "refused": refused}


class Payload(bytes):
    """What was published, and on which topic."""

    topic: str

    def __new__(cls, topic: str, payload: bytes) -> Self:
        made = super().__new__(cls, payload)
        made.topic = topic
        return made

    @property
    def is_bundle(self) -> bool:
        return self.topic.endswith(BUNDLE)

    @property
    def chunks(self) -> list[bytes]:
        """The chunk messages in it."""
        return [frame.payload for frame in decode_bundle(self)] if self.is_bundle else [self]


class ModelLink:
    """The device's end of the network; `up` is on its way."""

    def __init__(self) -> None:
        self.connected = False
        self.send_quota = QUOTA
        self.limit = ROOMY
        self.owes = False
        self.unheard = False
        self.up: list[Payload] = []
        self.ever_sent: set[int] = set()
        self._complaints: list[Complaint] = []

    def publish(self, name: str, payload: bytes, *, qos: int, alias: bool, more: bool) -> bool:
        assert (qos, alias, more) == (1, True, True)
        assert self.connected
        assert self.fits(name, len(payload)), "what the broker's word forbids is not even tried"
        self.up.append(Payload(name, payload))
        for chunk in map(decode_chunk, self.up[-1].chunks):
            self.ever_sent.update(range(chunk.first_seq, chunk.first_seq + chunk.n))
        return True

    def sent_through(self, *, besides: Container[int] = ()) -> int:
        """Up to here all was sent, or has come to the console by another way."""
        return next(seq for seq in itertools.count() if seq + 1 not in self.ever_sent and seq + 1 not in besides)

    def push(self) -> None:
        pass

    def fits(self, _name: str, size: int) -> bool:
        return size <= self.limit

    def owed_s(self, _now_s: float) -> float:
        return 1e6 if self.owes else 0.0

    def complain(self, code: int, size: int, *, ended: bool = False, topic: str = _RESULTS) -> None:
        self._complaints.append(Complaint(code, topic, size, ended=ended))

    def complaints(self) -> list[Complaint]:
        taken, self._complaints = self._complaints, []
        return taken


def _noise(seq: int, size: int) -> str:
    """Text that does not compress away."""
    return "".join(random.Random(seq).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=size))
