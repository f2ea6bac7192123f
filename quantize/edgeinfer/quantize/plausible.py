"""Whether samples can tell how good a model is: one that says no more of their labels than guessing would has wrong
labels, or inputs that are not what it was trained on, and then every candidate is as good as it. So is one that says
no numbers at all, or always the same."""

import math
from dataclasses import dataclass

import numpy as np

from edgeinfer.quantize.dataset import Samples
from edgeinfer.quantize.evaluate import Scored
from edgeinfer.quantize.metrics.base import example_scores
from edgeinfer.quantize.metrics.ranking import area_under_roc
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import SamplesError
from edgeinfer.runtime.manifest import Task

__all__ = ["check_plausible"]

# With fewer, a good model may look like one that guesses.
_LEAST_EXAMPLES = 20
# Standard errors above guessing: below the first it is refused, below the second said.
_REFUSED, _DOUBTFUL = 0.5, 2.0
# What these say is numbers, none of which may be missing.
_NUMBERS: tuple[Task, ...] = ("classification", "anomaly", "regression", "embedding", "raw")
# Of these, what must not be the same for all samples: the others may be asked of a model that has nothing to say.
_JUDGED: tuple[Task, ...] = ("classification", "anomaly", "regression")
_HINT = (
    "are the labels those of these samples, in the order of the model's outputs, and are the values scaled as in its "
    "training (--preprocess)?"
)


@dataclass(frozen=True, slots=True)
class _Held:
    """How good the float model is, how good guessing would be, and the standard error of that."""

    name: str
    found: float
    guessed: float
    error: float

    @property
    def above(self) -> float:
        return (self.found - self.guessed) / self.error if self.error else math.inf


def check_plausible(reference: Scored, samples: Samples, *, task: Task) -> tuple[str, ...]:
    """Warnings. `reference` is what the float model said of `samples`. Raises SamplesError where that has nothing to do
    with their labels, or where it is the same for all of them or holds no numbers."""
    return (*_working(reference.rows, task), *_knowing(reference, samples, task=task))


def _working(said: Array, task: Task) -> tuple[str, ...]:
    """Warnings about what the float model said, (N, ...). Raises SamplesError."""
    if task not in _NUMBERS or len(said) < 2 or not np.issubdtype(said.dtype, np.floating):
        return ()
    rows = said.reshape(len(said), -1)
    broken = int(np.sum(~np.isfinite(rows).all(axis=1)))
    if broken == len(rows):
        raise SamplesError(
            f"expected numbers from the float model, found NaN or infinity for all {broken} samples",
            hint="look at its weights, and whether the values are scaled as in its training (--preprocess)",
        )
    if task in _JUDGED and len(rows) >= _LEAST_EXAMPLES and bool((rows == rows[:1]).all()):
        raise SamplesError(
            f"expected outputs of the float model that depend on the input, found the same for all {len(rows)} samples",
            hint="look at its weights, and whether the samples differ and are scaled as in its training (--preprocess)",
        )
    return (f"the float model gives NaN or infinity for {broken} of {len(rows)} samples",) if broken else ()


def _knowing(reference: Scored, samples: Samples, *, task: Task) -> tuple[str, ...]:
    """Warnings about how what it said fits the labels. Raises SamplesError."""
    if not samples.labelled or samples.examples < _LEAST_EXAMPLES:
        return ()
    if task == "classification" and reference.rows.ndim == 2:
        if len(present := np.unique(samples.y)) == 1:
            return (f"all samples are of class {present[0]}: what is lost of the others is not seen",)
        if samples.y.ndim != 1 or not 0 <= samples.y.min() <= samples.y.max() < reference.rows.shape[1]:
            return ()  # a metric of the user's own has labels of its own
        return _told(_as_classes(reference.rows.argmax(axis=1), samples.y, reference.rows.shape[1]))
    if task == "anomaly" and reference.rows.ndim == 1:
        return _told(_as_ranks(*example_scores(reference.rows, samples)))
    return _as_numbers(reference.rows, samples.y) if task == "regression" else ()


def _as_numbers(said: Array, targets: Array) -> tuple[str, ...]:
    """A warning where always saying the targets' mean would be nearer to them."""
    said, targets = said.reshape(len(said), -1), targets.reshape(len(targets), -1)
    if said.shape != targets.shape:
        return ()
    found, guessed = float(np.mean((said - targets) ** 2)), float(np.mean((targets - targets.mean(axis=0)) ** 2))
    if not found > guessed > 0.0:
        return ()
    error = f"the float model's mean squared error is {found:.4g} on these samples, where their mean alone gives"
    return (f"{error} {guessed:.4g}: {_HINT}",)


def _told(held: _Held) -> tuple[str, ...]:
    said = (
        f"the float model's {held.name} is {held.found:.3f} on these samples, where guessing gives {held.guessed:.3f}"
    )
    if held.above < _REFUSED:
        raise SamplesError(f"expected samples that the float model knows: {said}", hint=_HINT)
    return (f"{said}: {_HINT}",) if held.above < _DOUBTFUL else ()


def _as_classes(said: Array, labels: Array, classes: int) -> _Held:
    """Against what Cohen's kappa (1960) is held against: as many right as if answers and labels were independent."""
    shares = [np.bincount(each, minlength=classes) / len(labels) for each in (said, labels)]
    guessed = float(shares[0] @ shares[1])
    error = math.sqrt(guessed * (1.0 - guessed) / len(labels))
    return _Held("accuracy", float(np.mean(said == labels)), guessed, error)


def _as_ranks(scores: Array, labels: Array) -> _Held:
    """The standard error of the Mann-Whitney statistic where scores and labels are independent."""
    anomalies = int(np.sum(labels == 1))
    error = math.sqrt((len(labels) + 1) / (12.0 * anomalies * max(len(labels) - anomalies, 1))) if anomalies else 0.0
    return _Held("AUC", area_under_roc(scores, labels), 0.5, error)
