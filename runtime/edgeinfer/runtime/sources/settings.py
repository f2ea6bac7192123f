"""What a configuration may say of a source: one struct per kind, told apart by `kind`."""

from typing import Annotated, Literal

import msgspec

from edgeinfer.runtime.config import Section
from edgeinfer.runtime.sources.audio_settings import AudioSource
from edgeinfer.runtime.sources.sensor_settings import (
    CsvSource,
    HostSource,
    I2cSource,
    IioSource,
    JoinedSource,
    ModbusSource,
    SensorSource,
    SerialSource,
    SeriesSection,
    StdinSource,
    TopicSource,
)

__all__ = [
    "AudioSource",
    "CameraSource",
    "CsvSource",
    "HostSource",
    "I2cSource",
    "IioSource",
    "ImagesSource",
    "JoinedSource",
    "ModbusSource",
    "PipelineSource",
    "SensorSource",
    "SerialSource",
    "SeriesSection",
    "SourceConfig",
    "StdinSource",
    "TensorsSource",
    "TopicSource",
    "VideoSource",
    "WatchedSource",
]

# What gives pictures as they are taken. FFmpeg fetches files, too (ftp, file): they end, and are no camera.
_CAMERA_SCHEMES = (
    "rtsp",
    "rtsps",
    "http",
    "https",
    "rtmp",
    "rtmps",
    "rtmpt",
    "rtmpe",
    "rist",
    "rtp",
    "srt",
    "udp",
    "tcp",
)


class ImagesSource(Section, frozen=True, tag="images", tag_field="kind"):
    """Every picture of a folder, sorted by name; each result names its `file`. `repeat` starts again at the end."""

    path: str
    repeat: bool = False


class VideoSource(Section, frozen=True, tag="video", tag_field="kind"):
    """A video file. `paced` plays it at its own frame rate as a live source; `repeat` starts again.

    `decode_threads`: 0 takes one a million pixels, as far as there are cores: one decodes a small picture as fast as
    several, for less CPU, and leaves the other cores to the engine. `frozen_after_s` is that of a camera, for paced
    files; it is off unless asked for, because stillness may be what was recorded.
    """

    path: str
    decode_threads: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    paced: bool = False
    repeat: bool = False
    frozen_after_s: Annotated[float, msgspec.Meta(ge=0.0, le=86_400.0)] = 0.0


class CameraSource(Section, frozen=True, tag="camera", tag_field="kind"):
    """A V4L2 camera (`device` as a path or number) or a network camera (an rtsp:// or http:// URL, or another that
    FFmpeg plays live: rtsps, https, rtmp, rtp, srt, udp, tcp).

    Zeros and an empty `fourcc` (MJPG, YUYV ...) leave the camera's own choice; `width`, `height`, `fps`, `fourcc` and
    `buffer` are for V4L2, `transport` for RTSP. `timeout_s` is how long a camera may be silent before it is opened
    again. `buffer`: pictures that the driver may hold; two, because with one most drivers cannot expose the next
    picture while this one is read. `decode_threads`: each beyond the first delays the picture by one frame.
    `frozen_after_s`: a picture that has been identical to the last bit for so long is reported as stale; 0 is never.
    A minute, because a still scene may come without a change from one key frame to the next, and encoders that save
    stretch those to 40 s; the noise of a sensor that works never comes twice.
    """

    device: str | int = 0
    width: Annotated[int, msgspec.Meta(ge=0, le=65_536)] = 0
    height: Annotated[int, msgspec.Meta(ge=0, le=65_536)] = 0
    fps: Annotated[float, msgspec.Meta(ge=0.0, le=10_000.0)] = 0.0
    fourcc: Annotated[str, msgspec.Meta(pattern=r"^([ -~]{4})?\Z")] = ""
    buffer: Annotated[int, msgspec.Meta(ge=1, le=10)] = 2
    transport: Literal["tcp", "udp"] = "tcp"
    timeout_s: Annotated[float, msgspec.Meta(gt=0.0, le=3600.0)] = 5.0
    decode_threads: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    frozen_after_s: Annotated[float, msgspec.Meta(ge=0.0, le=86_400.0)] = 60.0

    def __post_init__(self) -> None:
        scheme, separator, _ = str(self.device).partition("://")
        if separator and scheme.lower() not in _CAMERA_SCHEMES:  # the URL may hold a password: it is not shown
            raise ValueError(f"device: expected the URL of a camera to begin with {', '.join(_CAMERA_SCHEMES)}")

    def __repr__(self) -> str:
        return "CameraSource(...)"  # the device may be a URL with a password


class WatchedSource(Section, frozen=True, tag="watched", tag_field="kind"):
    """A folder in which pictures appear: each is inferred once, in the order of their time of change; its result names
    the `file`.

    A file is taken once it has not changed for `quiet_s`; 0, where files are renamed into place, takes it at the first
    look. `after`: `keep` leaves it and remembers it in `done_list` (empty: a hidden file in the folder), so that it is
    not read again after a restart; `delete` removes it; `move` puts it into the sub-folder `done`.
    """

    path: str
    after: Literal["keep", "delete", "move"] = "keep"
    done_list: str = ""
    poll_s: Annotated[float, msgspec.Meta(gt=0.0, le=3600.0)] = 0.5
    quiet_s: Annotated[float, msgspec.Meta(ge=0.0, le=3600.0)] = 1.0


class PipelineSource(Section, frozen=True, tag="pipeline", tag_field="kind"):
    """What another pipeline of this device has found: a cascade.

    `input`: `crops` (what lies in each box, widened by `margin` of its size), `frame` (the other pipeline's frame), or
    `output` (the tensor number `output` that its model gave). Only items of `labels` (names or numbers; empty: all)
    with at least `min_score` go on; of a segmentation the score is the share of the picture.

    Two models on one camera: one pipeline reads the camera, and the other the first one's `frame`s, those that were
    inferred. Two that name the same camera connect to it twice; one of V4L2 refuses the second.
    """

    of: str
    input: Literal["crops", "frame", "output"] = "crops"
    labels: tuple[str, ...] = ()
    min_score: float = 0.0
    margin: Annotated[float, msgspec.Meta(ge=0.0, le=10.0)] = 0.0
    max_crops: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 16
    output: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0


class TensorsSource(Section, frozen=True, tag="tensors", tag_field="kind"):
    """Recorded inputs: each row of array `key` of an `.npz` file is one frame."""

    path: str
    key: str = "x"
    repeat: bool = False


SourceConfig = (
    PipelineSource
    | ImagesSource
    | VideoSource
    | CameraSource
    | WatchedSource
    | TensorsSource
    | AudioSource
    | SensorSource
)
