"""A folder of pictures, sorted by name."""

import logging
import time
from pathlib import Path

from edgeinfer.runtime.errors import SourceError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.sources.pictures import ENDINGS, NO_PICTURE, opencv, read_picture, shown_name
from edgeinfer.runtime.sources.settings import ImagesSource

__all__ = ["ImageFolder"]

logger = logging.getLogger(__name__)


class ImageFolder:
    """Reads each picture once. A file that is no picture gives an empty frame, which cannot be preprocessed
    and is counted as failed: one bad file must not stop the others."""

    live = False

    def __init__(self, config: ImagesSource) -> None:
        opencv()
        self._repeat = config.repeat
        folder = Path(config.path)
        try:
            found = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS and path.is_file())
        except OSError as error:
            raise SourceError(f"{folder}: expected a folder of pictures, found none: {error.strerror}") from error
        if not found:
            raise SourceError(f"{folder}: expected pictures ({' '.join(sorted(ENDINGS))}), found none")
        self._paths = found
        self._next = 0
        self._index = 0

    def read(self) -> Frame | None:
        if self._next == len(self._paths) and self._repeat:
            self._next = 0
        if self._next == len(self._paths):
            return None
        path = self._paths[self._next]
        self._next += 1
        t_ns, mono_ns = time.time_ns(), time.monotonic_ns()
        try:
            picture = read_picture(path)
        except OSError:  # it has vanished, or may not be read
            picture = NO_PICTURE
        if not picture.size:
            logger.warning("event=picture_unreadable path=%r", str(path))
        self._index += 1
        return Frame(picture, t_ns, mono_ns, self._index - 1, file=shown_name(path))

    def close(self) -> None:
        self._paths = []
        self._next = 0
