"""A transaction hands its chunks to the database together, where it can judge each without a look at it. Whatever comes
in whatever order, what is stored, refused and acknowledged is what it would be were each handed over at once."""

import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.console.batch import Batch
from edgeinfer.console.intake import Inbound
from edgeinfer.console.known import Known
from edgeinfer.console.settings import LimitsConfig
from edgeinfer.runtime.chain import genesis, next_link
from edgeinfer.runtime.chunk import COLUMNS, NO_LINK, StoredChunk, tombstone
from edgeinfer.runtime.codec import encode
from edgeinfer.runtime.results import Kind, Result
from edgeinfer.sync.messages import Birth, ChunkMessage, encode_chunk, topic
from edgeinfer.sync.messages import encode as encode_message
from ingest_bench import IngestBench

DEVICES = ("dev-1", "dev-2")
EPOCHS = (7, 8, 9)
SIZES = (2, 1, 3, 2, 1, 2)
_UNREADABLE = 200
Message = tuple[str, bytes]


def chain(epoch: int, sizes: tuple[int, ...], *, label: int, codec: int = COLUMNS) -> list[StoredChunk]:
    link, seq, found = genesis(epoch), 1, []
    for n in sizes:
        body = encode([Result(Kind.ANOMALY, 10 * (seq + i), frame=label) for i in range(n)], COLUMNS)
        link = next_link(link, first_seq=seq, n=n, codec=codec, pipeline="door", body=body)
        found.append(StoredChunk(seq, n, 0, "door", codec, zlib.crc32(body), body, link))
        seq += n
    return found


def message(device: str, epoch: int, chunk: StoredChunk, *, link: bool = True) -> Message:
    said = ChunkMessage(
        chunk.codec, epoch, chunk.first_seq, chunk.n, chunk.crc, chunk.body, chunk.link if link else NO_LINK
    )
    return topic("t", device, f"up/res/{chunk.pipeline}"), encode_chunk(said)


def evicted(chunks: list[StoredChunk]) -> StoredChunk:
    first, last = chunks[0], chunks[-1]
    return tombstone(first.first_seq, last.last_seq - first.first_seq + 1, t0_ns=0, reason="full", link=last.link)


OURS = {epoch: chain(epoch, SIZES, label=0) for epoch in EPOCHS}
THEIRS = {epoch: chain(epoch, SIZES, label=1) for epoch in EPOCHS}
CUT_OTHERWISE = {epoch: chain(epoch, (3, 3, 3), label=0) for epoch in EPOCHS}
UNREADABLE = {epoch: chain(epoch, SIZES, label=0, codec=_UNREADABLE) for epoch in EPOCHS}


@st.composite
def runs(draw: st.DrawFn) -> list[Message]:
    """What one device sends in a row: most often the chunks of its chain, as from a backlog."""
    device, epoch = draw(st.sampled_from(DEVICES)), draw(st.sampled_from(EPOCHS))
    kind = draw(st.sampled_from(["ours", "ours", "ours", "ours", "theirs", "cut", "unreadable", "gone", "floor"]))
    first = draw(st.integers(0, len(SIZES) - 1))
    last = draw(st.integers(first, len(SIZES) - 1))
    if kind == "floor":
        lowest = OURS[epoch][first].first_seq
        return [(topic("t", device, "up/birth"), encode_message(Birth("s", "1", {str(epoch): lowest})))]
    if kind == "gone":
        return [message(device, epoch, evicted(OURS[epoch][first : last + 1]))]
    of = {"ours": OURS, "theirs": THEIRS, "cut": CUT_OTHERWISE, "unreadable": UNREADABLE}[kind][epoch]
    return [message(device, epoch, chunk, link=draw(st.integers(0, 9)) > 0) for chunk in of[first : last + 1]]


TRANSACTIONS = st.lists(
    st.tuples(st.lists(runs(), min_size=1, max_size=5), st.sampled_from([False, False, False, True])),
    min_size=1,
    max_size=5,
)


class AtOnce(Batch):
    """As before chunks were put together."""

    def _apply(self, message: Inbound) -> None:
        super()._apply(message)
        self._flush()


class BreaksError(Exception):
    """In the middle of a transaction."""


def finish(batch: Batch, *, breaks: bool) -> None:
    if breaks:
        raise BreaksError
    batch.write()


def outcome(
    folder: Path, kind: type[Batch], transactions: list[tuple[list[list[Message]], bool]]
) -> tuple[list[Any], list[Any]]:
    """What each transaction answers and refuses, and what is stored in the end."""
    bench = IngestBench(folder)
    repository = bench.repository
    known = Known(repository, LimitsConfig(max_epochs=2))
    said: list[Any] = []
    for rows, breaks in transactions:
        batch = kind(repository, known, bench._deployer, tenant="t", t_ns=1)
        try:
            with repository.transaction():
                for name, payload in (one for row in rows for one in row):
                    batch.add(name, payload)
                finish(batch, breaks=breaks)
        except BreaksError:
            known.forget()
            continue
        said.append((sorted(batch.acks(), key=str), [(one.topic, one.reason) for one in batch.refusals], batch.counts))
    stored: list[Any] = []
    for device in DEVICES:
        stored += [repository.chunk_at(device, epoch, seq) for epoch in EPOCHS for seq in range(1, 1 + sum(SIZES))]
        stored += [(epoch, vars(ledger)) for epoch, ledger in repository.ledgers(device).items()]
        stored += [repository.absent(device, limit=99), repository.conflicts(device, limit=99)]
        stored += [repository.retired_seq(device, epoch) for epoch in EPOCHS]
        stored += repository.spans(device, since_ns=0, until_ns=1 << 62)
    repository.close()
    return said, stored


@pytest.fixture(scope="module", autouse=True)
def _no_syncs() -> Iterator[None]:
    """Nothing is cut off here, and a disk may be slow."""
    with pytest.MonkeyPatch.context() as patch:
        pragmas = ("journal_mode=MEMORY", "synchronous=OFF")
        patch.setattr("edgeinfer.console.repository.connection._PRAGMAS", pragmas)
        yield


@settings(max_examples=100)
@given(TRANSACTIONS)
def test_it_makes_no_difference_when_chunks_are_handed_over(
    transactions: list[tuple[list[list[Message]], bool]],
) -> None:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        assert outcome(Path(one), Batch, transactions) == outcome(Path(other), AtOnce, transactions)
