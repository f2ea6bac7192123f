"""Codec COLUMNS, the first one: a msgpack header and columns of bytes, to be compressed. It is read for ever.

A column is a sequence of integers: the smallest is the base, the differences to it are stored in the
narrowest of 0, 1, 2, 4 or 8 bytes, byte planes apart so that zstd finds the runs. Times and frame numbers
are differenced first. Scores and boxes within 0..1 become 16-bit fixed point (steps of 1/65535); a column
with any value outside keeps its float32 bits.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.codec.limits import MAX_ITEMS, MAX_RESULTS
from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.errors import CodecError
from edgeinfer.runtime.results import Item, Kind, Result

__all__ = ["decode_columns", "encode_columns"]

_MAX_HEADER_BYTES = 2 << 20
_MAX_COLUMNS = 64
_LAYOUT = 1

_PLAIN, _DELTA, _UNIT, _FLOAT = range(4)
_WIDTHS: dict[int, type[np.unsignedinteger]] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_UNIT_STEPS = 65_535
_WORD = 1 << 64
_SIGN = 1 << 63

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class _Column(msgspec.Struct, frozen=True, array_like=True):
    """`base` is the smallest value, `width` the bytes of each difference (0: all are equal)."""

    name: str
    transform: int
    width: int
    base: int
    count: int


class _Header(msgspec.Struct, frozen=True, array_like=True):
    layout: int
    n: int
    columns: Annotated[list[_Column], msgspec.Meta(max_length=_MAX_COLUMNS)]
    extras: list[tuple[int, dict[str, int | float | str]]]


_header_decoder = msgspec.msgpack.Decoder(_Header)


def encode_columns(results: Sequence[Result]) -> bytes:
    """Before compression. Raises CodecError for what `decode_columns` would refuse."""
    items = list(chain.from_iterable(result.items for result in results))
    if len(items) > MAX_ITEMS:
        raise CodecError(f"expected at most {MAX_ITEMS} items in a chunk, found {len(items)}")
    boxes = [item.box for item in items if item.box is not None]
    parts = [
        _pack("kind", _PLAIN, _ints(result.kind for result in results)),
        _pack("t", _DELTA, _ints(result.t_ns for result in results)),
        _pack("frame", _DELTA, _ints(result.frame for result in results)),
        _pack("latency", _PLAIN, _ints(result.latency_us for result in results)),
        _pack("age", _PLAIN, _ints(result.age_us for result in results)),
        _pack("items", _PLAIN, _ints(len(result.items) for result in results)),
    ]
    if items:
        parts.append(_pack("label", _PLAIN, _ints(item.label for item in items)))
        parts.append(_pack_reals("score", [item.score for item in items]))
        parts.append(_pack("boxed", _PLAIN, _ints(item.box is not None for item in items)))
    for axis, name in enumerate(("x1", "y1", "x2", "y2") if boxes else ()):
        parts.append(_pack_reals(name, [box[axis] for box in boxes]))
    extras = [(index, result.extra) for index, result in enumerate(results) if result.extra is not None]
    header = _Header(_LAYOUT, len(results), [column for column, _ in parts], extras)
    try:
        encoded = msgspec.msgpack.encode(header)
    except (TypeError, ValueError, OverflowError) as error:
        raise CodecError(f"an extra cannot be encoded: {error}") from error
    if len(encoded) > _MAX_HEADER_BYTES:
        raise CodecError(f"expected at most {_MAX_HEADER_BYTES} bytes of extras, found {len(encoded)}")
    return b"".join((len(encoded).to_bytes(4, "big"), encoded, *(data for _, data in parts)))


def _ints(values: Iterable[int]) -> Integers:
    try:
        return np.fromiter(values, dtype=np.int64)
    except OverflowError as error:
        raise CodecError(f"a number does not fit 64 bits: {error}") from error


def _pack_reals(name: str, values: list[float]) -> tuple[_Column, bytes]:
    reals = np.array(values, dtype=np.float64)
    if bool(np.all((reals >= 0.0) & (reals <= 1.0))):
        return _pack(name, _UNIT, np.rint(reals * _UNIT_STEPS).astype(np.int64))
    # Beyond float32 is infinite, and comes back so; a NaN may be one that signals.
    with np.errstate(over="ignore", invalid="ignore"):
        bits = reals.astype(np.float32).view(np.uint32)
    return _pack(name, _FLOAT, bits.astype(np.int64))


def _pack(name: str, transform: int, values: Integers) -> tuple[_Column, bytes]:
    if transform == _DELTA:
        values = np.diff(values, prepend=np.int64(0))
    base = int(values.min())
    # Modulo 2^64, so that the full range of int64 fits.
    differences = values.astype(np.uint64) - np.uint64(base % _WORD)
    width = _narrowest(int(differences.max()))
    column = _Column(name, transform, width, base, len(values))
    if width == 0:
        return column, b""
    narrow = differences.astype(_WIDTHS[width])
    return column, narrow.view(np.uint8).reshape(-1, width).T.tobytes()


def _narrowest(largest: int) -> int:
    return next(width for width in (0, 1, 2, 4, 8) if largest < 1 << (8 * width))


def decode_columns(raw: bytes) -> list[Result]:
    """Raises CodecError for anything but what `encode_columns` may have written."""
    try:
        return _decoded(raw)
    except (*MALFORMED, ValueError, OverflowError) as error:
        raise CodecError(f"the chunk cannot be decoded: {error}") from error


def _decoded(raw: bytes) -> list[Result]:
    header_bytes = int.from_bytes(raw[:4], "big")
    if header_bytes > min(len(raw) - 4, _MAX_HEADER_BYTES):
        raise CodecError("the chunk's header is longer than it can be")
    header = _header_decoder.decode(raw[4 : 4 + header_bytes])
    if header.layout != _LAYOUT or not 1 <= header.n <= MAX_RESULTS:
        raise CodecError(f"expected layout {_LAYOUT}, found {header.layout} with {header.n} results")
    return _results(header, _Columns(header, memoryview(raw)[4 + header_bytes :]))


class _Columns:
    """The columns of a chunk by name, each checked for the length that is asked of it."""

    def __init__(self, header: _Header, data: memoryview) -> None:
        self._found: dict[str, tuple[_Column, memoryview]] = {}
        offset = 0
        for column in header.columns:
            size = column.count * column.width
            if column.width not in {0, *_WIDTHS} or not 0 <= column.count <= MAX_ITEMS or offset + size > len(data):
                raise CodecError(f"column {column.name[:20]!r} is larger than the chunk")
            self._found[column.name] = (column, data[offset : offset + size])
            offset += size

    def integers(self, name: str, count: int) -> list[int]:
        values: list[int] = self._raw(name, count).tolist()
        return values

    def reals(self, name: str, count: int) -> list[float]:
        values = self._raw(name, count)
        if self._found[name][0].transform == _UNIT:
            unit: list[float] = (values / _UNIT_STEPS).tolist()
            return unit
        bits: list[float] = values.astype(np.uint32).view(np.float32).tolist()
        return bits

    def _raw(self, name: str, count: int) -> Integers:
        if name not in self._found:
            raise CodecError(f"the chunk lacks the column {name!r}")
        column, data = self._found[name]
        if column.count != count:
            raise CodecError(f"expected {count} values in column {name!r}, found {column.count}")
        if not -_SIGN <= column.base < _SIGN:
            raise CodecError(f"the base of column {name!r} does not fit 64 bits")
        values = _unpack(column, data)
        return np.cumsum(values, dtype=np.int64) if column.transform == _DELTA else values


def _unpack(column: _Column, data: memoryview) -> Integers:
    base = np.uint64(column.base % _WORD)
    if column.width == 0:
        return np.full(column.count, base, dtype=np.uint64).view(np.int64)
    planes = np.frombuffer(data, dtype=np.uint8).reshape(column.width, -1)
    narrow = np.ascontiguousarray(planes.T).view(_WIDTHS[column.width]).reshape(-1)
    return (narrow.astype(np.uint64) + base).view(np.int64)


def _results(header: _Header, columns: _Columns) -> list[Result]:
    n = header.n
    counts = columns.integers("items", n)
    if min(counts) < 0 or sum(counts) > MAX_ITEMS:
        raise CodecError("the chunk claims more items than a chunk can hold")
    items = iter(_items(columns, sum(counts)))
    extras = dict(header.extras)
    return [
        Result(
            kind=Kind(kind),
            t_ns=t_ns,
            frame=frame,
            latency_us=latency_us,
            age_us=age_us,
            items=tuple(next(items) for _ in range(count)),
            extra=extras.get(index),
        )
        for index, (kind, t_ns, frame, latency_us, age_us, count) in enumerate(
            zip(
                columns.integers("kind", n),
                columns.integers("t", n),
                columns.integers("frame", n),
                columns.integers("latency", n),
                columns.integers("age", n),
                counts,
                strict=True,
            )
        )
    ]


def _items(columns: _Columns, total: int) -> list[Item]:
    if total == 0:
        return []
    labels = columns.integers("label", total)
    scores = _rounded(columns.reals("score", total))
    boxed = columns.integers("boxed", total)
    boxes = iter(_boxes(columns, sum(1 for flag in boxed if flag)))
    return [
        Item(label, score, next(boxes) if flag else None)
        for label, score, flag in zip(labels, scores, boxed, strict=True)
    ]


def _boxes(columns: _Columns, total: int) -> list[tuple[float, float, float, float]]:
    if total == 0:
        return []
    read: Callable[[str], list[float]] = lambda name: _rounded(columns.reals(name, total))  # noqa: E731 - said four times
    return list(zip(read("x1"), read("y1"), read("x2"), read("y2"), strict=True))


def _rounded(values: list[float]) -> list[float]:
    """Six significant digits: more would be noise of the fixed point, and is long in JSON."""
    return [value if not math.isfinite(value) else float(f"{value:.6g}") for value in values]
