"""Whether samples can tell how good a model is: one that says no more of their labels than guessing would has wrong
labels, or inputs that are not what it was trained on, and then every candidate is as good as it."""

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
    with their labels."""
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
    return ()


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
