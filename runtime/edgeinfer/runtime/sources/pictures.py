"""OpenCV, as the picture sources and the preprocessing use it: imported late, kept to one thread and quiet."""

import os
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.errors import DependencyError

__all__ = ["ENDINGS", "MAX_PIXELS", "NO_PICTURE", "decode_picture", "opencv", "read_picture", "shown_name"]

Picture = npt.NDArray[np.uint8]

ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})
# What stands for a picture that cannot be read: it cannot be preprocessed, and its frame is counted as failed.
NO_PICTURE: Picture = np.empty((0, 0, 3), dtype=np.uint8)
MAX_PIXELS = 1 << 26
"""A picture of a few kB can claim to be of any size: 67 million pixels are 200 MB."""
_MAX_FILE_BYTES = 1 << 28

# Read by OpenCV where it needs them; what somebody has set already stands.
_ENVIRONMENT = {
    # A lossy stream makes FFmpeg write a line a frame to standard error. What matters is said in our own words.
    "OPENCV_FFMPEG_LOGLEVEL": "-8",
    # Without it one camera that is silent keeps all others from being opened: a lock is held while it is waited for.
    "OPENCV_FFMPEG_IS_THREAD_SAFE": "1",
    # Cameras change it (`camera_network`): a variable that is there already is replaced in place, under other threads.
    "OPENCV_FFMPEG_CAPTURE_OPTIONS": "rtsp_transport;tcp",
    "OPENCV_IO_MAX_IMAGE_PIXELS": str(MAX_PIXELS),
}


@cache
def opencv() -> ModuleType:
    """The cv2 module. Raises DependencyError where it is not installed.

    Its own thread pool is off: each source has a thread, and a device has few cores.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import cv2
    except ImportError as error:
        raise DependencyError(
            "pictures, video and cameras need OpenCV", hint="pip install 'edgeinfer[camera]'"
        ) from error
    cv2.setNumThreads(1)
    # What it warns of is said in our own words.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    return cv2


def decode_picture(content: npt.NDArray[np.uint8]) -> Picture:
    """The picture (H, W, 3) uint8 BGR in the bytes of a file; NO_PICTURE where they are none."""
    cv2 = opencv()
    if not content.size:
        return NO_PICTURE
    try:
        picture: Any = cv2.imdecode(content, cv2.IMREAD_COLOR)
    except cv2.error:  # a size beyond all bounds
        return NO_PICTURE
    return NO_PICTURE if picture is None else picture


def read_picture(path: Path) -> Picture:
    """The same from a file, whatever bytes its name has. Raises OSError where it cannot be read."""
    with path.open("rb") as file:
        return decode_picture(np.frombuffer(file.read(_MAX_FILE_BYTES), dtype=np.uint8))


def shown_name(path: Path) -> str:
    """The file's name as a text that can be stored and shown, whatever bytes it has."""
    name = os.fsencode(path.name).decode("utf-8", errors="replace")
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in name)
