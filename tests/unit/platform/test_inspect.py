"""The audit finds every gap, double and damage, also while the daemon writes; results are read from the end."""

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.cli import main
from edgeinfer.runtime.buffer import Buffer, BufferConfig
from edgeinfer.runtime.handoff import SyncDb
from edgeinfer.runtime.inspect import Head, audit, check_continuity, results
from edgeinfer.runtime.results import Item, Kind, Result


def fill(folder: Path, count: int, *, pipeline: str = "door", acknowledged: int = 0) -> Buffer:
    buffer = Buffer(BufferConfig(path=str(folder / "buffer.db"), chunk_results=10), acknowledged=lambda _: acknowledged)
    for number in range(count):
        buffer.append(
            pipeline, Result(Kind.CLASSIFICATION, 1_700_000_000_000_000_000 + number, number, 5, 9, (Item(1, 0.5),))
        )
    assert buffer.flush(10.0)
    return buffer


def test_audit_of_an_undisturbed_device(tmp_path: Path) -> None:
    fill(tmp_path, 95).close()
    found = audit(tmp_path, None)
    assert (found.made, found.durable, found.held, found.sent, found.acknowledged) == (95, 95, 95, 0, 0)
    assert (found.gaps, found.duplicates, found.damaged, found.ok) == ((), 0, 0, True)


def test_audit_while_the_daemon_lives_and_the_agent_has_delivered(tmp_path: Path) -> None:
    buffer = fill(tmp_path, 95)
    with SyncDb(tmp_path / "sync.db") as sync:
        sync.set_acknowledged(buffer.epoch, 40)
        sync.set_counter("sent", 60)
        sync.set_counter("sent_epoch", buffer.epoch)
        found = audit(tmp_path, tmp_path)
    buffer.close()
    assert (found.sent, found.acknowledged, found.ok) == (60, 40, True)
    assert found.epoch == buffer.epoch


def test_audit_finds_what_was_lost_and_what_was_damaged(tmp_path: Path) -> None:
    fill(tmp_path, 50).close()
    with sqlite3.connect(tmp_path / "buffer.db") as db:
        table = db.execute("SELECT 'seg_' || max(id) FROM segment").fetchone()[0]
        db.execute(f"DELETE FROM {table} WHERE first_seq = 11")  # noqa: S608 - our own name
        db.execute(f"UPDATE {table} SET body = x'00' WHERE first_seq = 31")  # noqa: S608 - our own name
    db.close()
    found = audit(tmp_path, None)
    assert (found.gaps, found.duplicates, found.damaged, found.ok) == (((11, 20),), 0, 1, False)


def head(first: int, last: int, *, tombstone: bool = False) -> Head:
    return Head(first, last, tombstone, is_sound=True)


@pytest.mark.parametrize(
    ("chunks", "last", "acknowledged", "gaps", "duplicates"),
    [
        ([], 0, 0, (), 0),
        ([], 5, 0, ((1, 5),), 0),
        ([], 5, 5, (), 0),
        ([], 5, 3, ((4, 5),), 0),
        ([head(1, 5), head(6, 9)], 9, 0, (), 0),
        ([head(3, 5)], 5, 0, ((1, 2),), 0),
        ([head(3, 5)], 5, 1, ((2, 2),), 0),
        ([head(3, 5)], 5, 2, (), 0),
        ([head(3, 5)], 5, 9, (), 0),
        ([head(1, 5), head(4, 8)], 8, 0, (), 2),
        ([head(1, 5), head(2, 3)], 5, 0, (), 2),
        ([head(1, 5), head(1, 8, tombstone=True), head(9, 9)], 9, 0, (), 0),
        ([head(1, 5), head(8, 9)], 12, 0, ((6, 7), (10, 12)), 0),
    ],
)
def test_continuity(
    chunks: list[Head], last: int, acknowledged: int, gaps: tuple[tuple[int, int], ...], duplicates: int
) -> None:
    found = check_continuity(chunks, last=last, acknowledged=acknowledged)
    assert (found.gaps, found.duplicates) == (gaps, duplicates)


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(0, 45))
def test_continuity_agrees_with_counting(kept: list[bool], acknowledged: int) -> None:
    chunks = [head(number, number) for number, keep in enumerate(kept, start=1) if keep]
    found = check_continuity(chunks, last=len(kept), acknowledged=acknowledged)
    missing = [number for number, keep in enumerate(kept, start=1) if not keep and number > acknowledged]
    listed = [number for first, last in found.gaps for number in range(first, last + 1)]
    assert listed == missing


@pytest.mark.parametrize(("limit", "first"), [(1, 2500), (20, 2481), (2000, 501), (9999, 1)])
def test_results_from_the_end(tmp_path: Path, limit: int, first: int) -> None:
    fill(tmp_path, 2500).close()
    found = results(tmp_path, limit=limit)
    assert [stored.seq for stored in found] == list(range(first, 2501))
    assert found[-1].result.frame == 2499


def test_results_of_one_pipeline_and_after_a_number(tmp_path: Path) -> None:
    fill(tmp_path, 15, pipeline="a").close()
    fill(tmp_path, 15, pipeline="b").close()
    assert [stored.seq for stored in results(tmp_path, pipeline="b", limit=99)] == list(range(16, 31))
    assert [stored.seq for stored in results(tmp_path, after_seq=28, limit=99)] == [29, 30]
    assert results(tmp_path, after_seq=30, limit=99) == []


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, 3).close()
    assert main(["results", "--state-dir", str(tmp_path), "--limit", "1"]) == 0
    line = "3 2023-11-14T22:13:20.000Z door classification frame=2 latency_us=5 1:0.500\n"
    assert capsys.readouterr().out == line
    assert main(["audit", "--state-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith("nothing is missing\n")


def test_audit_document_has_the_promised_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    fill(tmp_path, 3).close()
    assert main(["audit", "--state-dir", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    promised = {"epoch", "made", "durable", "sent", "acknowledged", "evicted", "gaps", "duplicates", "frames"}
    assert promised <= document.keys()
    assert (document["gaps"], document["duplicates"]) == ([], 0)


def test_no_buffer_is_an_error_with_a_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "--state-dir", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"edgeinfer: error: {tmp_path}/buffer.db: no such database\n  hint: ")
