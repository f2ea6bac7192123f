"""This machine as a target: candidates are timed in this process, in blocks, in turn."""

import math
import statistics
from collections.abc import Sequence
from contextlib import ExitStack

from edgeinfer.quantize import latency
from edgeinfer.quantize.candidate import Candidate, open_candidate
from edgeinfer.quantize.evaluate import infer_one
from edgeinfer.quantize.search.entry import Leads, Timing
from edgeinfer.quantize.search.statistics import median_interval
from edgeinfer.runtime.engines import Engine, available_engines
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import ModelError

__all__ = ["LocalTarget"]

ROUNDS, ROUGH_ROUNDS = 9, 3
_ROUGH_BLOCK_S = 0.02
# The median of fewer lies outside all of them more often than once in twenty times.
_ENOUGH_ROUNDS = 6


class LocalTarget:
    """Keeps what all rounds gave, so that each call makes the figures more exact. Two candidates are compared by the
    rounds in which both took part."""

    repeats = True
    measured = True
    # What this CPU does is looked at when a candidate is run.
    cuts_pairs = False

    def __init__(self, *, threads: int = 1, machine: str = "") -> None:
        self.name = "local"
        self.machine = machine
        self.engines = tuple(available_engines())
        self._threads = threads
        self._rounds: list[latency.Round] = []

    def time(
        self,
        candidates: Sequence[Candidate],
        *,
        sample: Array,
        reference: str,
        rough: bool = False,
        time_s: float = math.inf,
    ) -> dict[str, Timing]:
        """As Target says. Rough figures come from few rounds, and count for less than a later call's. Raises ModelError
        where the reference cannot be run."""
        failed: dict[str, Timing] = {}
        with ExitStack() as stack:
            engines: dict[str, Engine] = {}
            for candidate in candidates:
                try:
                    engine = open_candidate(candidate, threads=self._threads)
                except ModelError as error:
                    failed[candidate.id] = Timing(error=error.message)
                    continue
                stack.callback(engine.close)
                try:
                    infer_one(engine, sample)
                except ModelError as error:
                    failed[candidate.id] = Timing(error=error.message)
                    continue
                engines[candidate.id] = engine
            if reference in failed:
                raise ModelError(f"{reference} cannot be timed: {failed[reference].error}")
            count, block_s = (ROUGH_ROUNDS, _ROUGH_BLOCK_S) if rough else (ROUNDS, latency.BLOCK_S)
            self._rounds += latency.run_rounds(engines, sample, count=count, block_s=block_s, time_s=time_s)
        return failed | {name: self._timing(name, reference) for name in engines}

    def leads(self, names: Sequence[str]) -> Leads:
        """Of each pair. Few rounds have no interval of 95 %: nothing is known then."""
        pairs = {(name, other): self._ratios(name, other) for name in names for other in names if name != other}
        return {
            pair: median_interval(ratios) if len(ratios) >= _ENOUGH_ROUNDS else (0.0, math.inf)
            for pair, ratios in pairs.items()
        }

    def close(self) -> None:
        """Nothing is left open."""

    def _timing(self, name: str, reference: str) -> Timing:
        blocks = [one[name] for one in self._rounds if name in one]
        ratios = self._ratios(name, reference)
        low, high = median_interval(ratios) if len(ratios) > 1 else (0.0, 0.0)
        return Timing(
            latency_us=statistics.median(block.call_s for block in blocks) * 1e6,
            ratio=statistics.median(ratios),
            ratio_low=low,
            ratio_high=high,
            cpu_us=round(statistics.median(block.cpu_s for block in blocks) * 1e6, 2),
            rough=len(ratios) < _ENOUGH_ROUNDS,
        )

    def _ratios(self, name: str, other: str) -> list[float]:
        return [one[name].call_s / one[other].call_s for one in self._rounds if name in one and other in one]
