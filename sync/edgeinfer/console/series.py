"""Results over time: how many were made in each second, and how their latencies are spread. Values only.

Latencies are counted in classes eight to a doubling, so a percentile read from the counts is within 4.5 % of
the true one, and the counts of any stretch of time simply add up.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.console.repository.base import Bucket
from edgeinfer.runtime.codec import Summary
from edgeinfer.runtime.results import OF_A_FRAME

__all__ = ["RESOLUTIONS_S", "Tally", "latency_class", "percentile_us", "points", "resolution_for", "totals"]

Integers = npt.NDArray[np.int64]

RESOLUTIONS_S = (1, 60)
# Seconds are kept for this long; minutes for good.
FINE_KEPT_S = 2 * 3600
_CLASSES_A_DOUBLING = 8
# A latency has 63 bits.
_MAX_CLASSES = 512
# Of one transaction. Who claims results of so many different minutes makes them up, and charts can do without.
_MAX_BUCKETS = 20_000
# Results that wait to be counted, of 16 bytes each: a few bytes may make very many.
_MAX_WAITING = 1 << 16
# Numbers that lie within this are counted in as many places, which is several times as fast as sorting them.
_MAX_SPAN = 1 << 16
# By kind; those that are numbered higher are of no frame.
_OF_A_FRAME = np.array([kind in OF_A_FRAME for kind in range(max(OF_A_FRAME) + 2)])
_POINTS = 180


def latency_class(latency_us: int) -> int:
    return round(_CLASSES_A_DOUBLING * math.log2(max(1, latency_us)))


def percentile_us(latencies: Mapping[int, int], fraction: float) -> float | None:
    """The latency below which `fraction` of the counted results lie; None where nothing was counted."""
    wanted = fraction * sum(latencies.values())
    seen = 0
    for number in sorted(latencies):
        seen += latencies[number]
        if seen >= wanted:
            return float(2 ** (number / _CLASSES_A_DOUBLING))
    return None


class Tally:
    """Counts results of models (not frame counts or events) into buckets of every resolution.

    What is made before `fine_since_s` is counted in minutes only: its seconds would be dropped at once. Results wait
    until there are many, or the buckets are asked for: counting those of one chunk takes as long as those of ten.
    """

    def __init__(self, *, fine_since_s: int) -> None:
        self._fine_since_s = fine_since_s
        self._found: dict[tuple[str, str, int, int], dict[int, int]] = {}
        self._waiting: dict[tuple[str, str], list[tuple[Integers, Integers]]] = {}  # times and latencies
        self._n_waiting = 0

    def add(self, device: str, pipeline: str, summary: Summary) -> None:
        of_a_frame = _OF_A_FRAME.take(summary.kind, mode="clip")
        n = int(np.count_nonzero(of_a_frame))
        if not n:
            return
        times, latencies = summary.t_ns, summary.latency_us
        if n < len(times):
            times, latencies = times[of_a_frame], latencies[of_a_frame]
        self._waiting.setdefault((device, pipeline), []).append((times, latencies))
        self._n_waiting += n
        if self._n_waiting >= _MAX_WAITING:
            self._count_waiting()

    def buckets(self) -> list[Bucket]:
        self._count_waiting()
        return [Bucket(*key, sum(latencies.values()), latencies) for key, latencies in self._found.items()]

    def _count_waiting(self) -> None:
        for place, waiting in self._waiting.items():
            times, latencies = (np.concatenate(parts) for parts in zip(*waiting, strict=True))
            seconds, classes = times // 1_000_000_000, _classes(latencies)
            for resolution_s in reversed(RESOLUTIONS_S):  # should it be too much, the minutes are for good
                wanted = seconds >= self._fine_since_s if resolution_s == RESOLUTIONS_S[0] else slice(None)
                self._count(place, resolution_s, seconds[wanted], classes[wanted])
        self._waiting.clear()
        self._n_waiting = 0

    def _count(self, place: tuple[str, str], resolution_s: int, seconds: Integers, classes: Integers) -> None:
        # Each pair of time and class as one number, so that equal pairs can be counted.
        keys, counts = _counted(seconds // resolution_s * _MAX_CLASSES + classes)
        for key, n in zip(keys.tolist(), counts.tolist(), strict=True):
            unit, number = divmod(key, _MAX_CLASSES)
            bucket = (*place, resolution_s, unit * resolution_s)
            if bucket not in self._found and len(self._found) >= _MAX_BUCKETS:
                continue
            latencies = self._found.setdefault(bucket, {})
            latencies[number] = latencies.get(number, 0) + n


def _counted(keys: Integers) -> tuple[Integers, Integers]:
    """The different numbers in order, and how many there are of each."""
    lowest = int(keys.min()) if len(keys) else 0
    span = int(keys.max()) - lowest + 1 if len(keys) else 0
    if span > _MAX_SPAN:
        return np.unique(keys, return_counts=True)
    counts = np.bincount(keys - lowest)
    (found,) = counts.nonzero()
    return found + lowest, counts[found]


def _classes(latency_us: Integers) -> Integers:
    """`latency_class` of each."""
    classes: Integers = np.rint(_CLASSES_A_DOUBLING * np.log2(np.maximum(1, latency_us))).astype(np.int64)
    return classes


def resolution_for(minutes: int) -> tuple[int, int]:
    """Which resolution to read for a chart of `minutes`, and how many seconds each of its points covers."""
    span_s = minutes * 60
    resolution_s = 1 if span_s <= FINE_KEPT_S else 60
    step_s = max(resolution_s, math.ceil(span_s / _POINTS / resolution_s) * resolution_s)
    return resolution_s, step_s


def points(buckets: Sequence[Bucket], *, since_s: int, until_s: int, step_s: int) -> list[dict[str, Any]]:
    """A series per pipeline over the same times: results a second, and the 50th and 99th percentile in us."""
    series: dict[tuple[str, str], dict[int, Counter[int]]] = {}
    for bucket in buckets:
        slot = (bucket.t_s - since_s) // step_s
        per_slot = series.setdefault((bucket.device, bucket.pipeline), {})
        per_slot.setdefault(slot, Counter()).update(bucket.latencies)
    slots = range(math.ceil((until_s - since_s) / step_s))
    return [
        {
            "device": device,
            "pipeline": pipeline,
            "rate": [per_slot.get(slot, Counter[int]()).total() / step_s for slot in slots],
            "p50_us": [percentile_us(per_slot.get(slot, {}), 0.5) for slot in slots],
            "p99_us": [percentile_us(per_slot.get(slot, {}), 0.99) for slot in slots],
        }
        for (device, pipeline), per_slot in sorted(series.items())
    ]


def totals(buckets: Sequence[Bucket]) -> dict[str, Any]:
    """Over all of `buckets`: how many results, and their 50th and 99th percentile in us."""
    latencies: Counter[int] = Counter()
    for bucket in buckets:
        latencies.update(bucket.latencies)
    return {
        "results": latencies.total(),
        "p50_us": percentile_us(latencies, 0.5),
        "p99_us": percentile_us(latencies, 0.99),
    }
