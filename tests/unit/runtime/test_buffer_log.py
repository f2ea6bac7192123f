"""The write-ahead log read as bytes: what SQLite would take over, and what it would lose without a word."""

import os
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from edgeinfer.runtime.buffer_file.log import frame_in, is_broken, page_in, read_runs


@pytest.fixture(params=[512, 4096])
def killed(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A database as a kill leaves it: the log has had three rounds, the last one of 40 commits."""
    path = tmp_path / "alive.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for pragma in (f"page_size={request.param}", "journal_mode=WAL", "wal_autocheckpoint=0"):
            db.execute(f"PRAGMA {pragma}").fetchone()
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
        for commits in (90, 60, 40):
            for _ in range(commits):
                db.execute("INSERT INTO t (body) VALUES (?)", (os.urandom(900),))
            for suffix in ("", "-wal"):
                shutil.copy(f"{path}{suffix}", tmp_path / f"killed.db{suffix}")
            db.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
    return tmp_path / "killed.db"


def log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def rows(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        (count,) = db.execute("SELECT count(*) FROM t").fetchone()
    return int(count)


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x40
    path.write_bytes(content)


def test_a_whole_log_is_one_run_of_the_newest_versions(killed: Path) -> None:
    found = read_runs(killed, log_of(killed))
    (run,) = found.runs
    assert run.head is None
    assert sum(frame.is_commit for frame in run.frames) == 40, "frames of earlier rounds lie behind"
    newest = {frame.page: frame.number for frame in run.frames}
    with log_of(killed).open("rb") as log:
        pages = {page: frame_in(log, number, found.page_bytes) for page, number in newest.items()}
    assert rows(killed) == 190  # and SQLite has moved the log into the file
    with killed.open("rb") as file:
        for page, content in pages.items():
            if page > 1:  # the first one has a counter that a checkpoint changes
                assert page_in(file, page, found.page_bytes) == content
    assert not is_broken(killed, log_of(killed))


@pytest.mark.parametrize("seed", range(12))
def test_what_sqlite_would_lose_is_seen(killed: Path, seed: int) -> None:
    """Whichever byte is flipped: where more than two commits are lost, the log counts as broken."""
    found = read_runs(killed, log_of(killed))
    present = 32 + len(found.runs[0].frames) * (24 + found.page_bytes)
    flip(log_of(killed), random.Random(seed).randrange(present))
    is_seen = is_broken(killed, log_of(killed))
    kept = sum(frame.is_commit for run in read_runs(killed, log_of(killed)).runs for frame in run.frames)
    lost = 190 - rows(killed)
    assert is_seen == (lost > 2) or 2 <= lost <= 3
    assert kept >= 38 if is_seen else kept == 40 - lost


def test_a_torn_end_and_what_later_commits_leave_of_it_is_no_damage(tmp_path: Path) -> None:
    """A torn commit of many frames, then a shorter one over its beginning: the rest of the torn one stays behind it."""
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for pragma in ("page_size=512", "journal_mode=WAL", "wal_autocheckpoint=0"):
            db.execute(f"PRAGMA {pragma}").fetchone()
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
        for _ in range(5):
            db.execute("INSERT INTO t (body) VALUES (?)", (os.urandom(100),))
        before = log_of(path).stat().st_size
        db.execute("INSERT INTO t (body) VALUES (?)", (os.urandom(20_000),))
        copy(path, tmp_path / "torn.db")
    flip(log_of(tmp_path / "torn.db"), before + 600)
    assert not is_broken(tmp_path / "torn.db", log_of(tmp_path / "torn.db"))
    with closing(sqlite3.connect(tmp_path / "torn.db", isolation_level=None)) as db:
        db.execute("PRAGMA wal_autocheckpoint=0").fetchone()
        db.execute("INSERT INTO t (body) VALUES (?)", (b"short",))
        copy(tmp_path / "torn.db", tmp_path / "later.db")
    assert log_of(tmp_path / "later.db").stat().st_size > before + 15_000
    assert not is_broken(tmp_path / "later.db", log_of(tmp_path / "later.db"))
    assert rows(tmp_path / "later.db") == 6


@pytest.mark.parametrize("content", [b"", b"short", bytes(5000), b"\xff" * 5000, b"\x37\x7f\x06\x82" + bytes(3000)])
def test_what_is_no_log_has_no_runs(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.db").write_bytes(b"")
    log_of(tmp_path / "a.db").write_bytes(content)
    assert read_runs(tmp_path / "a.db", log_of(tmp_path / "a.db")).runs == []
    assert not is_broken(tmp_path / "a.db", log_of(tmp_path / "a.db"))
    assert not is_broken(tmp_path / "none.db", log_of(tmp_path / "a.db"))


def copy(path: Path, to: Path) -> None:
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{to}{suffix}")
