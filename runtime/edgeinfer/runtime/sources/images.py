"""A folder of pictures, sorted by name."""

import logging
import time
from pathlib import Path

import numpy as np

from edgeinfer.runtime.errors import SourceError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.sources.pictures import opencv
from edgeinfer.runtime.sources.settings import ImagesSource

__all__ = ["ImageFolder"]

logger = logging.getLogger(__name__)

_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}


class ImageFolder:
    """Reads each picture once. A file that is no picture gives an empty frame, which cannot be preprocessed
    and is counted as failed: one bad file must not stop the others."""

    live = False

    def __init__(self, config: ImagesSource) -> None:
        self._cv2 = opencv()
        self._repeat = config.repeat
        folder = Path(config.path)
        if not folder.is_dir():
            raise SourceError(f"{folder}: expected a folder of pictures, found none")
        self._paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _ENDINGS)
        if not self._paths:
            raise SourceError(f"{folder}: expected pictures ({' '.join(sorted(_ENDINGS))}), found none")
        self._next = 0

    def read(self) -> Frame | None:
        if self._next == len(self._paths) and self._repeat:
            self._next = 0
        if self._next == len(self._paths):
            return None
        path = self._paths[self._next]
        index = self._next
        self._next += 1
        t_ns, mono_ns = time.time_ns(), time.monotonic_ns()
        picture = self._cv2.imread(str(path), self._cv2.IMREAD_COLOR)
        if picture is None:
            logger.warning("event=picture_unreadable path=%s", path)
            picture = np.empty((0, 0, 3), dtype=np.uint8)
        return Frame(picture, t_ns, mono_ns, index)

    def close(self) -> None:
        self._paths = []
        self._next = 0
