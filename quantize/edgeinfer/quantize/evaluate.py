"""Runs a candidate over samples with the engine and the postprocessing that run on the device.

Metrics: classification is top-1 accuracy; anomaly is the area under the ROC curve of the score, over examples
(groups of rows, or rows); detection is the F1 of the boxes against those of the float model, since samples
carry no boxes. Agreement is the share of examples on which a candidate says the same as the float model:
beside an accuracy on few samples it tells noise from damage.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgeinfer.quantize import boxes
from edgeinfer.quantize.candidate import Candidate, open_candidate
from edgeinfer.quantize.dataset import Samples
from edgeinfer.runtime.engines import Engine, dequantize, quantize_input
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import SamplesError
from edgeinfer.runtime.manifest import ClassifyPost, DetectPost, KeywordsPost, Postprocess, Task, TensorSpec
from edgeinfer.runtime.postprocess import compile_postprocess
from edgeinfer.runtime.preprocess import Region

__all__ = [
    "METRICS",
    "THRESHOLD_PERCENTILE",
    "Scored",
    "agreement",
    "area_under_roc",
    "infer_one",
    "metric_value",
    "score_rows",
    "scores_itself",
    "threshold",
]

METRICS: dict[Task, str] = {"classification": "top1_accuracy", "anomaly": "auc", "detection": "box_f1"}
# One false alarm in a hundred normal inputs: the operator may set it otherwise.
THRESHOLD_PERCENTILE = 99.0
_REPORT_INTERVAL_S = 0.1
_WHOLE = Region(0.0, 0.0, 1.0, 1.0)
_Answer = Array | boxes.Boxes


@dataclass(frozen=True, slots=True)
class Scored:
    """What a candidate said of each row: classification (N, classes) scores, anomaly (N,) scores, or boxes."""

    rows: Array
    found: tuple[boxes.Boxes, ...] = ()


def infer_one(engine: Engine, sample: Array) -> list[Array]:
    """One inference on float32 (1, *input shape); the outputs as real numbers."""
    outputs = engine.run([quantize_input(sample, engine.inputs[0])])
    return [dequantize(output, spec) for output, spec in zip(outputs, engine.outputs, strict=True)]


def score_rows(
    candidate: Candidate,
    x: Array,
    *,
    post: Postprocess,
    threads: int,
    tick: Callable[[float], None] = lambda _done: None,
    arrays: Mapping[str, Array] | None = None,
) -> Scored:
    """Run `candidate` over each row of `x` float32 (N, *input shape). Raises ModelError.

    `post` says which output holds class scores, or how outputs become a score or boxes, with the package's `arrays`.
    `tick` is told the share that is done, some times a second.
    """
    engine = open_candidate(candidate, threads=threads)
    try:
        score = _row_score(engine, post, arrays)
        answers: list[_Answer] = []
        told = time.monotonic()
        for index in range(len(x)):
            answers.append(score(x[index : index + 1]))
            if (now := time.monotonic()) - told > _REPORT_INTERVAL_S:
                told = now
                tick(index / len(x))
    finally:
        engine.close()
    if isinstance(post, DetectPost):
        return Scored(np.zeros(len(x)), tuple(answer for answer in answers if isinstance(answer, tuple)))
    return Scored(np.stack([answer for answer in answers if not isinstance(answer, tuple)]))


def _row_score(engine: Engine, post: Postprocess, arrays: Mapping[str, Array] | None) -> Callable[[Array], _Answer]:
    if isinstance(post, ClassifyPost | KeywordsPost):
        output = post.output
        return lambda sample: infer_one(engine, sample)[output].reshape(-1).astype(np.float32)
    interpret = compile_postprocess(post, model_input=engine.inputs[0], outputs=engine.outputs, arrays=arrays)

    def judge(sample: Array) -> _Answer:
        model_input = quantize_input(sample, engine.inputs[0])
        items = interpret(model_input, engine.run([model_input]), _WHOLE)
        return items if isinstance(post, DetectPost) else np.asarray(items[0].score)

    return judge


def scores_itself(outputs: tuple[TensorSpec, ...]) -> bool:
    """Whether an anomaly model's output is the score, a single number, and no reconstruction."""
    return all(size in {-1, 1} for size in outputs[0].shape)


def metric_value(scored: Scored, reference: Scored, samples: Samples, *, task: Task) -> float:
    """The task's metric, 0 to 1; `reference` is what the float model said. Raises SamplesError for labels that
    the model cannot give."""
    if task == "anomaly":
        scores, labels = _examples(scored.rows, samples)
        return area_under_roc(scores, labels)
    if task == "detection":
        return boxes.f1(scored.found, reference.found)
    classes = scored.rows.shape[1]
    if samples.y.min() < 0 or samples.y.max() >= classes:
        raise SamplesError(
            f"expected labels of 0 to {classes - 1} for a model with {classes} outputs, "
            f"found {samples.y.min()} to {samples.y.max()}"
        )
    return float(np.mean(scored.rows.argmax(axis=1) == samples.y))


def agreement(scored: Scored, reference: Scored, samples: Samples, *, task: Task) -> float:
    """The share of examples with the same class, or on the same side of the float model's own threshold."""
    if task == "classification":
        return float(np.mean(scored.rows.argmax(axis=1) == reference.rows.argmax(axis=1)))
    if task == "detection":
        pairs = zip(scored.found, reference.found, strict=True)
        return float(np.mean([boxes.matches(ours, theirs) == len(ours) == len(theirs) for ours, theirs in pairs]))
    theirs, labels = _examples(reference.rows, samples)
    ours, _ = _examples(scored.rows, samples)
    limit = np.percentile(theirs[labels == 0], THRESHOLD_PERCENTILE)
    return float(np.mean((ours > limit) == (theirs > limit)))


def threshold(scored: Scored, samples: Samples) -> float:
    """The score that all but one in a hundred normal rows stay below.

    Over rows and not over groups: on the device each window is judged as it comes.
    """
    return float(np.percentile(scored.rows[samples.y == 0], THRESHOLD_PERCENTILE))


def _examples(rows: Array, samples: Samples) -> tuple[Array, Array]:
    """Score and label of each example: the mean over its group's rows."""
    if samples.group is None:
        return rows, samples.y
    groups, first, counts = np.unique(samples.group, return_index=True, return_counts=True)
    sums = np.bincount(np.searchsorted(groups, samples.group), weights=rows, minlength=len(groups))
    return sums / counts, samples.y[first]


def area_under_roc(scores: Array, labels: Array) -> float:
    """The chance that an anomaly scores above a normal example, ties counting half (Mann-Whitney U)."""
    _, ranks, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = (np.cumsum(counts) - (counts - 1) / 2.0)[ranks]
    positives = int(np.sum(labels == 1))
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        raise SamplesError(
            f"expected normal examples and anomalies to evaluate with, found {negatives} and {positives}"
        )
    statistic = float(mean_rank[labels == 1].sum()) - positives * (positives + 1) / 2.0
    return statistic / (positives * negatives)
