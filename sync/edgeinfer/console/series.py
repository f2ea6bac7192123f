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

RESOLUTIONS_S = (1, 60)
# Seconds are kept for this long; minutes for good.
FINE_KEPT_S = 2 * 3600
_CLASSES_A_DOUBLING = 8
# A latency has 63 bits.
_MAX_CLASSES = 512
# Of one transaction. Who claims results of so many different minutes makes them up, and charts can do without.
_MAX_BUCKETS = 20_000
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

    What is made before `fine_since_s` is counted in minutes only: its seconds would be dropped at once.
    """

    def __init__(self, *, fine_since_s: int) -> None:
        self._fine_since_s = fine_since_s
        self._found: dict[tuple[str, str, int, int], dict[int, int]] = {}

    def add(self, device: str, pipeline: str, summary: Summary) -> None:
        of_a_frame = _OF_A_FRAME.take(summary.kind, mode="clip")
        if not of_a_frame.any():
            return
        seconds = summary.t_ns[of_a_frame] // 1_000_000_000
        classes = _classes(summary.latency_us[of_a_frame])
        for resolution_s in RESOLUTIONS_S:
            times = seconds - seconds % resolution_s
            # Each pair of time and class as one number, so that equal pairs can be counted.
            keys, counts = np.unique(times * _MAX_CLASSES + classes, return_counts=True)
            for key, n in zip(keys.tolist(), counts.tolist(), strict=True):
                t_s, number = divmod(key, _MAX_CLASSES)
                place = (device, pipeline, resolution_s, t_s)
                if resolution_s == 1 and t_s < self._fine_since_s:
                    continue
                if place not in self._found and len(self._found) >= _MAX_BUCKETS:
                    continue
                latencies = self._found.setdefault(place, {})
                latencies[number] = latencies.get(number, 0) + n

    def buckets(self) -> list[Bucket]:
        return [Bucket(*key, sum(latencies.values()), latencies) for key, latencies in self._found.items()]


def _classes(latency_us: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """`latency_class` of each."""
    classes: npt.NDArray[np.int64] = np.rint(_CLASSES_A_DOUBLING * np.log2(np.maximum(1, latency_us))).astype(np.int64)
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
