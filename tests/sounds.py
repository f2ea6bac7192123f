"""Writes WAV files for tests, right ones and wrong ones.

write_wav(path, samples, rate_hz=16_000)                    # 16 bits, by Python's own module
path.write_bytes(wav_bytes(tag=3, bits=32, body=b"..."))    # any header
"""

import struct
import wave
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["tone", "wav_bytes", "write_wav"]


def tone(count: int, *, rate_hz: int = 16_000, hertz: float = 440.0, level: float = 0.5) -> npt.NDArray[np.float64]:
    return level * np.sin(2 * np.pi * hertz * np.arange(count) / rate_hz)


def write_wav(path: Path, samples: npt.NDArray[Any], *, rate_hz: int = 16_000) -> Path:
    """`samples` (n,) or (n, channels): int16 as they are, floats of -1..1."""
    if samples.dtype.kind == "f":
        samples = np.clip(np.rint(samples * 32_768), -32_768, 32_767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(samples.astype("<i2").tobytes())
    return path


def wav_bytes(
    *,
    body: bytes,
    tag: int = 1,
    channels: int = 1,
    rate_hz: int = 16_000,
    bits: int = 16,
    frame_bytes: int | None = None,
    size: int | None = None,
    extension: bytes = b"",
    before: bytes = b"",
) -> bytes:
    """A file of one sound chunk, with `before` between the format and it; what is not given is right."""
    frame = channels * bits // 8 if frame_bytes is None else frame_bytes
    form = struct.pack("<HHIIHH", tag, channels, rate_hz, rate_hz * frame & 0xFFFFFFFF, frame, bits) + extension
    size = len(body) if size is None else size
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + before + b"data" + struct.pack("<I", size) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks
