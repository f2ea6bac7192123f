"""The parts of rules against naive oracles, over random sequences."""

import itertools
import math

from hypothesis import example, given
from hypothesis import strategies as st

from edgeinfer.runtime.rules.conditions import Allowance, Dwell, Level, NOfM, Settled

SECOND = 1_000_000_000
# Gaps between frames in ms: some none at all, some longer than every time that is configured here.
gaps = st.lists(st.sampled_from([0, 1, 33, 100, 500, 1000, 60_000]), max_size=60)
flags = st.lists(st.booleans(), max_size=60)


def moments(steps: list[int]) -> list[int]:
    now_ns, found = 5 * SECOND, []
    for step in steps:
        now_ns += step * 1_000_000
        found.append(now_ns)
    return found


class TestLevel:
    values = st.lists(st.floats(0.0, 1.0), max_size=60)

    @given(values, st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.booleans())
    def test_it_changes_only_beyond_both_levels(self, values: list[float], a: float, b: float, below: bool) -> None:
        low, high = min(a, b), max(a, b)
        enter, leave = (low, high) if below else (high, low)
        level, state = Level(enter, leave, below=below), False
        for value in values:
            new = level.step(value)
            if new != state:
                crossed = (value < low) if (new == below) else (value > high)
                assert crossed, (value, state, new)
            elif low <= value <= high:
                assert new == state
            state = new

    @given(values, st.floats(0.2, 0.8), st.floats(0.0, 0.1))
    def test_it_never_flaps_within_the_band(self, values: list[float], middle: float, half: float) -> None:
        """However a value trembles within the band, the state changes once at most."""
        level = Level(middle + half, middle - half)
        level.step(1.0)
        trembling = [middle - half + 2 * half * value for value in values]
        assert all(level.step(min(max(value, middle - half), middle + half)) for value in trembling)

    def test_equal_levels_are_a_plain_threshold(self) -> None:
        level = Level(0.5, 0.5)
        assert [level.step(v) for v in (0.4, 0.5, 0.6, 0.5, 0.4)] == [False, False, True, True, False]

    def test_nothing_to_compare_is_not_true_and_nan_changes_nothing(self) -> None:
        level = Level(0.5, 0.4)
        assert level.step(0.9)
        assert level.step(math.nan)
        assert not level.step(None)
        assert not level.step(math.nan)


@given(flags, st.integers(1, 8), st.integers(0, 8))
def test_n_of_m_is_the_sliding_sum(values: list[bool], n: int, more: int) -> None:
    m = n + more
    condition = NOfM(n, m)
    for index, value in enumerate(values):
        assert condition.step(value) == (sum(values[max(0, index + 1 - m) : index + 1]) >= n)


@given(flags, gaps, st.sampled_from([0.0, 0.033, 0.5, 2.0, 59.0]))
def test_dwell_is_true_since_long_enough(values: list[bool], steps: list[int], dwell_s: float) -> None:
    times = moments(steps)
    dwell = Dwell(dwell_s)
    for index, (value, now) in enumerate(zip(values, times, strict=False)):
        run = index
        while run >= 0 and values[run]:
            run -= 1
        held = value and now - times[run + 1] >= int(dwell_s * SECOND)
        assert dwell.step(value, now) == held


@given(st.lists(st.sampled_from("abc"), max_size=60), st.integers(1, 5), st.integers(0, 5))
def test_a_settled_value_is_one_that_was_there_often_enough(values: list[str], n: int, more: int) -> None:
    m = n + more
    settled: Settled[str] = Settled("", n=n, m=m, dwell_s=0.0)
    current = ""
    for index, value in enumerate(values):
        window = values[max(0, index + 1 - m) : index + 1]
        wanted = value if window.count(value) >= n else current
        assert settled.step(value, index) == (wanted != current)
        current = wanted
        assert settled.value == current


@given(st.lists(st.sampled_from("ab"), max_size=60), gaps, st.sampled_from([0.033, 0.5, 2.0]))
def test_a_value_settles_after_its_dwell(values: list[str], steps: list[int], dwell_s: float) -> None:
    """With n = m = 1: a value becomes current once it alone was seen for so long."""
    times = moments(steps)
    settled: Settled[str] = Settled("", n=1, m=1, dwell_s=dwell_s)
    current = ""
    for index, (value, now) in enumerate(zip(values, times, strict=False)):
        run = index
        while run > 0 and values[run - 1] == value:
            run -= 1
        if now - times[run] >= int(dwell_s * SECOND):
            current = value
        settled.step(value, now)
        assert settled.value == current


class TestAllowance:
    @given(gaps, st.sampled_from([0.0, 0.1, 1.0, 59.9, 3600.0]))
    def test_the_cooldown_keeps_events_apart(self, steps: list[int], cooldown_s: float) -> None:
        allowance = Allowance(cooldown_s=cooldown_s)
        last, refused = None, 0
        for now in moments(steps):
            wanted = last is None or now - last >= int(cooldown_s * SECOND)
            assert allowance.take(now) == wanted
            if wanted:
                assert allowance.take_suppressed() == refused
                last, refused = now, 0
            else:
                refused += 1
                assert allowance.suppressed == refused

    @given(gaps, st.integers(1, 6))
    @example(steps=[600_000] * 40, per_hour=6)
    def test_the_bucket_lets_through_no_more_than_it_may(self, steps: list[int], per_hour: int) -> None:
        """Of any stretch of time: what the full bucket holds, and what was filled into it meanwhile."""
        allowance = Allowance(per_hour=per_hour)
        times = moments(steps)
        taken = [now for now in times if allowance.take(now)]
        for first in range(len(taken)):
            for last in range(first, len(taken)):
                hours = (taken[last] - taken[first]) / SECOND / 3600
                assert last - first + 1 <= per_hour + hours * per_hour + 1e-6
        assert len(taken) >= min(per_hour, len(times)), "a full bucket refuses nobody"
        assert allowance.suppressed == len(times) - len(taken)

    def test_the_bucket_against_exact_fractions(self) -> None:
        """An event each 100 s at 6 an hour: six at once, then one each 600 s, without drift over 10,000 of them."""
        allowance = Allowance(per_hour=6)
        taken = [index for index in range(60_000) if allowance.take(index * 100 * SECOND)]
        assert taken[:6] == [0, 1, 2, 3, 4, 5]
        apart = [b - a for a, b in itertools.pairwise(taken[8:])]
        assert set(apart) == {6}
        assert len(taken) == 6 + (60_000 - 1) // 6
