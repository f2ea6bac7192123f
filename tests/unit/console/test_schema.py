"""A database of an earlier schema is brought to the present one with everything that it holds."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgeinfer.console.repository import SqliteRepository, conversion
from edgeinfer.console.repository.base import StoredResult
from edgeinfer.console.repository.schema import STEPS
from edgeinfer.runtime.results import Item, Kind


def _old_file(path: Path, steps: int, fill: Callable[[sqlite3.Connection], None]) -> Path:
    """As an edgeinfer left it that knew only the first `steps`."""
    db = sqlite3.connect(path)
    for step in STEPS[:steps]:
        assert isinstance(step, str)
        db.executescript(step)
    db.execute("INSERT INTO device (id, name, first_seen_ns, last_seen_ns) VALUES (1, 'dev-1', 1, 1)")
    db.executemany("INSERT INTO pipeline (id, device, name) VALUES (?, 1, ?)", [(1, "door"), (2, "lane")])
    fill(db)
    db.execute(f"PRAGMA user_version = {steps}")
    db.commit()
    db.close()
    return path


def _row(epoch: int, seq: int, *, pipeline: int = 1, items: int = 1) -> tuple[Any, ...]:
    packed = msgspec.msgpack.encode(tuple(Item(seq % 7, 0.5, (0.0, 0.0, 1.0, 1.0)) for _ in range(items)))
    extra = msgspec.msgpack.encode({"a": seq}) if seq % 3 == 0 else None
    return (1, epoch, seq, pipeline, Kind.DETECTION, seq * 10, seq - 1, 900, 2000, packed if items else None, extra)


def _insert(db: sqlite3.Connection, rows: list[tuple[Any, ...]]) -> None:
    db.executemany("INSERT INTO result VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)


def _expected(row: tuple[Any, ...]) -> StoredResult:
    _, epoch, seq, pipeline, kind, t_ns, frame, latency_us, age_us, items, extra = row
    return StoredResult(
        device="dev-1",
        epoch=epoch,
        seq=seq,
        pipeline={1: "door", 2: "lane"}[pipeline],
        kind=kind,
        t_ns=t_ns,
        frame=frame,
        latency_us=latency_us,
        age_us=age_us,
        items=msgspec.msgpack.decode(items, type=tuple[Item, ...]) if items else (),
        extra=msgspec.msgpack.decode(extra) if extra else None,
    )


def _all(path: Path) -> list[StoredResult]:
    opened = SqliteRepository(path)
    found = opened.results("dev-1", after=(0, 0), limit=100_000)
    opened.close()
    return found


def test_a_file_of_the_first_schema_keeps_its_epochs(tmp_path: Path) -> None:
    def fill(db: sqlite3.Connection) -> None:
        for epoch in (900, 400):
            db.execute("INSERT INTO progress VALUES (1, ?, 2, '[]', 2, 0, 0, 0)", (epoch,))
            _insert(db, [_row(epoch, seq) for seq in (1, 2)])

    opened = SqliteRepository(_old_file(tmp_path / "console.db", 1, fill))
    assert {epoch: ledger.stored for epoch, ledger in opened.ledgers("dev-1").items()} == {400: 2, 900: 2}
    places = [(r.epoch, r.seq) for r in opened.results("dev-1", after=(0, 0), limit=9)]
    assert places == [(400, 1), (400, 2), (900, 1), (900, 2)]
    opened.close()


def _history(db: sqlite3.Connection) -> list[tuple[Any, ...]]:
    """Two epochs, two pipelines in turns, holes, and results too large to lie in one chunk."""
    for ordinal, epoch in enumerate((900, 400), start=1):
        db.execute("INSERT INTO epoch (device, epoch, ordinal) VALUES (1, ?, ?)", (epoch, ordinal))
    rows = [_row(900, seq, pipeline=1 + seq // 40 % 2) for seq in range(1, 2500) if not 100 <= seq < 130]
    rows += [_row(400, seq, items=seq % 3) for seq in range(5, 50)]
    rows += [_row(400, seq, items=400) for seq in range(50, 250)]
    _insert(db, rows)
    return rows


def test_rows_become_chunks_and_say_what_they_said(tmp_path: Path) -> None:
    rows: list[tuple[Any, ...]] = []
    path = _old_file(tmp_path / "console.db", 2, lambda db: rows.extend(_history(db)))
    assert _all(path) == [_expected(row) for row in rows]
    db = sqlite3.connect(path)
    assert db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'result'").fetchone() == (0,)
    assert db.execute("SELECT count(*) FROM chunk").fetchone()[0] < 100
    db.close()


def test_a_conversion_that_was_interrupted_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[tuple[Any, ...]] = []
    path = _old_file(tmp_path / "console.db", 2, lambda db: rows.extend(_history(db)))
    monkeypatch.setattr(conversion, "_TURN", 500)
    turns = iter(range(100))

    def stop_sometimes(*_: object) -> None:
        if next(turns) % 3 == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(conversion._log, "info", stop_sometimes)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            SqliteRepository(path)
    assert _all(path) == [_expected(row) for row in rows]
