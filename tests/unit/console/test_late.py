"""Results that come after their numbers were settled without them are stored, once, and counted where they belong."""

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from edgeinfer.console import intake
from edgeinfer.console.audit import Auditor
from edgeinfer.console.repository.base import KeptChunk
from edgeinfer.console.second_look import SecondLook
from edgeinfer.runtime.chain import next_link
from edgeinfer.runtime.chunk import StoredChunk, tombstone
from edgeinfer.runtime.codec import Summary, summarize
from edgeinfer.sync.messages import Birth, encode
from ingest_bench import EPOCH, IngestBench, chained

LATER_CODEC = 99


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[IngestBench]:
    made = IngestBench(tmp_path)
    yield made
    made.repository.close()


def ledger_counts(bench: IngestBench) -> tuple[int, int, int, int]:
    """Stored, evicted, missing, undecodable; they are all that was made."""
    ledger = bench.repository.ledgers("dev-1")[EPOCH]
    found = (ledger.stored, ledger.evicted, ledger.missing, ledger.undecodable)
    assert sum(found) == ledger.contiguous
    assert ledger.stored == sum(span.results for span in bench.repository.spans("dev-1", since_ns=0, until_ns=1 << 62))
    return found


def counts(bench: IngestBench) -> tuple[int, int, int, int]:
    """The same, of results that can be read."""
    found = ledger_counts(bench)
    assert found[0] == len(bench.stored())
    return found


def absent(bench: IngestBench) -> list[tuple[int, int, str]]:
    return sorted((one.first, one.last, one.cause) for one in bench.repository.absent("dev-1", limit=99))


def sound(bench: IngestBench) -> bool:
    audit = Auditor(bench.repository).audit("dev-1")
    assert audit is not None
    assert audit.not_stored["vanished"] == 0
    return audit.chain.breaks == 0


def test_a_stick_that_was_written_before_the_buffer_was_full(bench: IngestBench) -> None:
    chunks = chained([10] * 5)
    gone = tombstone(1, 40, t0_ns=10, reason="full", link=chunks[3].link)
    assert bench.takes(gone, chunks[4]).seq == 50
    assert counts(bench) == (10, 40, 0, 0)
    bench.known.forget()
    ack = bench.takes(*chunks[1:3])
    assert (ack.seq, ack.conflict, ack.link) == (50, 0, chunks[4].link.hex())
    assert counts(bench) == (30, 20, 0, 0)
    assert absent(bench) == [(1, 10, "evicted"), (31, 40, "evicted")]
    bench.known.forget()
    assert bench.takes(*chunks).duplicates == 30
    assert counts(bench) == (50, 0, 0, 0)
    assert absent(bench) == []
    assert sound(bench)


def test_what_an_older_copy_of_the_database_had_lost(bench: IngestBench) -> None:
    """Its device has forgotten it, and said so; somebody still had it, and hands it in again."""
    chunks = chained([10] * 6)
    bench.takes(*chunks[:2])
    bench.hears("up/birth", encode(Birth("s", "0", {str(EPOCH): 41})))
    assert bench.takes(*chunks[4:]).seq == 60
    assert counts(bench) == (40, 0, 20, 0)
    bench.known.forget()
    assert bench.takes(*chunks).conflict == 0
    assert counts(bench) == (60, 0, 0, 0)
    assert bench.stored() == list(range(1, 61))
    assert sound(bench)


def test_another_devices_results_do_not_fill_the_place_of_lost_ones(bench: IngestBench) -> None:
    ours, theirs = chained([10] * 5), chained([10] * 5, label=1)
    bench.takes(ours[0], tombstone(11, 20, t0_ns=110, reason="full", link=ours[2].link), ours[3])
    assert bench.takes(theirs[1]).conflict == 11
    bench.takes(theirs[2])
    assert counts(bench) == (20, 20, 0, 0)
    assert absent(bench) == [(11, 30, "evicted")]


def test_what_was_counted_before_its_epoch_was_retired_stays_as_it_was_counted(bench: IngestBench) -> None:
    chunks = chained([40, 10, 5])
    bench.takes(tombstone(1, 40, t0_ns=10, reason="full", link=chunks[0].link), chunks[1])
    bench.repository.retire_epoch("dev-1", EPOCH)
    bench.known.forget()
    bench.takes(tombstone(51, 5, t0_ns=510, reason="full", link=chunks[2].link))
    assert bench.takes(chunks[0]).duplicates == 40
    ledger, retired = bench.repository.ledgers("dev-1")[EPOCH], bench.repository.retired()["dev-1"]
    assert (ledger.stored, ledger.evicted, retired.stored, retired.evicted) == (0, 5, 10, 40)
    assert sound(bench)


def test_a_chunk_that_is_late_in_part(bench: IngestBench) -> None:
    whole, following = chained([30, 10])
    bench.takes(tombstone(11, 10, t0_ns=110, reason="age"))
    bench.known.forget()
    assert bench.takes(whole, following).seq == 40
    assert counts(bench) == (40, 0, 0, 0)
    assert sound(bench)


def looked_again(bench: IngestBench) -> int:
    """As at a start; returns how many chunks could be read."""
    look = SecondLook(bench.repository, bench.batch, tenant="t")
    while look.go_on():
        pass
    return look.read


def unreadable(sizes: Sequence[int]) -> list[StoredChunk]:
    """As a device with a later codec sends them."""
    found: list[StoredChunk] = []
    link = b""
    for chunk in chained(sizes):
        link = next_link(
            link or chained([1])[0].link, first_seq=chunk.first_seq, n=chunk.n, codec=LATER_CODEC, pipeline="door",
            body=chunk.body,
        )  # fmt: skip
        found.append(msgspec.structs.replace(chunk, codec=LATER_CODEC, link=link if found else b""))
    return found


def read_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the next version of the console does."""

    def reads_more(codec: int, body: bytes, *, n: int) -> Summary:
        return summarize(1 if codec == LATER_CODEC else codec, body, n=n)

    monkeypatch.setattr(intake, "summarize", reads_more)


def test_what_cannot_be_read_is_kept_for_a_console_that_can(
    bench: IngestBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = unreadable([10, 20, 5])
    assert bench.takes(*chunks, chunks[1]).seq == 35
    assert counts(bench) == (0, 0, 0, 35)
    assert looked_again(bench) == 0, "it still cannot"
    kept = bench.repository.next_unread(0)
    assert kept is not None
    assert (kept.device, kept.epoch, kept.chunk) == ("dev-1", EPOCH, chunks[0])

    read_more(monkeypatch)
    bench.known.forget()
    assert looked_again(bench) == 3
    assert bench.repository.next_unread(0) is None
    ledger = bench.repository.ledgers("dev-1")[EPOCH]
    assert (ledger.stored, ledger.undecodable, ledger.contiguous, ledger.duplicates) == (35, 0, 35, 20)
    assert absent(bench) == []
    found = [bench.repository.chunk_at("dev-1", EPOCH, chunk.first_seq) for chunk in chunks]
    assert [one.body for one in found if one is not None] == [chunk.body for chunk in chunks]
    assert all(one is not None and zlib.crc32(one.body) == one.crc for one in found)
    device = bench.repository.device("dev-1")
    assert device is not None
    assert device.last_seen_ns == 1, "nothing was heard of it"


def test_a_conflict_elsewhere_does_not_keep_back_what_was_taken(
    bench: IngestBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was taken for these numbers when it came; nobody else's can be meant."""
    bench.takes(*unreadable([10, 20, 5]))
    bench.known.forget()
    for stranger in chained([10, 20, 5], label=1)[1:]:
        assert bench.takes(stranger).conflict == stranger.first_seq
    bench.known.forget()
    read_more(monkeypatch)
    assert looked_again(bench) == 3
    assert ledger_counts(bench) == (35, 0, 0, 0)
    assert bench.conflicts() == [(11, 1), (31, 1)]


def test_what_has_come_by_another_way_meanwhile_is_no_duplicate(
    bench: IngestBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = unreadable([10, 20])
    bench.takes(*chunks)
    read_more(monkeypatch)
    bench.takes(chunks[0])
    for read in (1, 0):
        assert looked_again(bench) == read
    assert ledger_counts(bench) == (30, 0, 0, 0)
    assert bench.repository.ledgers("dev-1")[EPOCH].duplicates == 0


def test_a_chunk_that_breaks_the_second_look_does_not_keep_back_those_behind_it(
    bench: IngestBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = unreadable([10, 20, 5])
    bench.takes(*chunks)
    read_more(monkeypatch)
    add_chunks = bench.repository.add_chunks

    def breaks(found: Sequence[KeptChunk]) -> None:
        if found[0].first_seq == 11:
            raise ArithmeticError
        add_chunks(found)

    monkeypatch.setattr(bench.repository, "add_chunks", breaks)
    look = SecondLook(bench.repository, bench.batch, tenant="t")
    with pytest.raises(ArithmeticError):
        look.go_on()
    bench.known.forget()
    assert not look.go_on()
    assert look.read == 2
    assert ledger_counts(bench) == (15, 0, 0, 20)
    left = bench.repository.next_unread(0)
    assert left is not None
    assert left.chunk == chunks[1]


def test_what_is_not_stored_at_the_second_look_is_not_dropped(
    bench: IngestBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The books of a retired epoch are closed."""
    bench.takes(*unreadable([10]))
    bench.repository.retire_epoch("dev-1", EPOCH)
    bench.known.forget()
    read_more(monkeypatch)
    for _ in range(2):
        assert looked_again(bench) == 0
        assert bench.repository.next_unread(0) is not None
    assert bench.repository.ledgers("dev-1") == {}
    assert bench.repository.retired()["dev-1"].undecodable == 10
