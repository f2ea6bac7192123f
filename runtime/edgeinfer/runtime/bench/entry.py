"""One row in the making: a variant with a number of threads, and what was measured of it so far."""

from collections.abc import Sequence

import msgspec

from edgeinfer.runtime.bench.document import Figures
from edgeinfer.runtime.bench.messages import Ready, Timed
from edgeinfer.runtime.bench.statistics import Block, drift, merged, percentile_ns, ratio, summary
from edgeinfer.runtime.manifest import Variant

__all__ = ["Entry", "reference_of"]

_FLOATS = {"fp32", "float32"}


class Entry:
    """`error` says why there is nothing to measure, or no more; what was measured before does not count then."""

    def __init__(self, variant: Variant, threads: int) -> None:
        self.variant, self.threads = variant, threads
        self.ready: Ready | None = None
        self.error = ""
        self.blocks: list[Block] = []
        self._counts: dict[int, int] = {}
        self._min_ns = 0
        self._rss_bytes = 0

    def __str__(self) -> str:
        return self.variant.id if self.threads == 1 else f"{self.variant.id} x{self.threads}"

    def add(self, timed: Timed, *, turn: int, at_s: float, energy_uj: float | None) -> None:
        """A block of the round `turn`, which ended at `at_s`."""
        self.blocks.append(
            Block(turn, at_s, timed.calls, timed.total_ns, timed.median_ns, timed.cpu_ns, energy_uj=energy_uj)
        )
        merged(self._counts, timed.counts)
        self._min_ns = min(timed.min_ns, self._min_ns or timed.min_ns)
        self._rss_bytes = timed.rss_bytes

    def figures(self, reference: "Entry | None", *, window_s: float) -> Figures:
        """What is known of it, held against `reference`."""
        row = Figures(
            variant=self.variant.id,
            engine=self.variant.engine,
            precision=self.variant.precision,
            bytes=self.variant.bytes,
            threads=self.threads,
            inputs=self.ready.inputs if self.ready is not None else "",
            engine_version=self.ready.version if self.ready is not None else "",
            error=self.error,
        )
        return row if self.error else self._measured(row, reference, window_s)

    def _measured(self, row: Figures, reference: "Entry | None", window_s: float) -> Figures:
        total = summary(self.blocks)
        ours = ratio(self.blocks, reference.blocks if reference is not None else [])
        first_ns, last_ns = drift(self.blocks, window_s)
        return msgspec.structs.replace(
            row,
            p50_us=_us(percentile_ns(self._counts, 0.50)),
            p99_us=_us(percentile_ns(self._counts, 0.99)),
            min_us=_us(self._min_ns),
            mean_us=_us(total.mean_ns),
            cpu_us=_us(total.cpu_ns),
            rss_bytes=self._rss_bytes,
            calls=total.calls,
            blocks=len(self.blocks),
            seconds=round(total.calls * total.mean_ns / 1e9, 3),
            ratio=round(ours.value, 4),
            ratio_low=round(ours.low, 4),
            ratio_high=round(ours.high, 4),
            first_us=_us(first_ns),
            last_us=_us(last_ns),
            drift=round(last_ns / first_ns, 4) if first_ns else 0.0,
            energy_uj=None if total.energy_uj is None else round(total.energy_uj, 1),
        )


def reference_of(entries: Sequence[Entry]) -> Entry | None:
    """What the others are held against: of those without an error the float variant on ONNX Runtime, else any float
    one, else the last (the least preferred), with the fewest threads."""
    able = [entry for entry in entries if not entry.error]
    fewest = min((entry.threads for entry in able), default=0)
    able = [entry for entry in able if entry.threads == fewest]
    floats = [entry for entry in able if entry.variant.precision in _FLOATS]
    onnx = [entry for entry in floats if entry.variant.engine == "onnx"]
    return next(iter([*onnx, *floats, *reversed(able)]), None)


def _us(ns: float) -> float:
    return round(ns / 1000, 2)
