"""Chooses how the columns of a chunk are modelled. What is always the same is not weighed anew for each chunk: times
and frame numbers count up, an age begins with a latency, boxes resemble those of earlier pictures. Nothing of this is
needed to read a chunk."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.codec.model import Model, Prediction

__all__ = ["find_references", "items_modelled", "modelled"]

Integers = npt.NDArray[np.int64]
Modelled = tuple[list[Model], Integers]

# How far back an item's likeness is looked for, in items. More finds little more, and takes time.
_LOOK_BACK = 8
# Values of a column that tell its median well enough.
_SAMPLE = 200
_WORD = 1 << 64
_SIGN = 1 << 63
# Members of an enumeration are slow to look up.
_NONE, _PREVIOUS, _REFERENCE = Prediction


def find_references(features: Integers, *, usual: int) -> Integers:
    """For each item by how many items its likeness precedes it, 0 for none.

    `features` (k, items) are numbers that are close for the same thing; `usual` is the number of items that most
    results have: about that far back it is looked for.
    """
    usual = max(usual, 1)
    farthest = max(1, usual - _LOOK_BACK // 2) + _LOOK_BACK - 1
    padded = np.zeros((len(features), farthest + features.shape[1]), dtype=np.int64)
    padded[:, farthest:] = features
    # What precedes each item, the farthest first.
    before: Integers = np.ndarray(
        (_LOOK_BACK, *features.shape), dtype=np.int64, buffer=padded, strides=(padded.strides[1], *padded.strides)
    )
    distances = before - features
    cost = np.add.reduce(np.abs(distances, out=distances), axis=1)
    # Of equals the usual one.
    cost[farthest - usual] -= 1
    found: Integers = farthest - cost.argmin(axis=0)
    first = found[:farthest]
    first[first > np.arange(len(first))] = 0
    return found


def modelled(rows: Integers, *, counting: Sequence[int], minus: Sequence[tuple[int, int]]) -> Modelled:
    """Models for rows (columns, length), and what these leave, counted from their bases, in the rows themselves.
    `counting`: rows whose values are predicted as the ones before; `minus`: rows, and others, which are neither, to
    take off them."""
    taken_off, starts = dict(minus), {}
    for row, other in minus:
        rows[row] -= rows[other]
    for row in counting:
        values = rows[row]
        first = int(values[0])
        values[1:] = values[1:] - values[:-1]
        # As large as the next step, so that it costs nothing of its own.
        values[0] = values[1] if len(values) > 1 else 0
        starts[row] = _wrapped(first - int(values[0]))
    medians = _medians(rows)
    rows -= medians[:, None]
    models = [
        Model(
            _PREVIOUS if row in starts else _NONE,
            taken_off.get(row, -1),
            starts.get(row, 0),
            base,
        )
        for row, base in enumerate(medians.tolist())
    ]
    return models, rows


def items_modelled(rows: Integers, *, minus: Sequence[tuple[int, int]]) -> Modelled:
    """The same of columns along items, of which the first has the references. Another one is predicted by them where
    that is nearer to it than its median; if none is, the references become 0."""
    references = rows[0]
    targets = np.arange(len(references)) - references
    targets *= references > 0
    medians = _medians(rows)
    left, around = both = np.empty((2, *rows.shape), dtype=np.int64)
    np.subtract(rows, rows.take(targets, axis=1), out=left)
    np.subtract(rows, medians[:, None], out=around)
    sizes, sizes_around = _sizes(both)
    is_referring = sizes < sizes_around
    is_referring[0] = False
    if not is_referring.any():
        around[0] = medians[0] = 0
    models = []
    for row, (refers, first, base) in enumerate(
        zip(is_referring.tolist(), rows[:, 0].tolist(), medians.tolist(), strict=True)
    ):
        if refers:
            models.append(Model(_REFERENCE, -1, first, 0))
        else:
            models.append(Model(_NONE, -1, 0, base))
            left[row] = around[row]
    for row, other in minus:
        if is_referring[row] and is_referring[other]:
            models[row] = _without(models, left, row, other, size=float(sizes[row]))
    return models, left


def _without(models: Sequence[Model], left: Integers, row: int, other: int, *, size: float) -> Model:
    """Take another column off what is left of one, if they are all but the same, like the corners of a point. Else what
    is left is noise, and the difference of two noises is larger than either. `size`: that of what is left of the one.
    """
    difference = left[row] - left[other]
    if 2 * float(_sizes(difference)) >= size:
        return models[row]
    left[row] = difference
    return Model(_REFERENCE, other, _wrapped(models[row].start - models[other].start), 0)


def _medians(rows: Integers) -> Integers:
    """About: those of some of the values."""
    sample = rows[:, :: rows.shape[1] // _SAMPLE + 1].copy()
    middle = sample.shape[1] // 2
    sample.partition(middle, axis=1)
    return sample[:, middle]


def _sizes(rows: Integers) -> npt.NDArray[np.float64]:
    """The sum of the absolute values of each row."""
    sizes: npt.NDArray[np.float64] = np.add.reduce(np.abs(rows), axis=-1, dtype=np.float64)
    return sizes


def _wrapped(value: int) -> int:
    return (value + _SIGN) % _WORD - _SIGN
