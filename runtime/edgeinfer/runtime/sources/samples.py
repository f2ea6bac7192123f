"""Bytes of sound as numbers: what WAV files and sound cards give, as one channel of float32 in -1..1."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["BYTES", "Encoding", "decode"]

Samples = npt.NDArray[np.float32]
Encoding = Literal["u8", "s16", "s24", "s24_in_32", "s32", "f32", "f64"]

BYTES: dict[Encoding, int] = {"u8": 1, "s16": 2, "s24": 3, "s24_in_32": 4, "s32": 4, "f32": 4, "f64": 8}
"""How many bytes a sample has; all are little-endian."""

_FULL_SCALE_16, _FULL_SCALE_32 = np.float32(1 << 15), np.float32(1 << 31)


def decode(data: bytes, encoding: Encoding, channels: int) -> Samples:
    """`data` holds whole frames of interleaved channels; these are averaged.

    Integers are divided by their full scale. Floats that are no numbers become 0, those beyond -1..1 are cut.
    """
    values = _DECODERS[encoding](data)
    if channels == 1:
        return values
    mixed: Samples = values.reshape(-1, channels).mean(axis=1, dtype=np.float32)
    return mixed


def _u8(data: bytes) -> Samples:
    return (np.frombuffer(data, np.uint8).astype(np.float32) - np.float32(128)) / np.float32(128)


def _s16(data: bytes) -> Samples:
    return np.frombuffer(data, "<i2").astype(np.float32) / _FULL_SCALE_16


def _s24(data: bytes) -> Samples:
    # The three bytes become the upper ones of a 32-bit number.
    wide = np.zeros((len(data) // 3, 4), np.uint8)
    wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
    return _from_32(wide.view("<i4").reshape(-1))


def _s24_in_32(data: bytes) -> Samples:
    return _from_32(np.frombuffer(data, "<i4") << 8)


def _s32(data: bytes) -> Samples:
    return _from_32(np.frombuffer(data, "<i4"))


def _from_32(values: npt.NDArray[Any]) -> Samples:
    scaled: Samples = values.astype(np.float32) / _FULL_SCALE_32
    return scaled


def _floats(dtype: str) -> Callable[[bytes], Samples]:
    def decode_floats(data: bytes) -> Samples:
        values = np.nan_to_num(np.frombuffer(data, dtype), nan=0.0, posinf=1.0, neginf=-1.0)
        cut: Samples = np.clip(values, -1.0, 1.0).astype(np.float32)
        return cut

    return decode_floats


_DECODERS: dict[Encoding, Callable[[bytes], Samples]] = {
    "u8": _u8,
    "s16": _s16,
    "s24": _s24,
    "s24_in_32": _s24_in_32,
    "s32": _s32,
    "f32": _floats("<f4"),
    "f64": _floats("<f8"),
}
