"""How values are written on the pages."""

import datetime as dt
import math
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

__all__ = ["FILTERS", "installed_version"]

_UNITS = ("B", "kB", "MB", "GB", "TB")
_US_A_MS = 1000
_MAX_ROWS = 200
_MAX_DEPTH = 16


def size(value: Any) -> str:
    """4096 -> 4.1 kB."""
    number = _real(value)
    for unit in _UNITS:
        if abs(number) < 1000 or unit == _UNITS[-1]:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return ""


def count(value: Any) -> str:
    """1234567 -> 1 234 567, with narrow spaces."""
    return f"{int(_real(value)):,}".replace(",", "\u202f")


def latency(value: Any) -> str:
    """Microseconds as what is easiest to read."""
    if not isinstance(value, int | float):
        return "\u2013"
    number = _real(value)
    if number < _US_A_MS:
        return f"{number:.0f} µs"
    return f"{number / _US_A_MS:.3g} ms" if number < 1e6 else f"{number / 1e6:.3g} s"


def clock(value: Any) -> str:
    """Seconds since 1970 as a UTC time; the script turns it into the reader's own."""
    try:
        return dt.datetime.fromtimestamp(_real(value), tz=dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return "an impossible time"


def score(value: Any) -> str:
    return f"{_real(value):.3g}"


def flat(value: Any, prefix: str = "", depth: int = 0) -> list[tuple[str, str]]:
    """A nested document as rows of dotted name and text, for a table; bounded."""
    rows: list[tuple[str, str]] = []
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, entry in pairs:
        name = f"{prefix}{key}"
        if isinstance(entry, list | tuple) and not any(isinstance(e, dict | list | tuple) for e in entry):
            rows.append((name, ", ".join(map(str, entry))))
        elif isinstance(entry, dict | list | tuple) and depth < _MAX_DEPTH:
            rows.extend(flat(entry, f"{name}.", depth + 1))
        else:
            rows.append((name, str(entry)))
        if len(rows) >= _MAX_ROWS:
            break
    return rows[:_MAX_ROWS]


def installed_version() -> str:
    try:
        return version("edgeinfer")
    except PackageNotFoundError:
        return ""


def _real(value: Any) -> float:
    """Devices fill these fields: what is absent or no number counts as 0."""
    if not isinstance(value, int | float):
        return 0.0
    try:
        number = float(value)
    except OverflowError:
        return 0.0
    return number if math.isfinite(number) else 0.0


FILTERS: dict[str, Callable[..., Any]] = {
    "clock": clock,
    "count": count,
    "flat": flat,
    "latency": latency,
    "score": score,
    "size": size,
}
