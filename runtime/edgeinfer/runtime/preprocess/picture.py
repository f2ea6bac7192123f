"""Pictures: cut, resize, colour order and layout, numbers; each step is left out where there is nothing to do.

A picture first becomes bytes in the order of the model's input, then those become its numbers. Where the input's bytes
are the picture's own, they are written where the input lies. Planes (`nchw`) are put in colour order while they are
taken apart, which costs nothing; else colours are converted in the smaller of the two pictures.
"""

import math

import numpy as np

from edgeinfer.runtime.errors import ModelError, SourceError
from edgeinfer.runtime.manifest import ImagePre, TensorSpec
from edgeinfer.runtime.preprocess.contract import Array, Region
from edgeinfer.runtime.preprocess.geometry import View, view_of
from edgeinfer.runtime.preprocess.levels import compile_levels
from edgeinfer.runtime.preprocess.ordering import Convert, Order, compile_order
from edgeinfer.runtime.sources.pictures import opencv

__all__ = ["PicturePrepare"]

_COLORS = 3
_GREY_RANK, _COLOR_RANK = 2, 3
_LETTERBOX_GREY = 114  # the padding that YOLO models are trained with


class PicturePrepare:
    """Data (H, W, 3) uint8 BGR, or (H, W) uint8 grey."""

    def __init__(self, declared: ImagePre, spec: TensorSpec) -> None:
        self._cv2 = opencv()
        self._declared = declared
        self._target_shape = spec.shape
        self._dtype = np.dtype(spec.dtype)
        self._shape = _bytes_shape(declared, spec)
        self._number = compile_levels(declared, spec, self._shape)
        self._bytes = np.empty(self._shape, dtype=np.uint8) if self._number is not None else None
        self._interpolation = {
            "bilinear": self._cv2.INTER_LINEAR,
            "area": self._cv2.INTER_AREA,
            "nearest": self._cv2.INTER_NEAREST,
        }[declared.interpolation]
        # What follows from the size of a picture, found anew when it changes.
        self._seen: tuple[int, ...] = ()
        self._view: View = view_of(declared, declared.height, declared.width)
        self._early: Convert | None = None
        self._resizes = False
        self._fitted: Array | None = None
        self._order: Order | None = None

    def new_target(self) -> Array:
        return np.zeros(self._target_shape, dtype=self._dtype)

    def __call__(self, data: Array, target: Array) -> Region:
        if data.shape != self._seen or data.dtype != np.uint8:
            self._look_at(data)
        try:
            self._run(data, target)
        except self._cv2.error as error:
            raise SourceError(f"expected a picture, found {data.shape} that OpenCV refuses: {error}") from error
        return self._view.region

    def _run(self, data: Array, target: Array) -> None:
        view, number, order = self._view, self._number, self._order
        picture = data if view.cut is None else data[view.cut]
        out = self._bytes if self._bytes is not None else target.view(np.uint8).reshape(self._shape)
        if self._early is not None:
            picture = self._early(picture)
        if self._resizes:
            room = out if self._fitted is None else self._fitted
            inner = room if view.inner is None else room[view.inner]
            self._cv2.resize(picture, view.size, inner, interpolation=self._interpolation)
            picture = room
        if order is not None:
            order(picture, out)
        elif number is not None:
            out = picture
        elif picture is not out:
            np.copyto(out, picture)
        if number is not None:
            number(out, target)

    def _look_at(self, data: Array) -> None:
        """Choose the steps for pictures of this size. Raises SourceError for what is no picture."""
        _check_picture(data)
        declared = self._declared
        view = view_of(declared, data.shape[0], data.shape[1])
        rows, columns = data.shape[:2] if view.cut is None else data[view.cut].shape[:2]
        self._resizes = view.inner is not None or (columns, rows) != view.size
        grows = self._resizes and rows * columns < declared.width * declared.height
        self._early, self._order = compile_order(declared, is_grey=data.ndim == _GREY_RANK, early=grows)
        is_grey = self._early.gives_grey if self._early is not None else data.ndim == _GREY_RANK
        self._fitted = None
        if self._resizes and (self._order is not None or view.inner is not None):
            size = (declared.height, declared.width)
            # The border of a letterbox is written here once: frames of this size only touch what is inside.
            self._fitted = np.full(size if is_grey else (*size, _COLORS), _LETTERBOX_GREY, dtype=np.uint8)
        self._view, self._seen = view, data.shape


def _bytes_shape(declared: ImagePre, spec: TensorSpec) -> tuple[int, ...]:
    """The shape of the input's bytes without the batch; grey ones are flat. Raises ModelError."""
    height, width = declared.height, declared.width
    channels = 1 if declared.color == "gray" else _COLORS
    shape = (height, width, channels) if declared.layout == "nhwc" else (channels, height, width)
    if math.prod(spec.shape) != math.prod(shape) or len(spec.shape) not in {3, 4}:
        raise ModelError(f"the package declares pictures {(1, *shape)}, the model's input is {spec.shape}")
    return shape if channels > 1 else (height, width)


def _check_picture(data: Array) -> None:
    color = data.ndim == _COLOR_RANK and data.shape[2] == _COLORS
    if data.dtype != np.uint8 or not (color or data.ndim == _GREY_RANK):
        raise SourceError(f"expected a picture (H, W, 3) uint8, found {data.shape} {data.dtype}")
    if not data.size:
        raise SourceError("expected a picture, found an empty one or a file that is none")
