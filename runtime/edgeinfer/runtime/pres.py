"""What a package may say of the way from a source's frame to its model's input: one struct per kind, told apart
by `kind`."""

import math
from typing import Annotated, Literal

import msgspec

__all__ = ["AudioPre", "ImagePre", "Preprocess", "TensorPre", "WindowPre"]

Side = Annotated[int, msgspec.Meta(ge=1, le=16_384)]
Means = Annotated[tuple[float, ...], msgspec.Meta(min_length=1, max_length=65_536)]
Deviations = Annotated[
    tuple[Annotated[float, msgspec.Meta(gt=0.0)], ...], msgspec.Meta(min_length=1, max_length=65_536)
]
Positive = Annotated[float, msgspec.Meta(gt=0.0)]
Milliseconds = Annotated[float, msgspec.Meta(gt=0.0, le=60_000.0)]
Sizes = Annotated[tuple[Annotated[int, msgspec.Meta(ge=1, le=100_000_000)], ...], msgspec.Meta(max_length=8)]

MAX_SAMPLES = 10_000_000  # ten minutes at 16 kHz
_MAX_FFT = 1 << 16
_MAX_SPECTRA = 1 << 24  # samples of all padded windows: 64 MiB


class ImagePre(msgspec.Struct, frozen=True, tag="image", tag_field="kind", omit_defaults=True):
    """A picture (H, W, 3) uint8 BGR from a source becomes the float model's input.

    The centre `crop` of the short side is kept (1.0 is all), resized to `width` x `height` by `resize`,
    put in `color` order, then each channel becomes `(x - mean) / std` with x in 0..255, in `layout`.
    """

    width: Side
    height: Side
    resize: Literal["stretch", "letterbox", "crop"] = "stretch"
    interpolation: Literal["bilinear", "area", "nearest"] = "bilinear"
    color: Literal["rgb", "bgr", "gray"] = "rgb"
    layout: Literal["nhwc", "nchw"] = "nhwc"
    mean: Means = (0.0,)
    std: Deviations = (1.0,)
    crop: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 1.0


class WindowPre(msgspec.Struct, frozen=True, tag="window", tag_field="kind", omit_defaults=True):
    """A sensor window (length, channels) float32 becomes `(x - mean) / std`, reshaped to the model's input.

    `mean` and `std` have one entry, or one a channel. `channels` names them, in order; empty: any.
    """

    length: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    channels: tuple[str, ...] = ()
    mean: Means = (0.0,)
    std: Deviations = (1.0,)


class TensorPre(msgspec.Struct, frozen=True, tag="tensor", tag_field="kind", omit_defaults=True):
    """The source already hands over the float model's input; any size-preserving shape is accepted.

    `shape`: the sizes after the batch, where the model leaves more than the batch open.
    """

    shape: Sizes = ()


class AudioPre(msgspec.Struct, frozen=True, tag="audio", tag_field="kind", omit_defaults=True):
    """`length` samples of sound, float32 in -1..1 at `rate_hz`, become the model's input.

    First `gain`: `max` divides by the window's largest sample (not its magnitude), as MLPerf Tiny's keyword spotting
    does. Then `scale`: 32768 gives the values of 16-bit samples. Then `features`:

    - `raw`: the samples;
    - `logmel`: spectra of windows of `window_ms` each `stride_ms` (periodic Hann, padded with zeros to `fft` samples;
      0 is the next power of two; no window reaches beyond the sound), their `spectrum` gathered by `mel_bins`
      triangles from `low_hz` to `high_hz`, then the logarithm of max(x, log_floor) + log_offset, natural (`ln`), to
      base ten (`log10`) or in decibels (`db`: 10 log10);
    - `mfcc`: the first `coefficients` of the cosine transform of those.

    Then `(x - mean) / std`, with one entry, or one a mel bin or coefficient. `layout`: (time, bins), or (bins, time).
    `edgeinfer.runtime.features` has the formulas and their sources.
    """

    length: Annotated[int, msgspec.Meta(ge=1, le=MAX_SAMPLES)]
    rate_hz: Annotated[int, msgspec.Meta(ge=1, le=768_000)] = 16_000
    features: Literal["raw", "logmel", "mfcc"] = "raw"
    gain: Literal["none", "max"] = "none"
    scale: Positive = 1.0
    window_ms: Milliseconds = 30.0
    stride_ms: Milliseconds = 20.0
    fft: Annotated[int, msgspec.Meta(ge=0, le=_MAX_FFT)] = 0
    spectrum: Literal["magnitude", "power"] = "magnitude"
    mel_scale: Literal["htk", "slaney"] = "htk"
    mel_norm: Literal["none", "area"] = "none"
    mel_bins: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 40
    low_hz: Annotated[float, msgspec.Meta(ge=0.0)] = 20.0
    high_hz: Positive = 4000.0
    log: Literal["ln", "log10", "db"] = "ln"
    log_offset: Annotated[float, msgspec.Meta(ge=0.0)] = 1e-6
    log_floor: Annotated[float, msgspec.Meta(ge=0.0)] = 0.0
    coefficients: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 10
    dct: Literal["htk", "orthonormal"] = "htk"
    mean: Means = (0.0,)
    std: Deviations = (1.0,)
    layout: Literal["time_first", "bins_first"] = "time_first"

    def __post_init__(self) -> None:
        if self.features == "raw":
            return
        window, stride = self.window_samples, self.stride_samples
        if not 1 <= window <= self.length:
            raise ValueError(f"expected a window of 1 to {self.length} samples, found {window} for {self.window_ms} ms")
        if stride < 1:
            raise ValueError(f"expected a stride of at least one sample, found {self.stride_ms} ms")
        if not window <= self.fft_length <= _MAX_FFT:
            raise ValueError(f"expected an fft of {window} to {_MAX_FFT} samples, found {self.fft_length}")
        if math.prod(self.shape) // self.columns * self.fft_length > _MAX_SPECTRA:
            raise ValueError(
                f"expected spectra of at most {_MAX_SPECTRA} samples in all: a longer stride or less sound"
            )
        if not self.low_hz < self.high_hz <= self.rate_hz / 2:
            raise ValueError(f"expected low_hz < high_hz <= {self.rate_hz / 2:g}, found {self.low_hz}, {self.high_hz}")
        if self.log_offset + self.log_floor <= 0:
            raise ValueError("expected a log_offset or a log_floor above 0: silence has no logarithm")
        if self.features == "mfcc" and self.coefficients > self.mel_bins:
            raise ValueError(f"expected at most {self.mel_bins} coefficients, found {self.coefficients}")

    @property
    def window_samples(self) -> int:
        return round(self.rate_hz * self.window_ms / 1000)

    @property
    def stride_samples(self) -> int:
        return round(self.rate_hz * self.stride_ms / 1000)

    @property
    def fft_length(self) -> int:
        """As declared, or the smallest power of two that holds a window."""
        return self.fft or 1 << (self.window_samples - 1).bit_length()

    @property
    def columns(self) -> int:
        """How many numbers each window gives: mel bins or coefficients."""
        return self.coefficients if self.features == "mfcc" else self.mel_bins

    @property
    def shape(self) -> tuple[int, ...]:
        """(length,), or (windows, columns), or the other way round."""
        if self.features == "raw":
            return (self.length,)
        windows = 1 + (self.length - self.window_samples) // self.stride_samples
        return (windows, self.columns) if self.layout == "time_first" else (self.columns, windows)


Preprocess = ImagePre | WindowPre | TensorPre | AudioPre
