"""Preprocessing, compiled once from the package's declaration for one variant's input tensor.

    prepare = compile_preprocess(manifest.preprocess, engine.inputs[0])
    target = prepare.new_target()
    region = prepare(frame.data, target)

For pictures every step after the resize is one table of 256 entries a channel: `(x - mean) / std`, and for
an integer tensor the quantization on top, so that uint8 goes to a uint8 model with no float in between.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.engines.base import quantize_input
from edgeinfer.runtime.errors import ModelError, SourceError
from edgeinfer.runtime.manifest import ImagePre, Preprocess, TensorPre, TensorSpec, WindowPre

__all__ = ["Prepare", "Region", "compile_preprocess", "concrete_shape"]

Array = npt.NDArray[Any]
_PICTURE_AXES = 3
_LETTERBOX_GREY = 114  # the padding that YOLO models are trained with


class Region(NamedTuple):
    """The part of the source picture that the model's input shows, in 0..1 of the picture; a letterbox
    reaches beyond it. A point (u, v) of the input lies at (x + u * width, y + v * height)."""

    x: float
    y: float
    width: float
    height: float


WHOLE = Region(0.0, 0.0, 1.0, 1.0)


class Prepare(Protocol):
    """Writes the model's input for one frame's data into `target`. Raises SourceError for data of a wrong
    shape or dtype."""

    def new_target(self) -> Array: ...

    def __call__(self, data: Array, target: Array) -> Region: ...


def concrete_shape(spec: TensorSpec) -> tuple[int, ...]:
    """The tensor's shape with 1 for what the model leaves open."""
    return tuple(1 if size < 0 else size for size in spec.shape)


def compile_preprocess(declared: Preprocess, spec: TensorSpec) -> Prepare:
    """Raises ModelError where the declaration does not fit the tensor."""
    match declared:
        case ImagePre():
            return _PicturePrepare(declared, spec)
        case WindowPre():
            return _WindowPrepare(declared, spec)
        case TensorPre():
            return _TensorPrepare(spec)


class _TensorPrepare:
    def __init__(self, spec: TensorSpec) -> None:
        self._spec = spec
        self._shape = concrete_shape(spec)
        self._size = int(np.prod(self._shape))

    def new_target(self) -> Array:
        return np.zeros(self._shape, dtype=self._spec.dtype)

    def __call__(self, data: Array, target: Array) -> Region:
        if data.size != self._size:
            raise SourceError(f"expected {self._size} values for an input {self._shape}, found shape {data.shape}")
        if data.dtype != target.dtype:
            data = quantize_input(data.astype(np.float32, copy=False), self._spec)
        target[...] = data.reshape(self._shape)
        return WHOLE


class _WindowPrepare(_TensorPrepare):
    def __init__(self, declared: WindowPre, spec: TensorSpec) -> None:
        super().__init__(spec)
        self._mean = np.array(declared.mean, dtype=np.float32)
        self._inverse_std = 1.0 / np.array(declared.std, dtype=np.float32)

    def __call__(self, data: Array, target: Array) -> Region:
        if data.size != self._size:
            raise SourceError(
                f"expected a window of {self._size} values (input {self._shape}), found {data.shape}",
                hint="set the source's window and columns as the package declares them",
            )
        try:
            values = (data.astype(np.float32, copy=False) - self._mean) * self._inverse_std
        except ValueError as error:
            raise SourceError(
                f"expected a window of {len(self._mean)} channels, found shape {data.shape}: {error}"
            ) from error
        return super().__call__(values if target.dtype == np.float32 else quantize_input(values, self._spec), target)


class _PicturePrepare:
    def __init__(self, declared: ImagePre, spec: TensorSpec) -> None:
        from edgeinfer.runtime.sources.pictures import opencv

        self._cv2 = opencv()
        self._declared = declared
        self._spec = spec
        self._channels = 1 if declared.color == "gray" else _PICTURE_AXES
        height, width, channels = declared.height, declared.width, self._channels
        declared_shape = (height, width, channels) if declared.layout == "nhwc" else (channels, height, width)
        self._shape = (1, *declared_shape)
        wanted = concrete_shape(spec)
        if int(np.prod(wanted)) != int(np.prod(self._shape)) or len(wanted) not in {len(self._shape), 3}:
            raise ModelError(f"the package declares pictures {self._shape}, the model's input is {wanted}")
        self._model_shape = wanted
        self._tables = [self._table(channel) for channel in range(channels)]
        # A table of one entry a channel and 256 rows, as OpenCV wants it for interleaved channels.
        self._merged = self._cv2.merge([table.reshape(256, 1) for table in self._tables])
        self._straight = spec.dtype == "uint8" and all(bool(np.all(t == np.arange(256))) for t in self._tables)
        self._interpolation = {
            "bilinear": self._cv2.INTER_LINEAR,
            "area": self._cv2.INTER_AREA,
            "nearest": self._cv2.INTER_NEAREST,
        }[declared.interpolation]
        self._regions: dict[tuple[int, int], tuple[Region, tuple[slice, slice]]] = {}
        self._resized = np.empty((height, width, _PICTURE_AXES), dtype=np.uint8)
        self._colored = np.empty((height, width, channels) if channels > 1 else (height, width), dtype=np.uint8)
        self._convert: int | None = {
            "rgb": self._cv2.COLOR_BGR2RGB,
            "bgr": None,
            "gray": self._cv2.COLOR_BGR2GRAY,
        }[declared.color]
        self._write: Callable[[Array, Array], None] = (
            self._write_planes if declared.layout == "nchw" and channels > 1 else self._write_interleaved
        )

    def new_target(self) -> Array:
        return np.zeros(self._model_shape, dtype=self._spec.dtype)

    def __call__(self, data: Array, target: Array) -> Region:
        if data.dtype != np.uint8 or data.ndim not in {2, _PICTURE_AXES}:
            raise SourceError(f"expected a picture (H, W, 3) uint8, found {data.shape} {data.dtype}")
        if not data.size:
            raise SourceError("expected a picture, found an empty one or a file that is none")
        if data.ndim == 2:
            data = self._cv2.cvtColor(data, self._cv2.COLOR_GRAY2BGR)
        region, window = self._regions.get(data.shape[:2]) or self._remember(data.shape[0], data.shape[1])
        colored = self._recolor(self._resize(data, window))
        self._write(colored, target)
        return region

    def _remember(self, height: int, width: int) -> tuple[Region, tuple[slice, slice]]:
        """Where the input lies in a picture of this size: computed once per size."""
        self._regions.clear()
        found = _region(self._declared, height, width)
        self._regions[height, width] = found
        return found

    def _resize(self, data: Array, window: tuple[slice, slice]) -> Array:
        height, width = self._declared.height, self._declared.width
        if self._declared.resize == "letterbox":
            scale = min(width / data.shape[1], height / data.shape[0])
            inner_width, inner_height = max(1, round(data.shape[1] * scale)), max(1, round(data.shape[0] * scale))
            left, top = (width - inner_width) // 2, (height - inner_height) // 2
            self._resized[...] = _LETTERBOX_GREY
            inner = self._cv2.resize(data, (inner_width, inner_height), interpolation=self._interpolation)
            self._resized[top : top + inner_height, left : left + inner_width] = inner
            return self._resized
        cut = data[window]
        if cut.shape[:2] == (height, width):
            return cut
        return np.asarray(self._cv2.resize(cut, (width, height), self._resized, interpolation=self._interpolation))

    def _recolor(self, picture: Array) -> Array:
        if self._convert is None:
            return picture
        return np.asarray(self._cv2.cvtColor(picture, self._convert, self._colored))

    def _write_interleaved(self, picture: Array, target: Array) -> None:
        shaped = target.reshape(picture.shape)
        if self._straight:
            shaped[...] = picture
        elif target.dtype == np.int8:
            self._cv2.LUT(picture, self._merged.view(np.uint8), shaped.view(np.uint8))
        elif target.dtype in {np.dtype(np.uint8), np.dtype(np.float32)}:
            self._cv2.LUT(picture, self._merged, shaped)
        else:
            shaped[...] = self._cv2.LUT(picture, self._merged)

    def _write_planes(self, picture: Array, target: Array) -> None:
        planes = target.reshape(self._shape)[0]
        for channel, table in enumerate(self._tables):
            np.take(table, picture[..., channel], out=planes[channel], mode="clip")

    def _table(self, channel: int) -> Array:
        """What each of 0..255 becomes in this channel."""
        mean, std = self._declared.mean, self._declared.std
        values = np.arange(256, dtype=np.float64)
        real = (values - mean[channel % len(mean)]) / std[channel % len(std)]
        return quantize_input(real.astype(np.float32), self._spec)


def _region(declared: ImagePre, height: int, width: int) -> tuple[Region, tuple[slice, slice]]:
    """The region that is shown, and the slices (rows, columns) that cut it out of the picture."""
    if declared.resize == "letterbox":
        scale = min(declared.width / width, declared.height / height)
        region_width, region_height = declared.width / (width * scale), declared.height / (height * scale)
        left = ((declared.width - round(width * scale)) // 2) / (width * scale)
        top = ((declared.height - round(height * scale)) // 2) / (height * scale)
        return Region(-left, -top, region_width, region_height), (slice(None), slice(None))
    if declared.resize == "crop":
        scale = min(width / declared.width, height / declared.height) * declared.crop
        cut_width, cut_height = max(1, round(declared.width * scale)), max(1, round(declared.height * scale))
    else:
        cut_width, cut_height = max(1, round(width * declared.crop)), max(1, round(height * declared.crop))
    left_px, top_px = (width - cut_width) // 2, (height - cut_height) // 2
    region = Region(left_px / width, top_px / height, cut_width / width, cut_height / height)
    return region, (slice(top_px, top_px + cut_height), slice(left_px, left_px + cut_width))
