"""From OpenCV's order of colours (interleaved BGR, or grey) to the model's."""

from collections.abc import Callable

import numpy as np

from edgeinfer.runtime.manifest import ImagePre
from edgeinfer.runtime.preprocess.contract import Array
from edgeinfer.runtime.sources.pictures import opencv

__all__ = ["Convert", "Order", "compile_order"]

Order = Callable[[Array, Array], object]
"""Writes a picture of the input's size into bytes of the input's order."""


class Convert:
    """One colour conversion, into an array that is kept while pictures have the same size."""

    def __init__(self, code: int, *, gives_grey: bool) -> None:
        self._cv2 = opencv()
        self._code = code
        self._kept: Array | None = None
        self.gives_grey = gives_grey

    def __call__(self, picture: Array) -> Array:
        self._kept = np.asarray(self._cv2.cvtColor(picture, self._code, self._kept))
        return self._kept

    def into(self, picture: Array, out: Array) -> None:
        self._cv2.cvtColor(picture, self._code, out)


def compile_order(declared: ImagePre, *, is_grey: bool, early: bool) -> tuple[Convert | None, Order | None]:
    """What to do before the resize (only where `early`) and after it; None for nothing."""
    if declared.layout == "nchw" and declared.color != "gray":
        return None, _grey_planes if is_grey else _Split(reverse=declared.color == "rgb")
    code = _conversion(declared, is_grey=is_grey)
    if code is None:
        return None, None
    convert = Convert(code, gives_grey=declared.color == "gray")
    # Grey is not spread over three equal channels before it is resized.
    if early and not is_grey:
        return convert, None
    return None, convert.into


def _conversion(declared: ImagePre, *, is_grey: bool) -> int | None:
    cv2 = opencv()
    if is_grey:
        return None if declared.color == "gray" else int(cv2.COLOR_GRAY2BGR)
    return {"rgb": int(cv2.COLOR_BGR2RGB), "bgr": None, "gray": int(cv2.COLOR_BGR2GRAY)}[declared.color]


class _Split:
    def __init__(self, *, reverse: bool) -> None:
        self._split = opencv().split
        self._places = (2, 1, 0) if reverse else (0, 1, 2)

    def __call__(self, picture: Array, out: Array) -> None:
        self._split(picture, [out[place] for place in self._places])


def _grey_planes(picture: Array, out: Array) -> None:
    np.copyto(out, picture)
