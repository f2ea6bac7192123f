"""Reads the time column of a recording: ISO 8601 texts, or numbers."""

import math
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

__all__ = ["LATEST_NS", "RecordedTime", "parse_time"]

_UNITS_S = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_SECOND_NS = 1_000_000_000
# Numbers from 2001 to 2261 are times since 1970; smaller ones count from some start.
_EARLIEST_S = 1e9
# Just before the end of what 63 bits of ns hold. What is beyond, either way, is no time.
_LATEST_S = 9.2e9
LATEST_NS = 9_200_000_000 * _SECOND_NS


class RecordedTime(NamedTuple):
    """`place_ns`: for the order and the distances of rows; `t_ns`: since 1970, None for a count from some start."""

    place_ns: int
    t_ns: int | None


def parse_time(cell: object, unit: Literal["s", "ms", "us", "ns"] = "s") -> RecordedTime | None:
    """A text without a zone is UTC. None for what is no time."""
    text = str(cell).strip()
    try:
        seconds = float(text) * _UNITS_S[unit]
    except ValueError:
        return _parse_iso(text)
    if not math.isfinite(seconds) or abs(seconds) > _LATEST_S:
        return None
    place_ns = round(seconds * _SECOND_NS)
    return RecordedTime(place_ns, place_ns if seconds >= _EARLIEST_S else None)


def _parse_iso(text: str) -> RecordedTime | None:
    try:
        moment = datetime.fromisoformat(text)
        since = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)) - _EPOCH
    except (ValueError, OverflowError):
        return None
    ns = since // _MICROSECOND * 1000
    if abs(ns) > LATEST_NS:
        return None
    return RecordedTime(ns, ns if ns >= 0 else None)
