"""What a configuration may say of a source: one struct per kind, told apart by `kind`."""

from typing import Annotated, Literal

import msgspec

from edgeinfer.runtime.config import Section

__all__ = [
    "CameraSource",
    "CsvSource",
    "HostSource",
    "ImagesSource",
    "SourceConfig",
    "StdinSource",
    "TensorsSource",
    "VideoSource",
]

Positive = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
PositiveReal = Annotated[float, msgspec.Meta(gt=0.0)]
HostChannel = Literal["cpu_percent", "memory_percent", "disk_percent", "net_kib_s", "temperature_c"]
Character = Annotated[str, msgspec.Meta(min_length=1, max_length=1)]


class ImagesSource(Section, frozen=True, tag="images", tag_field="kind"):
    """Every picture of a folder, sorted by name. `repeat` starts again at the end."""

    path: str
    repeat: bool = False


class VideoSource(Section, frozen=True, tag="video", tag_field="kind"):
    """A video file. `paced` plays it at its own frame rate as a live source; `repeat` starts again.

    `decode_threads`: one decodes a small picture as fast as several, for less CPU, and leaves the other cores
    to the engine; large pictures may be worth more.
    """

    path: str
    decode_threads: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    paced: bool = False
    repeat: bool = False


class CameraSource(Section, frozen=True, tag="camera", tag_field="kind"):
    """A V4L2 camera (`device` as a path or number) or a network camera (an rtsp:// or http:// URL).

    Zeros leave the camera's own choice. `timeout_s` is how long a network camera may be silent before it
    is opened again.
    """

    device: str | int = 0
    width: int = 0
    height: int = 0
    fps: float = 0.0
    timeout_s: PositiveReal = 5.0


class CsvSource(Section, frozen=True, tag="csv", tag_field="kind"):
    """Rows of a CSV file with a header, cut into windows of `window` rows, one every `stride` rows.

    `columns` names the channels in order; empty: every column that is a number in the first row, except
    `time_column`. An empty or unreadable cell repeats the channel's last value. `interval_s` above 0 plays
    the rows at that pace as a live source.
    """

    path: str
    window: Positive
    stride: Positive = 1
    columns: tuple[str, ...] = ()
    time_column: str = ""
    delimiter: Character = ","
    interval_s: Annotated[float, msgspec.Meta(ge=0.0, le=86_400.0)] = 0.0


class StdinSource(Section, frozen=True, tag="stdin", tag_field="kind"):
    """The same from standard input, as it comes: CSV with a header, or a JSON object a line."""

    window: Positive
    stride: Positive = 1
    columns: tuple[str, ...] = ()
    format: Literal["csv", "jsonl"] = "csv"
    delimiter: Character = ","


class HostSource(Section, frozen=True, tag="host", tag_field="kind"):
    """The machine's own vitals, sampled every `interval_s`: see `edgeinfer.runtime.sources.host.CHANNELS`."""

    window: Positive = 16
    stride: Positive = 1
    interval_s: PositiveReal = 1.0
    columns: tuple[HostChannel, ...] = ()
    disk: str = "/"


class TensorsSource(Section, frozen=True, tag="tensors", tag_field="kind"):
    """Recorded inputs: each row of array `key` of an `.npz` file is one frame."""

    path: str
    key: str = "x"
    repeat: bool = False


SourceConfig = ImagesSource | VideoSource | CameraSource | CsvSource | StdinSource | HostSource | TensorsSource
