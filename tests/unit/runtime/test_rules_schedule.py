"""Schedules against the calendar, and clocks that are not set."""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.runtime.config import parse_config
from edgeinfer.runtime.errors import ConfigError
from edgeinfer.runtime.rules.local_time import LocalTime
from edgeinfer.runtime.rules.schedule import Schedule
from edgeinfer.runtime.rules.settings import ScheduleConfig, Weekday

DAYS: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
clock_times = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.integers(0, 59))
windows = st.builds(
    ScheduleConfig,
    from_=clock_times,
    to=clock_times | st.just("24:00"),
    days=st.lists(st.sampled_from(DAYS), min_size=1, unique=True).map(tuple),
)


def minutes(text: str) -> int:
    return int(text[:2]) * 60 + int(text[3:])


def by_the_calendar(window: ScheduleConfig, moment: datetime) -> bool:
    """Looked up day by day: does a window that began today or yesterday hold `moment`?"""
    for begun in (moment.date(), moment.date() - timedelta(days=1)):
        if DAYS[begun.weekday()] not in window.days:
            continue
        start = datetime.combine(begun, datetime.min.time()) + timedelta(minutes=minutes(window.from_))
        end = datetime.combine(begun, datetime.min.time()) + timedelta(minutes=minutes(window.to))
        if end <= start:
            end += timedelta(days=1)
        if start <= moment < end:
            return True
    return False


@given(st.lists(windows, min_size=1, max_size=3), st.datetimes(datetime(2024, 1, 1), datetime(2040, 1, 1)))  # noqa: DTZ001 - local time has no zone
def test_a_schedule_is_what_the_calendar_says(parts: list[ScheduleConfig], moment: datetime) -> None:
    local_s = (moment - datetime(1970, 1, 1)).total_seconds()  # noqa: DTZ001 - local time has no zone
    assert Schedule(parts).holds(local_s) == any(by_the_calendar(window, moment) for window in parts)


def test_no_window_is_no_bar_and_neither_is_a_clock_that_is_not_set() -> None:
    assert Schedule(()).holds(0)
    assert Schedule([ScheduleConfig(from_="01:00", to="02:00", days=("mon",))]).holds(None)


def test_the_same_time_twice_is_a_whole_day() -> None:
    schedule = Schedule([ScheduleConfig(from_="06:00", to="06:00", days=("mon",))])
    monday = (datetime(2024, 1, 1, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)).days * 86_400
    held = [hour for hour in range(-24, 96) if schedule.holds(monday + hour * 3600)]
    assert held == list(range(6, 30))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('from = "7:00"\nto = "08:00"', "from"),
        ('from = "07:60"\nto = "08:00"', "from"),
        ('from = "07:00"\nto = "24:01"', "to"),
        ('from = "24:00"\nto = "08:00"', "24:00"),
        ('from = "07:00"\nto = "08:00"\ndays = []', "days"),
        ('from = "07:00"\nto = "08:00"\ndays = ["monday"]', "monday"),
        ('from = "07:00"\nuntil = "08:00"', "until"),
        ('to = "08:00"', "from"),
    ],
)
def test_what_is_no_schedule_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(text, ScheduleConfig)


class TestLocalTime:
    @given(st.datetimes(datetime(2024, 1, 2), datetime(2037, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - the bounds have no zone
    def test_a_named_zone_has_its_summer_time(self, moment: datetime) -> None:
        clock = LocalTime("Europe/Berlin")
        local = moment.astimezone(ZoneInfo("Europe/Berlin"))
        offset = local.utcoffset()
        assert offset is not None
        t_ns = int(moment.timestamp()) * 1_000_000_000
        assert clock.seconds(t_ns) == int(moment.timestamp()) + int(offset.total_seconds())

    def test_the_offset_changes_in_the_minute_in_which_summer_time_begins(self) -> None:
        clock = LocalTime("Europe/Berlin")
        change = int(datetime(2026, 3, 29, 1, tzinfo=UTC).timestamp())
        offsets = [(clock.seconds(second * 10**9) or 0) - second for second in range(change - 3, change + 3)]
        assert offsets == [3600] * 3 + [7200] * 3

    @pytest.fixture
    def _in_nepal(self) -> Iterator[None]:
        before = os.environ.get("TZ")
        os.environ["TZ"] = "NPT-5:45"
        time.tzset()
        yield
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()

    @pytest.mark.usefixtures("_in_nepal")
    def test_without_a_name_it_is_the_devices_own(self) -> None:
        second = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
        assert LocalTime().seconds(second * 10**9) == second + 5 * 3600 + 45 * 60

    @pytest.mark.parametrize("t_ns", [0, 1, -(10**18), 1_000_000_000 * 10**9])
    def test_a_clock_that_is_not_set_has_no_local_time(self, t_ns: int) -> None:
        assert LocalTime().seconds(t_ns) is None

    def test_a_clock_far_beyond_any_calendar_does_no_harm(self) -> None:
        for zone in ("", "Europe/Berlin"):
            assert LocalTime(zone).seconds(2**62) is not None
            assert LocalTime(zone).seconds(2**100) is not None

    @pytest.mark.parametrize("name", ["Europe/Atlantis", "../../etc/passwd", "/etc/localtime", "nowhere"])
    def test_an_unknown_zone_is_refused(self, name: str) -> None:
        with pytest.raises(ConfigError, match="timezone"):
            LocalTime(name)
