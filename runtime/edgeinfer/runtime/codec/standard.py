"""Results as a table of the standard columns, and back."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain, pairwise

import msgspec
import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.codec.alike import boxed_alike
from edgeinfer.runtime.codec.reals import Form, decimals, fixed, rounded, singles
from edgeinfer.runtime.codec.table import COORDINATES, STANDARD, Column, Lengths, Objects, Table
from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.errors import CodecError
from edgeinfer.runtime.results import Item, Kind, Result

__all__ = ["check_extras", "check_kinds", "results_of", "table_of"]

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Extra = dict[str, int | float | str]

# What is a value of its own unit, not a likelihood: not to be rounded further than to float32.
_MEASURED = frozenset({Kind.EMBEDDING, Kind.REGRESSION, Kind.RAW})
_KINDS = {int(kind): kind for kind in Kind}
_IS_KIND = np.isin(np.arange(max(_KINDS) + 1), list(_KINDS))
_UNKNOWN_KIND = "the chunk has a result of a kind that is not known"
_extra_encoder = msgspec.msgpack.Encoder()
_extra_decoder = msgspec.msgpack.Decoder(Extra)


def table_of(results: Sequence[Result]) -> Table:
    """Raises CodecError for what `results_of` could not make the same results of."""
    kinds, items_of = [result.kind for result in results], [result.items for result in results]
    items = list(chain.from_iterable(items_of))
    n, total = len(results), len(items)
    numbers = _integers(
        *kinds,
        *[result.t_ns for result in results],
        *[result.frame for result in results],
        *[result.latency_us for result in results],
        *[result.age_us for result in results],
        *map(len, items_of),
    )
    boxed, labels, reals = _item_values(items)
    columns = list(map(Column, STANDARD, (*numbers.reshape(6, n), boxed, labels)))
    if not (found := frozenset(kinds)) <= _KINDS.keys():
        raise CodecError(_UNKNOWN_KIND)
    columns += _real_columns(reals, total, found)
    columns.append(Column(STANDARD[-1], objects=_extra_objects([result.extra for result in results])))
    return Table((1, n, total, (len(reals) - total) // 4), tuple(columns))


def _item_values(items: Sequence[Item]) -> tuple[Integers, Integers, Floats]:
    """Whether each has a box, the labels, and the scores followed by the boxes: by all x1, all y1, all x2, all y2."""
    total = len(items)
    if (alike := boxed_alike(items)) is not None:
        return np.ones(total, dtype=np.int64), alike[0], alike[1].reshape(-1)
    boxes = [item.box for item in items]
    present = [box for box in boxes if box is not None]
    numbers = _integers(*[box is not None for box in boxes], *[item.label for item in items])
    reals = _reals_of([item.score for item in items], present)
    if present:
        reals = np.concatenate((reals[:total], reals[total:].reshape(-1, 4).T.reshape(-1)))
    return numbers[:total], numbers[total:], reals


def _integers(*values: int) -> Integers:
    """`struct` takes numbers of Python in half the time that numpy does."""
    try:
        return np.frombuffer(struct.pack(f"={len(values)}q", *values), np.int64)
    except (struct.error, TypeError) as error:
        raise CodecError(f"a number does not fit 64 bits: {error}") from error


def _reals_of(scores: Sequence[float], boxes: Sequence[Sequence[float]]) -> Floats:
    try:
        sizes = set(map(len, boxes))
        values = [*scores, *chain.from_iterable(boxes)]
        packed = struct.pack(f"={len(values)}d", *values)
    except (struct.error, TypeError, OverflowError) as error:
        raise CodecError(f"a score or a box is no number: {error}") from error
    if not sizes <= {4}:
        raise CodecError(f"expected boxes of 4 numbers, found {sorted(sizes)}")
    return np.frombuffer(packed, np.float64)


def _real_columns(reals: Floats, items: int, kinds: AbstractSet[Kind]) -> list[Column]:
    """The scores, which come first, and the four coordinates, all of these in one form."""
    score_field, *fields = STANDARD[8:13]
    corners = reals[items:].reshape(4, -1)
    if Kind.ANOMALY not in kinds and _MEASURED.isdisjoint(kinds) and _in_unit(reals):
        steps = fixed(reals)
        scores, values, form = (
            Column(score_field, steps[:items], Form.FIXED),
            steps[items:].reshape(4, -1),
            Form.FIXED,
        )
    else:
        scores = _score_column(reals[:items], kinds)
        values, form = (fixed(corners), Form.FIXED) if _in_unit(corners) else (singles(corners), Form.FLOAT32)
    return [scores, *(Column(field, row, form) for field, row in zip(fields, values, strict=True))]


def _score_column(scores: Floats, kinds: AbstractSet[Kind]) -> Column:
    """Likelihoods have an absolute step, scores of anomalies a relative one, and measured values all of a float32."""
    field = STANDARD[8]
    if not _MEASURED.isdisjoint(kinds):
        return Column(field, singles(scores), Form.FLOAT32)
    if Kind.ANOMALY not in kinds and _in_unit(scores):
        return Column(field, fixed(scores), Form.FIXED)
    return Column(field, rounded(scores), Form.FLOAT32)


def _in_unit(values: Floats) -> bool:
    """Whether all are within 0..1; a NaN is not."""
    return not values.size or bool(values.min() >= 0.0 and values.max() <= 1.0)


def _extra_objects(extras: Sequence[Extra | None]) -> Objects:
    """Raises CodecError for one that `results_of` would refuse: with a bool, as with what is no text and no number."""
    try:
        objects = [
            (place, msgspec.Raw(_extra_encoder.encode(extra)))
            for place, extra in enumerate(extras)
            if extra is not None
        ]
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise CodecError(f"an extra cannot be encoded: {error}") from error
    # One that could not be read again would take all the others of its chunk along.
    check_extras(objects)
    return objects


def check_kinds(kinds: Integers) -> None:
    """Raises CodecError for those that `results_of` does not know."""
    lowest, highest = int(np.minimum.reduce(kinds)), int(np.maximum.reduce(kinds))
    if lowest < 0 or highest >= len(_IS_KIND) or not _IS_KIND[kinds if lowest < highest else lowest].all():
        raise CodecError(_UNKNOWN_KIND)


def check_extras(objects: Objects) -> None:
    """Raises CodecError for those that `results_of` cannot make extras of."""
    _extras(objects, objects[-1][0] + 1 if objects else 0)


def _extras(objects: Objects, results: int) -> list[Extra | None]:
    extras: list[Extra | None] = [None] * results
    try:
        for place, value in objects:
            extras[place] = _extra_decoder.decode(value)
    except MALFORMED as error:
        raise CodecError(f"an extra cannot be decoded: {error}") from error
    return extras


def results_of(table: Table) -> list[Result]:
    """Raises CodecError for values that no result can have."""
    columns = {column.field.name: column for column in table.columns}
    try:
        kinds = list(map(_KINDS.__getitem__, columns["kind"].values.tolist()))
    except KeyError as error:
        raise CodecError(_UNKNOWN_KIND) from error
    items = tuple(_items(columns, table.lengths))
    ends: list[int] = columns["items"].values.cumsum().tolist()
    times, frames, latencies, ages = [columns[name].values.tolist() for name in ("t", "frame", "latency", "age")]
    parts = [items[start:end] for start, end in pairwise([0, *ends])]
    extras = _extras(columns["extra"].objects, len(kinds))
    return list(map(Result, kinds, times, frames, latencies, ages, parts, extras))


def _items(columns: Mapping[str, Column], lengths: Lengths) -> Iterable[Item]:
    _, _, total, boxes = lengths
    labels = columns["label"].values.tolist()
    if not boxes:
        return map(Item, labels, _numbers([columns["score"]])[0])
    scores, *coordinates = _numbers([columns["score"], *(columns[name] for name in COORDINATES)])
    corners = zip(*coordinates, strict=True)
    if boxes == total:
        return map(Item, labels, scores, corners)
    boxed = [next(corners) if flag else None for flag in columns["boxed"].values.tolist()]
    return map(Item, labels, scores, boxed)


def _numbers(columns: Sequence[Column]) -> list[list[float]]:
    """The real numbers of columns; of those of one form and length at once."""
    if len({(column.form, len(column.values)) for column in columns}) > 1:
        return [decimals(column.values, column.form).tolist() for column in columns]
    values = np.concatenate([column.values for column in columns]).reshape(len(columns), -1)
    found: list[list[float]] = decimals(values, columns[0].form).tolist()
    return found
