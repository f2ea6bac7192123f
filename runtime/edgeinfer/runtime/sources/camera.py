"""Cameras: V4L2 by number or path, network cameras by URL. Which of the two it is, and what both share."""

import threading
import time
from typing import Any

import numpy.typing as npt

from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.sources.base import Source
from edgeinfer.runtime.sources.settings import CameraSource

__all__ = ["frame_taken", "open_camera", "shown"]


def open_camera(config: CameraSource, stop: threading.Event) -> Source:
    """Raises SourceError where there is no camera; so does its `read` when it stops giving frames, and the caller
    opens a new one after a wait."""
    if "://" in str(config.device):
        from edgeinfer.runtime.sources.camera_network import NetworkCamera

        return NetworkCamera(config, stop)
    from edgeinfer.runtime.sources.camera_v4l2 import V4l2Camera

    return V4l2Camera(config, stop)


def shown(name: str) -> str:
    """A camera's name as it may be shown: without user, password and query, in which some cameras want them."""
    scheme, separator, rest = name.partition("://")
    if not separator:
        return name
    credentials, at, host = rest.rpartition("@")
    address, question, _ = (host if at and credentials else rest).partition("?")
    return f"{scheme}://{'***@' if at and credentials else ''}{address}{'?***' if question else ''}"


def frame_taken(picture: npt.NDArray[Any], *, taken_ns: int, now_ns: int, index: int) -> Frame:
    """A frame that was taken at `taken_ns` of the monotonic clock, which now says `now_ns`."""
    return Frame(picture, time.time_ns() - (now_ns - taken_ns), taken_ns, index)
