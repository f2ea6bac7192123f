"""Presentation times become times of capture that can be believed, whatever a stream says."""

from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.runtime.sources.media_clock import MediaClock

MS = 1_000_000
SECOND = 1000 * MS


def captured(*frames: tuple[int, int]) -> list[int]:
    """The times of capture in ms of frames (arrived, presented) in ms."""
    clock = MediaClock()
    return [clock.captured_ns(arrived_ns=a * MS, presented_ns=p * MS) // MS for a, p in frames]


def test_what_comes_at_once_was_taken_at_once() -> None:
    assert captured((1000, 0), (1040, 40), (1080, 80)) == [1000, 1040, 1080]


def test_delay_beyond_that_of_the_fastest_is_taken_off() -> None:
    assert captured((1000, 0), (1070, 40), (1080, 80), (1200, 120)) == [1000, 1040, 1080, 1120]


def test_a_queue_that_is_read_at_the_beginning_makes_nobody_younger_than_it_is() -> None:
    """A second of pictures waits when the stream is opened; then they come as they are taken."""
    times = captured(*((2000 + max(0, 40 * i - 1000), 40 * i) for i in range(60)))
    assert times[-1] == 2000 + 40 * 59 - 1000
    assert times == sorted(times)


def test_a_clock_that_drifts_is_followed() -> None:
    """The camera's is slow by a hundredth: after an hour that would be 36 s."""
    clock, worst = MediaClock(), 0
    for i in range(25 * 3600):
        arrived_ns = i * 40 * MS
        worst = max(worst, arrived_ns - clock.captured_ns(arrived_ns=arrived_ns, presented_ns=arrived_ns * 99 // 100))
    assert worst < 250 * MS


def test_a_jump_ties_the_clocks_anew() -> None:
    assert captured((1000, 0), (1040, 40), (1080, 5_000_000), (1150, 5_000_040)) == [1000, 1040, 1080, 1120]
    assert captured((1000, 90_000), (1040, 90_040), (1080, 0), (1150, 40)) == [1000, 1040, 1080, 1120]


def test_what_would_be_older_than_some_seconds_has_the_time_of_its_arrival() -> None:
    assert captured((1000, 0), (7100, 40), (7140, 80)) == [1000, 7100, 7140]
    assert captured((1000, 0), (5900, 40), (5940, 80)) == [1000, 1040, 1080]


@given(st.lists(st.tuples(st.integers(0, 10 * SECOND), st.integers(-(1 << 62), 1 << 62)), max_size=50))
def test_whatever_is_said_times_are_in_the_past_recent_and_in_order(steps: list[tuple[int, int]]) -> None:
    clock, arrived_ns, last_ns = MediaClock(), 0, 0
    for step_ns, presented_ns in steps:
        arrived_ns += step_ns
        found_ns = clock.captured_ns(arrived_ns=arrived_ns, presented_ns=presented_ns)
        assert last_ns <= found_ns <= arrived_ns
        assert arrived_ns - found_ns <= 5 * SECOND
        last_ns = found_ns
