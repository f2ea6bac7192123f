"""What a column is taken to be like: a prediction of each value, and what is left of the value once that is taken off.

A value is predicted as nothing, as the value before it, or as that of an earlier item that looks like the same thing in
an earlier picture (a reference). A column may first have another column taken off: the age of a result begins with its
latency, a box ends where it begins. What is left is counted from a base, in units of a factor that all have in common,
and, where it lies on both sides of the base, with the sign as its lowest bit. All sums are modulo 2^64.

`choice` decides how a column is modelled. Columns of one length are the rows of an array: many small ones would take
their time.
"""

import enum
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.codec.bits import Naturals
from edgeinfer.runtime.errors import CodecError

__all__ = ["Model", "Prediction", "divided", "natural", "restored", "uncounted", "with_signs"]

Integers = npt.NDArray[np.int64]

# A common factor shows in a few numbers already, or there is none.
_FACTOR_SAMPLE = 12
# Of fewer numbers a factor would take more bytes than it saves.
_WORTH_A_FACTOR = 4
_ONE = np.uint64(1)
_BEFORE_FIRST = "the chunk refers to an item before its first"


class Prediction(enum.IntEnum):
    """The numbers are stored: never reuse one."""

    NONE = 0
    PREVIOUS = 1
    REFERENCE = 2


# Members of an enumeration are slow to look up.
_PREVIOUS, _REFERENCE = Prediction.PREVIOUS, Prediction.REFERENCE


class Model(msgspec.Struct, frozen=True, gc=False):
    """`start`: what the first value is predicted as, and each item without a reference. `minus`: the row of the column
    that was taken off, or -1. `signed`: what is left lies on both sides of `base`, as we always write it."""

    prediction: Prediction = Prediction.NONE
    minus: int = -1
    start: int = 0
    base: int = 0
    factor: int = 1
    signed: bool = True


def divided(left: Integers, models: Sequence[Model]) -> tuple[list[Model], Integers]:
    """What is left, rows (columns, length), in units of the factors that these have, and the models with them."""
    sample = left[:, :: left.shape[1] // _FACTOR_SAMPLE + 1]
    models = list(models)
    for row, common in enumerate(np.gcd.reduce(sample, axis=1).tolist()):
        if common <= 1 or np.count_nonzero(sample[row]) < _WORTH_A_FACTOR:
            continue
        factor = int(np.gcd.reduce(left[row]))
        if factor > 1:
            left[row] //= factor
            models[row] = msgspec.structs.replace(models[row], factor=factor)
    return models, left


def natural(left: Integers) -> Naturals:
    """The natural numbers that stand for what is left."""
    return ((left << 1) ^ (left >> 63)).view(np.uint64)


def with_signs(naturals: Naturals) -> Integers:
    """The other way: the lowest bit of each says its sign."""
    left = (naturals >> _ONE).view(np.int64)
    signs = naturals.view(np.int64) & 1
    left ^= np.negative(signs, out=signs)
    return left


def uncounted(naturals: Naturals, models: Sequence[Model], counts: Sequence[int]) -> Integers:
    """What was left, from the numbers that stand for it."""
    left = with_signs(naturals)
    if not all(model.signed for model in models):
        left = np.where(_spread([model.signed for model in models], counts), left, naturals.view(np.int64))
    if any(model.factor != 1 for model in models):
        left *= _spread([model.factor for model in models], counts)
    left += _spread([model.base for model in models], counts)
    return left


def _spread(values: Sequence[int], counts: Sequence[int]) -> Integers:
    """One value of each column as often as the column is long."""
    return np.array(values, dtype=np.int64).repeat(counts)


def restored(left: Integers, models: Sequence[Model], *, refers: bool = False) -> Integers:
    """The values of columns of one length, the rows (columns, length) of what is left, which they take the place of.
    `refers`: the first row has the references. A row is taken off only later ones. Raises CodecError for a reference to
    what is not before."""
    for row, model in enumerate(models):
        if model.prediction is _PREVIOUS:
            left[row].cumsum(out=left[row])
            left[row] += np.int64(model.start)
    if refers:
        _add_referred(left, models)
    for row, model in enumerate(models):
        if model.minus >= 0:
            left[row] += left[model.minus]
    return left


def _add_referred(values: Integers, models: Sequence[Model]) -> None:
    """Raises CodecError as `restored` does."""
    targets = _targets(values[0])
    rows = [row for row, model in enumerate(models) if model.prediction is _REFERENCE]
    if rows:
        starts = np.array([models[row].start for row in rows], dtype=np.int64)
        values[rows] = _followed(values[rows], starts, targets)


def _targets(references: Integers) -> Integers:
    """Which item each one refers to; what is behind the last one, for none."""
    targets = np.arange(len(references))
    if int(np.minimum.reduce(references)) < 0 or (references > targets).any():
        raise CodecError(_BEFORE_FIRST)
    targets -= references
    np.copyto(targets, len(references), where=references == 0)
    return targets


def _followed(values: Integers, starts: Integers, targets: Integers) -> Integers:
    """Add to each value the finished one that it refers to, or its start: in each round twice as many of the steps on
    its way. The starts are at the end of every way, and behind them nothing, which refers to itself."""
    count = len(targets)
    found = np.zeros((count + 2, len(values)), dtype=np.int64)
    found[:count] = values.T
    found[count] = starts
    targets = np.concatenate((targets, (count + 1, count + 1)))
    while int(np.minimum.reduce(targets)) <= count:
        found += found.take(targets, axis=0)
        targets = targets.take(targets)
    return found[:count].T
