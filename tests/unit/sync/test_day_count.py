"""Days of a data budget: a clock that jumps neither refills it endlessly nor blocks it for ever."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.sync.day_count import DAY_S, DayCount, DayRecord

NOON = 20_000 * DAY_S + 12 * 3600
HOUR = 3600


def run(count: DayCount, hours: int, *, steady: int = 0, local: int | None = NOON, step: int = HOUR) -> list[int]:
    """The hours at which a day began, with a clock that goes right (or is not set) from `local` on."""
    count.advance(float(steady), local)
    return [
        passed // HOUR
        for passed in range(step, hours * HOUR + 1, step)
        if count.advance(steady + float(passed), None if local is None else local + passed)
    ]


def test_days_begin_at_midnight_after_a_first_one_of_at_least_twenty_hours() -> None:
    assert run(DayCount(DayRecord()), 24 * 6) == [20, 40, 60, 84, 108, 132]  # from the fourth on: midnight


def test_a_day_at_midnight_stays_at_midnight() -> None:
    midnight = NOON + 12 * HOUR
    begun = run(
        DayCount(DayRecord(date=midnight // DAY_S - 1, elapsed_s=20 * HOUR, seen_s=midnight - HOUR)), 72, local=midnight
    )
    assert begun == [24, 48, 72]


@pytest.mark.parametrize("local", [None, NOON])
def test_a_clock_that_stands_still_or_is_not_set_blocks_for_26_hours_at_most(local: int | None) -> None:
    count = DayCount(DayRecord())
    begun = [hour for hour in range(100) if count.advance(float(hour * HOUR), local)]
    assert begun == [26, 52, 78]


def test_a_jump_forward_refills_nothing_while_the_device_runs() -> None:
    count = DayCount(DayRecord(date=NOON // DAY_S, seen_s=NOON - 60))
    count.advance(0.0, NOON)
    count.advance(2.0 * HOUR, NOON + 2 * HOUR)  # past the hour in which a clock is set
    for days in (1, 2, 3000):
        assert not count.advance(2.0 * HOUR + days, NOON + days * DAY_S)


def test_a_clock_that_jumps_to_and_fro_refills_once_in_twenty_hours() -> None:
    count = DayCount(DayRecord())
    begun = 0
    for minute in range(10 * 24 * 60):
        begun += count.advance(60.0 * minute, NOON + (minute % 2) * 40 * DAY_S)
    assert begun <= 12


def test_a_jump_into_the_far_future_and_back_blocks_for_a_day_at_most() -> None:
    count = DayCount(DayRecord(date=NOON // DAY_S, seen_s=NOON))
    count.advance(0.0, NOON + 70 * 365 * DAY_S)
    begun = run(count, 60, steady=1, local=NOON)
    assert begun == [20, 40, 60]


def test_the_time_that_the_device_was_off_counts() -> None:
    before = DayRecord(date=NOON // DAY_S, elapsed_s=3 * HOUR, seen_s=NOON)
    assert not DayCount(before).advance(5.0, NOON + 10 * HOUR)
    assert DayCount(before).advance(5.0, NOON + 20 * HOUR)


def test_a_board_without_a_battery_gets_its_time_within_the_first_hour() -> None:
    """It begins where it was switched off, and hears of the three days since from the network."""
    count = DayCount(DayRecord(date=NOON // DAY_S, elapsed_s=HOUR, seen_s=NOON))
    assert not count.advance(10.0, NOON + 30)
    assert count.advance(70.0, NOON + 3 * DAY_S)
    assert not count.advance(130.0, NOON + 6 * DAY_S)  # once


def test_the_day_goes_on_over_a_restart() -> None:
    count = DayCount(DayRecord(date=NOON // DAY_S, elapsed_s=HOUR, seen_s=NOON))
    count.advance(0.0, NOON)
    count.advance(5.0 * HOUR, NOON + 5 * HOUR)
    assert count.record == DayRecord(NOON // DAY_S, 6.0 * HOUR, NOON + 5 * HOUR)
    assert run(DayCount(count.record), 20, steady=77, local=NOON + 5 * HOUR) == [14]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 12 * HOUR), st.one_of(st.none(), st.integers(1_704_067_200, 1 << 34))),
        max_size=60,
    )
)
def test_whatever_the_wall_clock_says_days_have_20_to_26_hours(looks: list[tuple[int, int | None]]) -> None:
    """But for the one time that a process believes it. A look may come late: by up to 12 hours here."""
    count, steady, begun = DayCount(DayRecord()), 0.0, [0.0]
    count.advance(0.0, None)
    for passed, local in looks:
        steady += passed
        if count.advance(steady, local):
            begun.append(steady)
    lengths = [later - earlier for earlier, later in itertools.pairwise(begun)]
    assert all(length <= 38 * HOUR for length in lengths)
    assert sum(length < 20 * HOUR for length in lengths) <= 1
    assert steady - begun[-1] < 38 * HOUR
