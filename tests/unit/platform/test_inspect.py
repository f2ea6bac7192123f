"""The audit finds every gap, double and damage, also while the daemon writes; results are read from the end."""

import json
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buffer_files import new, rotate
from edgeinfer.cli import main
from edgeinfer.runtime.audit import Head, audit, check_continuity
from edgeinfer.runtime.buffer import Buffer, BufferConfig
from edgeinfer.runtime.buffer_file import aside
from edgeinfer.runtime.buffer_file.marks import OwnClock
from edgeinfer.runtime.buffer_store import BufferStore
from edgeinfer.runtime.errors import UsageError
from edgeinfer.runtime.handoff import RuntimeDb, SyncDb
from edgeinfer.runtime.inspect import results
from edgeinfer.runtime.moments import parse_moment
from edgeinfer.runtime.results import Item, Kind, Result

EIGHT_O_CLOCK_S = 1_772_352_000  # 2026-03-01T08:00:00Z


def fill(folder: Path, count: int, *, pipeline: str = "door", acknowledged: int = 0) -> Buffer:
    buffer = Buffer(BufferConfig(path=str(folder / "buffer.db"), chunk_results=10), acknowledged=lambda _: acknowledged)
    for number in range(count):
        buffer.append(
            pipeline, Result(Kind.CLASSIFICATION, 1_700_000_000_000_000_000 + number, number, 5, 9, (Item(1, 0.5),))
        )
    assert buffer.flush(60)
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


def test_audit_knows_what_was_left_on_a_buffer_that_is_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, 20).close()
    command = ["audit", "--state-dir", str(tmp_path), "--sync-dir", str(tmp_path)]
    with SyncDb(tmp_path / "sync.db") as sync:
        sync.set_upload_progress(5, 30, sent_through=30, sent=30, made=30)
        assert (audit(tmp_path, tmp_path).left, main(command)) == ((), 0)
        sync.set_upload_progress(6, 40, sent_through=50, sent=60, made=75)
        assert audit(tmp_path, tmp_path).left == ((6, 41, 75),), "before the agent has seen the new one"
        epoch = audit(tmp_path, tmp_path).epoch
        for acknowledged in (0, 20):
            sync.set_upload_progress(epoch, acknowledged, sent_through=20, sent=20, made=20)
            assert audit(tmp_path, tmp_path).left == ((6, 41, 75),)
        capsys.readouterr()
        assert main(command) == 1
        assert "left          41-75 of an earlier buffer (epoch 6)" in capsys.readouterr().out
        sync.set_acknowledged(6, 75)
        assert audit(tmp_path, tmp_path).ok


def test_audit_reads_the_database_of_an_older_agent(tmp_path: Path) -> None:
    fill(tmp_path, 20).close()
    with SyncDb(tmp_path / "sync.db") as sync:
        sync.set_upload_progress(6, 40, sent_through=50, sent=60)
    with sqlite3.connect(tmp_path / "sync.db") as db:
        db.execute("DROP TABLE ended")
    db.close()
    assert audit(tmp_path, tmp_path).left == ((6, 41, 60),)


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


def test_a_pipeline_that_is_not_here_is_told_which_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, 3, pipeline="door").close()
    status = {"models": {"m": {"digest": "d"}}, "pipelines": {"gate": {"model": "m"}}}
    with RuntimeDb(tmp_path / "runtime.db") as db:
        db.set_status(json.dumps(status).encode())
    assert main(["results", "--state-dir", str(tmp_path), "--pipeline", "dor"]) == 2
    assert capsys.readouterr() == (
        "",
        "edgeinfer: error: --pipeline: there is no pipeline 'dor' here\n  hint: there are door, gate\n",
    )
    assert main(["results", "--state-dir", str(tmp_path), "--pipeline", "gate"]) == 0, "it has no results yet"
    assert capsys.readouterr() == ("", "")


def test_audit_document_has_the_promised_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, 3).close()
    assert main(["audit", "--state-dir", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    promised = {"epoch", "made", "durable", "sent", "acknowledged", "evicted", "gaps", "duplicates", "frames"}
    assert promised <= document.keys()
    assert (document["gaps"], document["duplicates"]) == ([], 0)


def test_no_buffer_is_an_error_with_a_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "--state-dir", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"edgeinfer: error: {tmp_path}/buffer.db: no such database\n  hint: ")


class TestRanges:
    """`edgeinfer audit --since --until`: exact by numbers, rounded outwards to marks."""

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """100 results at each full hour of a morning; the 2nd hour's were given up, the 3rd's acknowledged."""
        monkeypatch.setattr("edgeinfer.runtime.buffer_file.file.time.time_ns", lambda: self.clock_s * 1_000_000_000)
        store = BufferStore(tmp_path / "buffer.db", max_bytes=1 << 22)
        self.clock_s = 0
        for hour in range(6, 11):
            self.clock_s = EIGHT_O_CLOCK_S + (hour - 8) * 3600
            store._file.clock = OwnClock(hour * 3600 * 1_000_000_000)
            store.write([new(b"%d" % hour, n=100)])
            rotate(store)
        evict(store, 2)
        with SyncDb(tmp_path / "sync.db") as sync:
            sync.set_upload_progress(store.epoch, 250, sent_through=350, sent=420)
        store.close()
        return tmp_path

    clock_s = 0

    @pytest.mark.parametrize(
        ("since", "until", "numbers", "sent", "acknowledged", "evicted"),
        [
            ("2026-03-01T07:10", "2026-03-01T07:20", [[101, 200]], 100, 100, {"full": 100}),
            ("2026-03-01T07:10", "2026-03-01T08:20", [[101, 300]], 200, 150, {"full": 100}),
            ("2026-03-01T09:30", "", [[301, 500]], 50, 0, {}),
            ("2026-03-01T10:30", "", [], 0, 0, {}),
            ("", "2026-02-01", [], 0, 0, {}),
            ("2026-01-01", "2026-04-01", [[1, 500]], 350, 250, {"full": 100}),
        ],
    )
    def test_counts(
        self,
        folder: Path,
        capsys: pytest.CaptureFixture[str],
        since: str,
        until: str,
        numbers: list[list[int]],
        sent: int,
        acknowledged: int,
        evicted: dict[str, int],
    ) -> None:
        options = [part for name, value in (("--since", since), ("--until", until)) if value for part in (name, value)]
        command = ["audit", "--state-dir", str(folder), "--sync-dir", str(folder), *options]
        assert main([*command, "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        found = document["range"]
        assert found["numbers"] == numbers
        made = sum(last - first + 1 for first, last in numbers)
        assert (found["made"], found["durable"]) == (made, made)
        assert (found["sent"], found["acknowledged"], found["evicted"]) == (sent, acknowledged, evicted)
        assert (found["gaps"], found["evicted_is_complete"], document["made"]) == ([], True, 500)
        assert main(command) == 0
        assert f"  made          {made}\n" in capsys.readouterr().out

    def test_a_person_sees_the_moments_that_are_meant(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        options = ["--since", "2026-03-01T07:10:00Z", "--until", "2026-03-01T07:20:00Z"]
        assert main(["audit", "--state-dir", str(folder), "--sync-dir", str(folder), *options]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert "numbered from 2026-03-01T07:00:00Z to 2026-03-01T08:00:00Z, rounded outwards:" in lines
        assert "  evicted       100 (full: 100)" in lines

    @pytest.mark.parametrize(
        ("text", "ns"),
        [
            ("2h", 10**18 - 7200 * 10**9),
            ("1.5 d ago", 10**18 - 129_600 * 10**9),
            ("1970-01-02", 86_400 * 10**9),
            ("1970-01-01T01:00+01:00", 0),
            ("100w", 10**18 - 60_480_000 * 10**9),
        ],
    )
    def test_moments(self, text: str, ns: int) -> None:
        assert parse_moment(text, now_ns=10**18) == ns

    @pytest.mark.parametrize("text", ["", "yesterday", "2 fortnights", "2026-13-01"])
    def test_what_is_no_moment(self, text: str) -> None:
        with pytest.raises(UsageError, match="how long ago"):
            parse_moment(text, now_ns=10**18)


def evict(store: BufferStore, number: int) -> None:
    (segment,) = [one for one in store._file.lanes if one.first_seq == 100 * (number - 1) + 1]
    store._file.evict(segment, 0, reason="full")


def test_a_salvage_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, 95).close()
    aside.set_aside(tmp_path / "buffer.db")
    store = BufferStore(tmp_path / "buffer.db", max_bytes=1 << 22)
    assert main(["audit", "--state-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith("a damaged buffer is being salvaged: ask again when that is done\n")
    while store.is_salvaging:
        store.salvage_step()
    store.close()
    assert main(["audit", "--state-dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "salvaged      95 results from buffer.db.damaged-" in out
    assert out.endswith("nothing is missing\n")
