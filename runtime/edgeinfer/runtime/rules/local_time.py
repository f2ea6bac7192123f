"""The device's clock as rules see it: seconds of local time, or None while it is not set."""

import time
from typing import TYPE_CHECKING

from edgeinfer.runtime.errors import ConfigError

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

__all__ = ["LocalTime"]

_SECOND_NS = 1_000_000_000
# A device without a battery for its clock begins in 1970, or when its image was built: no time before this is one.
_EARLIEST_NS = 1_704_067_200 * _SECOND_NS  # 2024-01-01
# Zones change their offset on whole quarters of an hour.
_OFFSET_HOLDS_S = 900


class LocalTime:
    """`timezone`: a name of the IANA database; empty: the device's own. Raises ConfigError where it is not known."""

    def __init__(self, timezone: str = "") -> None:
        self._zone = _zone(timezone) if timezone else None
        self._quarter = -1
        self._offset_s = 0

    def seconds(self, t_ns: int) -> int | None:
        """Of wall clock time `t_ns` since 1970; None before the year in which this was written."""
        if t_ns < _EARLIEST_NS:
            return None
        utc_s = t_ns // _SECOND_NS
        quarter = utc_s // _OFFSET_HOLDS_S
        if quarter != self._quarter:
            self._quarter, self._offset_s = quarter, self._offset(utc_s)
        return utc_s + self._offset_s

    def _offset(self, utc_s: int) -> int:
        try:
            if self._zone is None:
                return time.localtime(utc_s).tm_gmtoff
            from datetime import datetime

            offset = datetime.fromtimestamp(utc_s, self._zone).utcoffset()
            return int(offset.total_seconds()) if offset is not None else 0
        except (OverflowError, ValueError, OSError):  # a clock far beyond any calendar
            return 0


def _zone(name: str) -> "ZoneInfo":
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigError(
            f"timezone: expected a name like 'Europe/Berlin', found {name!r}",
            hint="install the tzdata package, or check the spelling",
        ) from error
