"""Features of sound: log-mel spectra and MFCCs, computed into arrays that are made once.

    features = Features(AudioPre(length=16_000, features="mfcc"))
    features.samples[:] = sound   # (16000,) float32
    features(out)                 # (49, 10) float32

Sources of the formulas:

- HTK's mel scale, mel(f) = 1127 ln(1 + f / 700), triangles that are straight over mel, and the cosine transform
  c_k = sqrt(2 / N) sum_j m_j cos(pi k (j + 1/2) / N): Young et al., The HTK Book, version 3.4, 5.4 and 5.6.
  TensorFlow's `linear_to_mel_weight_matrix` and `mfccs_from_log_mel_spectrograms` are the same.
- Slaney's mel scale, straight below 1000 Hz and logarithmic above, triangles that are straight over frequency, and
  their division by their width (`area`): Slaney, Auditory Toolbox, version 2, Interval Research report 1998-010.
- `orthonormal`: the cosine transform with c_0 divided by sqrt(2) on top, so that the matrix is orthogonal (DCT-II:
  Ahmed, Natarajan, Rao, Discrete Cosine Transform, IEEE Transactions on Computers, 1974).
- The window: Hann, periodic, 0.5 - 0.5 cos(2 pi n / N): Harris, On the Use of Windows for Harmonic Analysis with the
  Discrete Fourier Transform, Proceedings of the IEEE, 1978.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.manifest import AudioPre

__all__ = ["Features", "cosine_transform", "hertz_to_mel", "mel_filter_bank", "mel_to_hertz"]

Array = npt.NDArray[Any]

_HTK_FACTOR, _HTK_CORNER_HZ = 1127.0, 700.0
# Slaney: 200/3 Hz a mel below 1000 Hz, from there on 27 mel for each factor of 6.4.
_SLANEY_HZ_PER_MEL, _SLANEY_CORNER_HZ, _SLANEY_STEP = 200.0 / 3.0, 1000.0, np.log(6.4) / 27.0
_SLANEY_CORNER_MEL = _SLANEY_CORNER_HZ / _SLANEY_HZ_PER_MEL
# Before numpy 2 `rfft` could not write into an array.
_FFT_WRITES = int(np.__version__.partition(".")[0]) > 1


class Features:
    """Of `samples` (length,) float32, to be written before a call; `shape` (windows, bins or coefficients) is what the
    call writes. In between everything is float64: numpy's transform computes in it anyway."""

    def __init__(self, declared: AudioPre) -> None:
        window, fft = declared.window_samples, declared.fft_length
        windows = 1 + (declared.length - window) // declared.stride_samples
        self.shape = (windows, declared.columns)
        self.samples = np.zeros(declared.length, dtype=np.float32)
        self._framed = np.lib.stride_tricks.sliding_window_view(self.samples, window)[:: declared.stride_samples]
        self._padded = np.zeros((windows, fft))
        self._within = self._padded[:, :window]
        self._hann = np.zeros((windows, fft))  # as large as what it is multiplied with: numpy then needs no buffer
        self._hann[:, :window] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
        self._spectrum = np.empty((windows, fft // 2 + 1), dtype=np.complex128)
        self._magnitude = np.empty((windows, fft // 2 + 1))
        self._squares = declared.spectrum == "power"
        self._bank = mel_filter_bank(declared)
        self._mel = np.empty((windows, declared.mel_bins))
        self._floor, self._offset = declared.log_floor, declared.log_offset
        self._logarithm = np.log if declared.log == "ln" else np.log10
        self._decibels = declared.log == "db"
        self._result = self._mel
        self._transform: Array | None = None
        if declared.features == "mfcc":
            self._transform = cosine_transform(declared.mel_bins, declared.coefficients, scaling=declared.dct)
            self._result = np.empty(self.shape)

    def __call__(self, out: Array) -> None:
        """`out` of `shape`, float32."""
        np.copyto(self._within, self._framed)
        np.multiply(self._padded, self._hann, out=self._padded)
        self._transform_frames()
        np.abs(self._spectrum, out=self._magnitude)
        if self._squares:
            np.multiply(self._magnitude, self._magnitude, out=self._magnitude)
        mel = self._mel
        np.matmul(self._magnitude, self._bank, out=mel)
        if self._floor:
            np.maximum(mel, self._floor, out=mel)
        if self._offset:
            np.add(mel, self._offset, out=mel)
        self._logarithm(mel, out=mel)
        if self._decibels:
            np.multiply(mel, 10.0, out=mel)
        if self._transform is not None:
            np.matmul(mel, self._transform, out=self._result)
        np.copyto(out, self._result, casting="same_kind")

    def _transform_frames(self) -> None:
        if _FFT_WRITES:
            np.fft.rfft(self._padded, out=self._spectrum)
        else:
            self._spectrum[...] = np.fft.rfft(self._padded)


def hertz_to_mel(hertz: Array, scale: str) -> Array:
    """`scale`: htk or slaney."""
    hertz = np.asarray(hertz, dtype=np.float64)
    if scale == "htk":
        return np.asarray(_HTK_FACTOR * np.log1p(hertz / _HTK_CORNER_HZ))
    above = _SLANEY_CORNER_MEL + np.log(np.maximum(hertz, _SLANEY_CORNER_HZ) / _SLANEY_CORNER_HZ) / _SLANEY_STEP
    return np.where(hertz < _SLANEY_CORNER_HZ, hertz / _SLANEY_HZ_PER_MEL, above)


def mel_to_hertz(mel: Array, scale: str) -> Array:
    mel = np.asarray(mel, dtype=np.float64)
    if scale == "htk":
        return np.asarray(_HTK_CORNER_HZ * np.expm1(mel / _HTK_FACTOR))
    above = _SLANEY_CORNER_HZ * np.exp(_SLANEY_STEP * np.maximum(mel - _SLANEY_CORNER_MEL, 0.0))
    return np.where(mel < _SLANEY_CORNER_MEL, mel * _SLANEY_HZ_PER_MEL, above)


def mel_filter_bank(declared: AudioPre) -> Array:
    """(fft / 2 + 1, mel_bins) float64: what each frequency of the spectrum counts in each mel bin.

    The corners of the triangles lie at equal distances in mel from `low_hz` to `high_hz`. The constant part of the
    sound (0 Hz) counts nowhere, as in TensorFlow.
    """
    scale = declared.mel_scale
    frequencies = np.linspace(0.0, declared.rate_hz / 2, declared.fft_length // 2 + 1)
    ends = hertz_to_mel(np.array([declared.low_hz, declared.high_hz]), scale)
    corners_mel = np.linspace(ends[0], ends[1], declared.mel_bins + 2)
    corners_hz = mel_to_hertz(corners_mel, scale)
    if scale == "htk":
        at, corners = hertz_to_mel(frequencies, scale)[:, None], corners_mel
    else:
        at, corners = frequencies[:, None], corners_hz
    low, centre, high = corners[:-2], corners[1:-1], corners[2:]
    bank = np.maximum(0.0, np.minimum((at - low) / (centre - low), (high - at) / (high - centre)))
    bank[0] = 0.0
    if declared.mel_norm == "area":
        bank *= 2.0 / (corners_hz[2:] - corners_hz[:-2])
    return np.asarray(bank)


def cosine_transform(bins: int, coefficients: int, *, scaling: str) -> Array:
    """(bins, coefficients) float64: DCT-II with the scaling `htk` or `orthonormal`."""
    steps = np.outer(np.arange(bins) + 0.5, np.arange(coefficients))
    matrix = np.sqrt(2.0 / bins) * np.cos(np.pi / bins * steps)
    if scaling == "orthonormal":
        matrix[:, 0] /= np.sqrt(2.0)
    return np.asarray(matrix)
