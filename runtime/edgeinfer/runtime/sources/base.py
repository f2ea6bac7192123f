"""The contract of a source, and the choice of one by its configuration."""

import threading
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from edgeinfer.runtime.backing import Backing
from edgeinfer.runtime.errors import ConfigError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.sources.settings import (
    AudioSource,
    CameraSource,
    CsvSource,
    ImagesSource,
    JoinedSource,
    SeriesSection,
    SourceConfig,
    StdinSource,
    TensorsSource,
    VideoSource,
    WatchedSource,
)

__all__ = ["Settling", "Source", "is_live", "is_recorded", "open_source"]


class Source(Protocol):
    """Gives frames to one thread. `live`: frames come whether they are read or not, so the latest wins."""

    live: bool

    def read(self) -> Frame | None:
        """The next frame; None at the end or when the stop event is set. Raises SourceError."""
        ...

    def close(self) -> None:
        """Give the device back. May be called twice."""
        ...


@runtime_checkable
class Settling(Protocol):
    """A source that gives up its inputs only once what came of them is durable."""

    def settle_by(self, backing: Backing) -> None:
        """Ask `backing` what is. Called before the first `read`."""
        ...


def open_source(config: SourceConfig, stop: threading.Event, channels: Sequence[str] = ()) -> Source:
    """Open what `config` describes; `stop` ends waiting inside of `read`. `channels` are those that the package names:
    a sensor gives these, in their order, wherever what it reads has names. Raises SourceError, ConfigError."""
    match config:
        case ImagesSource():
            from edgeinfer.runtime.sources.images import ImageFolder

            return ImageFolder(config)
        case VideoSource():
            from edgeinfer.runtime.sources.video import VideoFile

            return VideoFile(config, stop)
        case CameraSource():
            from edgeinfer.runtime.sources.camera import open_camera

            return open_camera(config, stop)
        case WatchedSource():
            from edgeinfer.runtime.sources.watched import WatchedFolder

            return WatchedFolder(config, stop)
        case SeriesSection():
            from edgeinfer.runtime.sources.sensor import open_series

            return open_series(config, stop, channels)
        case AudioSource(path=""):
            from edgeinfer.runtime.sources.microphone import Microphone

            return Microphone(config, stop)
        case AudioSource():
            from edgeinfer.runtime.sources.audio import WavSource

            return WavSource(config, stop)
        case TensorsSource():
            from edgeinfer.runtime.sources.tensors import Tensors

            return Tensors(config)
    raise ConfigError(f"expected a known source, found {config!r}")


def is_live(config: SourceConfig) -> bool:
    """Whether the source goes on for ever, so that a failure to open it is waited out."""
    match config:
        case VideoSource() | ImagesSource() | CsvSource() | StdinSource() | TensorsSource():
            return False
        case JoinedSource():
            return any(map(is_live, config.inputs))
        case AudioSource(path=path):
            return not path
        case _:
            return True


def is_recorded(config: SourceConfig) -> bool:
    """Whether every frame is there already and waits: several may be inferred at once."""
    match config:
        case VideoSource():
            return not config.paced
        case AudioSource(path=path):
            return bool(path) and not config.paced
        case CsvSource():
            return config.interval_s == 0
        case JoinedSource():
            return all(map(is_recorded, config.inputs))
        case ImagesSource() | TensorsSource():
            return True
        case _:
            return False
