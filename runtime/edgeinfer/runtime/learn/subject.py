"""What is to be explained: one input, read from a file as a source would read it."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.errors import SourceError, UsageError
from edgeinfer.runtime.manifest import AudioPre, Manifest, WindowPre
from edgeinfer.runtime.sources.base import open_source
from edgeinfer.runtime.sources.settings import CsvSource, SourceConfig, TensorsSource, VideoSource

__all__ = ["read_subject"]

Array = npt.NDArray[Any]

_PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
_VIDEOS = {".mp4", ".avi", ".mkv", ".mov", ".webm", ".mjpeg", ".mpg", ".mpeg", ".m4v", ".ts"}
_DELIMITERS = ",;\t|"


def read_subject(path: Path, manifest: Manifest, *, frame: int) -> Array:
    """The data of one frame. `frame` is its number in a video, its row in an `.npz`, the row that a window begins
    with in a CSV file, or the number of the window in a WAV file. Raises UsageError for a file of an unknown kind,
    SourceError for one that cannot be read or ends before."""
    ending = path.suffix.lower()
    if ending in _PICTURES:
        return _picture(path)
    if ending in _VIDEOS:
        return _nth(VideoSource(path=str(path)), frame)
    if ending == ".npz":
        return _nth(TensorsSource(path=str(path)), frame)
    if ending in {".csv", ".txt", ".tsv"}:
        return _window(path, manifest, frame)
    if ending == ".wav":
        return _sound(path, manifest, frame)
    known = " ".join(sorted({*_PICTURES, *_VIDEOS, ".npz", ".csv", ".wav"}))
    raise UsageError(
        f"{path}: expected a file of a known kind, found {ending or 'no ending'!r}", hint=f"known: {known}"
    )


def _picture(path: Path) -> Array:
    from edgeinfer.runtime.sources.pictures import opencv

    cv2 = opencv()
    found = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if found is None:
        raise SourceError(f"{path}: is no picture that can be read")
    return np.asarray(found)


def _nth(config: SourceConfig, number: int, channels: Sequence[str] = ()) -> Array:
    source = open_source(config, threading.Event(), channels)
    try:
        for index in range(number + 1):
            frame = source.read()
            if frame is None:
                raise SourceError(f"expected at least {number + 1} frames or windows, found {index}")
            if index == number:
                return frame.data
    finally:
        source.close()
    raise UsageError(f"expected the number of a frame, from 0, found {number}")


def _window(path: Path, manifest: Manifest, first_row: int) -> Array:
    declared = manifest.preprocess
    if not isinstance(declared, WindowPre):
        raise UsageError(f"{path}: expected another kind of file: the package takes no windows of series")
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        header = file.readline(1 << 16)
    delimiter = max(_DELIMITERS, key=header.count)
    config = CsvSource(path=str(path), window=declared.length, delimiter=delimiter)
    return _nth(config, first_row, declared.channels)


def _sound(path: Path, manifest: Manifest, number: int) -> Array:
    """A window of sound (length,) float32 in -1..1; all of it where the package does not say how long one is."""
    from edgeinfer.runtime.sources.wav import WavFile

    declared = manifest.preprocess
    file = WavFile(path)
    try:
        if not isinstance(declared, AudioPre):
            return file.read(file.frames)
        if file.rate_hz != declared.rate_hz:
            raise SourceError(f"{path}: expected {declared.rate_hz} samples a second, found {file.rate_hz}")
        begin = number * declared.length
        if begin + declared.length > file.frames:
            raise SourceError(f"{path}: expected {begin + declared.length} samples, found {file.frames}")
        return file.read(begin + declared.length)[begin:]
    finally:
        file.close()
