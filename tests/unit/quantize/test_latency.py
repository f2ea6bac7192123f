"""Latency side by side, with engines whose speed is known."""

import time
from collections.abc import Sequence

import numpy as np

from edgeinfer.quantize.latency import measure
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


def test_the_reference_has_ratio_one_and_a_slower_engine_more() -> None:
    fast, slow = _Sleeper(0.001), _Sleeper(0.005)
    times = measure({"fast": fast, "slow": slow}, np.zeros((1, 2), np.float32), reference="fast", rounds=3)
    assert times["fast"].ratio == 1.0
    assert times["slow"].ratio > 1.0
    assert times["slow"].latency_us >= 5000
    # A slow engine is called less often: a block lasts about the same for both.
    assert slow.calls < fast.calls
