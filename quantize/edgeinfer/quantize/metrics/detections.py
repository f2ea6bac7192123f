"""Detection: boxes against labelled ones, or against those of the float model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeinfer.quantize import boxes
from edgeinfer.quantize.boxes import Boxes
from edgeinfer.quantize.dataset import Samples
from edgeinfer.quantize.evaluate import Scored
from edgeinfer.quantize.metrics.base import Judged, Usual
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import SamplesError

__all__ = ["BoxF1", "BoxMap", "average_precision"]


@dataclass(frozen=True, slots=True)
class BoxMap(Usual):
    """Mean average precision at an overlap of 0.5, over the classes that some picture has.

    Of each class: the area under its precision-recall curve with all points, where precision at a recall is the best
    one at that recall or more (PASCAL VOC 2010 and later). Boxes choose their partner by score, the best overlap among
    those that are free. Boxes of low scores count, whatever threshold is declared.
    """

    name: str = "box_map50"
    labelled: bool = True
    lowest: float | None = 0.01

    def judge(self, scored: Scored, reference: Scored, samples: Samples) -> Judged:
        del reference
        wanted = samples.boxes
        if wanted is None or not any(wanted):
            raise SamplesError(
                f"expected samples with labelled boxes for {self.name}, found none",
                hint="a folder of pictures with annotations.json, or --metric box_f1, which needs no labels",
            )
        matched = [_matched(ours, theirs) for ours, theirs in zip(scored.found, wanted, strict=True)]
        counts = [_counted(theirs) for theirs in wanted]

        def over(places: Array) -> float:
            return _mean_average_precision([matched[i] for i in places], [counts[i] for i in places])

        return Judged(over(np.arange(len(wanted))), len(wanted), None, over)


# Of each box that was found: its class, its score, and whether it is right.
_Matched = list[tuple[int, float, bool]]


def _matched(found: Boxes, wanted: Boxes) -> _Matched:
    pairs = boxes.partners(found, wanted)
    return [(item.label, item.score, index in pairs) for index, item in enumerate(found)]


def _counted(wanted: Boxes) -> dict[int, int]:
    counts: dict[int, int] = {}
    for item in wanted:
        counts[item.label] = counts.get(item.label, 0) + 1
    return counts


def _mean_average_precision(matched: Sequence[_Matched], counts: Sequence[dict[int, int]]) -> float:
    totals: dict[int, int] = {}
    for counted in counts:
        for label, count in counted.items():
            totals[label] = totals.get(label, 0) + count
    rows: dict[int, list[tuple[float, bool]]] = {label: [] for label in totals}
    for picture in matched:
        for label, score, is_right in picture:
            if label in rows:
                rows[label].append((score, is_right))
    if not totals:
        return math.nan
    return float(np.mean([average_precision(rows[label], wanted=totals[label]) for label in totals]))


def average_precision(found: Sequence[tuple[float, bool]], *, wanted: int) -> float:
    """The area under the precision-recall curve, all points, of `found` (score, right or not) of one class, of which
    there are `wanted`."""
    if not found:
        return 0.0
    scores = np.array([score for score, _ in found])
    right = np.array([is_right for _, is_right in found])[np.argsort(-scores, kind="stable")]
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    # Recall rises by 1 / wanted with each hit, and not between them.
    return float(best[right].sum() / wanted)


@dataclass(frozen=True, slots=True)
class BoxF1(Usual):
    """2 TP / (found + expected) of the reported boxes over all pictures, held against those of the float model."""

    name: str = "box_f1"

    def judge(self, scored: Scored, reference: Scored, samples: Samples) -> Judged:
        del samples
        found, expected = scored.shown, reference.shown
        value = boxes.f1(found, expected)
        pairs = zip(found, expected, strict=True)
        hits = np.array([2.0 * boxes.matches(ours, theirs) for ours, theirs in pairs])
        sizes = np.array([len(ours) + len(theirs) for ours, theirs in zip(found, expected, strict=True)])

        def resample(places: Array) -> float:
            size = int(sizes[places].sum())
            return float(hits[places].sum() / size) if size else math.nan

        return Judged(value, len(found), None, resample)
