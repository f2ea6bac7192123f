"""The hash chain at ingest: what does not fit what is stored is refused, remembered by name and told to the device."""

import random
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edgeinfer.console.known import Known
from edgeinfer.console.settings import LimitsConfig
from edgeinfer.runtime.chain import genesis, next_link
from edgeinfer.runtime.chunk import COLUMNS, StoredChunk, tombstone
from edgeinfer.runtime.codec import encode
from edgeinfer.runtime.results import Kind, Result
from edgeinfer.sync.messages import Ack, Birth
from edgeinfer.sync.messages import encode as encode_message
from ingest_bench import EPOCH, IngestBench, chained


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[IngestBench]:
    made = IngestBench(tmp_path)
    yield made
    made.repository.close()


def numbers(ack: Ack) -> Ack:
    """What it says of numbers alone."""
    return msgspec.structs.replace(ack, link="", duplicates=0)


def test_an_acknowledgement_names_the_link_and_the_duplicates(bench: IngestBench) -> None:
    first, second, third = chained([10, 10, 10])
    assert bench.takes(second).link == genesis(EPOCH).hex(), "nothing is acknowledged yet"
    assert bench.takes(first).link == second.link.hex()
    bench.known.forget()  # as after a restart
    again = bench.takes(first, third)
    assert (again.link, again.duplicates) == (third.link.hex(), 10)


@pytest.mark.parametrize("seed", range(8))
def test_a_sound_chain_is_stored_in_whatever_order_it_comes(bench: IngestBench, seed: int) -> None:
    chunks = chained([10] * 12)
    order = random.Random(seed).sample([*chunks, *chunks], 24)
    for start in range(0, 24, 5):
        ack = bench.takes(*order[start : start + 5])
        if start == 10:
            bench.known.forget()  # as after a restart
    assert (ack.seq, ack.highest, ack.complete, ack.conflict) == (120, 120, True, 0)
    assert bench.stored() == list(range(1, 121))
    ledger = bench.repository.ledgers("dev-1")[EPOCH]
    assert (ledger.stored, ledger.duplicates, ledger.conflicts) == (120, 120, 0)


@pytest.mark.parametrize("forgotten", [False, True])
@pytest.mark.parametrize("together", [False, True])
def test_another_content_under_the_same_numbers_is_refused(
    bench: IngestBench, *, forgotten: bool, together: bool
) -> None:
    ours, theirs = chained([10, 10, 10]), chained([10, 10, 10], label=1)
    if not together:
        bench.takes(*ours[:2])
    if forgotten:
        bench.known.forget()
    ack = bench.takes(*(ours[:2] if together else ()), theirs[1], theirs[1])
    assert (ack.seq, ack.conflict) == (20, 11)
    # What follows in the other's chain does not fit either, and ours goes on.
    assert bench.takes(theirs[2]).conflict == 21
    assert numbers(bench.takes(ours[2])) == Ack(EPOCH, 30, highest=30)
    assert bench.stored() == list(range(1, 31))
    assert sorted(bench.conflicts()) == [(11, 2), (21, 1)]
    assert bench.repository.ledgers("dev-1")[EPOCH].conflicts == 3
    device = bench.repository.device("dev-1")
    assert device is not None
    assert device.refused == 3
    assert "two devices" in bench.repository.refusals(limit=1)[0].reason


def test_an_altered_chunk_is_refused_when_the_next_is_there_already(bench: IngestBench) -> None:
    first, second, third = chained([10, 10, 10])
    other = chained([10], label=1, before=first.link, first_seq=11)[0]
    assert numbers(bench.takes(first, third)) == Ack(EPOCH, 10, ((11, 20),), highest=30)
    assert numbers(bench.takes(other)) == Ack(EPOCH, 10, ((11, 20),), highest=30, conflict=11)
    assert "from 21 on" in bench.repository.conflicts("dev-1", limit=1)[0].reason
    assert numbers(bench.takes(second)) == Ack(EPOCH, 30, highest=30)


def test_the_first_chunk_follows_from_the_epoch(bench: IngestBench) -> None:
    assert numbers(bench.takes(chained([5], before=genesis(EPOCH + 1))[0])) == Ack(EPOCH, 0, conflict=1)
    assert bench.takes(chained([5])[0]).seq == 5


def test_a_tombstone_carries_the_chain_on(bench: IngestBench) -> None:
    chunks = chained([10] * 5)
    gone = tombstone(11, 20, t0_ns=110, reason="full", link=chunks[2].link)
    assert bench.takes(chunks[0], gone, chunks[3]).seq == 40
    bench.known.forget()
    wrong = chained([10], label=1, before=chunks[3].link, first_seq=31)[0]
    assert bench.takes(wrong).conflict == 31
    assert bench.takes(chunks[4], gone).seq == 50
    (absent,) = bench.repository.absent("dev-1", limit=9)
    assert (absent.first, absent.last, absent.t_ns, absent.link) == (11, 30, 110, chunks[2].link)
    assert bench.conflicts() == [(31, 1)]


def test_what_cannot_be_read_carries_the_chain_on(bench: IngestBench) -> None:
    first = chained([10])[0]
    body = b"of a later version"
    link = next_link(first.link, first_seq=11, n=5, codec=99, pipeline="door", body=body)
    unreadable = StoredChunk(11, 5, 0, "door", 99, zlib.crc32(body), body, link)
    altered = msgspec.structs.replace(unreadable, link=first.link)
    assert bench.takes(first, altered).conflict == 11
    assert numbers(bench.takes(unreadable, *chained([10], before=link, first_seq=16))) == Ack(EPOCH, 25, highest=25)
    assert bench.takes(*chained([10], before=first.link, first_seq=26)).conflict == 26


def test_only_what_is_new_of_a_chunk_is_kept_and_the_chain_goes_on(bench: IngestBench) -> None:
    """As after a packet that was too large: its first part came alone, without a link."""
    whole, following = chained([30, 10])
    results = [Result(Kind.ANOMALY, seq * 10) for seq in range(1, 31)]
    for first, last in ((1, 10), (16, 20)):
        body = encode(results[first - 1 : last], COLUMNS)
        bench.takes(StoredChunk(first, last - first + 1, 0, "door", COLUMNS, zlib.crc32(body), body))
    assert numbers(bench.takes(whole)) == Ack(EPOCH, 30, highest=30)
    bench.known.forget()
    assert numbers(bench.takes(whole, following)) == Ack(EPOCH, 40, highest=40)
    assert bench.takes(chained([10], label=1, first_seq=31)[0]).conflict == 31
    found = bench.repository.results("dev-1", after=(0, 0), limit=99)
    assert [(result.seq, result.t_ns) for result in found] == [(seq, seq * 10) for seq in range(1, 41)]
    ledger = bench.repository.ledgers("dev-1")[EPOCH]
    assert (ledger.stored, ledger.duplicates) == (40, 15 + 30)
    heads = bench.repository.heads("dev-1", EPOCH, after=0, last=99, limit=99)
    assert [(h.first_seq, h.n, h.whole, h.link != b"") for h in heads] == [
        (1, 10, True, False), (11, 5, False, False), (16, 5, True, False), (21, 10, False, True), (31, 10, True, True),
    ]  # fmt: skip


def test_chunks_without_links_are_taken_as_ever(bench: IngestBench) -> None:
    plain = [msgspec.structs.replace(chunk, link=b"") for chunk in chained([10, 10])]
    linked = chained([10, 10], first_seq=21, before=b"x" * 16)
    assert numbers(bench.takes(plain[1], plain[0], *linked)) == Ack(EPOCH, 40, highest=40)
    assert bench.takes(plain[0], *linked[::-1]).conflict == 0
    assert bench.repository.ledgers("dev-1")[EPOCH].duplicates == 30


def test_a_repeat_does_not_change_what_is_known_of_the_chain(bench: IngestBench) -> None:
    ours, theirs = chained([10, 10]), chained([10, 10], label=1, before=b"x" * 16)
    bench.takes(ours[0])
    for _ in range(2):
        assert bench.takes(msgspec.structs.replace(ours[0], link=b"")).link == ours[0].link.hex()
    assert bench.takes(theirs[1]).conflict == 11, "it is still held against the chain"


def test_nobody_is_told_their_own_link_for_what_was_stored_without_one(bench: IngestBench) -> None:
    bench.takes(msgspec.structs.replace(chained([10], label=1)[0], link=b""))
    assert bench.takes(chained([10])[0]).link == "", "it may be another's that is stored"


@pytest.mark.parametrize("size", [7, 13])
def test_a_copy_of_the_buffer_that_packs_otherwise_never_interleaves(bench: IngestBench, size: int) -> None:
    common = chained([10])[0]
    ours = chained([10, 10], before=common.link, first_seq=11)
    theirs = chained([size] * 4, before=common.link, first_seq=11, label=1)
    bench.takes(common, ours[0])
    for chunk in theirs:
        assert bench.takes(chunk).conflict == chunk.first_seq
    assert bench.takes(ours[1]).seq == 30
    results = bench.repository.results("dev-1", after=(0, 0), limit=99)
    assert [(result.seq, result.frame) for result in results] == [(seq, 0) for seq in range(1, 31)]


def test_after_a_conflict_a_lost_link_does_not_end_the_epoch(bench: IngestBench) -> None:
    ours, theirs = chained([10] * 6), chained([10] * 4, label=1)
    bench.takes(*ours[:2])
    assert bench.takes(theirs[1]).conflict == 11
    assert bench.takes(theirs[3]).conflict == 31, "what is before it may still come, and tell"
    bench.hears("up/birth", encode_message(Birth("s", "1", {str(EPOCH): 31})))
    assert bench.takes(ours[3]).seq == 40
    assert bench.takes(ours[4], ours[5]).seq == 60


def test_links_of_a_retired_epoch_are_not_remembered(bench: IngestBench) -> None:
    known = Known(bench.repository, LimitsConfig(max_epochs=1))
    bench.known = known
    bench.takes(*chained([10]))
    known.ledger("dev-1", EPOCH + 1)
    assert not known.links._recent


def test_more_gaps_than_are_named_are_told_as_such(bench: IngestBench) -> None:
    chunks = chained([1] * 241)
    ack = bench.takes(*chunks[::2])
    assert (ack.seq, len(ack.gaps), ack.highest, ack.complete) == (1, 100, 241, False)
