"""Keeps the books of a device's data: the budget's decisions with clocks, interfaces and a place in `sync.db`.

meter = Meter(config.network, db)
meter.follow(link.local_address, now_s)                # at each new connection
if meter.room(Priority.RESULTS, now_s) > 0: ...; meter.spent(Priority.RESULTS, len(raw), now_s)
"""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.handoff import SyncDb
from edgeinfer.runtime.rules.local_time import LocalTime
from edgeinfer.sync.allowance import Priority
from edgeinfer.sync.budget import Budget, Ledger, NetworkConfig
from edgeinfer.sync.day_count import DayCount
from edgeinfer.sync.loglimit import LogLimit
from edgeinfer.sync.network import interface_of, kind_of_interface

__all__ = ["Meter"]

_log = logging.getLogger(__name__)

_NOTE = "ledger"
_LOOK_S = 1.0


class Meter:
    """An `Allowance` whose books survive. `steady_s` counts through sleep; `wall_ns` is the wall clock."""

    def __init__(
        self,
        networks: Sequence[NetworkConfig],
        db: SyncDb,
        *,
        blobs_per_day: int = 0,
        sys: Path = Path("/sys"),
        steady_s: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._db = db
        self._sys = sys
        self._steady_s = steady_s
        self._wall_ns = wall_ns
        self._is_limited = bool(networks)
        ledger = self._load()
        self._days = DayCount(ledger.day)
        self._budget = Budget(networks, ledger, blobs_per_day=blobs_per_day)
        self._local = LocalTime()
        self._looked_s = float("-inf")
        self._limit = LogLimit()

    @property
    def network(self) -> str:
        return self._budget.kind

    @property
    def report_interval_s(self) -> float:
        return self._budget.report_interval_s

    def usage(self) -> dict[str, dict[str, int]]:
        """Bytes of the present day by network, and by what was sent."""
        return self._budget.usage()

    def follow(self, address: str, now_s: float) -> None:
        """A connection has come, from this local address: which network is it?"""
        if not self._is_limited:
            return  # all networks are one in the books
        interface = interface_of(address)
        kind = self._budget.kind_of(interface, kind_of_interface(interface, sys=self._sys))
        self._budget.use(kind, now_s)
        _log.info("event=network address=%s interface=%s kind=%s rule=%s", address, interface, kind, self._budget.kind)

    def room(self, priority: Priority, now_s: float) -> int:
        self._look_at_clocks(now_s)
        if self._budget.wants_grant:
            self._grant(now_s)
        return self._budget.room(priority, now_s)

    def spare(self, priority: Priority, now_s: float) -> int:
        self._look_at_clocks(now_s)
        return self._budget.spare(priority, now_s)

    def closed(self, priority: Priority, now_s: float) -> bool:
        """Whether there is no room, and that not because of the pace."""
        return self.room(priority, now_s) <= 0 and self._budget.closed(priority)

    def spent(self, priority: Priority, size: int, now_s: float) -> None:
        self._budget.spent(priority, size, now_s)
        if self._budget.wants_grant:
            self._grant(now_s)

    def close(self) -> None:
        """Put on record what was really used."""
        try:
            self._save(self._budget.ledger(self._days.record, closing=True))
        except BufferStorageError as error:
            _log.warning("event=ledger_not_saved reason=%r", str(error))

    def _look_at_clocks(self, now_s: float) -> None:
        if now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        local_s = self._local.seconds(self._wall_ns())
        self._budget.look_at_clock(local_s)
        if self._days.advance(self._steady_s(), local_s):
            _log.info("event=new_day usage=%s", self._budget.usage())
            self._budget.begin_day()

    def _grant(self, now_s: float) -> None:
        """The next slice; where it cannot be put on record, there is none, and it is tried again."""
        try:
            self._save(self._budget.ledger(self._days.record))
        except BufferStorageError as error:
            if (held := self._limit.admit("ledger", now_s)) is not None:
                _log.warning("event=ledger_not_saved reason=%r held_back=%d", str(error), held)
            return
        self._budget.grant()

    def _save(self, ledger: Ledger) -> None:
        self._db.set_note(_NOTE, msgspec.msgpack.encode(ledger))

    def _load(self) -> Ledger:
        raw = self._db.note(_NOTE)
        if not raw:
            return Ledger()
        try:
            return msgspec.msgpack.decode(raw, type=Ledger)
        except MALFORMED as error:
            _log.warning("event=ledger_unreadable reason=%r", str(error))
            return Ledger()
