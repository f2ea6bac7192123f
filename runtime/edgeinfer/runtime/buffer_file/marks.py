"""When which numbers were given: the buffer's own clock, and marks on it.

The clock of a device may say 1970, or jump by years once it hears of the right time. So the buffer has a clock of its
own: it runs while the daemon does, by CLOCK_MONOTONIC, and is kept with every commit. Time in which the device is off
or asleep does not count. Age is counted by this clock; the time of day is only noted beside it.

A mark says: at this moment every number from `first_seq` on was still to be given. One is made every ten minutes, at
each start, and when the time of day has jumped.
"""

import sqlite3
import time
from collections.abc import Callable

from edgeinfer.runtime.buffer_file.timeline import JUMP_NS, Mark

__all__ = ["Marks", "OwnClock", "first_younger", "shift"]

_SECOND_NS = 1_000_000_000
_INTERVAL_NS = 600 * _SECOND_NS
# With a limit of age, marks are as close as a tenth of it: what is too old is found by them.
_MARKS_AN_AGE = 10
_MOST_MARKS = 20_000
_PRUNED_AT_ONCE = 100


class OwnClock:
    """The buffer's clock, in ns; goes on from where it was when the buffer was last written."""

    def __init__(self, start_ns: int, *, monotonic_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._monotonic_ns = monotonic_ns
        self._zero_ns = start_ns - monotonic_ns()

    def now_ns(self) -> int:
        return max(0, self._zero_ns + self._monotonic_ns())


class Marks:
    """The table `mark`. One object for each time that the file is opened; `max_age_s` 0 is no limit."""

    def __init__(self, *, max_age_s: float) -> None:
        max_age_ns = round(max_age_s * _SECOND_NS)
        self._interval_ns = _INTERVAL_NS
        if max_age_ns:
            self._interval_ns = min(_INTERVAL_NS, max(_SECOND_NS, max_age_ns // _MARKS_AN_AGE))
        self._newest: Mark | None = None

    def note(self, db: sqlite3.Connection, mark: Mark) -> Mark | None:
        """Make a mark where one is due, within a transaction; the mark, for `keep` once that is committed."""
        if self._newest is not None and not self._is_due(self._newest, mark):
            return None
        db.execute("INSERT OR REPLACE INTO mark VALUES (?, ?, ?)", (mark.first_seq, mark.t_ns, mark.clock_ns))
        _prune(db)
        return mark

    def keep(self, mark: Mark | None) -> None:
        self._newest = mark or self._newest

    def _is_due(self, newest: Mark, mark: Mark) -> bool:
        elapsed_ns = mark.clock_ns - newest.clock_ns
        jump_ns = mark.t_ns - newest.t_ns - elapsed_ns
        return elapsed_ns >= self._interval_ns or abs(jump_ns) > JUMP_NS


def first_younger(db: sqlite3.Connection, clock_ns: int) -> int:
    """The lowest number that may be younger than a moment of the buffer's clock; every number below it is older."""
    row = db.execute(
        "SELECT first_seq FROM mark WHERE clock_ns <= ? ORDER BY first_seq DESC LIMIT 1", (clock_ns,)
    ).fetchone()
    return int(row[0]) if row is not None else 0


def shift(db: sqlite3.Connection, by: int) -> None:
    """For a new epoch, in a transaction: numbers become smaller by `by`. What was before all of them is forgotten."""
    marks = db.execute("SELECT first_seq, t_ns, clock_ns FROM mark ORDER BY first_seq").fetchall()
    db.execute("DELETE FROM mark")
    moved = [(max(1, first_seq - by), t_ns, clock_ns) for first_seq, t_ns, clock_ns in marks]
    db.executemany("INSERT OR REPLACE INTO mark VALUES (?, ?, ?)", moved)


def _prune(db: sqlite3.Connection) -> None:
    (count,) = db.execute("SELECT count(*) FROM mark").fetchone()
    if count > _MOST_MARKS:
        db.execute(
            "DELETE FROM mark WHERE first_seq IN (SELECT first_seq FROM mark ORDER BY first_seq LIMIT ?)",
            (count - _MOST_MARKS + _PRUNED_AT_ONCE,),
        )
