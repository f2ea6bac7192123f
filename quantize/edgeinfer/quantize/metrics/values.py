"""Outputs that are values: against targets, or against those of the float model."""

from dataclasses import dataclass

import numpy as np

from edgeinfer.quantize.dataset import Samples
from edgeinfer.quantize.evaluate import Scored
from edgeinfer.quantize.metrics.base import Judged, Unit, Usual, mean_of
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import SamplesError

__all__ = ["Closeness", "Cosine", "MeanSquaredError", "PixelAgreement", "PointCloseness", "cosines", "spreads"]

_SMALLEST = 1e-12


@dataclass(frozen=True, slots=True)
class MeanSquaredError(Usual):
    """The mean of (value - target)^2 over the values of a row, then over rows."""

    name: str = "mse"
    unit: Unit = "percent"
    higher_is_better: bool = False
    labelled: bool = True

    def judge(self, scored: Scored, reference: Scored, samples: Samples) -> Judged:
        del reference
        if not samples.labelled:
            raise SamplesError(
                f"expected samples with targets for {self.name}, found none",
                hint="the key y in an .npz, or a label column",
            )
        values = scored.rows.reshape(len(scored.rows), -1).astype(np.float64)
        targets = samples.y.reshape(len(samples.y), -1).astype(np.float64)
        if values.shape != targets.shape:
            raise SamplesError(
                f"expected {values.shape[1]} targets a sample, as the model gives values, found {targets.shape[1]}"
            )
        return mean_of(np.mean((values - targets) ** 2, axis=1))


@dataclass(frozen=True, slots=True)
class Closeness(Usual):
    """1 minus the mean of |value - float model's| over how far that value is spread in the float model's answers (its
    standard deviation), not below 0 a row."""

    name: str = "output_closeness"

    def judge(self, scored: Scored, reference: Scored, samples: Samples) -> Judged:
        del samples
        ours, theirs = _flat(scored.rows), _flat(reference.rows)
        distance = np.mean(np.abs(ours - theirs) / spreads(theirs), axis=1)
        return mean_of(np.nan_to_num(np.maximum(0.0, 1.0 - distance), nan=0.0))


@dataclass(frozen=True, slots=True)
class Cosine(Usual):
    """The cosine between a row's values and the float model's."""

    name: str = "cosine_similarity"

    def judge(self, scored: Scored, reference: Scored, samples: Samples) -> Judged:
        del samples
        return mean_of(cosines(scored.rows, reference.rows))


@dataclass(frozen=True, slots=True)
class PixelAgreement(Usual):
    """The share of cells that have the class that the float model gives them."""

    name: str = "pixel_agreement"

    def judge(self, scored: Scored, reference: Scored, samples: Samples) -> Judged:
        del samples
        same = scored.rows == reference.rows
        return mean_of(same.reshape(len(same), -1).mean(axis=1))


@dataclass(frozen=True, slots=True)
class PointCloseness(Usual):
    """1 minus the mean distance to the float model's points, in sides of the picture; a point that only one of them
    reports counts as one side."""

    name: str = "point_closeness"

    def judge(self, scored: Scored, reference: Scored, samples: Samples) -> Judged:
        del samples
        distance = np.linalg.norm(scored.rows[..., :2] - reference.rows[..., :2], axis=-1)
        neither = np.isnan(scored.rows[..., 0]) & np.isnan(reference.rows[..., 0])
        distance = np.where(neither, 0.0, np.minimum(np.nan_to_num(distance, nan=1.0), 1.0))
        return mean_of(1.0 - distance.mean(axis=1))


def spreads(values: Array) -> Array:
    """The standard deviation of each column of (N, values), or that of all where a column does not move."""
    own = values.std(axis=0)
    whole = max(float(values.std()), _SMALLEST)
    widths: Array = np.where(own > whole * 1e-3, own, whole)
    return widths


def cosines(ours: Array, theirs: Array) -> Array:
    """(N,) of two (N, ...); 1 where both are zeros, 0 where one is or holds a NaN."""
    first, second = _flat(ours), _flat(theirs)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    both = ~(first.any(axis=1) | second.any(axis=1))
    with np.errstate(all="ignore"):
        found = np.where(both, 1.0, np.sum(first * second, axis=1) / np.maximum(lengths, _SMALLEST))
    made: Array = np.nan_to_num(found, nan=0.0)
    return made


def _flat(rows: Array) -> Array:
    return rows.reshape(len(rows), -1).astype(np.float64)
