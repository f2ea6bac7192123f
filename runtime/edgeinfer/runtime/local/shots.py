"""What the page asks of a pipeline: its newest frame as a JPEG or, for signals, as a curve. Made once a frame for all
who look, and not more often than a person can see."""

import base64
import math
import threading
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.errors import EdgeInferError
from edgeinfer.runtime.local.drawing import draw, encode_jpeg, is_picture, scaled
from edgeinfer.runtime.local.live import LiveBoard, Look
from edgeinfer.runtime.local.settings import LocalConfig
from edgeinfer.runtime.results import Item
from edgeinfer.runtime.status import label_name

__all__ = ["Shots"]

_LEAST_INTERVAL_S = 0.05
_POINTS = 160
_CHANNELS = 6
_ITEMS = 100
_SIGNAL_AXES = 2


class Shots:
    """Every method may be called from any thread. `number` is the frame's, so that who has it already need not get it
    again."""

    def __init__(self, board: LiveBoard, config: LocalConfig) -> None:
        self._board = board
        self._config = config
        self._lock = threading.Lock()  # one picture is encoded at a time: the pipelines need the other core
        self._made: dict[tuple[str, bool], tuple[float, Look, bytes]] = {}

    def jpeg(self, pipeline: str, *, drawn: bool) -> tuple[int, bytes] | None:
        """The frame's number, and the picture. None where no picture was inferred yet. Raises EdgeInferError."""
        shot = self._shot(pipeline, drawn=drawn)
        return (shot[0].result.frame, shot[1]) if shot is not None else None

    def document(self, pipeline: str) -> dict[str, Any] | None:
        """The newest frame with what was found, for the page to draw. None where nothing was inferred yet. Raises
        EdgeInferError."""
        shot = self._shot(pipeline, drawn=False)
        look = shot[0] if shot is not None else self._board.newest(pipeline)
        if look is None:
            return None
        data, result = look.frame.data, look.result
        document: dict[str, Any] = {
            "frame": result.frame,
            "t_ns": result.t_ns,
            "kind": result.kind.name.lower(),
            "items": [_item(item, look) for item in result.items[:_ITEMS]],
            "shape": list(data.shape),
        }
        if shot is not None:
            document["jpeg"] = base64.b64encode(shot[1]).decode("ascii")
        elif data.ndim in {1, _SIGNAL_AXES}:
            document["series"] = curves(data)
        return document

    def _shot(self, pipeline: str, *, drawn: bool) -> tuple[Look, bytes] | None:
        look = self._board.newest(pipeline)
        if look is None or not is_picture(look.frame.data):
            return None
        with self._lock:
            made_s, made_of, body = self._made.get((pipeline, drawn), (0.0, None, b""))
            now_s = time.monotonic()
            if made_of is None or (made_of.result is not look.result and now_s - made_s >= _LEAST_INTERVAL_S):
                made_of, body = look, self._encode(look, drawn=drawn)
                self._made[pipeline, drawn] = (now_s, made_of, body)
        return made_of, body

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


def _item(item: Item, look: Look) -> dict[str, Any]:
    score = item.score if math.isfinite(item.score) else None
    name = label_name(look.result.kind, item.label, look.labels)
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
