"""Draws what an explanation found: heat over a picture, or behind the curves of a series. OpenCV only."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.errors import EdgeInferError

__all__ = ["draw_picture", "draw_series", "encode_png"]

Array = npt.NDArray[Any]
Picture = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]

_LEAST_SIDE, _MOST_SIDE = 480, 1600
_BAR, _MARGIN, _WIDTH = 34, 150, 1100
_MAX_CURVES = 16  # of more channels only the heat is drawn
_INK, _PAPER = (255, 255, 255), (32, 32, 32)
_VEIL = 0.7  # how far the hottest place is hidden by its colour


def draw_picture(
    picture: Picture, heat: npt.NDArray[np.float32], *, title: str, box: Box | None, stride: int
) -> Picture:
    """`picture` (H, W, 3) BGR under `heat` (H, W), where it is above 0; `box` in 0..1 is outlined. The map is smoothed
    over `stride`, the distance of its patches: its steps are no edges of the picture."""
    cv2 = _opencv()
    height, width = picture.shape[:2]
    scale = min(max(1.0, _LEAST_SIDE / min(height, width)), max(1.0, _MOST_SIDE / max(height, width)))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = cv2.INTER_NEAREST if scale > 2 else cv2.INTER_LINEAR
    shown = cv2.resize(picture, size, interpolation=how)
    smooth = cv2.GaussianBlur(np.maximum(heat, 0.0), (0, 0), max(0.5, 0.7 * stride))
    share = cv2.resize(_shares(smooth), size, interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap(np.rint(share * 255).astype(np.uint8), cv2.COLORMAP_TURBO)
    veil = (_VEIL * share)[..., np.newaxis]
    mixed = np.rint(shown * (1.0 - veil) + colours * veil).astype(np.uint8)
    if box is not None:
        corners = [(round(box[i] * size[0]), round(box[i + 1] * size[1])) for i in (0, 2)]
        cv2.rectangle(mixed, corners[0], corners[1], _INK, 2)
    return _with_bars(mixed, title, f"covered, the score falls by up to {max(float(heat.max()), 0.0):.3g}")


def draw_series(
    series: Array, heat: npt.NDArray[np.float32], *, title: str, names: Sequence[str], whole: Sequence[float]
) -> Picture:
    """`series` and `heat` (length, channels), a strip a channel, time from left to right. `whole`: how far the
    score falls where all of a channel is covered, written below its name."""
    channels = series.shape[1]
    curves = channels <= _MAX_CURVES
    strip = max(48, min(140, 560 // channels)) if curves else max(4, 560 // channels)
    share = _shares(heat)
    strips = []
    for channel in range(channels):
        colours = _coloured(share[:, channel], strip)
        if curves:
            _draw_curve(colours, series[:, channel])
        name = names[channel] if channel < len(names) else f"channel {channel}"
        labelled = curves or channel % max(1, 24 // strip) == 0
        note = f"all: -{whole[channel]:.3g}".replace("--", "+") if curves and channel < len(whole) else ""
        strips.append(np.hstack([_margin(name if labelled else "", note, strip), colours]))
        if curves:
            strips.append(np.full((2, _MARGIN + _WIDTH, 3), _PAPER, np.uint8))
    legend = f"{len(series)} steps | bright: covered, the score falls by up to {max(float(heat.max()), 0.0):.3g}"
    return _with_bars(np.vstack(strips), title, legend)


def encode_png(picture: Picture) -> bytes:
    made, encoded = _opencv().imencode(".png", picture)
    if not made:
        raise EdgeInferError(f"a picture of shape {picture.shape} could not be written as PNG")
    return bytes(encoded)


def _shares(heat: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """0..1 of the hottest place. What makes the score rise when it is covered counts as cold."""
    positive = np.maximum(heat, 0.0)
    top = float(positive.max())
    return np.asarray(positive / top if top > 0.0 else positive, np.float32)


def _coloured(share: npt.NDArray[np.float32], height: int) -> Picture:
    cv2 = _opencv()
    row = np.rint(share * 255).astype(np.uint8)[np.newaxis]
    how = cv2.INTER_NEAREST if len(share) < _WIDTH else cv2.INTER_AREA
    wide = cv2.resize(row, (_WIDTH, height), interpolation=how)
    return np.asarray(cv2.applyColorMap(wide, cv2.COLORMAP_INFERNO))


def _draw_curve(strip: Picture, values: Array) -> None:
    cv2 = _opencv()
    reals = np.nan_to_num(np.asarray(values, np.float64))
    low, high = float(reals.min()), float(reals.max())
    height, border = strip.shape[0], 4
    level = (reals - low) / (high - low) if high > low else np.full(len(reals), 0.5)
    x = (np.arange(len(reals)) + 0.5) * (_WIDTH / len(reals))
    y = height - border - level * (height - 2 * border)
    points = np.rint(np.stack([x, y], axis=1)).astype(np.int32)
    for colour, thickness in (((0, 0, 0), 3), (_INK, 1)):  # an edge, so that it is seen on bright heat, too
        cv2.polylines(strip, [points], isClosed=False, color=colour, thickness=thickness, lineType=cv2.LINE_AA)


def _margin(name: str, note: str, height: int) -> Picture:
    margin = np.full((height, _MARGIN, 3), _PAPER, np.uint8)
    middle = min(height - 2, height // 2 + (-2 if note else 5))
    for text, y in ((name, middle), (note, middle + 16)):
        if text:
            _write(margin, text, (6, y), 0.42)
    return margin


def _with_bars(picture: Picture, title: str, legend: str) -> Picture:
    """The picture between a line that says what it shows and one that says what the colours mean."""
    top, bottom = (np.full((_BAR, picture.shape[1], 3), _PAPER, np.uint8) for _ in range(2))
    _write(top, title, (8, 23), 0.55)
    _write(bottom, legend, (8, 22), 0.45)
    return np.vstack([top, picture, bottom])


def _write(picture: Picture, text: str, at: tuple[int, int], scale: float) -> None:
    """Smaller, where it would not fit."""
    cv2 = _opencv()
    shown = text.encode("ascii", "replace").decode()  # all that the font has
    width = cv2.getTextSize(shown, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0]
    scale *= min(1.0, (picture.shape[1] - at[0] - 4) / max(width, 1))
    cv2.putText(picture, shown, at, cv2.FONT_HERSHEY_SIMPLEX, scale, _INK, 1, cv2.LINE_AA)


def _opencv() -> Any:
    from edgeinfer.runtime.sources.pictures import opencv

    return opencv()
