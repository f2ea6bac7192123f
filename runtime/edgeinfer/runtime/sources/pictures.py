"""OpenCV, as the picture sources and the preprocessing use it: imported late, kept to one thread."""

from functools import cache
from types import ModuleType

from edgeinfer.runtime.errors import DependencyError

__all__ = ["opencv"]


@cache
def opencv() -> ModuleType:
    """The cv2 module. Raises DependencyError where it is not installed.

    Its own thread pool is off: each source has a thread, and a device has few cores.
    """
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
