"""When a new day of a data budget begins, by a clock that may be wrong and another that only counts.

The wall clock of a device jumps: it begins in 1970, is set by the network minutes after the start, or is set wrongly
and set back. Were it believed, each jump would refill the budget, or one into the future would hold everything back
for years. The steady clock counts right but begins anew with each boot. So:

- A new day begins when the local date has changed **and** 20 hours have passed since the last one began.
- It begins after 26 hours in any case: nothing blocks for ever. (The longest day, that of the change to winter time,
  has 25.)
- Hours pass by the steady clock. What the device was off for is seen by the wall clock alone: once in the life of a
  process, within its first hour, the wall clock is believed that more time has passed. A board without a battery gets
  its time in that hour; a clock that jumps later, or again, counts for nothing.

So the days of a device that runs have 20 to 26 hours, whatever its clock does, and with a right clock there are no
more of them than dates.
"""

import msgspec

__all__ = ["DAY_S", "DayCount", "DayRecord"]

DAY_S = 86_400
_SHORTEST_S = 20 * 3600.0
_LONGEST_S = 26 * 3600.0
# The wall clock is corrected by seconds all the time.
_TOLERANCE_S = 600.0
_SETTLING_S = 3600.0


class DayRecord(msgspec.Struct, frozen=True):
    """What is remembered over restarts: the `date` of the present day (days since 1970, 0: not known), the hours that
    have passed of it, and the latest local time that was seen."""

    date: int = 0
    elapsed_s: float = 0.0
    seen_s: int = 0


class DayCount:
    """`record` is what to remember. Times are seconds: `steady_s` of a clock that only counts (through sleep, too),
    `local_s` of local time since 1970, None while the clock is not set."""

    def __init__(self, record: DayRecord) -> None:
        self._date = record.date
        self._elapsed_s = max(0.0, record.elapsed_s)
        self._seen_s = record.seen_s
        self._steady_s: float | None = None
        self._age_s = 0.0
        self._believed = False

    @property
    def record(self) -> DayRecord:
        return DayRecord(self._date, round(self._elapsed_s, 1), self._seen_s)

    def advance(self, steady_s: float, local_s: int | None) -> bool:
        """Look at the clocks. True: a new day has begun."""
        passed_s = 0.0 if self._steady_s is None else max(0.0, steady_s - self._steady_s)
        self._steady_s = steady_s
        self._age_s += passed_s
        self._elapsed_s += passed_s
        if local_s is not None:
            self._look_at_wall(local_s, passed_s)
        is_new = self._elapsed_s >= _LONGEST_S or (
            local_s is not None and local_s // DAY_S != self._date and self._elapsed_s >= _SHORTEST_S
        )
        if is_new:
            self._elapsed_s = 0.0
            if local_s is not None:
                self._date, self._seen_s = local_s // DAY_S, local_s
        return is_new

    def _look_at_wall(self, local_s: int, passed_s: float) -> None:
        if self._seen_s == 0:  # the first time that this device knows what time it is
            self._date, self._seen_s = local_s // DAY_S, local_s
            return
        ahead_s = local_s - self._seen_s
        if ahead_s <= 0:
            return
        self._seen_s = local_s
        was_off_s = ahead_s - passed_s
        if was_off_s > _TOLERANCE_S and not self._believed and self._age_s <= _SETTLING_S:
            self._believed = True
            self._elapsed_s += was_off_s
