"""What the page asks of a pipeline: its newest frame as a JPEG or, for signals, as a curve. Made once a frame for all
who look, and not more often than a person can see."""

import base64
import math
import threading
import time
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.errors import EdgeInferError
from edgeinfer.runtime.local.drawing import draw, encode_jpeg, is_picture, scaled
from edgeinfer.runtime.local.live import LiveBoard, Look
from edgeinfer.runtime.local.settings import LocalConfig
from edgeinfer.runtime.results import Item, Result
from edgeinfer.runtime.status import label_name

__all__ = ["Shots"]

_LEAST_INTERVAL_S = 0.05
_POINTS = 160
_CHANNELS = 6
_ITEMS = 100
_SIGNAL_AXES = 2
# A picture is forgotten after so long: somebody who still looks has it made anew.
_FORGET_S = 10.0


class _Shot(NamedTuple):
    """A picture that was made, and what it was made of: the frame itself is not kept."""

    made_s: float
    result: Result
    labels: tuple[str, ...]
    shape: tuple[int, ...]
    body: bytes


class Shots:
    """Every method may be called from any thread. `number` is the frame's, so that who has it already need not get it
    again."""

    def __init__(self, board: LiveBoard, config: LocalConfig) -> None:
        self._board = board
        self._config = config
        self._lock = threading.Lock()  # one picture is encoded at a time: the pipelines need the other core
        self._made: dict[tuple[str, bool], _Shot] = {}

    def jpeg(self, pipeline: str, *, drawn: bool) -> tuple[int, bytes] | None:
        """The frame's number, and the picture. None where no picture was inferred yet. Raises EdgeInferError."""
        shot = self._shot(pipeline, drawn=drawn)
        return (shot.result.frame, shot.body) if shot is not None else None

    def document(self, pipeline: str) -> dict[str, Any] | None:
        """The newest frame with what was found, for the page to draw. None where nothing was inferred yet. Raises
        EdgeInferError."""
        shot = self._shot(pipeline, drawn=False)
        if shot is not None:
            jpeg = base64.b64encode(shot.body).decode("ascii")
            return _document(shot.result, shot.labels, shot.shape) | {"jpeg": jpeg}
        look = self._board.newest(pipeline)
        if look is None:
            return None
        data = look.frame.data
        document = _document(look.result, look.labels, data.shape)
        return document | {"series": curves(data)} if data.ndim in {1, _SIGNAL_AXES} else document

    def _shot(self, pipeline: str, *, drawn: bool) -> _Shot | None:
        look = self._board.newest(pipeline)
        with self._lock:
            now_s = time.monotonic()
            self._forget(now_s - _FORGET_S, gone=pipeline if look is None else None)
            if look is None or not is_picture(look.frame.data):
                return None
            made = self._made.get((pipeline, drawn))
            if made is None or (made.result is not look.result and now_s - made.made_s >= _LEAST_INTERVAL_S):
                body = self._encode(look, drawn=drawn)
                made = _Shot(now_s, look.result, look.labels, look.frame.data.shape, body)
                self._made[pipeline, drawn] = made
        return made

    def _forget(self, before_s: float, *, gone: str | None) -> None:
        """What was made earlier than that, and all of a pipeline that is gone."""
        for key in [key for key, made in self._made.items() if made.made_s < before_s or key[0] == gone]:
            del self._made[key]

    def number(self, pipeline: str) -> int:
        """Of the newest frame; -1 where there is none."""
        look = self._board.newest(pipeline)
        return look.result.frame if look is not None else -1

    def _encode(self, look: Look, *, drawn: bool) -> bytes:
        try:
            picture = scaled(look.frame.data, self._config.max_width)
            if drawn:
                draw(picture, look)
            return encode_jpeg(picture, self._config.quality)
        except EdgeInferError:
            raise
        except Exception as error:  # cv2.error is no class that can be named before cv2 is loaded
            raise EdgeInferError(f"the picture cannot be shown: {error}") from error


def _document(result: Result, labels: tuple[str, ...], shape: tuple[int, ...]) -> dict[str, Any]:
    return {
        "frame": result.frame,
        "t_ns": result.t_ns,
        "kind": result.kind.name.lower(),
        "items": [_item(item, result, labels) for item in result.items[:_ITEMS]],
        "shape": list(shape),
    }


def _item(item: Item, result: Result, labels: tuple[str, ...]) -> dict[str, Any]:
    score = item.score if math.isfinite(item.score) else None
    name = label_name(result.kind, item.label, labels)
    return {"label": item.label, "name": name, "score": score, "box": item.box}


def curves(data: npt.NDArray[Any]) -> list[list[float | None]]:
    """A signal (length,) or (length, channels) as points of curves, one a channel. A long one keeps its peaks: of each
    stretch the lowest and the highest value. What is no number is None."""
    columns = data.reshape(len(data), -1).astype(np.float64)[:, :_CHANNELS]
    stride = math.ceil(2 * len(columns) / _POINTS)
    if stride > 2:
        length = len(columns) // stride * stride
        stretches = columns[:length].reshape(-1, stride, columns.shape[1])
        columns = np.stack([stretches.min(axis=1), stretches.max(axis=1)], axis=1).reshape(-1, columns.shape[1])
    return [[round(float(v), 6) if math.isfinite(v) else None for v in column] for column in columns.T]
