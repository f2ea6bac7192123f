"""The preprocessing that a package declares: from `--preprocess`, or inferred from the model and the samples.

How a declaration is written is in `spec`. `raw=true` says that the samples are what comes before the arithmetic:
pictures (N, height, width, channels) of 0..255 in the declared colour order and of the model's size, sensor windows
(N, length, channels) in their own units, or sound (N, length) as integers of full scale or floats of -1..1.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgeinfer.quantize.modelfile import is_integer
from edgeinfer.quantize.pixels import ASSUMED, are_pixels
from edgeinfer.quantize.rows import ArrayRows, ImageRows, Table, fit_to_model
from edgeinfer.quantize.spec import parse_spec, read_spec
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import ConfigError, ModelError, SamplesError, SourceError
from edgeinfer.runtime.manifest import AudioPre, ImagePre, Preprocess, TensorPre, TensorSpec, WindowPre
from edgeinfer.runtime.preprocess import compile_preprocess, resolve_input

__all__ = ["Declared", "declare", "infer", "model_rows", "noise", "picture_rows"]

_IMAGE_RANK = 4
_COLORS = 3
_CHANNELS = {1: "gray", 3: "rgb"}
_KINDS: dict[str, type[msgspec.Struct]] = {
    "image": ImagePre,
    "window": WindowPre,
    "tensor": TensorPre,
    "audio": AudioPre,
}


@dataclass(frozen=True, slots=True)
class Declared:
    """A declaration, and whether the samples are raw: before its arithmetic. `inferred` says what was, where nothing
    was declared; `assumed` what was concluded beside it."""

    preprocess: Preprocess
    raw: bool = False
    inferred: str = ""
    assumed: str = ""


def declare(spec: str, model_input: TensorSpec, *, samples: Array | None = None) -> Declared:
    """The declaration that `spec` gives, or the inferred one where `spec` is empty. Raises ConfigError."""
    if not spec:
        return infer(model_input, samples=samples)
    fields = read_spec(spec)
    said_raw = fields.pop("raw", None)
    kind = str(fields.setdefault("kind", "image" if _looks_like_image(model_input) else "window"))
    if kind not in _KINDS:
        raise ConfigError(f"--preprocess: expected kind of {sorted(_KINDS)}, found {kind!r}")
    if kind == "image":
        _complete_image(fields, model_input)
    elif kind == "window":
        fields.setdefault("length", _window_length(model_input))
    elif kind == "audio":
        _complete_audio(fields, model_input)
    preprocess = parse_spec(fields, _KINDS[kind], origin="--preprocess")
    assert isinstance(preprocess, ImagePre | WindowPre | TensorPre | AudioPre)  # noqa: S101 - _KINDS holds nothing else
    _check_fits(preprocess, _with_sizes(preprocess, model_input))
    if said_raw is not None:
        return Declared(preprocess, _flag(said_raw))
    if are_pixels(samples, preprocess, model_input):
        return Declared(preprocess, raw=True, assumed=ASSUMED)
    return Declared(preprocess)


def _with_sizes(preprocess: Preprocess, model_input: TensorSpec) -> TensorSpec:
    try:
        return resolve_input(preprocess, model_input)
    except ModelError as error:
        raise ConfigError(f"--preprocess: {error.message}", hint=error.hint) from error


def _complete_audio(fields: dict[str, Any], model_input: TensorSpec) -> None:
    """The length of raw sound follows from the model's shape where that is closed."""
    if isinstance(fields.get("scale"), list):  # a list in other declarations
        fields["scale"] = fields["scale"][0]
    size = math.prod(model_input.shape[1:])
    if fields.get("features", "raw") == "raw" and size > 0:
        fields.setdefault("length", size)
    if "length" not in fields:
        raise ConfigError("--preprocess: expected the length of the sound in samples", hint="kind=audio,length=16000")


def _flag(value: object) -> bool:
    return str(value).lower() in {"true", "1", "yes"}


def _complete_image(fields: dict[str, Any], model_input: TensorSpec) -> None:
    """Size, layout and colour follow from the model's shape where they are not given."""
    if len(model_input.shape) != _IMAGE_RANK:
        raise ConfigError(f"--preprocess: expected a model input of 4 dimensions for images, found {model_input.shape}")
    layout, height, width, channels = _image_shape(model_input)
    layout = str(fields.setdefault("layout", layout))
    if layout == "nchw":
        channels, height, width = model_input.shape[1:]
    elif layout == "nhwc":
        height, width, channels = model_input.shape[1:]
    fields.setdefault("height", height)
    fields.setdefault("width", width)
    fields.setdefault("color", _CHANNELS.get(channels, "rgb"))


def _check_fits(preprocess: Preprocess, model_input: TensorSpec) -> None:
    """A declaration must give what the model takes: the device would refuse each frame otherwise."""
    if isinstance(preprocess, ImagePre):
        _check_image(preprocess, model_input)
    elif isinstance(preprocess, WindowPre):
        _check_window(preprocess, model_input)
    elif isinstance(preprocess, AudioPre):
        _check_audio(preprocess, model_input)


def _check_image(preprocess: ImagePre, model_input: TensorSpec) -> None:
    channels = 1 if preprocess.color == "gray" else _COLORS
    size = (preprocess.height, preprocess.width)
    made = (*size, channels) if preprocess.layout == "nhwc" else (channels, *size)
    if made != model_input.shape[1:]:
        raise ConfigError(
            f"--preprocess: declares pictures {made} in {preprocess.layout}, the model takes {model_input.shape[1:]}"
        )
    _check_scaling(preprocess, channels)


def _check_window(preprocess: WindowPre, model_input: TensorSpec) -> None:
    """A window (length, channels) is reshaped to the input: its rows must be those of the input's leading axes."""
    shape, length = model_input.shape[1:], preprocess.length
    size = math.prod(shape)
    lengths = [math.prod(shape[:axes]) for axes in range(len(shape) + 1)]
    fits = size % length == 0 if len(shape) == 1 else length in lengths
    if not fits:
        raise ConfigError(
            f"--preprocess: declares a window of length {length}, the model takes {shape}",
            hint=f"length={_window_length(model_input)}?",
        )
    channels = size // length
    if preprocess.channels and len(preprocess.channels) != channels:
        raise ConfigError(
            f"--preprocess: expected {channels} channels for a window of length {length} and a model that takes "
            f"{shape}, found {len(preprocess.channels)}: {', '.join(preprocess.channels)}"
        )
    _check_scaling(preprocess, channels)


def _check_audio(preprocess: AudioPre, model_input: TensorSpec) -> None:
    made, taken = preprocess.shape, model_input.shape[1:]
    if math.prod(made) != math.prod(taken):
        raise ConfigError(
            f"--preprocess: {preprocess.length} samples of sound give {made}, the model takes {taken}",
            hint="length, window_ms and stride_ms make the one size, mel_bins or coefficients the other",
        )
    _check_scaling(preprocess, 1 if preprocess.features == "raw" else preprocess.columns)


def _check_scaling(preprocess: ImagePre | WindowPre | AudioPre, channels: int) -> None:
    for name, values in (("mean", preprocess.mean), ("std", preprocess.std)):
        if len(values) not in {1, channels}:
            raise ConfigError(f"--preprocess: expected 1 or {channels} numbers for {name}, found {len(values)}")


def infer(model_input: TensorSpec, *, samples: Array | None = None) -> Declared:
    """The declaration that the model's shape and the samples' range suggest.

    Four dimensions with 1 or 3 channels and values in 0..255, 0..1 or -1..1: an image. Anything else: a window,
    whose length is the first dimension after the batch, or 1 for a flat input (N, features).
    """
    if not _looks_like_image(model_input):
        return _infer_window(model_input)
    layout, height, width, channels = _image_shape(model_input)
    scale = _integer_scale(model_input) if is_integer(model_input) else _value_range(samples)
    if scale is None:
        return _infer_window(model_input)
    mean, std = scale
    color = _CHANNELS[channels]
    preprocess = ImagePre(
        width=width,
        height=height,
        color="gray" if color == "gray" else "rgb",
        layout="nhwc" if layout == "nhwc" else "nchw",
        mean=(mean,),
        std=(std,),
    )
    said = f"image {width}x{height} {color} {layout}, (x - {mean:g}) / {std:g}"
    return Declared(preprocess, inferred=said)


def _infer_window(model_input: TensorSpec) -> Declared:
    length = _window_length(model_input)
    return Declared(WindowPre(length=length), inferred=f"window of length {length}, values unchanged")


def _window_length(model_input: TensorSpec) -> int:
    shape = model_input.shape[1:]
    return shape[0] if len(shape) > 1 else 1


def _looks_like_image(model_input: TensorSpec) -> bool:
    if len(model_input.shape) != _IMAGE_RANK:
        return False
    _, height, width, channels = _image_shape(model_input)
    # A single channel that is far from square is a spectrogram or a window, not a picture.
    square_ish = max(height, width) <= 2 * min(height, width)
    return min(height, width) > 1 and (channels == _COLORS or (channels == 1 and square_ish))


def _image_shape(model_input: TensorSpec) -> tuple[str, int, int, int]:
    """Layout, height, width, channels of a 4-dimensional input."""
    first, second, third = model_input.shape[1:]
    if third in _CHANNELS or first not in _CHANNELS:
        return "nhwc", first, second, third
    return "nchw", second, third, first


def _value_range(samples: Array | None) -> tuple[float, float] | None:
    """Mean and std that map 0..255 to the range that the samples show; None where they show none of the usual."""
    if samples is None or samples.dtype == np.uint8:
        return 0.0, 1.0
    low, high = float(samples.min()), float(samples.max())
    margin = 0.01
    if low >= -margin and high <= 1.0 + margin:
        return 0.0, 255.0
    if low >= -1.0 - margin and high <= 1.0 + margin:
        return 127.5, 127.5
    if low >= 0.0 and high <= 255.0:
        return 0.0, 1.0
    return None


def _integer_scale(model_input: TensorSpec) -> tuple[float, float]:
    """Mean and std with which a pixel x becomes the integer input q = x (uint8) or x - 128 (int8)."""
    if model_input.scale is None or model_input.zero_point is None:
        return 0.0, 1.0
    offset = 128 if model_input.dtype == "int8" else 0
    return float(model_input.zero_point + offset), 1.0 / model_input.scale


def model_rows(
    x: Table, declared: Declared, model_input: TensorSpec, *, where: str, raw: bool | None = None
) -> ArrayRows:
    """Samples (N, ...) as the float model takes them, row by row. `raw` as declared where it is None. Raises
    SamplesError where a row does not fit."""
    preprocess, shape = declared.preprocess, model_input.shape[1:]
    apply: Callable[[Array], Array] = _floats
    if declared.raw if raw is None else raw:
        if isinstance(preprocess, AudioPre):
            apply = _hearing(preprocess, np.dtype(x.dtype), where=where)
        elif isinstance(preprocess, ImagePre | WindowPre):
            apply = functools.partial(_apply, preprocess=preprocess, where=where)
    rows = ArrayRows(x, lambda values: fit_to_model(apply(values), shape, where=where))
    _ = rows.shape  # what does not fit is said now
    return rows


def picture_rows(files: Sequence[Path], declared: Declared, model_input: TensorSpec, *, where: str) -> ImageRows:
    """Pictures in files as the float model takes them. Raises ConfigError where no preprocessing for pictures was
    declared, and none follows from an integer input."""
    preprocess = declared.preprocess
    if not isinstance(preprocess, ImagePre) or (declared.inferred and not is_integer(model_input)):
        raise ConfigError(
            f"{where}: expected --preprocess to say how pictures in files become the model's input, found "
            f"{'none' if declared.inferred else type(preprocess).__struct_config__.tag}",
            hint="for instance --preprocess kind=image,mean=127.5,std=127.5,color=rgb",
        )
    return ImageRows(files, preprocess, model_input.shape[1:])


def _floats(values: Array) -> Array:
    return values.astype(np.float32)


def _apply(values: Array, preprocess: ImagePre | WindowPre, *, where: str) -> Array:
    values = values.astype(np.float32)
    if isinstance(preprocess, ImagePre):
        pictures = values[..., np.newaxis] if values.ndim == _IMAGE_RANK - 1 else values
        expected = (preprocess.height, preprocess.width)
        if pictures.ndim != _IMAGE_RANK or pictures.shape[1:3] != expected:
            raise SamplesError(
                f"{where}: expected raw pictures (N, {expected[0]}, {expected[1]}, C), found {values.shape}"
            )
        values = pictures
    try:
        scaled: Array = (values - np.array(preprocess.mean, np.float32)) / np.array(preprocess.std, np.float32)
    except ValueError as error:
        raise SamplesError(
            f"{where}: expected {len(preprocess.mean)} channels as the declared mean has, found {values.shape}"
        ) from error
    if isinstance(preprocess, ImagePre) and preprocess.layout == "nchw":
        return scaled.transpose(0, 3, 1, 2)
    return scaled


def _hearing(preprocess: AudioPre, dtype: "np.dtype[Any]", *, where: str) -> Callable[[Array], Array]:
    """Makes features of sound (N, length) of -1..1, or integers of full scale, as the device computes them."""
    full_scale = 1.0 if dtype.kind == "f" else float(np.iinfo(dtype).max) + 1.0
    prepare = compile_preprocess(preprocess, TensorSpec("", (1, *preprocess.shape), "float32"))

    def hear(sounds: Array) -> Array:
        made = np.empty((len(sounds), *preprocess.shape), dtype=np.float32)
        try:
            for row, sound in enumerate(sounds):
                prepare((sound / full_scale).astype(np.float32), made[row : row + 1])
        except SourceError as error:
            raise SamplesError(f"{where}: {error.message}") from error
        return made

    return hear


def noise(preprocess: Preprocess, model_input: TensorSpec, *, count: int, seed: int) -> Array:
    """Seeded noise as the float model takes it, (count, *input shape): in the range that the declaration gives."""
    random = np.random.default_rng(seed)
    shape = (count, *model_input.shape[1:])
    if isinstance(preprocess, AudioPre):
        sound = random.uniform(-0.5, 0.5, (count, preprocess.length)).astype(np.float32)
        return _hearing(preprocess, sound.dtype, where="noise")(sound).reshape(shape)
    low, high = -1.0, 1.0
    if isinstance(preprocess, ImagePre):
        low = (0.0 - max(preprocess.mean)) / max(preprocess.std)
        high = (255.0 - min(preprocess.mean)) / min(preprocess.std)
    return random.uniform(low, high, shape).astype(np.float32)
