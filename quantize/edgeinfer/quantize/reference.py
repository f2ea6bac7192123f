"""The reference of a package: how scores and inputs are spread over the samples, for devices to hold theirs against."""

from collections.abc import Mapping

import numpy as np

from edgeinfer.quantize.dataset import Samples
from edgeinfer.quantize.rows import Rows, spread
from edgeinfer.runtime.engines import Engine, quantize_input
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.learn.distribution import describe
from edgeinfer.runtime.learn.statistics import InputStatistics, Values, score_statistics
from edgeinfer.runtime.manifest import Distribution, Postprocess, Preprocess, Reference, Task
from edgeinfer.runtime.postprocess import compile_postprocess, result_kind
from edgeinfer.runtime.preprocess import Region

__all__ = ["MIN_ROWS", "Typical", "make_reference", "typical"]

# Fewer say nothing of how statistics are spread; more than the most would only take time.
MIN_ROWS = 30
_MAX_ROWS = 512
_WHOLE = Region(0.0, 0.0, 1.0, 1.0)

# Rows, and how many independent examples they are.
Typical = tuple[Rows, int]


def typical(samples: Samples, *, task: Task) -> Typical:
    """The samples as they are where nothing is wrong: of anomaly samples the normal ones."""
    if task != "anomaly":
        return samples.x, samples.examples
    normal = samples.y == 0
    count = int(normal.sum()) if samples.group is None else len(np.unique(samples.group[normal]))
    return samples.x.picked(np.flatnonzero(normal)), count


def make_reference(
    engine: Engine,
    rows: Typical,
    *,
    preprocess: Preprocess,
    postprocess: Postprocess,
    arrays: Mapping[str, Array] | None = None,
) -> Reference:
    """Runs the engine of the first variant over at most 512 of the rows, as a device would. Without a statistic where
    there are fewer than 30, or where the model takes more than a frame. Raises ModelError."""
    x, examples = rows
    if len(x) < MIN_ROWS or len(engine.inputs) != 1:
        return Reference()
    picked = x.picked(spread(_MAX_ROWS, len(x)))
    spec = engine.inputs[0]
    interpret = compile_postprocess(postprocess, model_input=spec, outputs=engine.outputs, arrays=arrays)
    scores_of, inputs_of = score_statistics(result_kind(postprocess)), InputStatistics(preprocess, [spec])
    scores: list[Values] = []
    inputs: list[Values] = []
    for index in range(len(picked)):
        target = quantize_input(picked.row(index), spec)
        scores.append(scores_of(interpret(target, engine.run([target]), _WHOLE)))
        inputs.append(inputs_of(target))
    return Reference(scores=_described(scores, examples), inputs=_described(inputs, examples))


def _described(rows: list[Values], examples: int) -> dict[str, Distribution]:
    columns: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    found = {name: np.asarray(values) for name, values in columns.items()}
    return {
        name: describe(values, effective=min(len(values), examples))
        for name, values in found.items()
        if np.isfinite(values).sum() >= MIN_ROWS
    }
