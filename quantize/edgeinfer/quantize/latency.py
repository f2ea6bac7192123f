"""Latency side by side: candidates run in blocks of calls, in turn, so that what slows the machine slows all.

Blocks and not single calls in turn: a device calls one model over and over, with its weights in the cache. Every other
round runs backwards: what comes after which, and a machine that grows slower, favours none of them.
"""

import math
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
# What a block may take however little time is left: some calls of a fast model.
_LEAST_BLOCK_S = 0.002


@dataclass(frozen=True, slots=True)
class Block:
    """The median call of a block, and the CPU time of the process a call, both in seconds."""

    call_s: float
    cpu_s: float


# What one turn of all gave, by name.
Round = dict[str, Block]


@dataclass(frozen=True, slots=True)
class _Runner:
    """An engine with its input, and how many calls of it make a block, after how many that fill the caches."""

    engine: Engine
    inputs: list[Array]
    warm_up: int
    calls: int

    def block(self) -> Block:
        return _block(self.engine, self.inputs, self.calls, warm_up=self.warm_up)


def run_rounds(
    engines: Mapping[str, Engine], sample: Array, *, count: int, block_s: float = BLOCK_S, time_s: float = math.inf
) -> list[Round]:
    """Time each engine `count` times in turn on `sample` float32 (1, *input shape). Slow engines are called less often,
    and fewer rounds are made, where this would take longer than `time_s`, or than the least blocks do: one round is
    made in any case. Raises ModelError."""
    began_s = time.perf_counter()
    room_s = max(time_s / max(count * len(engines), 1), _LEAST_BLOCK_S)
    time_s = room_s * count * len(engines)
    runners = {
        name: _runner(engine, [quantize_input(sample, engine.inputs[0])], block_s, room_s)
        for name, engine in engines.items()
    }
    rounds: list[Round] = []
    while len(rounds) < count and (not rounds or time.perf_counter() - began_s < time_s):
        order = list(runners) if len(rounds) % 2 == 0 else list(reversed(runners))
        blocks = {name: runners[name].block() for name in order}
        rounds.append({name: blocks[name] for name in runners})
    return rounds


def _runner(engine: Engine, inputs: list[Array], block_s: float, room_s: float) -> _Runner:
    """From a first look: a block lasts as long as `block_s`, or a few calls, or no longer than `room_s`."""
    second = _block(engine, inputs, 1, warm_up=1)
    if second.call_s * WARM_UP_CALLS > room_s:
        return _Runner(engine, inputs, 0, _fitting(second, room_s, least=1))  # too slow for caches to matter
    once = _block(engine, inputs, WARM_UP_CALLS, warm_up=WARM_UP_CALLS)
    calls = min(_fitting(once, block_s, least=MIN_CALLS), _fitting(once, room_s, least=1))
    return _Runner(engine, inputs, WARM_UP_CALLS, calls)


def _fitting(block: Block, seconds: float, *, least: int) -> int:
    return max(int(min(seconds / max(block.call_s, 1e-9), MAX_CALLS)), least)


def _block(engine: Engine, inputs: list[Array], calls: int, *, warm_up: int) -> Block:
    """Some calls that fill the caches, then `calls` that are timed."""
    for _ in range(warm_up):
        engine.run(inputs)
    times = []
    cpu_before = time.process_time()
    for _ in range(calls):
        start = time.perf_counter()
        engine.run(inputs)
        times.append(time.perf_counter() - start)
    cpu = time.process_time() - cpu_before
    return Block(statistics.median(times), cpu / calls)
