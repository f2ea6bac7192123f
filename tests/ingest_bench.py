"""The console's ingest without thread and broker: transactions over a real database, and chains of chunks for them."""

import zlib
from collections.abc import Sequence
from pathlib import Path

from edgeinfer.console.batch import Batch
from edgeinfer.console.blobs import BlobStore
from edgeinfer.console.deployer import Deployer
from edgeinfer.console.known import Known
from edgeinfer.console.registry import Registry
from edgeinfer.console.repository import SqliteRepository
from edgeinfer.console.settings import LimitsConfig
from edgeinfer.runtime.chain import genesis, next_link
from edgeinfer.runtime.chunk import COLUMNS, StoredChunk
from edgeinfer.runtime.codec import encode
from edgeinfer.runtime.results import Kind, Result
from edgeinfer.runtime.trust import SigningKey
from edgeinfer.sync.messages import Ack, ChunkMessage, encode_chunk, topic

__all__ = ["EPOCH", "IngestBench", "chained"]

EPOCH = 7


class _Nobody:
    def publish(self, *_: object, **__: object) -> bool:
        return True


class IngestBench:
    """Transactions of ingest, without its thread."""

    def __init__(self, folder: Path) -> None:
        self.repository = SqliteRepository(folder / "console.db")
        registry = Registry(self.repository, BlobStore(folder / "blobs", self.repository), release_keys=())
        self._deployer = Deployer(self.repository, registry, _Nobody(), key=SigningKey(b"k" * 32), tenant="t")
        self.known = Known(self.repository, LimitsConfig())

    def hears(self, rest: str, payload: bytes) -> None:
        """One transaction with one message."""
        batch = Batch(self.repository, self.known, self._deployer, tenant="t", t_ns=1)
        with self.repository.transaction():
            batch.add(topic("t", "dev-1", rest), payload)
            batch.write()

    def batch(self) -> Batch:
        """One that nobody has just sent."""
        return Batch(self.repository, self.known, self._deployer, tenant="t", t_ns=0)

    def takes(self, *chunks: StoredChunk) -> Ack:
        """One transaction; returns what is acknowledged."""
        batch = Batch(self.repository, self.known, self._deployer, tenant="t", t_ns=1)
        with self.repository.transaction():
            for chunk in chunks:
                message = ChunkMessage(chunk.codec, EPOCH, chunk.first_seq, chunk.n, chunk.crc, chunk.body, chunk.link)
                batch.add(topic("t", "dev-1", f"up/res/{chunk.pipeline}"), encode_chunk(message))
            batch.write()
        ((_, ack),) = batch.acks()
        return ack

    def stored(self) -> list[int]:
        return [result.seq for result in self.repository.results("dev-1", after=(0, 0), limit=1000)]

    def conflicts(self) -> list[tuple[int, int]]:
        return [(c.first_seq, c.times) for c in self.repository.conflicts("dev-1", limit=99)]


def chained(
    sizes: Sequence[int], *, label: int = 0, before: bytes = b"", first_seq: int = 1, step_ns: int = 10
) -> list[StoredChunk]:
    """Chunks as a device's buffer links them; result k was made at k times `step_ns`."""
    link, seq, found = before or genesis(EPOCH), first_seq, []
    for n in sizes:
        body = encode([Result(Kind.ANOMALY, (seq + i) * step_ns, frame=label) for i in range(n)], COLUMNS)
        link = next_link(link, first_seq=seq, n=n, codec=COLUMNS, pipeline="door", body=body)
        found.append(StoredChunk(seq, n, 0, "door", COLUMNS, zlib.crc32(body), body, link))
        seq += n
    return found
