"""Which part of a picture the model's input shows, and where it lies in it: computed once per picture size."""

from typing import NamedTuple

from edgeinfer.runtime.manifest import ImagePre
from edgeinfer.runtime.preprocess.contract import Region

__all__ = ["View", "view_of"]

Slices = tuple[slice, slice]


class View(NamedTuple):
    """`cut`: rows and columns of the picture, None for all. `inner`: where they lie in the input, (width, height) as
    `size` and as slices; None for all of it. `region` says the same in shares of the picture."""

    region: Region
    cut: Slices | None
    size: tuple[int, int]
    inner: Slices | None


def view_of(declared: ImagePre, height: int, width: int) -> View:
    """Of a picture of this size."""
    if declared.resize == "letterbox":
        return _letterbox(declared, height, width)
    if declared.resize == "crop":
        scale = min(width / declared.width, height / declared.height) * declared.crop
        cut_width, cut_height = max(1, round(declared.width * scale)), max(1, round(declared.height * scale))
    else:
        cut_width, cut_height = max(1, round(width * declared.crop)), max(1, round(height * declared.crop))
    left, top = (width - cut_width) // 2, (height - cut_height) // 2
    whole = (cut_width, cut_height) == (width, height)
    return View(
        region=Region(left / width, top / height, cut_width / width, cut_height / height),
        cut=None if whole else (slice(top, top + cut_height), slice(left, left + cut_width)),
        size=(declared.width, declared.height),
        inner=None,
    )


def _letterbox(declared: ImagePre, height: int, width: int) -> View:
    scale = min(declared.width / width, declared.height / height)
    inner_width, inner_height = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (declared.width - inner_width) // 2, (declared.height - inner_height) // 2
    shown_width, shown_height = width * scale, height * scale
    region = Region(
        -left / shown_width, -top / shown_height, declared.width / shown_width, declared.height / shown_height
    )
    full = (inner_width, inner_height) == (declared.width, declared.height)
    inner = None if full else (slice(top, top + inner_height), slice(left, left + inner_width))
    return View(region, None, (inner_width, inner_height), inner)
