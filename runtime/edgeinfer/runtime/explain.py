"""Why a model said what it said: which part of one input its score comes from.

    with package_from_file(path) as package:
        found = explain(package, read_subject(Path("cat.png"), package.manifest, frame=0), Request())
        Path("map.png").write_bytes(found.picture())

The package's own preprocessing, postprocessing and engine answer, as they do in a pipeline.
"""

from typing import Any, NamedTuple, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.errors import UsageError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.learn.occlusion import Area, Fill, Heat, Score, Tick, cover_picture, cover_series, places
from edgeinfer.runtime.learn.target import Target, choose_target, graded
from edgeinfer.runtime.manifest import ImagePre, Manifest, WindowPre
from edgeinfer.runtime.model import LoadedModel
from edgeinfer.runtime.preprocess import Region
from edgeinfer.runtime.results import Item
from edgeinfer.runtime.store import InstalledPackage

__all__ = ["Explanation", "Request", "explain"]

Array = npt.NDArray[Any]

# A quarter of the shorter side hides a part of a thing, not all of it; a quarter of that apart gives a smooth map.
_PATCHES_A_SIDE, _STRIDES_A_PATCH = 4, 4
_STRETCHES_A_SERIES, _STRIDES_A_STRETCH, _MAX_GROUPS = 8, 4, 32
_MAX_RUNS = 20_000
_MAX_CELLS = 64
_COLOURS = 3


class Request(msgspec.Struct, frozen=True):
    """`label` names the class whose score is explained, by name or number; empty: the one that the model gives.
    `patch` and `stride` in pixels, or steps of the series; 0: by the size of the input. `fill`: what a part is
    covered with, see `edgeinfer.runtime.learn.occlusion`; empty: grey in a picture, the mean in a series."""

    variant: str = ""
    label: str = ""
    patch: int = 0
    stride: int = 0
    fill: str = ""


class _Covered(NamedTuple):
    """The input as it was covered, and what came of it. `whole`: how far the score falls where all of a channel is
    covered; nothing for pictures, and for series of very many channels."""

    subject: Array
    heat: Heat
    patch: int
    stride: int
    fill: Fill
    whole: tuple[float, ...] = ()


class Explanation(NamedTuple):
    """`covered.heat`: how far the score falls where each pixel (H, W), or step and channel (length, channels), is
    covered. `channels` are names, where the package has some."""

    package: str
    variant: str
    target: Target
    is_picture: bool
    channels: tuple[str, ...]
    covered: _Covered

    def picture(self) -> bytes:
        """A PNG: the heat over the picture, or behind the curves."""
        from edgeinfer.runtime.learn.heatmap import draw_picture, draw_series, encode_png

        item, subject, heat = self.target.item, self.covered.subject, self.covered.heat
        title = f"{self.package} ({self.variant}): {self.target.name} {item.score:.3g}"
        if self.is_picture:
            return encode_png(draw_picture(subject, heat, title=title, box=item.box, stride=self.covered.stride))
        return encode_png(draw_series(subject, heat, title=title, names=self.channels, whole=self.covered.whole))

    def peak(self) -> dict[str, int | str]:
        """Where the score comes from most: a pixel, or a step and a channel."""
        heat = self.covered.heat
        row, column = (int(place) for place in np.unravel_index(int(heat.argmax()), heat.shape))
        return {"x": column, "y": row} if self.is_picture else {"step": row, "channel": self._channel(column)}

    def document(self) -> dict[str, Any]:
        """For a program. `cells` is the map in means of at most 64 by 64 cells; `by_channel` how far the score falls
        where all of a channel is covered."""
        subject, heat, patch, stride, fill, whole = self.covered
        item = self.target.item
        return {
            "package": self.package,
            "variant": self.variant,
            "kind": self.target.kind.name.lower(),
            "label": item.label,
            "name": self.target.name,
            "score": item.score,
            "box": item.box,
            "shape": subject.shape,
            "patch": patch,
            "stride": stride,
            "fill": fill,
            "drop": float(heat.max()),
            "peak": self.peak(),
            "by_channel": {self._channel(place): round(drop, 6) for place, drop in enumerate(whole)},
            "cells": [[round(value, 6) for value in row] for row in _cells(heat).tolist()],
        }

    def _channel(self, place: int) -> str:
        return self.channels[place] if place < len(self.channels) else str(place)


def explain(
    package: InstalledPackage, data: Array, request: Request, *, tick: Tick = lambda _done: None
) -> Explanation:
    """Cover part after part of `data` and run the model each time; `tick` is told the share that is done.

    Raises UsageError for a request that does not fit, EdgeInferError where nothing was found to explain, and what
    preparing and inferring raise.
    """
    declared = package.manifest
    replaced = msgspec.structs.replace(declared, postprocess=graded(declared.postprocess))
    model = LoadedModel(msgspec.structs.replace(package, manifest=replaced), variant=request.variant)
    is_picture = _is_picture(data, declared)
    data = _in_colour(data) if is_picture else data
    items, region = _infer(model, data)
    target = choose_target(items, model.kind, request.label, package.labels())

    def score(covered: Array) -> float:
        return target.score_in(_infer(model, covered.reshape(data.shape))[0])

    if is_picture:
        covered = _cover_picture(data, region, request, score=score, tick=tick)
    else:
        covered = _cover_series(data, declared, request, score=score, tick=tick)
    names = declared.preprocess.channels if isinstance(declared.preprocess, WindowPre) else ()
    return Explanation(f"{model.name} {model.version}", model.variant.id, target, is_picture, names, covered)


def _infer(model: LoadedModel, data: Array) -> tuple[tuple[Item, ...], Region]:
    """As the first frame of a source: what a model remembers of the input before is forgotten."""
    prepared = model.prepare(Frame(data, 0, 0, 0), is_first=True)
    try:
        return model.infer(prepared).items, prepared.region
    finally:
        model.release(prepared)


def _cover_picture(data: Array, region: Region, request: Request, *, score: Score, tick: Tick) -> _Covered:
    height, width = data.shape[:2]
    area = Area(
        top=max(0, round(region.y * height)),
        bottom=min(height, round((region.y + region.height) * height)),
        left=max(0, round(region.x * width)),
        right=min(width, round((region.x + region.width) * width)),
    )
    sides = (area.bottom - area.top, area.right - area.left)
    patch = request.patch or max(1, min(sides) // _PATCHES_A_SIDE)
    stride = request.stride or max(1, patch // _STRIDES_A_PATCH)
    _check(patch, stride, limit=min(sides), unit="pixels")
    _check_runs(*(len(places(0, side, size=patch, stride=stride)) for side in sides))
    fill: Fill = _fill(request.fill, ("grey", "blur"))
    heat = cover_picture(data, area, score, patch=patch, stride=stride, fill=fill, tick=tick)
    return _Covered(data, heat, patch, stride, fill)


def _cover_series(data: Array, declared: Manifest, request: Request, *, score: Score, tick: Tick) -> _Covered:
    series = _as_series(data, declared)
    length, channels = series.shape
    patch = request.patch or max(1, length // _STRETCHES_A_SERIES)
    stride = request.stride or max(1, patch // _STRIDES_A_STRETCH)
    _check(patch, stride, limit=length, unit="steps")
    group = -(-channels // _MAX_GROUPS)
    _check_runs(len(places(0, length, size=patch, stride=stride)), -(-channels // group))
    fill: Fill = _fill(request.fill, ("mean", "neighbours", "shuffle"))
    means = _declared_means(declared, channels)
    heat = cover_series(series, score, patch=patch, stride=stride, group=group, fill=fill, means=means, tick=tick)
    whole: tuple[float, ...] = ()
    if group == 1:
        drops = cover_series(series, score, patch=length, stride=length, group=1, fill=fill, means=means, tick=tick)
        whole = tuple(drops[0].tolist())
    return _Covered(series, heat, patch, stride, fill, whole)


def _is_picture(data: Array, declared: Manifest) -> bool:
    if data.dtype != np.uint8:
        return False
    return isinstance(declared.preprocess, ImagePre) or (data.ndim == _COLOURS and data.shape[2] == _COLOURS)


def _in_colour(data: Array) -> Array:
    return np.repeat(data.reshape(*data.shape[:2], 1), _COLOURS, axis=2) if data.shape[2:] in {(), (1,)} else data


def _as_series(data: Array, declared: Manifest) -> Array:
    """(length, channels): as a window is declared, else the first axis is time."""
    length = declared.preprocess.length if isinstance(declared.preprocess, WindowPre) else 0
    if length and data.size % length == 0:
        return data.reshape(length, -1)
    squeezed = data.squeeze()
    return squeezed.reshape(len(squeezed) if squeezed.ndim else 1, -1)


def _declared_means(declared: Manifest, channels: int) -> Array | None:
    """What the package was trained to take as usual; None where it does not say."""
    pre = declared.preprocess
    if not isinstance(pre, WindowPre) or (pre.mean, pre.std) == ((0.0,), (1.0,)) or len(pre.mean) not in {1, channels}:
        return None
    return np.broadcast_to(np.asarray(pre.mean), (channels,))


def _fill(wanted: str, known: tuple[Fill, ...]) -> Fill:
    chosen = next((fill for fill in known if fill == (wanted or known[0])), None)
    if chosen is None:
        others = ", ".join(str(fill) for fill in get_args(Fill))
        raise UsageError(f"expected a fill of {', '.join(known)} for this input, found {wanted!r} (all: {others})")
    return chosen


def _check(patch: int, stride: int, *, limit: int, unit: str) -> None:
    if not (1 <= patch <= limit and 1 <= stride <= limit):
        raise UsageError(f"expected a patch and a stride of 1 to {limit} {unit}, found {patch} and {stride}")


def _check_runs(rows: int, columns: int) -> None:
    if rows * columns > _MAX_RUNS:
        raise UsageError(
            f"expected at most {_MAX_RUNS} inferences, found {rows * columns}", hint="give a larger --patch or --stride"
        )


def _cells(heat: Heat) -> Heat:
    """Means of blocks, at most 64 a side."""
    begins = [np.unique(np.linspace(0, size, min(size, _MAX_CELLS), endpoint=False).astype(int)) for size in heat.shape]
    sums = np.add.reduceat(np.add.reduceat(heat, begins[0], axis=0), begins[1], axis=1)
    rows, columns = (np.diff(begin, append=size) for begin, size in zip(begins, heat.shape, strict=True))
    return np.asarray(sums / np.outer(rows, columns), np.float32)
