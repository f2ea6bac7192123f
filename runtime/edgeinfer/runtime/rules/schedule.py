"""Times of the week, in local time. Local time comes in: which zone, and whether the clock is set, others know."""

from collections.abc import Sequence

from edgeinfer.runtime.rules.settings import ScheduleConfig

__all__ = ["Schedule"]

_DAY_S = 86_400
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday


class Schedule:
    """Without any window it holds always."""

    def __init__(self, windows: Sequence[ScheduleConfig]) -> None:
        # Seconds of a day from the start of the window, and the days on which it begins; a window past midnight
        # belongs to the day that it begins on.
        self._windows = tuple(
            (_seconds(window.from_), _length_s(window), frozenset(_DAYS.index(day) for day in window.days))
            for window in windows
        )

    def holds(self, local_s: float | None) -> bool:
        """`local_s`: seconds of local time since 1970, that is UTC plus the zone's offset; None where the clock is
        not set: then it holds, for an event too many is better than one too few."""
        if local_s is None or not self._windows:
            return True
        day, second = divmod(int(local_s), _DAY_S)
        today = (day + _EPOCH_WEEKDAY) % 7
        return any(
            (0 <= second - start < length and today in days)
            or (second + _DAY_S - start < length and (today - 1) % 7 in days)
            for start, length, days in self._windows
        )


def _seconds(clock_time: str) -> int:
    hours, minutes = clock_time.split(":")
    return int(hours) * 3600 + int(minutes) * 60


def _length_s(window: ScheduleConfig) -> int:
    """Up to a whole day."""
    start, end = _seconds(window.from_), _seconds(window.to)
    return end - start if end > start else end - start + _DAY_S
