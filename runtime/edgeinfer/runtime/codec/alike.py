"""The numbers of items that are all alike, each with a small label and a box, as nearly all detections are.

msgspec writes such items several times as fast as anything reads them one attribute at a time, and all take as many
bytes. So what it wrote is an array of records, of which the columns are read at once.

That they are such is seen from what it wrote: each byte that is no part of a number is looked at, so a record begins
where the one before it ends. Whatever else an item may hold, or another msgspec may write, is None here.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.results import Item

__all__ = ["boxed_alike"]

# An array of label, score and an array of four: MessagePack has a byte before each of these but the label.
_RECORD_BYTES = 48
_LABEL, _SCORE, _BOX, _NEXT_CORNER = 1, 3, 13, 9
_MARKS = {0: 0x93, 2: 0xCB, 11: 0x94, 12: 0xCB, 21: 0xCB, 30: 0xCB, 39: 0xCB}
_PLACES, _MARKED = np.array(list(_MARKS)), np.array(list(_MARKS.values()), dtype=np.uint8)
# Of a label up to this one its byte is the number.
_MAX_LABEL = 0x7F
_FLOAT = ">f8"
_encoder = msgspec.msgpack.Encoder()


def boxed_alike(items: Sequence[Item]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]] | None:
    """Labels (items,) and reals (5, items): scores, and the four corners of the boxes. None for no items, and for items
    of which one has no box, a label that is not 0 to 127, or a number that is no `float`."""
    try:
        raw = _encoder.encode(items)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None
    count = len(items)
    start = 1 if count < 1 << 4 else 3 if count < 1 << 16 else 5
    if not count or len(raw) != start + count * _RECORD_BYTES:
        return None
    records = np.frombuffer(raw, dtype=np.uint8, offset=start).reshape(count, _RECORD_BYTES)
    labels = records[:, _LABEL]
    if not (records.take(_PLACES, axis=1) == _MARKED).all() or int(np.maximum.reduce(labels)) > _MAX_LABEL:
        return None
    reals = np.empty((5, count))
    reals[0] = np.ndarray((count,), _FLOAT, raw, start + _SCORE, (_RECORD_BYTES,))
    reals[1:] = np.ndarray((4, count), _FLOAT, raw, start + _BOX, (_NEXT_CORNER, _RECORD_BYTES))
    return labels.astype(np.int64), reals
