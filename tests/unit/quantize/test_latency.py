"""Latency side by side, with engines whose speed is known."""

import time
from collections.abc import Sequence

import numpy as np

from edgeinfer.quantize.latency import run_rounds
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.manifest import TensorSpec


class _Sleeper:
    """An engine that takes a given time, counting its calls."""

    name, version = "test", "0"
    inputs: tuple[TensorSpec, ...] = (TensorSpec(name="x", shape=(1, 2), dtype="float32"),)
    outputs: tuple[TensorSpec, ...] = inputs

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.calls = 0

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        self.calls += 1
        time.sleep(self._seconds)
        return list(inputs)

    def interrupt(self) -> bool:
        return False

    def close(self) -> None:
        pass


def test_engines_take_turns_in_blocks_that_last_about_the_same() -> None:
    fast, slow = _Sleeper(0.001), _Sleeper(0.005)
    rounds = run_rounds({"fast": fast, "slow": slow}, np.zeros((1, 2), np.float32), count=3)
    assert [list(one) for one in rounds] == [["fast", "slow"]] * 3
    for one in rounds:
        assert one["slow"].call_s > one["fast"].call_s
        assert one["slow"].call_s >= 0.005
    assert slow.calls < fast.calls
