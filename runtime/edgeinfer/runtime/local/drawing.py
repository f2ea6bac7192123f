"""Pictures for people: a frame as a JPEG, with what was found drawn into it."""

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.errors import DependencyError
from edgeinfer.runtime.local.live import Look
from edgeinfer.runtime.results import Item, Kind
from edgeinfer.runtime.status import label_name

__all__ = ["draw", "encode_jpeg", "is_picture", "scaled"]

Picture = npt.NDArray[np.uint8]

# BGR; told apart by people who see fewer colours, too (after Okabe and Ito).
_COLOURS = ((0, 159, 230), (178, 114, 0), (115, 158, 0), (0, 94, 213), (167, 121, 204), (233, 180, 86), (66, 228, 240))
_INK = (255, 255, 255)
_MAX_DRAWN = 100
# Pairs of COCO keypoints (nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles) that are bones.
_BONES = ((5, 7), (7, 9), (6, 8), (8, 10), (5, 6), (5, 11), (6, 12), (11, 12), (11, 13), (13, 15), (12, 14), (14, 16),
    (0, 1), (0, 2), (1, 3), (2, 4))  # fmt: skip
_KEYPOINTS = 17
_LEAST_SCORE = 0.2


def is_picture(data: npt.NDArray[Any]) -> bool:
    """(H, W) or (H, W, 1) grey, or (H, W, 3) BGR; uint8."""
    return data.dtype == np.uint8 and (data.ndim == 2 or (data.ndim == 3 and data.shape[2] in {1, 3}))


def scaled(data: npt.NDArray[Any], max_width: int) -> Picture:
    """A copy of a picture in BGR, `max_width` pixels wide at most, the small ones enlarged to be seen."""
    cv2 = _opencv()
    picture = cv2.cvtColor(data, cv2.COLOR_GRAY2BGR) if data.ndim == 2 or data.shape[2] == 1 else data
    height, width = picture.shape[:2]
    factor = min(1.0, max_width / width) if width >= 160 else 160 / width
    if factor == 1.0:
        return picture.copy()
    size = (max(1, round(width * factor)), max(1, min(round(height * factor), 4 * max_width)))
    how = cv2.INTER_NEAREST if factor > 1 else cv2.INTER_AREA
    return cv2.resize(picture, size, interpolation=how)  # type: ignore[no-any-return]  # as above


def encode_jpeg(picture: Picture, quality: int) -> bytes:
    cv2 = _opencv()
    _, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return bytes(encoded)


def draw(picture: Picture, look: Look) -> None:
    """Boxes, keypoints or the best class, into the picture."""
    items = look.result.items[:_MAX_DRAWN]
    if look.result.kind is Kind.KEYPOINTS:
        _draw_keypoints(picture, items)
        return
    boxed = [item for item in items if item.box is not None]
    for item in boxed:
        _draw_box(picture, item, _caption(item, look))
    if not boxed and items:
        _draw_caption(picture, _caption(items[0], look), (0, 0), _COLOURS[0])


def _caption(item: Item, look: Look) -> str:
    return f"{label_name(look.result.kind, item.label, look.labels)} {item.score:.2f}"


def _draw_box(picture: Picture, item: Item, caption: str) -> None:
    colour = _COLOURS[item.label % len(_COLOURS)]
    x1, y1, x2, y2 = item.box or (0.0, 0.0, 0.0, 0.0)
    first, second = _pixel(picture, x1, y1), _pixel(picture, x2, y2)
    _opencv().rectangle(picture, first, second, colour, _thickness(picture))
    _draw_caption(picture, caption, first, colour)


def _draw_caption(picture: Picture, text: str, at: tuple[int, int], colour: tuple[int, int, int]) -> None:
    """Above the point, or below where there is no room."""
    cv2 = _opencv()
    shown = text.encode("ascii", "replace").decode()  # all that the font has
    scale = max(0.4, picture.shape[1] / 1400)
    (width, height), base = cv2.getTextSize(shown, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    x = min(at[0], max(0, picture.shape[1] - width - 8))
    y = at[1] if at[1] > height + base + 4 else at[1] + height + base + 4
    cv2.rectangle(picture, (x, y - height - base - 4), (x + width + 8, y), colour, cv2.FILLED)
    cv2.putText(picture, shown, (x + 4, y - base - 1), cv2.FONT_HERSHEY_SIMPLEX, scale, _INK, 1, cv2.LINE_AA)


def _draw_keypoints(picture: Picture, items: tuple[Item, ...]) -> None:
    cv2 = _opencv()
    points = {
        item.label: _pixel(picture, item.box[0], item.box[1])
        for item in items
        if item.box is not None and item.score >= _LEAST_SCORE
    }
    if len(items) == _KEYPOINTS:
        for one, other in _BONES:
            if one in points and other in points:
                cv2.line(picture, points[one], points[other], _COLOURS[1], _thickness(picture), cv2.LINE_AA)
    for point in points.values():
        cv2.circle(picture, point, 2 * _thickness(picture), _COLOURS[0], cv2.FILLED, cv2.LINE_AA)


def _pixel(picture: Picture, x: float, y: float) -> tuple[int, int]:
    """A place in 0..1 as a pixel inside of the picture."""
    height, width = picture.shape[:2]
    return min(max(0, int(x * width)), width - 1), min(max(0, int(y * height)), height - 1)


def _thickness(picture: Picture) -> int:
    return 1 + int(picture.shape[1]) // 400


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise DependencyError(
            "pictures need OpenCV, which is not installed here", hint="pip install 'edgeinfer[camera]'"
        ) from error
    return cv2
