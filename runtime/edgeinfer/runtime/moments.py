"""Moments as a person types them: an ISO 8601 time, or how long ago."""

import datetime as dt
import re

from edgeinfer.runtime.errors import UsageError

__all__ = ["iso", "parse_moment"]

_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])(?:\s+ago)?")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SECOND_NS = 1_000_000_000


def parse_moment(text: str, *, now_ns: int) -> int:
    """`2026-03-01`, `2026-03-01T12:00:00Z` (UTC where no offset is given), or `90s`, `30m`, `2h`, `7d`, `1w` before
    `now_ns`; UTC in ns since 1970. Raises UsageError."""
    if found := _AGO.fullmatch(text.strip()):
        return max(0, now_ns - round(float(found[1]) * _SECONDS[found[2]] * _SECOND_NS))
    try:
        moment = dt.datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise UsageError(
            f"expected a time such as 2026-03-01T12:00:00Z, or how long ago such as 2h or 7d, found {text!r}"
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return round(moment.timestamp() * _SECOND_NS)


def iso(t_ns: int) -> str:
    """A moment for people, in UTC, to the second."""
    return f"{dt.datetime.fromtimestamp(t_ns // _SECOND_NS, tz=dt.UTC):%Y-%m-%dT%H:%M:%SZ}"
