"""Results over time: how many were made in each second, and how their latencies are spread. Values only.

Latencies are counted in classes eight to a doubling, so a percentile read from the counts is within 4.5 % of
the true one, and the counts of any stretch of time simply add up.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgeinfer.console.repository.base import Bucket, StoredResult
from edgeinfer.runtime.results import OF_A_FRAME

__all__ = ["RESOLUTIONS_S", "bucket_results", "latency_class", "percentile_us", "points", "resolution_for", "totals"]

RESOLUTIONS_S = (1, 60)
# Seconds are kept for this long; minutes for good.
FINE_KEPT_S = 2 * 3600
_CLASSES_A_DOUBLING = 8
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


def bucket_results(results: Iterable[StoredResult]) -> list[Bucket]:
    """Count results of models (not frame counts or events) into buckets of every resolution."""
    found: dict[tuple[str, str, int, int], Counter[int]] = {}
    for result in results:
        if result.kind not in OF_A_FRAME:
            continue
        second = result.t_ns // 1_000_000_000
        number = latency_class(result.latency_us)
        for resolution_s in RESOLUTIONS_S:
            key = (result.device, result.pipeline, resolution_s, second - second % resolution_s)
            found.setdefault(key, Counter())[number] += 1
    return [Bucket(*key, latencies.total(), dict(latencies)) for key, latencies in found.items()]


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
