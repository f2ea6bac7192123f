"""Latency side by side: candidates run in blocks of calls, in turn, so that what slows the machine slows all.

Blocks and not single calls in turn: a device calls one model over and over, with its weights in the cache.
"""

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

from edgeinfer.runtime.engines import Engine, quantize_input
from edgeinfer.runtime.engines.base import Array

__all__ = ["Latency", "measure"]

ROUNDS = 9
WARM_UP_CALLS = 3
# A block lasts about this long, within these limits: a slow model needs fewer calls to settle.
BLOCK_S = 0.05
MIN_CALLS, MAX_CALLS = 5, 60


@dataclass(frozen=True, slots=True)
class Latency:
    """The median call, and its ratio to the reference's median call in the same round."""

    latency_us: float
    ratio: float


def measure(
    engines: Mapping[str, Engine], sample: Array, *, reference: str, rounds: int = ROUNDS
) -> dict[str, Latency]:
    """Time each engine on `sample` float32 (1, *input shape) against `reference`, one of them."""
    inputs = {name: [quantize_input(sample, engine.inputs[0])] for name, engine in engines.items()}
    calls = {name: _calls(engine, inputs[name]) for name, engine in engines.items()}
    blocks: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name, engine in engines.items():
            blocks[name].append(_block(engine, inputs[name], calls[name]))
    return {
        name: Latency(
            latency_us=statistics.median(times) * 1e6,
            ratio=statistics.median(ours / theirs for ours, theirs in zip(times, blocks[reference], strict=True)),
        )
        for name, times in blocks.items()
    }


def _calls(engine: Engine, inputs: list[Array]) -> int:
    """How many calls make a block, from a first look."""
    once = _block(engine, inputs, WARM_UP_CALLS)
    return min(max(int(BLOCK_S / max(once, 1e-9)), MIN_CALLS), MAX_CALLS)


def _block(engine: Engine, inputs: list[Array], calls: int) -> float:
    """Seconds of the median call, after some that fill the caches."""
    for _ in range(WARM_UP_CALLS):
        engine.run(inputs)
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        engine.run(inputs)
        times.append(time.perf_counter() - start)
    return statistics.median(times)
