"""Latency side by side, with engines whose speed is known."""

from collections.abc import Sequence

import numpy as np
import pytest

from edgeinfer.quantize.latency import run_rounds
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.manifest import TensorSpec


class _Clock:
    """Time that passes when an engine is at work."""

    now_s = 0.0

    def read(self) -> float:
        return self.now_s


class _Sleeper:
    """An engine that takes a given time, counting its calls."""

    name, version = "test", "0"
    inputs: tuple[TensorSpec, ...] = (TensorSpec(name="x", shape=(1, 2), dtype="float32"),)
    outputs: tuple[TensorSpec, ...] = inputs

    def __init__(self, seconds: float, clock: _Clock) -> None:
        self._seconds, self._clock = seconds, clock
        self.calls = 0

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        self.calls += 1
        self._clock.now_s += self._seconds
        return list(inputs)

    def interrupt(self) -> bool:
        return False

    def close(self) -> None:
        pass


def test_engines_take_turns_in_blocks_that_last_about_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock()
    monkeypatch.setattr("edgeinfer.quantize.latency.time.perf_counter", clock.read)
    fast, slow = _Sleeper(0.001, clock), _Sleeper(0.005, clock)
    rounds = run_rounds({"fast": fast, "slow": slow}, np.zeros((1, 2), np.float32), count=3)
    assert [list(one) for one in rounds] == [["fast", "slow"]] * 3
    for one in rounds:
        assert one["fast"].call_s == pytest.approx(0.001)
        assert one["slow"].call_s == pytest.approx(0.005)
    assert slow.calls < fast.calls


def test_every_other_round_runs_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that grows slower all the time favours none of two that are alike."""
    clock = _Clock()
    monkeypatch.setattr("edgeinfer.quantize.latency.time.perf_counter", clock.read)

    class Tiring(_Sleeper):
        def run(self, inputs: Sequence[Array]) -> list[Array]:
            self._seconds = 0.001 + 0.001 * clock.now_s
            return super().run(inputs)

    engines = {name: Tiring(0.001, clock) for name in ("first", "second")}
    rounds = run_rounds(engines, np.zeros((1, 2), np.float32), count=4)
    ratios = [one["second"].call_s / one["first"].call_s for one in rounds]
    assert [ratio > 1.0 for ratio in ratios] == [True, False, True, False]
    assert [list(one) for one in rounds] == [["first", "second"]] * 4


@pytest.mark.parametrize(("time_s", "most_s"), [(60.0, 63.0), (15.0, 18.0), (0.0, 12.0)])
def test_slow_engines_are_called_less_often_where_there_is_little_time(
    monkeypatch: pytest.MonkeyPatch, time_s: float, most_s: float
) -> None:
    clock = _Clock()
    monkeypatch.setattr("edgeinfer.quantize.latency.time.perf_counter", clock.read)
    engines = {name: _Sleeper(1.0, clock) for name in "abcd"}
    rounds = run_rounds(engines, np.zeros((1, 2), np.float32), count=9, time_s=time_s)
    assert rounds
    assert all(block.call_s == pytest.approx(1.0) for one in rounds for block in one.values())
    assert clock.now_s <= most_s, "two calls each to see how slow they are, and one round at least"


def test_fast_engines_are_timed_well_however_little_time_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock()
    monkeypatch.setattr("edgeinfer.quantize.latency.time.perf_counter", clock.read)
    engine = _Sleeper(0.0001, clock)
    rounds = run_rounds({"a": engine}, np.zeros((1, 2), np.float32), count=9, time_s=-5.0)
    assert engine.calls > 20
    assert len(rounds) >= 6, "fewer would tell nothing"
