"""Runs a candidate over samples with the engine and the postprocessing that run on the device.

What it says of the rows is a `Scored`; how good that is, `edgeinfer.quantize.metrics` tells.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from edgeinfer.quantize.boxes import Boxes
from edgeinfer.quantize.candidate import Candidate, open_candidate
from edgeinfer.quantize.carrying import Carrying, starts
from edgeinfer.quantize.dataset import Samples
from edgeinfer.quantize.rows import Rows
from edgeinfer.runtime.engines import Engine, dequantize, load_engine, quantize_input
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.manifest import (
    ClassifyPost,
    DetectPost,
    EmbedPost,
    KeypointsPost,
    KeywordsPost,
    Postprocess,
    RawPost,
    RegressPost,
    SegmentPost,
    TensorSpec,
)
from edgeinfer.runtime.postprocess import compile_postprocess
from edgeinfer.runtime.preprocess import WHOLE
from edgeinfer.runtime.results import Item

__all__ = ["THRESHOLD_PERCENTILE", "Scored", "infer_one", "score_rows", "scores_itself", "threshold"]

# One false alarm in a hundred normal inputs: the operator may set it otherwise.
THRESHOLD_PERCENTILE = 99.0
_REPORT_INTERVAL_S = 0.1
# Enough to tell how alike two class maps or two sets of values are; all of them for all samples fill a memory.
_MAX_CELLS = 128
_MAX_VALUES = 4096
_Answer = Array | Boxes


@dataclass(frozen=True, slots=True)
class Scored:
    """What a candidate said of N rows.

    `rows`: classification (N, classes) scores; anomaly (N,) scores; regression, embedding and raw (N, values), of raw
    ones at most 4096 at equal distances; keypoints (N, points, 3) x, y in 0..1 and score, NaN for what is left out;
    segmentation (N, rows, columns) classes of at most 128 x 128 cells. Detection has `found` instead: the boxes of each
    picture, of which those with at least `threshold` are reported on a device. `outputs` are all outputs as real
    numbers, (N, ...) float32 each, where they were asked for.
    """

    rows: Array
    found: tuple[Boxes, ...] = ()
    threshold: float = 0.0
    outputs: tuple[Array, ...] = ()

    @property
    def shown(self) -> tuple[Boxes, ...]:
        """The boxes that a device reports."""
        return tuple(tuple(item for item in boxes if item.score >= self.threshold) for boxes in self.found)


def infer_one(engine: Engine, sample: Array) -> list[Array]:
    """One inference on float32 (1, *input shape); the outputs as real numbers."""
    outputs = engine.run([quantize_input(sample, engine.inputs[0])])
    return [dequantize(output, spec) for output, spec in zip(outputs, engine.outputs, strict=True)]


def score_rows(
    candidate: Candidate,
    x: Rows,
    *,
    post: Postprocess,
    threads: int = 1,
    tick: Callable[[float], None] = lambda _done: None,
    arrays: Mapping[str, Array] | None = None,
    group: Array | None = None,
    lowest: float | None = None,
    keep_outputs: bool = False,
) -> Scored:
    """Run `candidate` over each of the rows. Raises ModelError, SamplesError.

    `post` says which output holds class scores, or how outputs become a score or boxes, with the package's `arrays`.
    `tick` is told the share that is done, some times a second. A model with states carries them along the rows of a
    `group`. Boxes from the score `lowest` on are kept, where that is less than what is declared. `keep_outputs` as
    `Scored.outputs`.
    """
    threshold = post.score_threshold if isinstance(post, DetectPost) else 0.0
    if isinstance(post, DetectPost) and lowest is not None:
        post = msgspec.structs.replace(post, score_threshold=min(lowest, threshold))
    carries = bool(candidate.feeding.states) and group is not None
    engine = _carrying(candidate, threads) if carries else open_candidate(candidate, threads=threads)
    begins = starts(group if carries else None, len(x))
    try:
        judge = _Judge(engine, post, arrays, keep_outputs=keep_outputs)
        told = time.monotonic()
        for index in range(len(x)):
            if begins[index] and isinstance(engine, Carrying):
                engine.restart()
            judge(x.row(index))
            if (now := time.monotonic()) - told > _REPORT_INTERVAL_S:
                told = now
                tick(index / len(x))
    finally:
        engine.close()
    return judge.scored(threshold)


def _carrying(candidate: Candidate, threads: int) -> Carrying:
    return Carrying(load_engine(candidate.engine, candidate.path, threads=threads), candidate.feeding)


class _Judge:
    """Runs rows, and gathers what is said of them."""

    def __init__(
        self, engine: Engine, post: Postprocess, arrays: Mapping[str, Array] | None, *, keep_outputs: bool
    ) -> None:
        self._engine = engine
        self._spec = engine.inputs[0]
        self._answer = _answer(engine, post, arrays)
        self._answers: list[_Answer] = []
        self._kept: list[list[Array]] | None = [[] for _ in engine.outputs] if keep_outputs else None

    def __call__(self, row: Array) -> None:
        model_input = quantize_input(row, self._spec)
        outputs = self._engine.run([model_input])
        self._answers.append(self._answer(model_input, outputs))
        if self._kept is not None:
            for kept, output, spec in zip(self._kept, outputs, self._engine.outputs, strict=True):
                kept.append(_without_batch(dequantize(output, spec).astype(np.float32)))

    def scored(self, threshold: float) -> Scored:
        boxes = tuple(answer for answer in self._answers if isinstance(answer, tuple))
        values = [answer for answer in self._answers if not isinstance(answer, tuple)]
        outputs = tuple(_together(kept) for kept in self._kept or ())
        return Scored(_together(values) if values else np.zeros(len(boxes)), boxes, threshold, outputs)


def _without_batch(output: Array) -> Array:
    return output[0] if output.ndim > 0 and output.shape[0] == 1 else output


def _together(values: list[Array]) -> Array:
    """(N, ...); where sizes differ from row to row, (N,) of objects."""
    if len({value.shape for value in values}) <= 1:
        return np.stack(values)
    gathered = np.empty(len(values), dtype=object)
    gathered[:] = values
    return gathered


_Say = Callable[[Array, Sequence[Array]], _Answer]


def _answer(engine: Engine, post: Postprocess, arrays: Mapping[str, Array] | None) -> _Say:
    """A function of the engine's input and its outputs."""
    specs = engine.outputs
    if isinstance(post, ClassifyPost | KeywordsPost):
        at = post.output
        return lambda _given, outputs: dequantize(outputs[at], specs[at]).reshape(-1).astype(np.float32)
    if isinstance(post, RawPost):
        return lambda _given, outputs: _values(outputs, specs)
    if isinstance(post, SegmentPost):
        return _class_map(post, specs)
    interpret = compile_postprocess(post, model_input=engine.inputs[0], outputs=specs, arrays=arrays)
    if isinstance(post, DetectPost):
        return lambda given, outputs: interpret(given, outputs, WHOLE)
    if isinstance(post, KeypointsPost):
        points = specs[post.output].shape[-2]
        return lambda given, outputs: _points(interpret(given, outputs, WHOLE), points)
    if isinstance(post, RegressPost | EmbedPost):
        size = math.prod(max(1, side) for side in specs[post.output].shape)
        return lambda given, outputs: _numbers(interpret(given, outputs, WHOLE), size)
    return lambda given, outputs: np.asarray(interpret(given, outputs, WHOLE)[0].score)


def _values(outputs: Sequence[Array], specs: Sequence[TensorSpec]) -> Array:
    pairs = zip(outputs, specs, strict=True)
    values: Array = np.concatenate([dequantize(one, spec).reshape(-1).astype(np.float32) for one, spec in pairs])
    return values[(np.arange(_MAX_VALUES) * len(values)) // _MAX_VALUES] if len(values) > _MAX_VALUES else values


def _class_map(post: SegmentPost, specs: Sequence[TensorSpec]) -> _Say:
    from edgeinfer.runtime.postprocess.segment import Segment

    segment = Segment(post, specs)
    return lambda _given, outputs: segment.mask(outputs, WHOLE, (_MAX_CELLS, _MAX_CELLS))


def _points(items: Sequence[Item], count: int) -> Array:
    points = np.full((count, 3), np.nan, np.float32)
    for item in items:
        if item.box is not None:
            points[item.label] = (item.box[0], item.box[1], item.score)
    return points


def _numbers(items: Sequence[Item], count: int) -> Array:
    numbers = np.full(count, np.nan, np.float32)
    for item in items:
        numbers[item.label] = item.score
    return numbers


def scores_itself(outputs: tuple[TensorSpec, ...]) -> bool:
    """Whether an anomaly model's output is the score, a single number, and no reconstruction."""
    return all(size in {-1, 1} for size in outputs[0].shape)


def threshold(scored: Scored, samples: Samples) -> float:
    """The score that all but one in a hundred normal rows stay below.

    Over rows and not over groups: on the device each window is judged as it comes.
    """
    return float(np.percentile(scored.rows[samples.y == 0], THRESHOLD_PERCENTILE))
