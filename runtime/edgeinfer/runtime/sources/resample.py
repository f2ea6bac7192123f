"""Another sampling rate, block by block: a bank of windowed sinc filters.

For rates L : M in lowest terms, output n lies at n * M / L of the input, which is input sample n * M // L and one of
L phases between it and the next. Each phase has a filter of its own (polyphase interpolation: Crochiere and Rabiner,
Multirate Digital Signal Processing, 1983, chapter 3): a sinc that is cut off below half of the lower rate, under a
Kaiser window (Kaiser, Nonrecursive Digital Filter Design Using the I0-sinh Window Function, 1974).
"""

import math

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.errors import SourceError

__all__ = ["Resampler"]

Samples = npt.NDArray[np.float32]

# Flat up to 0.9 of half the lower rate, 80 dB down from there on: what lies above would come back as other tones.
_CROSSINGS = 64
_BETA = 9.0
_CUTOFF = 0.955
_MAX_WEIGHTS = 1 << 22


class Resampler:
    """Samples at `from_hz` in, samples at `to_hz` out; the sound begins and ends at the same moments."""

    def __init__(self, from_hz: int, to_hz: int) -> None:
        common = math.gcd(from_hz, to_hz)
        self._up, self._down = to_hz // common, from_hz // common
        stretch = max(1.0, from_hz / to_hz)
        self._side = math.ceil(_CROSSINGS * stretch)
        if self._up * 2 * self._side > _MAX_WEIGHTS:
            raise SourceError(
                f"expected a sampling rate in a simple ratio to {to_hz} Hz, found {from_hz} Hz",
                hint=f"convert it before: ffmpeg -i FILE -ar {to_hz} NEW.wav",
            )
        self._filters = _filters(self._up, self._side, _CUTOFF / stretch)
        # Silence before the first sample: the filter reaches back.
        self._kept = np.zeros(self._side - 1, dtype=np.float32)
        self._position = 0  # of the next output, in 1 / up of an input sample, from the start of what is kept
        self._owed = 0  # input samples that came, times up, less the outputs times down

    def feed(self, block: Samples) -> Samples:
        """The outputs that `block` completes."""
        self._owed += len(block) * self._up
        return self._advance(block)

    def flush(self) -> Samples:
        """The outputs up to the end of the sound: the filter reaches ahead, into silence."""
        count = max(0, -(-self._owed // self._down))
        return self._advance(np.zeros(self._side, dtype=np.float32))[:count]

    def _advance(self, block: Samples) -> Samples:
        samples = np.concatenate((self._kept, block))
        taps = 2 * self._side
        last = len(samples) - taps  # the last sample at which a filter may begin
        count = (last * self._up + self._up - 1 - self._position) // self._down + 1 if last >= 0 else 0
        count = max(0, count)
        positions = self._position + np.arange(count) * self._down
        begins, phases = np.divmod(positions, self._up)
        made = np.empty(count, dtype=np.float32)
        if count:
            windows = np.lib.stride_tricks.sliding_window_view(samples, taps)
            np.einsum("ij,ij->i", windows[begins], self._filters[phases], out=made)
        self._owed -= count * self._down
        self._position += count * self._down
        done = min(self._position // self._up, len(samples))
        self._position -= done * self._up
        self._kept = samples[done:]
        return made


def _filters(up: int, side: int, cutoff: float) -> Samples:
    """(up, 2 * side): for each phase the weights of the samples from `side - 1` before to `side` after it."""
    phases = np.arange(up)[:, None] / up
    distance = np.arange(-side + 1, side + 1)[None, :] - phases
    inside = np.sqrt(np.maximum(0.0, 1.0 - (distance / side) ** 2))
    weights = cutoff * np.sinc(cutoff * distance) * np.i0(_BETA * inside) / np.i0(_BETA)
    # A constant stays what it is in every phase.
    filters: Samples = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return filters
