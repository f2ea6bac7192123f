"""Sound from a WAV file, in windows: as fast as it is read, or paced like a microphone."""

import threading
import time
from pathlib import Path

from edgeinfer.runtime.errors import SourceError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.sources.audio_settings import AudioSource
from edgeinfer.runtime.sources.resample import Resampler
from edgeinfer.runtime.sources.sound_windows import LIVE_DEPTH, windows_of
from edgeinfer.runtime.sources.wav import WavFile

__all__ = ["WavSource"]

_MIN_BLOCK = 4096
_SECOND_NS = 1_000_000_000


class WavSource:
    """`depth`: how many windows of a paced file may wait before one is superseded."""

    depth = 0

    def __init__(self, config: AudioSource, stop: threading.Event) -> None:
        self.live = config.paced
        if self.live:
            self.depth = LIVE_DEPTH
        self._config = config
        self._stop = stop
        self._file = WavFile(Path(config.path))
        try:
            self._check_length()
            self._resampler = self._new_resampler()
        except BaseException:
            self._file.close()
            raise
        self._windows = windows_of(config)
        self._block = max(_MIN_BLOCK, config.window)
        self._index = 0
        self._period_s = self._windows.hop / config.rate_hz
        self._due_s = time.monotonic() + (config.window - config.lead_in) / config.rate_hz

    def read(self) -> Frame | None:
        while self._windows.missing > 0:
            if self._stop.is_set() or not self._read_block():
                return None
        if self.live and not self._wait_until_due():
            return None
        stream_ns = -1 if self.live else int(self._index * self._period_s * _SECOND_NS)
        frame = Frame(self._windows.take(), time.time_ns(), time.monotonic_ns(), self._index, stream_ns=stream_ns)
        self._index += 1
        return frame

    def close(self) -> None:
        self._file.close()

    def _check_length(self) -> None:
        config, file = self._config, self._file
        seconds, needed_s = file.frames / file.rate_hz, (config.window - config.lead_in) / config.rate_hz
        if seconds < needed_s and not config.repeat:
            raise SourceError(
                f"{config.path}: expected sound for at least one window of {needed_s:.3f} s, found {seconds:.3f} s"
            )

    def _new_resampler(self) -> Resampler | None:
        if self._file.rate_hz == self._config.rate_hz:
            return None
        return Resampler(self._file.rate_hz, self._config.rate_hz)

    def _read_block(self) -> bool:
        """False at the end."""
        block = self._file.read(self._block)
        if len(block):
            self._windows.add(block if self._resampler is None else self._resampler.feed(block))
            return True
        if self._config.repeat:
            self._file.rewind()
            return True
        if self._resampler is None:
            return False
        self._windows.add(self._resampler.flush())
        self._resampler = None
        return True

    def _wait_until_due(self) -> bool:
        """Wait until a microphone would have heard the window; False when stopped. A late reader skips nothing here:
        what is too old is superseded behind the source."""
        stopped = self._stop.wait(max(0.0, self._due_s - time.monotonic()))
        period_s = self._period_s
        self._due_s = max(self._due_s + period_s, time.monotonic() - period_s)
        return not stopped
