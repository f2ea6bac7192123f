"""Reads WAV files block by block: PCM of 8, 16, 24 and 32 bits, and floats.

Python's own `wave` knows no floats, and before Python 3.12 not the extensible format that recorders write for 24 bits.
Format: RIFF chunks as in Microsoft's and IBM's Multimedia Programming Interface and Data Specifications 1.0, and
WAVEFORMATEXTENSIBLE of Microsoft's Multiple Channel Audio Data and WAVE Files.
"""

import os
import stat
import struct
from pathlib import Path
from typing import BinaryIO

from edgeinfer.runtime.errors import SourceError
from edgeinfer.runtime.sources.samples import BYTES, Encoding, Samples, decode

__all__ = ["WavFile"]

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_ENCODINGS: dict[tuple[int, int], Encoding] = {
    (_PCM, 8): "u8",
    (_PCM, 16): "s16",
    (_PCM, 24): "s24",
    (_PCM, 32): "s32",
    (_FLOAT, 32): "f32",
    (_FLOAT, 64): "f64",
}
_HEADER = struct.Struct("<4sI")
_FORMAT = struct.Struct("<HHIIHH")
_EXTENSION = struct.Struct("<HHIH14s")  # size, valid bits, speakers, format, the rest of its GUID
_GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")
_UNTIL_END = 0xFFFFFFFF  # what programs write that cannot go back to the header: ffmpeg into a pipe
_MAX_CHUNKS = 1000
_MAX_RATE_HZ, _MAX_CHANNELS = 768_000, 64


class WavFile:
    """`rate_hz`, `channels`, and `frames`: how many there are. Raises SourceError for what is no whole WAV file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rate_hz = self.channels = self.frames = 0
        self._encoding: Encoding = "s16"
        self._frame_bytes = self._begin = self._left = 0
        self._file = self._open()
        try:
            self._read_header()
        except BaseException:
            self._file.close()
            raise

    def read(self, frames: int) -> Samples:
        """At most so many frames, as one channel; empty at the end."""
        count = min(frames, self._left)
        data = self._read(count * self._frame_bytes)
        self._left -= count
        return decode(data, self._encoding, self.channels)

    def rewind(self) -> None:
        self._file.seek(self._begin)
        self._left = self.frames

    def close(self) -> None:
        self._file.close()

    def _open(self) -> BinaryIO:
        try:
            # A pipe in the place of a file would block the opening.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise SourceError(f"{self._path}: cannot be read: {error.strerror}") from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise SourceError(f"{self._path}: expected a WAV file, found something else than a file")
        self._bytes = status.st_size
        return os.fdopen(descriptor, "rb")

    def _read_header(self) -> None:
        riff, _ = _HEADER.unpack(self._read(_HEADER.size))
        if riff != b"RIFF" or self._read(4) != b"WAVE":
            raise self._wrong("expected a WAV file (RIFF, WAVE), found another kind")
        found_format = False
        for _ in range(_MAX_CHUNKS):
            name, size = _HEADER.unpack(self._read(_HEADER.size))
            if name == b"data":
                break
            if name == b"fmt ":
                self._read_format(size)
                found_format = True
            else:
                self._skip(size)
        else:
            raise self._wrong(f"expected sound within {_MAX_CHUNKS} chunks")
        if not found_format:
            raise self._wrong("expected the format before the sound")
        self._measure(size)

    def _read_format(self, size: int) -> None:
        if not _FORMAT.size <= size <= _FORMAT.size + 1024:
            raise self._wrong(f"expected a format of {_FORMAT.size} bytes or some more, found {size}")
        raw = self._read(size + size % 2)
        tag, channels, rate_hz, _, frame_bytes, bits = _FORMAT.unpack_from(raw)
        if tag == _EXTENSIBLE and size >= _FORMAT.size + _EXTENSION.size:
            *_, tag, tail = _EXTENSION.unpack_from(raw, _FORMAT.size)
            tag = tag if tail == _GUID_TAIL else _EXTENSIBLE
        encoding = _ENCODINGS.get((tag, bits))
        if encoding is None:
            raise self._wrong(
                f"expected PCM of 8, 16, 24 or 32 bits or floats, found format {tag:#x} of {bits} bits",
                hint="convert it: ffmpeg -i FILE -c:a pcm_s16le NEW.wav",
            )
        if not (1 <= channels <= _MAX_CHANNELS and 1 <= rate_hz <= _MAX_RATE_HZ):
            raise self._wrong(
                f"expected 1 to {_MAX_CHANNELS} channels at up to {_MAX_RATE_HZ} Hz, found {channels} at {rate_hz}"
            )
        if frame_bytes != channels * BYTES[encoding]:
            raise self._wrong(f"expected frames of {channels * BYTES[encoding]} bytes, its header says {frame_bytes}")
        self.channels, self.rate_hz = channels, rate_hz
        self._encoding, self._frame_bytes = encoding, frame_bytes

    def _measure(self, size: int) -> None:
        self._begin = self._file.tell()
        there = self._bytes - self._begin
        if size == _UNTIL_END:
            size = there - there % self._frame_bytes
        if size > there:
            raise self._wrong(f"is cut: its header promises {size} bytes of sound, {there} are there")
        if not size or size % self._frame_bytes:
            raise self._wrong(f"expected sound in frames of {self._frame_bytes} bytes, found {size} bytes")
        self.frames = self._left = size // self._frame_bytes

    def _skip(self, size: int) -> None:
        end = self._file.tell() + size + size % 2
        if end > self._bytes:
            raise self._wrong("is cut: its header promises more than there is")
        self._file.seek(end)

    def _read(self, size: int) -> bytes:
        try:
            data = self._file.read(size)
        except OSError as error:
            raise self._wrong(f"cannot be read: {error.strerror}") from error
        if len(data) != size:
            raise self._wrong(f"is cut: expected {size} more bytes, found {len(data)}")
        return data

    def _wrong(self, reason: str, *, hint: str = "") -> SourceError:
        return SourceError(f"{self._path}: {reason}", hint=hint)
