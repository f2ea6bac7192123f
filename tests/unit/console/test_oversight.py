"""Times as a person writes them on the command line."""

import datetime as dt

import pytest

from edgeinfer.cli.oversight import parse_time
from edgeinfer.runtime.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90m", 1_000_000 - 5400),
        ("1.5h", 1_000_000 - 5400),
        ("2d", 1_000_000 - 172_800),
        ("30s", 1_000_000 - 30),
        ("1700000000.5", 1_700_000_000.5),
        ("2026-03-01T08:00:00+00:00", 1_772_352_000),
        ("2026-03-01T08:00", dt.datetime(2026, 3, 1, 8).timestamp()),  # noqa: DTZ001 - the machine's own time is meant
        ("2026-03-01", dt.datetime(2026, 3, 1).timestamp()),  # noqa: DTZ001 - as above
    ],
)
def test_times(text: str, expected: float) -> None:
    assert parse_time(text, 1_000_000.0) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "5y", "2026-13-01", "-1h"])
def test_what_is_no_time_is_said_so(text: str) -> None:
    with pytest.raises(UsageError, match="expected a time"):
        parse_time(text, 0.0)
