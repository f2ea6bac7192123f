"""Samples as values: as they were read, and as the float model takes them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeinfer.quantize.boxes import Boxes
from edgeinfer.quantize.modelfile import is_integer
from edgeinfer.quantize.pixels import check_range
from edgeinfer.quantize.preprocessing import Declared, model_rows, picture_rows
from edgeinfer.quantize.rows import Rows, Table
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.manifest import TensorSpec
from edgeinfer.runtime.preprocess.geometry import view_of
from edgeinfer.runtime.pres import ImagePre
from edgeinfer.runtime.results import Item

__all__ = ["Loaded", "Material", "Pictures", "Samples", "prepared"]


@dataclass(frozen=True, slots=True)
class Pictures:
    """Picture files, each with its (height, width) and the SHA-256 of its bytes."""

    files: tuple[Path, ...]
    sizes: tuple[tuple[int, int], ...]
    digests: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.files)


# What rows are made of.
Material = Table | Pictures


@dataclass(frozen=True, slots=True)
class Loaded:
    """Samples as they were read, before the preprocessing.

    `y` (N,) int64 classes, or (N, ...) float32 targets; `labelled` is False where it says nothing. `raw`: the rows are
    what a source hands over, whatever the declaration says. `boxes` are those of each picture in 0..1 of it, the class
    as `label`. `labels` are the classes' names where the samples have some.
    """

    x: Material
    y: Array
    sha256: str
    group: Array | None = None
    calibration: Material | None = None
    labelled: bool = True
    raw: bool = False
    boxes: tuple[Boxes, ...] | None = None
    labels: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def hint(self) -> Array | None:
        """Values that tell the range that the rows are in; None for what is read when it is asked for."""
        return self.x if isinstance(self.x, np.ndarray) else None


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples as the float model takes them.

    `x` has N rows; `y` (N,) int64 classes, 0 normal and 1 anomaly, or (N, ...) float32 targets; `group` (N,) int64 or
    None: rows of one group are one example. `calibration` are rows to calibrate with, `calibration_group` (M,) their
    groups. `sha256` is that of the files. `boxes`: see `Loaded`, but in 0..1 of the model's input.
    """

    x: Rows
    y: Array
    group: Array | None
    calibration: Rows | None
    sha256: str
    labelled: bool = True
    boxes: tuple[Boxes, ...] | None = None
    labels: tuple[str, ...] = ()
    calibration_group: Array | None = None
    warnings: tuple[str, ...] = ()

    @property
    def examples(self) -> int:
        """How many examples there are: groups where there are groups, else rows."""
        return len(self.y) if self.group is None else len(np.unique(self.group))


def prepared(loaded: Loaded, declared: Declared, model_input: TensorSpec, *, where: str) -> Samples:
    """The samples through the declared preprocessing. Raises SamplesError where they do not fit the model, ConfigError
    where pictures in files meet a declaration that is for none."""
    calibration = loaded.calibration
    taken_as_they_are = not (loaded.raw or declared.raw or declared.inferred or is_integer(model_input))
    if isinstance(loaded.x, np.ndarray) and taken_as_they_are:
        check_range(loaded.x, declared.preprocess, where=where)
    return Samples(
        x=_rows(loaded.x, declared, model_input, raw=loaded.raw, where=where),
        y=loaded.y,
        group=loaded.group,
        calibration=None
        if calibration is None
        else _rows(calibration, declared, model_input, raw=loaded.raw, where=f"{where}: calibration"),
        sha256=loaded.sha256,
        labelled=loaded.labelled,
        boxes=_in_the_input(loaded, declared),
        labels=loaded.labels,
        warnings=(*loaded.warnings, *_overlap(loaded)),
    )


def _rows(material: Material, declared: Declared, model_input: TensorSpec, *, raw: bool, where: str) -> Rows:
    if isinstance(material, Pictures):
        return picture_rows(material.files, declared, model_input, where=where)
    return model_rows(material, declared, model_input, where=where, raw=raw or declared.raw)


def _in_the_input(loaded: Loaded, declared: Declared) -> tuple[Boxes, ...] | None:
    """The boxes in 0..1 of what the model sees of each picture."""
    preprocess = declared.preprocess
    if loaded.boxes is None or not isinstance(loaded.x, Pictures) or not isinstance(preprocess, ImagePre):
        return loaded.boxes
    return tuple(_moved(boxes, preprocess, size) for boxes, size in zip(loaded.boxes, loaded.x.sizes, strict=True))


def _moved(boxes: Boxes, preprocess: ImagePre, size: tuple[int, int]) -> Boxes:
    region = view_of(preprocess, *size).region
    moved: list[Item] = []
    for item in boxes:
        if item.box is None:
            continue
        x1, x2 = ((item.box[side] - region.x) / region.width for side in (0, 2))
        y1, y2 = ((item.box[side] - region.y) / region.height for side in (1, 3))
        left, top, right, bottom = max(x1, 0.0), max(y1, 0.0), min(x2, 1.0), min(y2, 1.0)
        if left < right and top < bottom:  # else the crop leaves nothing of it
            moved.append(Item(item.label, item.score, (left, top, right, bottom)))
    return tuple(moved)


def _overlap(loaded: Loaded) -> Sequence[str]:
    """A warning where rows to calibrate with are among those to evaluate with: accuracy is then too good."""
    if loaded.calibration is None:
        return ()
    dtype = _common_dtype(loaded.x, loaded.calibration)
    seen = set(_digests(loaded.calibration, dtype))
    shared = sum(digest in seen for digest in _digests(loaded.x, dtype))
    if not shared:
        return ()
    said = f"{shared} of {len(loaded.x)} samples to evaluate with are also among those to calibrate with"
    return (f"{said}: what is measured on them is too good",)


def _common_dtype(x: Material, calibration: Material) -> "np.dtype[Any] | None":
    """In which rows of both are written alike where their values are."""
    if isinstance(x, Pictures) or isinstance(calibration, Pictures):
        return None
    return np.result_type(x.dtype, calibration.dtype)


def _digests(material: Material, dtype: "np.dtype[Any] | None") -> Sequence[bytes]:
    if isinstance(material, Pictures):
        return material.digests
    rows = (np.ascontiguousarray(material[index], dtype) for index in range(len(material)))
    return [hashlib.sha256(row.data).digest() for row in rows]
