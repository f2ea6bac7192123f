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
