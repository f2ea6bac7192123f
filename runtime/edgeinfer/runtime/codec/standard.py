"""Results as a table of the standard columns, and back."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from itertools import chain, pairwise

import msgspec
import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.codec.reals import Form, decimals, fixed, rounded, singles
from edgeinfer.runtime.codec.table import COORDINATES, STANDARD, Axis, Column, Objects, Table
from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.errors import CodecError
from edgeinfer.runtime.results import Item, Kind, Result

__all__ = ["check_values", "results_of", "table_of"]

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Extra = dict[str, int | float | str]

# What is a value of its own unit, not a likelihood: not to be rounded further than to float32.
_MEASURED = frozenset({Kind.EMBEDDING, Kind.REGRESSION, Kind.RAW})
_KINDS = {int(kind): kind for kind in Kind}
_IS_KIND = np.isin(np.arange(max(_KINDS) + 1), list(_KINDS))
_extra_encoder = msgspec.msgpack.Encoder()
_extra_decoder = msgspec.msgpack.Decoder(Extra)


def table_of(results: Sequence[Result]) -> Table:
    """Raises CodecError where a number does not fit 64 bits."""
    items = list(chain.from_iterable([result.items for result in results]))
    boxes = [item.box for item in items if item.box is not None]
    rows = [
        (result.kind, result.t_ns, result.frame, result.latency_us, result.age_us, len(result.items))
        for result in results
    ]
    boxed = [item.box is not None for item in items]
    try:
        numbers = np.fromiter(chain.from_iterable(rows), np.int64, 6 * len(rows)).reshape(-1, 6).T
        labels = np.fromiter([item.label for item in items], np.int64, len(items))
    except OverflowError as error:
        raise CodecError(f"a number does not fit 64 bits: {error}") from error
    columns = [
        Column(field, values)
        for field, values in zip(STANDARD, (*numbers, np.array(boxed, dtype=np.int64), labels), strict=False)
    ]
    kinds = {row[0] for row in rows}
    columns.append(_score_column([item.score for item in items], kinds))
    columns += _box_columns(boxes)
    columns.append(Column(STANDARD[-1], objects=_extra_objects([result.extra for result in results])))
    return Table((1, len(results), len(items), len(boxes)), tuple(columns))


def _score_column(values: Sequence[float], kinds: AbstractSet[Kind]) -> Column:
    """Likelihoods have an absolute step, scores of anomalies a relative one, and measured values all of a float32."""
    field = STANDARD[8]
    scores = np.fromiter(values, np.float64, len(values))
    if not _MEASURED.isdisjoint(kinds):
        return Column(field, singles(scores), Form.FLOAT32)
    if Kind.ANOMALY not in kinds and bool(((scores >= 0.0) & (scores <= 1.0)).all()):
        return Column(field, fixed(scores), Form.FIXED)
    return Column(field, rounded(scores), Form.FLOAT32)


def _box_columns(boxes: Sequence[tuple[float, float, float, float]]) -> list[Column]:
    """The four coordinates, all in one form."""
    corners = np.fromiter(chain.from_iterable(boxes), np.float64, 4 * len(boxes)).reshape(-1, 4).T
    in_picture = bool(((corners >= 0.0) & (corners <= 1.0)).all())
    values, form = (fixed(corners), Form.FIXED) if in_picture else (singles(corners), Form.FLOAT32)
    return [Column(field, row, form) for field, row in zip(STANDARD[9:13], values, strict=True)]


def _extra_objects(extras: Sequence[Extra | None]) -> Objects:
    try:
        return [
            (place, msgspec.Raw(_extra_encoder.encode(extra)))
            for place, extra in enumerate(extras)
            if extra is not None
        ]
    except (TypeError, ValueError, OverflowError) as error:
        raise CodecError(f"an extra cannot be encoded: {error}") from error


def check_values(table: Table) -> None:
    """Raises CodecError for exactly those standard columns that `results_of` cannot make results of. Needs `kind` and
    `extra`."""
    _check_kinds(table)
    _extras(table)


def _check_kinds(table: Table) -> None:
    kinds = table.column("kind").values
    if int(kinds.min()) < 0 or int(kinds.max()) >= len(_IS_KIND) or not _IS_KIND[kinds].all():
        raise CodecError("the chunk has a result of a kind that is not known")


def _extras(table: Table) -> list[Extra | None]:
    extras: list[Extra | None] = [None] * table.lengths[Axis.RESULT]
    try:
        for place, value in table.column("extra").objects:
            extras[place] = _extra_decoder.decode(value)
    except MALFORMED as error:
        raise CodecError(f"an extra cannot be decoded: {error}") from error
    return extras


def results_of(table: Table) -> list[Result]:
    """Raises CodecError for values that no result can have."""
    _check_kinds(table)
    extras = _extras(table)
    items = tuple(_items(table))
    ends: list[int] = table.column("items").values.cumsum().tolist()
    return list(
        map(
            Result,
            map(_KINDS.__getitem__, table.column("kind").values.tolist()),
            table.column("t").values.tolist(),
            table.column("frame").values.tolist(),
            table.column("latency").values.tolist(),
            table.column("age").values.tolist(),
            [items[start:end] for start, end in pairwise([0, *ends])],
            extras,
        )
    )


def _items(table: Table) -> list[Item]:
    labels = table.column("label").values.tolist()
    scores = _reals(table.column("score"))
    total, boxes = table.lengths[Axis.ITEM], table.lengths[Axis.BOX]
    if not boxes:
        return list(map(Item, labels, scores))
    columns = [table.column(name) for name in COORDINATES]
    if len({column.form for column in columns}) == 1:
        coordinates = decimals(np.array([column.values for column in columns]), columns[0].form).tolist()
    else:
        coordinates = [_reals(column) for column in columns]
    corners = zip(*coordinates, strict=True)
    if boxes == total:
        return list(map(Item, labels, scores, corners))
    boxed = [next(corners) if flag else None for flag in table.column("boxed").values.tolist()]
    return list(map(Item, labels, scores, boxed))


def _reals(column: Column) -> list[float]:
    found: list[float] = decimals(column.values, column.form).tolist()
    return found
