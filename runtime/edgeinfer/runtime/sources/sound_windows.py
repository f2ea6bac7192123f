"""A stream of samples cut into windows that overlap."""

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.sources.audio_settings import AudioSource
from edgeinfer.runtime.sources.samples import Samples

__all__ = ["LIVE_DEPTH", "SoundWindows", "windows_of"]

# A picture that is late is worth nothing, a word with a hole in it neither: windows of a live source may wait a little.
LIVE_DEPTH = 8


def windows_of(config: AudioSource) -> "SoundWindows":
    return SoundWindows(window=config.window, hop=config.hop or config.window, lead_in=config.lead_in)


class SoundWindows:
    """A window of `window` samples each `hop` samples; `lead_in` zeros lie before the first sample."""

    def __init__(self, *, window: int, hop: int, lead_in: int) -> None:
        self.hop = hop
        self._window, self._lead_in = window, lead_in
        self._samples: npt.NDArray[Any] = np.zeros(4 * window, dtype=np.float32)
        self._begin = 0
        self._end = lead_in

    @property
    def missing(self) -> int:
        """How many samples the next window still needs; at most 0: it is complete, and so many lie beyond it."""
        return self._window - (self._end - self._begin)

    def add(self, block: Samples) -> None:
        if self._end + len(block) > len(self._samples):
            self._make_room(len(block))
        self._samples[self._end : self._end + len(block)] = block
        self._end += len(block)

    def take(self) -> Samples:
        """The window, once nothing is missing: an array of its own."""
        taken = self._samples[self._begin : self._begin + self._window].copy()
        self._begin += self.hop
        return taken

    def restart(self) -> None:
        """What was collected is forgotten: the sound has a gap, and no window may reach across it."""
        self._begin, self._end = 0, self._lead_in
        self._samples[: self._lead_in] = 0.0

    def _make_room(self, count: int) -> None:
        kept = self._samples[self._begin : self._end].copy()
        if len(kept) + count > len(self._samples):
            self._samples = np.zeros(2 * (len(kept) + count), dtype=np.float32)
        self._samples[: len(kept)] = kept
        self._begin, self._end = 0, len(kept)
