"""What an explanation explains: one score of a result, and what it is when the input is changed."""

import difflib
from typing import NamedTuple

import msgspec

from edgeinfer.runtime.errors import EdgeInferError, UsageError
from edgeinfer.runtime.learn.comparison import iou
from edgeinfer.runtime.posts import (
    ClassifyPost,
    DetectPost,
    EmbedPost,
    ForecastPost,
    KeypointsPost,
    KeywordsPost,
    Postprocess,
    SegmentPost,
)
from edgeinfer.runtime.results import Item, Kind

__all__ = ["Target", "choose_target", "graded"]

# What is asked for beyond what is reported, so that a score that falls still has a number.
_ALL_CLASSES, _LOW_SCORE = 1 << 20, 0.05
_WITHOUT_LABELS = {Kind.ANOMALY, Kind.RAW, Kind.REGRESSION}


class Target(NamedTuple):
    """`item` as it was found in the unchanged input; `name` is what a person calls it."""

    kind: Kind
    item: Item
    name: str

    def score_in(self, items: tuple[Item, ...]) -> float:
        """The same score in another result; 0 where it is not there any more. That of a box counts for as much as
        the box still overlaps the first one."""
        if self.kind is Kind.ANOMALY:
            return items[0].score if items else 0.0
        same = [item for item in items if item.label == self.item.label]
        if self.kind is Kind.DETECTION:
            return max((item.score * iou(item.box, self.item.box) for item in same), default=0.0)
        return max((item.score for item in same), default=0.0)


def graded(declared: Postprocess) -> Postprocess:
    """The same postprocessing, reporting low scores, too. Raises UsageError for those that have no score of a single
    input."""
    match declared:
        case ClassifyPost():
            return msgspec.structs.replace(declared, top_k=_ALL_CLASSES)
        case KeywordsPost(output=output, activation=activation):  # as a classifier: a word needs several inputs
            return ClassifyPost(output, activation, _ALL_CLASSES)
        case DetectPost():
            return msgspec.structs.replace(declared, score_threshold=min(declared.score_threshold, _LOW_SCORE))
        case KeypointsPost():
            return msgspec.structs.replace(declared, score_threshold=0.0)
        case SegmentPost():
            return msgspec.structs.replace(declared, min_share=0.0)
        case EmbedPost() | ForecastPost():
            what = "an embedding has no score" if isinstance(declared, EmbedPost) else "a forecast needs two windows"
            raise UsageError(f"expected a package whose results have a score for one input: {what}")
        case _:
            return declared


def choose_target(items: tuple[Item, ...], kind: Kind, wanted: str, labels: tuple[str, ...]) -> Target:
    """The item named `wanted`, by its label's name or number; empty: the one with the best score. Raises UsageError
    for a label that the model does not have, EdgeInferError where nothing was found."""
    if kind in _WITHOUT_LABELS:
        return _of_numbers(items, kind, wanted, labels)
    label = _label(wanted, labels) if wanted else None
    found = [item for item in items if label is None or item.label == label]
    if not found:
        raise EdgeInferError(
            f"expected to find {wanted!r} in the input, found none"
            if wanted
            else "found nothing in the input to explain",
            hint="scores below 0.05 are not looked at" if kind is Kind.DETECTION else "",
        )
    best = max(found, key=lambda item: item.score)
    return Target(kind, best, labels[best.label] if 0 <= best.label < len(labels) else f"class {best.label}")


def _of_numbers(items: tuple[Item, ...], kind: Kind, wanted: str, labels: tuple[str, ...]) -> Target:
    if not items:
        raise EdgeInferError("the model gave no score for this input")
    if kind is Kind.ANOMALY:
        if wanted:
            raise UsageError(f"expected no label for an anomaly score, found {wanted!r}")
        return Target(kind, items[0], "anomaly score")
    label = _label(wanted, labels) if wanted else items[0].label
    item = next((item for item in items if item.label == label), None)
    if item is None:
        raise UsageError(f"expected a value of 0 to {len(items) - 1}, found {wanted!r}")
    return Target(kind, item, labels[label] if 0 <= label < len(labels) else f"value {label}")


def _label(wanted: str, labels: tuple[str, ...]) -> int:
    if wanted in labels:
        return labels.index(wanted)
    if wanted.isdecimal():
        return int(wanted)
    near = difflib.get_close_matches(wanted, labels, n=1, cutoff=0.5)
    raise UsageError(
        f"expected a label of the package, found {wanted!r}",
        hint=f"did you mean {near[0]!r}?" if near else f"it has {len(labels)}: {', '.join(labels[:10])}",
    )
