"""Natural numbers as bits: each costs what it is worth, whatever its column.

The class of a number is its length in bits (0 for 0, 1 for 1, 2 for 2 and 3, ... 64). A column's classes have ranks: it
names them all in that order, or only the first one, and the others follow by their distance to it, of two as near the
smaller one first. Of a rank the column's `fold` lowest bits (0 to 2) are taken off; what remains is written in unary
(that many 0 bits and a 1) in one stream. The other stream has the bits that were taken off the ranks, of all numbers,
and then the bits of each number below its highest one, which nobody could compress further. A column with few numbers
that are not 0 lists these, and is in neither stream.

Both streams begin with the most significant bit of their first byte and are filled up with 0 bits to a whole byte.
"""

from collections.abc import Sequence
from itertools import accumulate

import msgspec
import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.codec.limits import MAX_LISTED
from edgeinfer.runtime.errors import CodecError

__all__ = ["CLASSES", "BitReader", "Naturals", "Numbers", "Streamed", "bit_lengths", "check_listed", "pack_numbers"]

Naturals = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint32]
# The classes of a column by rank, one a byte; or place, number, place, number, ...; no bytes: all are 0.
Numbers = bytes | list[int]

# A number of 64 bits has a length of 0 to 64.
CLASSES = 65
# How many bits of its ranks a column can take off.
_FOLDS = 3
# (fold, rank): the bits that a rank takes in both streams, but for the 1 that ends it.
_COSTS = np.array([[(rank >> fold) + fold for rank in range(CLASSES)] for fold in range(_FOLDS)])
# By class: the bits of a number below its highest one.
_BELOW_HIGHEST = np.maximum(np.arange(CLASSES) - 1, 0)
# By class: that bit.
_HIGHEST = np.array([0, *(1 << place for place in range(CLASSES - 1))], dtype=np.uint64)
# A listed number takes two bytes or more, one in the streams at least a bit for each place.
_PLACES_A_LISTED = 16
# How many bits a window of eight bytes is sure to hold from any bit of its first byte on.
_WINDOW = 57
_HALF = 32
_WORD = 32
# The so many lowest bits.
_LOWEST = np.array([(1 << length) - 1 for length in range(_WORD + 1)], dtype=np.uint64)
# Numbers that are worked on at a time: arrays that leave the cache, or the allocator's heap, are slow.
_BLOCK = 1 << 13
_ONE = np.uint64(1)


def _nearest() -> Integers:
    """(CLASSES, CLASSES): the classes in the order of their distance to each."""
    distances = np.arange(CLASSES) - np.arange(CLASSES)[:, None]
    return np.argsort(2 * np.abs(distances) + (distances > 0), axis=1)


_NEAREST_RANKS = np.argsort(_nearest(), axis=1)
_FILL = b"\xff"
# Ranks that there can be, with the bits that were taken off: those beyond the last are of no class.
_ROW = CLASSES << (_FOLDS - 1)
_NO_BYTES: Bytes = np.zeros(0, dtype=np.uint8)
# The classes by rank, where only the first one is named.
_NEAREST = {bytes([row[0]]): row.astype(np.uint8).tobytes().ljust(_ROW, _FILL) for row in _nearest()}


def bit_lengths(values: Naturals) -> npt.NDArray[np.int32]:
    """The length in bits of each number, 0 for 0."""
    # Without the second-highest bit no conversion to a float rounds up to the next power of two.
    lengths: npt.NDArray[np.int32] = np.frexp((values & ~(values >> _ONE)).astype(np.float64))[1]
    return lengths


def pack_numbers(
    values: Naturals, counts: Sequence[int], *, max_bytes: int
) -> tuple[list[tuple[Numbers, int]], bytes, bytes]:
    """Columns of `counts` numbers, one after the other: what each says of its numbers, and its fold; the unary stream;
    the stream of low bits. Raises CodecError where the streams would take more than `max_bytes`."""
    classes = bit_lengths(values)
    width = int(np.maximum.reduce(classes)) + 1
    keys = np.arange(0, width * len(counts), width).repeat(counts)
    keys += classes
    histogram = np.bincount(keys, minlength=width * len(counts)).reshape(-1, width)
    tables, folds, ranks = _ranked(histogram)
    numbers: list[tuple[Numbers, int]] = []
    not_streamed = []
    for end, count, zeros, table, fold in zip(
        accumulate(counts), counts, histogram[:, 0].tolist(), tables, folds.tolist(), strict=True
    ):
        if count - zeros > min(MAX_LISTED, count // _PLACES_A_LISTED + 1):
            numbers.append((table, fold))
        else:
            not_streamed.append(len(numbers))
            numbers.append((_listed(values[end - count : end]) if zeros < count else b"", 0))
    return numbers, *_streams(values, keys, _codes(ranks, folds, not_streamed), max_bytes)


def _ranked(histogram: Integers) -> tuple[list[bytes], Integers, Integers]:
    """What each column has to say of its classes, its fold, and the rank of each class: what takes the fewest bits."""
    columns, width = histogram.shape
    by_rank = (-histogram).argsort(axis=1, kind="stable")
    used = np.add.reduce(histogram > 0, axis=1)
    # All that there are are named, or only the most frequent one.
    both = np.empty((2, columns, width), dtype=np.int64)
    both[0] = by_rank.argsort(axis=1)
    both[1] = _NEAREST_RANKS.take(by_rank[:, 0], axis=0)[:, :width]
    costs = np.add.reduce(_COSTS.take(both, axis=1) * histogram, axis=3)
    costs[:, 0] += 8 * (used - 1)
    best = costs.reshape(-1, columns).argmin(axis=0)
    # One class that is named alone is followed by those that are near, too.
    is_near = (best & 1 != 0) | (used == 1)
    classes = by_rank.astype(np.uint8).tobytes()
    named = np.where(is_near, 1, used).tolist()
    tables = [classes[start : start + count] for start, count in zip(range(0, len(classes), width), named, strict=True)]
    return tables, best >> 1, np.where(is_near[:, None], both[1], both[0])


def _listed(column: Naturals) -> list[int]:
    (places,) = column.nonzero()
    return [number for pair in zip(places.tolist(), column[places].tolist(), strict=True) for number in pair]


def _codes(ranks: Integers, folds: Integers, not_streamed: Sequence[int]) -> Integers:
    """(4, columns * width): what is written of a number of each class of each column, one column after the other. Bits
    in the unary stream; low bits of the rank; low bits of the number; the rank. A column in no stream takes no bits."""
    codes = np.empty((4, *ranks.shape), dtype=np.int64)
    each = folds[:, None]
    np.right_shift(ranks, each, out=codes[0])
    codes[0] += 1
    codes[1] = each
    codes[2] = _BELOW_HIGHEST[: ranks.shape[1]]
    codes[3] = ranks
    for column in not_streamed:
        codes[:3, column] = 0
    return codes.reshape(4, -1)


def _streams(values: Naturals, keys: Integers, codes: Integers, max_bytes: int) -> tuple[bytes, bytes]:
    """`keys`: the place of each number's class in `codes`."""
    ends = codes[0].take(keys).cumsum()
    lengths = codes[1:3].take(keys, axis=1).reshape(-1)
    total = int(ends[-1])
    if total + int(np.add.reduce(lengths)) > 8 * max_bytes:
        raise CodecError(f"expected at most {max_bytes} bytes of numbers in a chunk")
    if not total:
        return b"", b""
    unary = np.zeros(total, dtype=np.uint8)
    # A number that takes no bits ends where the one before it does; before the first one, that is the last bit of all.
    ends -= 1
    unary[ends] = 1
    ranks = codes[3].take(keys).view(np.uint64)
    return np.packbits(unary).tobytes(), _low_bits(np.concatenate((ranks, values)), lengths)


def _low_bits(values: Naturals, lengths: Integers) -> bytes:
    """The lowest `lengths` bits (at most 63) of each number, one after the other."""
    (places,) = (lengths != 0).nonzero()
    if not len(places):
        return b""
    values, lengths = values.take(places), lengths.take(places)
    if int(np.maximum.reduce(lengths)) > _WORD:
        high = np.maximum(lengths - _WORD, 0)
        halves = np.stack((values >> np.uint64(_WORD), values), axis=1).reshape(-1)
        return _low_bits(halves, np.stack((high, lengths - high), axis=1).reshape(-1))
    ends = lengths.cumsum()
    total = int(ends[-1])
    # One more for what the last one does not need of the next word.
    packed = np.zeros(total // _WORD + 2, dtype=np.uint32)
    for start in range(0, len(ends), _BLOCK):
        block = slice(start, start + _BLOCK)
        _add_bits(packed, values[block], lengths[block], ends[block])
    return packed.astype(">u4").tobytes()[: (total + 7) // 8]


def _add_bits(packed: Words, values: Naturals, lengths: Integers, ends: Integers) -> None:
    """Each number lies in one word or two that follow each other, and no word is without one that begins in it. Those
    that begin in the same word have no bit in common: so they can be added up, as 64 bits from there on."""
    words = (ends - lengths) >> 5
    shifts = (words << 5) - ends
    shifts += 2 * _WORD
    both = (values & _LOWEST.take(lengths)) << shifts.view(np.uint64)
    is_first = np.ones(len(words), dtype=np.bool_)
    np.not_equal(words[1:], words[:-1], out=is_first[1:])
    sums = np.add.reduceat(both, is_first.nonzero()[0])
    first = int(words[0])
    packed[first : first + len(sums)] |= (sums >> np.uint64(_WORD)).astype(np.uint32)
    packed[first + 1 : first + 1 + len(sums)] |= sums.astype(np.uint32)


def check_listed(numbers: list[int], length: int) -> None:
    """Raises CodecError for what does not name numbers of a column of `length`, and their places."""
    if len(numbers) % 2 or min(numbers, default=0) < 0 or max(numbers[::2], default=-1) >= length:
        raise CodecError("the chunk lists numbers at places that there are not")


class Streamed(msgspec.Struct, frozen=True, gc=False):
    """A column whose numbers are in the streams."""

    table: bytes
    fold: int
    length: int


class BitReader:
    """The numbers of columns. Raises CodecError unless the streams hold exactly those."""

    def __init__(self, columns: Sequence[Streamed], unary: bytes, low: bytes) -> None:
        each = np.array([column.length for column in columns], dtype=np.int64)
        ranks = _read_unary(int(each.sum()), unary)
        folded = sum([column.fold * column.length for column in columns])
        if folded > 8 * len(low):
            raise CodecError(f"expected at least {folded} low bits in the chunk, found {8 * len(low)}")
        if folded:
            _unfold(ranks, columns, each, np.unpackbits(np.frombuffer(low, dtype=np.uint8, count=(folded + 7) // 8)))
        self._classes = _classes(columns, each, ranks) if columns else _NO_BYTES
        self._lengths = _BELOW_HIGHEST.take(self._classes)
        self._ends = self._lengths.cumsum()
        self._ends += folded
        total = int(self._ends[-1]) if columns else 0
        if len(low) != (total + 7) // 8:
            raise CodecError(f"expected {(total + 7) // 8} bytes of low bits in the chunk, found {len(low)}")
        # Eight bytes from each byte on.
        self._windows: npt.NDArray[np.uint64] = np.ndarray(
            (len(low) + 1,), dtype=np.dtype(">u8"), buffer=low + bytes(8), strides=(1,)
        )

    def numbers(self, start: int, stop: int) -> Naturals:
        """The numbers `start` to `stop` of all."""
        lengths = self._lengths[start:stop]
        found = self._bits(self._ends[start:stop] - lengths, lengths)
        # The highest bit of each but of the zeros.
        found |= _HIGHEST.take(self._classes[start:stop])
        return found

    def _bits(self, starts: Integers, lengths: Integers) -> Naturals:
        if len(lengths) and int(np.maximum.reduce(lengths)) > _WINDOW:
            high = np.where(lengths > _HALF, lengths - _HALF, 0)
            low = lengths - high
            return (self._bits(starts, high) << low.view(np.uint64)) | self._bits(starts + high, low)
        found: Naturals = self._windows.take(starts >> 3).astype(np.uint64)
        found <<= (starts & 7).view(np.uint64)
        # In two steps, as a shift by 64 is no shift.
        found >>= _ONE
        found >>= (63 - lengths).view(np.uint64)
        return found


def _read_unary(total: int, unary: bytes) -> Integers:
    """`total` numbers below CLASSES."""
    # Before memory is taken for the place of each bit.
    found = int.from_bytes(unary).bit_count()
    if found != total or len(unary) > (CLASSES * total + 7) // 8 or unary.endswith(b"\x00"):
        raise CodecError(f"expected {total} numbers in the chunk, found {found} in {len(unary)} bytes")
    # Places are found in booleans several times as fast as in numbers.
    (ones,) = np.unpackbits(np.frombuffer(unary, dtype=np.uint8)).view(np.bool_).nonzero()
    ones[1:] -= ones[:-1] + 1
    if total and int(np.maximum.reduce(ones)) >= CLASSES:
        raise CodecError("the chunk has a number of more than 64 bits")
    return ones


def _unfold(ranks: Integers, columns: Sequence[Streamed], lengths: Integers, bits: Bytes) -> None:
    """Put back the bits that were taken off the ranks: none, one or two of each."""
    folds = np.array([column.fold for column in columns]).repeat(lengths)
    starts = folds.cumsum()
    starts -= folds
    # Two bits from each place on, and one more place for the last ranks, should none be taken off these.
    pairs = np.zeros(len(bits) + 1, dtype=np.uint8)
    pairs[:-1] = bits
    pairs <<= 1
    pairs[:-2] |= bits[1:]
    ranks <<= folds
    ranks |= pairs.take(starts) >> (2 - folds)


def _classes(columns: Sequence[Streamed], lengths: Integers, ranks: Integers) -> Bytes:
    """The class of each number."""
    # Filled up with what is none.
    tables = [_NEAREST.get(column.table) or column.table[:CLASSES].ljust(_ROW, _FILL) for column in columns]
    by_rank = np.frombuffer(b"".join(tables), dtype=np.uint8)
    firsts = np.arange(0, _ROW * len(columns), _ROW).repeat(lengths)
    ranks += firsts
    classes: Bytes = by_rank.take(ranks)
    if int(np.maximum.reduce(classes)) >= CLASSES:
        raise CodecError("the chunk has a number of a class that its column does not have")
    return classes
