"""The contract of a source, and the choice of one by its configuration."""

import threading
from typing import Protocol

from edgeinfer.runtime.errors import ConfigError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.sources.settings import (
    CameraSource,
    CsvSource,
    HostSource,
    ImagesSource,
    SourceConfig,
    StdinSource,
    TensorsSource,
    VideoSource,
)

__all__ = ["Source", "open_source"]


class Source(Protocol):
    """Gives frames to one thread. `live`: frames come whether they are read or not, so the latest wins."""

    live: bool

    def read(self) -> Frame | None:
        """The next frame; None at the end or when the stop event is set. Raises SourceError."""
        ...

    def close(self) -> None:
        """Give the device back. May be called twice."""
        ...


def open_source(config: SourceConfig, stop: threading.Event) -> Source:
    """Open what `config` describes; `stop` ends waiting inside of `read`. Raises SourceError."""
    match config:
        case ImagesSource():
            from edgeinfer.runtime.sources.images import ImageFolder

            return ImageFolder(config)
        case VideoSource():
            from edgeinfer.runtime.sources.video import VideoFile

            return VideoFile(config, stop)
        case CameraSource():
            from edgeinfer.runtime.sources.camera import Camera

            return Camera(config)
        case CsvSource() | StdinSource():
            from edgeinfer.runtime.sources.sensor import open_series

            return open_series(config, stop)
        case HostSource():
            from edgeinfer.runtime.sources.host import Host

            return Host(config, stop)
        case TensorsSource():
            from edgeinfer.runtime.sources.tensors import Tensors

            return Tensors(config)
    raise ConfigError(f"expected a known source, found {config!r}")


def is_live(config: SourceConfig) -> bool:
    """Whether the source goes on for ever, so that a failure to open it is waited out."""
    match config:
        case VideoSource() | ImagesSource() | CsvSource() | StdinSource() | TensorsSource():
            return False
        case _:
            return True
