"""Real numbers as integers, so that columns of them are differenced and packed as integers are.

A likelihood or a coordinate in 0..1 is a multiple of 1/65536: what an 8-bit model puts out is exact, anything else is
off by at most 1/131072. Another number is a float32, of which scores keep 16 significant bits: off by at most 1/65536
of itself.
"""

import enum

import numpy as np
import numpy.typing as npt

__all__ = ["STEPS", "Form", "decimals", "fixed", "rounded", "singles"]

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

STEPS = 65_536
_MAGNITUDE = np.int64(0x7FFF_FFFF)
_INFINITE = np.int64(0x7F80_0000)
# float32 has 24 significant bits; of these the lowest eight are rounded away.
_ROUNDED_BITS = 8
# Seven digits tell float32 apart badly and look worse; six are as good as the steps are.
_DIGITS = 6
_UNIT_DECIMALS = 10.0**_DIGITS
# A float holds the powers of ten up to 10^22 exactly, so that a division by one is the nearest float to a decimal.
_POWERS = np.array([float(f"1e{power}") for power in range(23)])
_LARGEST_EXPONENT = len(_POWERS) - _DIGITS - 1


class Form(enum.IntEnum):
    """How the integers of a column stand for its values. The numbers are stored: never reuse one."""

    NONE = 0  # they are the values
    FIXED = 1  # multiples of 1/65536
    FLOAT32 = 2  # bits of a float32; of a negative one minus the bits without the sign
    FLOAT64 = 3  # the same of a float64


def fixed(values: Floats) -> Integers:
    return np.rint(values * STEPS).astype(np.int64)


def singles(values: Floats) -> Integers:
    """float32 bits. What is beyond float32 becomes infinite."""
    with np.errstate(over="ignore", invalid="ignore"):  # invalid: a NaN may be one that signals
        bits = values.astype(np.float32).view(np.int32).astype(np.int64)
    magnitudes = bits & _MAGNITUDE
    return np.where(bits < 0, -magnitudes, magnitudes)


def rounded(values: Floats) -> Integers:
    """float32 bits with 16 significant bits. No finite number becomes infinite that was not so as a float32."""
    exact = singles(values)
    magnitudes = np.abs(exact)
    half = np.int64(1 << (_ROUNDED_BITS - 1))
    near = ((magnitudes + half) >> _ROUNDED_BITS) << _ROUNDED_BITS
    near = np.where(magnitudes < _INFINITE, np.minimum(near, _INFINITE - 2 * half), magnitudes & ~(2 * half - 1))
    return np.where(exact < 0, -near, near)


def decimals(values: Integers, form: Form) -> Floats:
    """The numbers, as short decimals: multiples of 1e-6 where the steps are fixed, else six significant digits."""
    match form:
        case Form.FIXED:
            unit: Floats = np.rint(values * (_UNIT_DECIMALS / STEPS)) / _UNIT_DECIMALS
            return unit
        case Form.FLOAT32:
            bits = (np.abs(values) & _MAGNITUDE).astype(np.uint32)
            with np.errstate(invalid="ignore"):  # a NaN of a stranger may be one that signals
                magnitudes = bits.view(np.float32).astype(np.float64)
            return _short(np.copysign(magnitudes, values))
        case Form.FLOAT64:
            return np.copysign((np.abs(values) & np.int64((1 << 63) - 1)).view(np.float64), values)
        case Form.NONE:
            return values.astype(np.float64)


def _short(values: Floats) -> Floats:
    """Each number with six significant digits, as the nearest float to that decimal."""
    magnitudes = np.abs(values)
    with np.errstate(all="ignore"):
        exponents = np.floor(np.log10(np.where(magnitudes == 0.0, 1.0, magnitudes)))
        usual = np.abs(exponents) <= _LARGEST_EXPONENT
        powers = np.where(usual, _DIGITS - 1 - exponents, 0.0).astype(np.int64)
        up, down = _POWERS[np.maximum(powers, 0)], _POWERS[np.maximum(-powers, 0)]
        short: Floats = np.rint(values * up / down) / up * down
    for index in np.flatnonzero(~usual):
        short.flat[index] = float(f"{values.flat[index]:.{_DIGITS}g}")
    return short
