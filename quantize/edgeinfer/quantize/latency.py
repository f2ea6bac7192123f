"""Latency side by side: candidates run in blocks of calls, in turn, so that what slows the machine slows all.

Blocks and not single calls in turn: a device calls one model over and over, with its weights in the cache.
"""

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

from edgeinfer.runtime.engines import Engine, quantize_input
from edgeinfer.runtime.engines.base import Array

__all__ = ["Block", "Round", "run_rounds"]

WARM_UP_CALLS = 3
# A block lasts about this long, within these limits: a slow model needs fewer calls to settle.
BLOCK_S = 0.04
MIN_CALLS, MAX_CALLS = 5, 1000


@dataclass(frozen=True, slots=True)
class Block:
    """The median call of a block, and the CPU time of the process a call, both in seconds."""

    call_s: float
    cpu_s: float


# What one turn of all gave, by name.
Round = dict[str, Block]


def run_rounds(engines: Mapping[str, Engine], sample: Array, *, count: int, block_s: float = BLOCK_S) -> list[Round]:
    """Time each engine `count` times in turn on `sample` float32 (1, *input shape). Raises ModelError."""
    inputs = {name: [quantize_input(sample, engine.inputs[0])] for name, engine in engines.items()}
    calls = {name: _calls(engine, inputs[name], block_s) for name, engine in engines.items()}
    return [{name: _block(engine, inputs[name], calls[name]) for name, engine in engines.items()} for _ in range(count)]


def _calls(engine: Engine, inputs: list[Array], block_s: float) -> int:
    """How many calls make a block, from a first look."""
    once = _block(engine, inputs, WARM_UP_CALLS)
    return min(max(int(block_s / max(once.call_s, 1e-9)), MIN_CALLS), MAX_CALLS)


def _block(engine: Engine, inputs: list[Array], calls: int) -> Block:
    """Some calls that fill the caches, then `calls` that are timed."""
    for _ in range(WARM_UP_CALLS):
        engine.run(inputs)
    times = []
    cpu_before = time.process_time()
    for _ in range(calls):
        start = time.perf_counter()
        engine.run(inputs)
        times.append(time.perf_counter() - start)
    cpu = time.process_time() - cpu_before
    return Block(statistics.median(times), cpu / calls)
