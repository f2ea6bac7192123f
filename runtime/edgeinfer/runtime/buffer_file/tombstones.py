"""Tombstones: what is left in the place of results that are gone before anybody had them.

Each is one run of consecutive numbers with its reason; those that adjoin and have the same reason are one. So there
are never more of them than chunks that are kept, plus one, for each reason. Once it is acknowledged, a tombstone moves
into the log of what was evicted, which keeps the newest ones.
"""

import sqlite3
from collections.abc import Iterable, Sequence

import msgspec

from edgeinfer.runtime.buffer_file.schema import EVICTED, LOG_FLOOR
from edgeinfer.runtime.chunk import NO_LINK

__all__ = ["Run", "add", "clip", "forget_log", "join", "move_acknowledged", "tidy"]

# The count of a chunk has 32 bits on the wire.
_LARGEST_TOMBSTONE = 1 << 31
_LOG_ROWS = 10_000
_MOVED_AT_ONCE = 1000


class Run(msgspec.Struct, frozen=True, array_like=True):
    """`n` consecutive numbers from `first_seq` on; `link` is that of the chain after the last of them."""

    first_seq: int
    n: int
    t0_ns: int
    link: bytes = NO_LINK

    @property
    def last_seq(self) -> int:
        return self.first_seq + self.n - 1


def join(runs: Iterable[Run]) -> list[Run]:
    """Runs in order, with those that adjoin made one."""
    joined: list[Run] = []
    for run in runs:
        both = _together(joined[-1], run) if joined else None
        if both is None:
            joined.append(run)
        else:
            joined[-1] = both
    return joined


def clip(runs: Iterable[Run], acknowledged: int) -> list[Run]:
    """What of the runs lies beyond `acknowledged`: what was delivered is not lost."""
    clipped = []
    for run in runs:
        first_seq = max(run.first_seq, acknowledged + 1)
        if first_seq <= run.last_seq:
            clipped.append(Run(first_seq, run.last_seq - first_seq + 1, run.t0_ns, run.link))
    return clipped


def add(db: sqlite3.Connection, runs: Sequence[Run], *, reason: str) -> int:
    """Put tombstones in the place of the runs and count them, within a transaction. Returns how many results."""
    for run in join(runs):
        _add_one(db, run, reason)
    count = sum(run.n for run in runs)
    if count:
        db.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value",
            (EVICTED + reason, count),
        )
    return count


def move_acknowledged(db: sqlite3.Connection, acknowledged: int) -> int:
    """Move tombstones that are acknowledged into the log, within a transaction; how many. Some stay for the next time
    where there are many. The log keeps the newest rows."""
    rows = db.execute(
        "SELECT first_seq, n, reason FROM tombstone WHERE first_seq <= ?1 AND first_seq + n - 1 <= ?1 LIMIT ?2",
        (acknowledged, _MOVED_AT_ONCE),
    ).fetchall()
    db.executemany("DELETE FROM tombstone WHERE first_seq = ?", [(row[0],) for row in rows])
    db.executemany("INSERT OR REPLACE INTO evicted VALUES (?, ?, ?)", rows)
    if rows:
        _prune_log(db)
    return len(rows)


def forget_log(db: sqlite3.Connection) -> None:
    """For a new epoch, within a transaction: the log is about the numbers of the old one."""
    db.execute("DELETE FROM evicted")
    db.execute("DELETE FROM meta WHERE key = ?", (LOG_FLOOR,))


def tidy(db: sqlite3.Connection, *, below: int, count: bool) -> None:
    """Make tombstones that were found in a damaged file disjoint, within a transaction: of two that overlap, the one
    that begins first keeps its numbers; none reaches `below`. `count`: nobody has counted them yet."""
    rows = db.execute("SELECT first_seq, n, t0_ns, reason, link FROM tombstone ORDER BY first_seq").fetchall()
    db.execute("DELETE FROM tombstone")
    following = 1
    kept = []
    for first_seq, n, t0_ns, reason, link in rows:
        found = Run(first_seq, max(0, min(n, below - first_seq)), t0_ns, link)
        for run in clip([found], following - 1):
            kept.append((run.first_seq, run.n, t0_ns, reason, link))
            following = run.last_seq + 1
    db.executemany("INSERT INTO tombstone VALUES (?, ?, ?, ?, ?)", kept)
    if count:
        db.execute("INSERT INTO meta SELECT ? || reason, sum(n) FROM tombstone GROUP BY reason", (EVICTED,))


def _add_one(db: sqlite3.Connection, run: Run, reason: str) -> None:
    left = db.execute(
        "SELECT first_seq, n, t0_ns, link, reason FROM tombstone WHERE first_seq < ? ORDER BY first_seq DESC LIMIT 1",
        (run.first_seq,),
    ).fetchone()
    if left is not None and left[4] == reason:
        run = _together(Run(*left[:4]), run) or run
    right = db.execute(
        "SELECT first_seq, n, t0_ns, link, reason FROM tombstone WHERE first_seq = ?", (run.last_seq + 1,)
    ).fetchone()
    both = _together(run, Run(*right[:4])) if right is not None and right[4] == reason else None
    if both is not None:
        db.execute("DELETE FROM tombstone WHERE first_seq = ?", (right[0],))
    run = both or run
    db.execute(
        "INSERT OR REPLACE INTO tombstone VALUES (?, ?, ?, ?, ?)", (run.first_seq, run.n, run.t0_ns, reason, run.link)
    )


def _together(left: Run, right: Run) -> Run | None:
    """The two as one; None where they do not adjoin, or would be more than the wire can count."""
    if left.last_seq + 1 != right.first_seq or left.n + right.n >= _LARGEST_TOMBSTONE:
        return None
    return Run(left.first_seq, left.n + right.n, left.t0_ns, right.link)


def _prune_log(db: sqlite3.Connection) -> None:
    (count,) = db.execute("SELECT count(*) FROM evicted").fetchone()
    surplus = int(count) - _LOG_ROWS
    if surplus <= 0:
        return
    (first, n) = db.execute(
        "SELECT first_seq, n FROM evicted ORDER BY first_seq LIMIT 1 OFFSET ?", (surplus - 1,)
    ).fetchone()
    db.execute("DELETE FROM evicted WHERE first_seq <= ?", (first,))
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (LOG_FLOOR, first + n))
