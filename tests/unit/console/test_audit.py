"""The audit of any stretch of time: exact for what is stored, and never less than what is missing."""

import random
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edgeinfer.console.audit import Auditor, RangeAudit
from edgeinfer.console.repository.base import DeviceChange, Span
from edgeinfer.console.verdict import findings
from edgeinfer.runtime.chunk import COLUMNS, StoredChunk, tombstone
from edgeinfer.runtime.codec import encode as encode_results
from edgeinfer.runtime.results import Kind, Result
from edgeinfer.sync.messages import Birth, ReportedState, encode
from ingest_bench import EPOCH, IngestBench, chained


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[IngestBench]:
    made = IngestBench(tmp_path)
    yield made
    made.repository.close()


# How far apart results are made where times matter: what is missing is looked for a minute around its neighbours.
STEP_NS = 100 * 10**9


def _audit(bench: IngestBench, since_ns: int | None = None, until_ns: int | None = None) -> RangeAudit:
    found = Auditor(bench.repository).audit("dev-1", since_ns=since_ns, until_ns=until_ns)
    assert found is not None
    assert found.made == found.stored + sum(found.not_stored.values())
    return found


def _not_stored(found: RangeAudit) -> dict[str, int]:
    return {cause: n for cause, n in found.not_stored.items() if n}


def test_nothing_is_missing(bench: IngestBench) -> None:
    bench.takes(*chained([10] * 300))
    found = _audit(bench)
    assert (found.complete, found.made, found.stored, found.acknowledged) == (True, 3000, 3000, 3000)
    assert (found.epochs, _not_stored(found), found.holes) == ((EPOCH,), {}, ())
    chain = found.chain
    assert (chain.chunks, chain.verified, chain.unlinked, chain.unanchored, chain.breaks) == (300, 300, 0, 0, 0)
    assert Auditor(bench.repository).audit("nobody") is None


@pytest.mark.parametrize(("since", "until", "n"), [(1, 31, 30), (4, 5, 1), (11, 11, 0), (15, 26, 11), (31, 99, 0)])
def test_a_range_is_exact_at_its_edges(bench: IngestBench, since: int, until: int, n: int) -> None:
    bench.takes(*chained([10] * 3, step_ns=1))
    found = _audit(bench, since, until)
    assert (found.stored, found.made, found.complete) == (n, n, True)


def test_what_is_not_stored_is_named_with_its_cause_and_its_time(bench: IngestBench) -> None:
    chunks = chained([10] * 10, step_ns=STEP_NS)
    unreadable = msgspec.structs.replace(chunks[6], codec=99, link=b"")
    bench.hears("up/birth", encode(Birth("s", "1", {str(EPOCH): 11})))
    gone = tombstone(21, 20, t0_ns=23 * STEP_NS, reason="full", link=chunks[3].link)
    bench.takes(chunks[1], gone, chunks[4], unreadable)
    bench.takes(chunks[8])
    bench.repository.change_device(
        "dev-1", DeviceChange(reported={"audit": {"epoch": EPOCH, "made": 120, "durable": 110, "x": "?"}}), t_ns=1
    )
    found = _audit(bench)
    assert (found.stored, found.made, found.acknowledged) == (30, 120, 70)
    assert _not_stored(found) == {"missing": 10, "undecodable": 10, "awaited": 20, "unsent": 30, "evicted": 20}
    assert found.evicted_because == {"full": 20}
    times = [tuple(t and t // STEP_NS for t in (h.from_ns, h.to_ns)) for h in found.holes]
    assert [(h.first, h.last, h.cause, *t) for h, t in zip(found.holes, times, strict=True)] == [
        (1, 10, "missing", None, 20),
        (61, 70, "undecodable", 41, 90),
        (51, 60, "awaited", 41, 90),
        (71, 80, "awaited", 41, 90),
        (91, 120, "unsent", 81, None),
        (21, 40, "evicted", 23, 50),
    ]
    assert not found.complete
    assert found.device_says == {"epoch": EPOCH, "made": 120, "durable": 110}
    assert _not_stored(_audit(bench, 91 * STEP_NS, 92 * STEP_NS)) == {"unsent": 30}
    assert _not_stored(_audit(bench, 0, 21 * STEP_NS)) == {"missing": 10}
    assert _not_stored(_audit(bench, 21 * STEP_NS, 22 * STEP_NS)) == {}
    assert _audit(bench, 21 * STEP_NS, 22 * STEP_NS).complete


def test_what_was_left_on_a_buffer_that_is_gone_is_not_forgotten(bench: IngestBench) -> None:
    bench.takes(*chained([10] * 3))
    bench.hears("up/reported", encode(ReportedState(1, audit={"epoch": EPOCH, "made": 75})))
    assert _not_stored(_audit(bench)) == {"unsent": 45}
    bench.known.forget()
    bench.hears("up/reported", encode(ReportedState(1, audit={"epoch": EPOCH + 1, "made": 5})))
    found = _audit(bench)
    assert (found.made, found.stored, found.acknowledged) == (80, 30, 30)
    assert _not_stored(found) == {"left": 45, "unsent": 5}
    assert findings(found)[0].level == "bad"
    bench.takes(*chained([10] * 8)[3:])  # it was found again, on a stick or in a drawer
    assert _not_stored(_audit(bench)) == {"unsent": 5}


@pytest.mark.parametrize("audit", [{}, {"made": 5}, {"epoch": EPOCH, "made": True}, {"epoch": "7", "made": 1 << 63}])
def test_a_report_of_nothing_is_no_claim(bench: IngestBench, audit: dict[str, object]) -> None:
    bench.takes(*chained([10]))
    bench.hears("up/reported", encode(ReportedState(1, audit=audit)))
    assert bench.repository.ledgers("dev-1")[EPOCH].made == 0


def test_a_tombstone_carries_the_chain_and_what_follows_a_loss_is_not_checked(bench: IngestBench) -> None:
    chunks = chained([10] * 6)
    bench.takes(chunks[0], tombstone(11, 10, t0_ns=0, reason="full", link=chunks[1].link), chunks[2], chunks[4])
    bench.takes(msgspec.structs.replace(chunks[5], link=b""))
    chain = _audit(bench).chain
    assert (chain.verified, chain.unanchored, chain.unlinked, chain.breaks) == (2, 1, 1, 0)


def _tamper(folder: Path, query: str, *values: object) -> None:
    db = sqlite3.connect(folder / "console.db")
    assert db.execute(query, values).rowcount == 1
    db.commit()
    db.close()


@pytest.mark.parametrize("with_checksum", [False, True])
def test_an_altered_chunk_is_found(bench: IngestBench, tmp_path: Path, *, with_checksum: bool) -> None:
    bench.takes(*chained([10] * 5))
    (other,) = chained([10], first_seq=21, label=1)
    if with_checksum:
        _tamper(tmp_path, "UPDATE chunk SET body = ?, crc = ? WHERE first_seq = 21", other.body, other.crc)
    else:
        _tamper(tmp_path, "UPDATE chunk SET body = ? WHERE first_seq = 21", other.body)
    found = _audit(bench)
    assert (found.complete, found.chain.breaks, found.chain.verified) == (False, 1, 4)
    assert [(b.epoch, b.first, b.last) for b in found.chain.broken] == [(EPOCH, 21, 30)]
    assert ("checksum" in found.chain.broken[0].what) != with_checksum
    assert _audit(bench, 0, 200).complete
    assert not _audit(bench, 0, 211).complete


def test_a_removed_chunk_is_found(bench: IngestBench, tmp_path: Path) -> None:
    bench.takes(*chained([10] * 5, step_ns=STEP_NS))
    for first in (21, 41):
        _tamper(tmp_path, "DELETE FROM chunk WHERE first_seq = ?", first)
    found = _audit(bench)
    assert (found.made, found.stored, _not_stored(found), found.complete) == (50, 30, {"vanished": 20}, False)
    assert [(h.first, h.last) for h in found.holes] == [(21, 30), (41, 50)]
    assert [h.from_ns for h in found.holes] == [11 * STEP_NS, 31 * STEP_NS]
    assert [h.to_ns for h in found.holes] == [40 * STEP_NS, None]
    assert _not_stored(_audit(bench, 25 * STEP_NS, 26 * STEP_NS)) == {"vanished": 10}
    _tamper(tmp_path, "DELETE FROM chunk WHERE first_seq = ?", 1)
    for first in (11, 31):
        _tamper(tmp_path, "DELETE FROM chunk WHERE first_seq = ?", first)
    assert _not_stored(_audit(bench)) == {"vanished": 50}


def test_a_retired_epoch_is_still_audited(bench: IngestBench, tmp_path: Path) -> None:
    bench.takes(*chained([10] * 5))
    bench.takes(chained([10])[0])
    bench.repository.retire_epoch("dev-1", EPOCH)
    bench.known.forget()
    found = _audit(bench)
    assert (found.complete, found.made, found.chain.verified, found.duplicates) == (True, 50, 5, 10)
    _tamper(tmp_path, "DELETE FROM chunk WHERE first_seq = 21")
    assert _not_stored(_audit(bench)) == {"vanished": 10}


@pytest.mark.parametrize("seed", range(12))
def test_no_range_shows_less_than_what_is_missing_in_it(bench: IngestBench, seed: int) -> None:
    """Chunks in the order of their times, of which some never come: against a list of all results."""
    choose = random.Random(seed)
    chunks = chained([choose.randint(1, 30) for _ in range(40)], step_ns=7)
    stored: set[int] = set()
    absent: set[int] = set()
    for chunk in chunks:
        fate = choose.choice(["store", "store", "store", "evict", "lose", "garble"])
        numbers = set(range(chunk.first_seq, chunk.last_seq + 1))
        if fate == "store":
            bench.takes(chunk)
            stored |= numbers
            continue
        absent |= numbers
        if fate == "evict":
            bench.takes(tombstone(chunk.first_seq, chunk.n, t0_ns=chunk.first_seq * 7, reason="full", link=chunk.link))
        elif fate == "garble":
            bench.takes(_garbled(chunk))
    made = chunks[-1].last_seq
    reported = {"audit": {"epoch": EPOCH, "made": made}}
    bench.repository.change_device("dev-1", DeviceChange(reported=reported), t_ns=1)
    whole = _audit(bench)
    assert (whole.stored, whole.made, whole.chain.breaks) == (len(stored), made, 0)
    named = {number for hole in whole.holes for number in range(hole.first, hole.last + 1)}
    assert named == absent
    for _ in range(30):
        low, high = sorted(choose.sample(range(made * 7 + 20), 2))
        inside = {number for number in range(1, made + 1) if low <= number * 7 < high}
        part = _audit(bench, low, high)
        assert part.stored == len(stored & inside)
        named = {number for hole in part.holes for number in range(hole.first, hole.last + 1)}
        assert absent & inside <= named


def _at(first_seq: int, times_ns: list[int]) -> StoredChunk:
    body = encode_results([Result(Kind.ANOMALY, t_ns) for t_ns in times_ns], COLUMNS)
    return StoredChunk(first_seq, len(times_ns), 0, "door", COLUMNS, zlib.crc32(body), body)


def test_a_hole_behind_an_event_may_be_older_than_it(bench: IngestBench) -> None:
    """An event is numbered at once, the results of the second before it afterwards."""
    second = 10**9
    bench.takes(_at(1, [5 * second]), _at(12, [5 * second + 1, 6 * second]))
    assert _not_stored(_audit(bench, 4 * second, 4 * second + 1)) == {"awaited": 10}
    assert _not_stored(_audit(bench, 500 * second, 600 * second)) == {}


def test_where_the_clock_went_back_a_hole_is_in_every_range(bench: IngestBench) -> None:
    bench.takes(_at(1, [1000 * STEP_NS]), _at(12, [500 * STEP_NS]))
    for moment in (1, 499, 700, 1001):
        found = _audit(bench, moment * STEP_NS, moment * STEP_NS + 1)
        assert [(h.n, h.from_ns, h.to_ns) for h in found.holes] == [(10, None, None)]


def test_more_is_absent_than_is_kept_by_name(bench: IngestBench, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("audit._ABSENT", "repository.sqlite_records._ABSENT_KEPT"):
        monkeypatch.setattr(f"edgeinfer.console.{name}", 6)
    for seq in range(1, 21, 2):
        bench.takes(tombstone(seq, 2, t0_ns=0, reason=f"full {seq}"))
    bench.takes(*chained([5], first_seq=21, before=b"x" * 16))
    found = _audit(bench)
    assert (found.made, found.stored) == (25, 5)
    assert _not_stored(found) == {"evicted": 12, "unlisted": 8}


def test_what_comes_while_it_is_looked_at_is_not_counted_twice(
    bench: IngestBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = chained([10] * 4)
    bench.takes(chunks[0], chunks[2])
    reported = {"audit": {"epoch": EPOCH, "made": 40}}
    bench.repository.change_device("dev-1", DeviceChange(reported=reported), t_ns=1)
    real = bench.repository.spans

    def late(device: str, *, since_ns: int, until_ns: int) -> list[Span]:
        bench.takes(chunks[1], chunks[3])
        return real(device, since_ns=since_ns, until_ns=until_ns)

    monkeypatch.setattr(bench.repository, "spans", late)
    found = _audit(bench)
    assert (found.made, found.stored, _not_stored(found)) == (40, 20, {"awaited": 10, "unsent": 10})


def _garbled(chunk: StoredChunk) -> StoredChunk:
    body = b"?" + chunk.body[1:]
    return msgspec.structs.replace(chunk, body=body, crc=zlib.crc32(body), link=b"")
