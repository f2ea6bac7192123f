"""What an event looked like: the picture as JPEG, or the window as `.npz`, in `state_dir/snapshots`.

    000000012-1760000000000000000-door-481.jpg      number, wall clock at capture in ns, pipeline, frame

The folder has a quota of its own; the oldest go first. The listing is the index: the number only grows, and the rest
of the name is that of the event's result. Encoding and writing are done by one thread for all pipelines; where it
falls behind, or the disk is full, the event goes out without its picture.
"""

import functools
import io
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.quota_folder import QuotaFolder
from edgeinfer.runtime.results import Item
from edgeinfer.runtime.rules.geometry import Box
from edgeinfer.runtime.rules.settings import SnapshotConfig
from edgeinfer.runtime.stages import Seen

__all__ = ["FOLDER", "SnapshotStore", "snapshots_in"]

FOLDER = "snapshots"

# Each is a copy of a frame in memory until it is encoded.
_MAX_WAITING = 4
_CLOSE_S = 4.0
_PICTURE_AXES = 3
_CHANNELS = 3
_GREEN = (80, 220, 60)

Array = npt.NDArray[Any]


@functools.cache
def snapshots_in(state_dir: Path, config: SnapshotConfig) -> "SnapshotStore":
    """The one store of a device's folder, for all pipelines."""
    return SnapshotStore(state_dir / FOLDER, config)


class SnapshotStore:
    """`open` before use and `close` after it, each user once: the last one ends the writer."""

    def __init__(self, folder: Path, config: SnapshotConfig) -> None:
        self.folder = folder
        self._config = config
        self._lock = threading.Lock()
        self._users = 0
        self._files: QuotaFolder | None = None

    def open(self) -> None:
        with self._lock:
            self._users += 1
            if self._files is None:
                self._files = QuotaFolder(
                    self.folder,
                    max_bytes=self._config.max_bytes,
                    thread_name="snapshot-writer",
                    max_waiting=_MAX_WAITING,
                )

    def keep(self, pipeline: str, seen: Seen, tracks: Sequence[int] = ()) -> str:
        """Have a frame written; the file's name, or "" where the writer is too far behind. Copies the frame, no more.

        `tracks`: of each item of the result, to be drawn.
        """
        files = self._files
        if files is None:
            return ""
        data = seen.frame.data.copy()
        items = seen.result.items if self._config.draw else ()
        ending, encode = _encoder(data, items, tracks, self._config.quality)
        name = files.put(f"{seen.frame.t_ns}-{pipeline}-{seen.frame.index}", encode)
        return name + ending if name else ""

    def close(self, timeout_s: float = _CLOSE_S) -> None:
        """The last user waits for what is not written yet."""
        with self._lock:
            self._users -= 1
            files = self._files if self._users == 0 else None
            if files is not None:
                self._files = None
        if files is not None:
            files.close(timeout_s)


def _encoder(
    data: Array, items: Sequence[Item], tracks: Sequence[int], quality: int
) -> tuple[str, Callable[[], Mapping[str, bytes]]]:
    """The file ending for `data`, and what makes the file."""
    if data.dtype == np.uint8 and data.ndim == _PICTURE_AXES and data.shape[-1] == _CHANNELS:
        return ".jpg", lambda: {".jpg": _jpeg(data, items, tracks, quality)}
    return ".npz", lambda: {".npz": _npz(data)}


def _jpeg(picture: Array, items: Sequence[Item], tracks: Sequence[int], quality: int) -> bytes:
    """`picture` (H, W, 3) uint8 BGR, which is drawn into."""
    from edgeinfer.runtime.sources.pictures import opencv

    cv2 = opencv()
    for index, item in enumerate(items):
        if item.box is not None:
            track = tracks[index] if index < len(tracks) else 0
            _draw(cv2, picture, item.box, f"#{track} {item.score:.2f}" if track else f"{item.score:.2f}")
    done, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise OSError(f"a picture of shape {picture.shape} cannot be encoded")
    content: bytes = encoded.tobytes()
    return content


def _draw(cv2: Any, picture: Array, box: Box, text: str) -> None:
    height, width = picture.shape[:2]
    x1, y1, x2, y2 = (round(v * s) for v, s in zip(box, (width, height, width, height), strict=True))
    thickness = max(1, height // 400)
    cv2.rectangle(picture, (x1, y1), (x2, y2), _GREEN, thickness)
    where = (x1 + 2 * thickness, y1 + 12 * thickness)
    cv2.putText(picture, text, where, cv2.FONT_HERSHEY_SIMPLEX, 0.4 * thickness, _GREEN, thickness)


def _npz(window: Array) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=window)
    return buffer.getvalue()
