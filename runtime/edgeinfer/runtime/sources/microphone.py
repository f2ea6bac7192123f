"""Sound from a card, through ALSA: in windows, as it comes."""

import errno
import importlib
import logging
import select
import threading
import time
from types import ModuleType
from typing import Any

from edgeinfer.runtime.errors import DependencyError, SourceError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.sources.audio_settings import AudioSource
from edgeinfer.runtime.sources.resample import Resampler
from edgeinfer.runtime.sources.samples import BYTES, Encoding, decode
from edgeinfer.runtime.sources.sound_windows import LIVE_DEPTH, windows_of

__all__ = ["Microphone"]

logger = logging.getLogger(__name__)

_ENCODINGS: dict[str, Encoding] = {
    "U8": "u8",
    "S16_LE": "s16",
    "S24_3LE": "s24",
    "S24_LE": "s24_in_32",
    "S32_LE": "s32",
    "FLOAT_LE": "f32",
    "FLOAT64_LE": "f64",
}
_POLL_S = 0.2
_RETRY_S = 0.005
# The card interrupts once a period; half a second of them waits while the reader is late.
_PERIOD_S, _BUFFER_S = 0.02, 0.5
_GAPS_IN_A_ROW = 20
_LOG_INTERVAL_S = 60.0


class Microphone:
    """`gaps`: how often the card's buffer ran over, so that sound was lost. Windows begin anew after a gap."""

    live = True
    depth = LIVE_DEPTH

    def __init__(self, config: AudioSource, stop: threading.Event) -> None:
        self._config = config
        self._stop = stop
        self.gaps = 0
        self._gaps_in_a_row = 0
        self._gap_log_s = 0.0
        self._alsa = _alsaaudio()
        self._pcm = self._open()
        try:
            self._read_format()
            self._poll = select.poll()
            for descriptor, events in self._pcm.polldescriptors():
                self._poll.register(descriptor, events)
        except BaseException:
            self._pcm.close()
            raise
        self._windows = windows_of(config)
        self._heard_s = time.monotonic()
        self._index = 0
        self._t_ns, self._mono_ns = time.time_ns(), time.monotonic_ns()
        self._last_ns = self._mono_ns

    def read(self) -> Frame | None:
        while self._windows.missing > 0:
            if self._stop.is_set():
                return None
            self._listen()
        beyond_ns = -self._windows.missing * 1_000_000_000 // self._config.rate_hz
        # A block that came late must not make its first window older than the last one of the block before.
        self._last_ns = max(self._last_ns, self._mono_ns - beyond_ns)
        t_ns = self._t_ns - (self._mono_ns - self._last_ns)
        frame = Frame(self._windows.take(), t_ns, self._last_ns, self._index)
        self._index += 1
        return frame

    def close(self) -> None:
        self._pcm.close()

    def _open(self) -> Any:
        config = self._config
        period = max(1, round(_PERIOD_S * config.rate_hz))
        try:
            return self._alsa.PCM(
                self._alsa.PCM_CAPTURE,
                self._alsa.PCM_NONBLOCK,
                device=config.device,
                rate=config.rate_hz,
                channels=config.channels,
                format=self._alsa.PCM_FORMAT_S16_LE,
                periodsize=period,
                periods=round(_BUFFER_S / _PERIOD_S),
            )
        except self._alsa.ALSAAudioError as error:
            raise SourceError(
                f"sound card {config.device!r} cannot be opened: {error}",
                hint="arecord -L lists the names; the user needs the group audio",
            ) from error

    def _read_format(self) -> None:
        """What the card really gives: it need not be what was asked for."""
        found = self._pcm.info()
        encoding = _ENCODINGS.get(str(found["format_name"]))
        if encoding is None:
            raise SourceError(
                f"sound card {self._config.device!r}: expected samples of {', '.join(_ENCODINGS)}, "
                f"found {found['format_name']}",
                hint="the name plughw:... in the place of hw:... converts them",
            )
        self._encoding: Encoding = encoding
        self._channels = int(found["channels"])
        self._frame_bytes = BYTES[encoding] * self._channels
        self._rate_hz = int(found["rate"])
        self._resampler = self._new_resampler()

    def _new_resampler(self) -> Resampler | None:
        return None if self._rate_hz == self._config.rate_hz else Resampler(self._rate_hz, self._config.rate_hz)

    def _listen(self) -> None:
        """Wait for sound, at most so long that a stop is noticed, and take it. Raises SourceError."""
        self._poll.poll(_POLL_S * 1000)
        try:
            count, data = self._pcm.read()
        except self._alsa.ALSAAudioError as error:
            raise SourceError(f"sound card {self._config.device!r} cannot be read: {error}") from error
        if count == -errno.EPIPE:
            self._note_gap()
        elif count < 0:
            raise SourceError(f"sound card {self._config.device!r} cannot be read: error {-count}")
        elif count == 0:
            self._wait_in_silence()
        else:
            self._take(data)

    def _take(self, data: bytes) -> None:
        self._t_ns, self._mono_ns = time.time_ns(), time.monotonic_ns()
        self._heard_s = time.monotonic()
        self._gaps_in_a_row = 0
        block = decode(data[: len(data) - len(data) % self._frame_bytes], self._encoding, self._channels)
        self._windows.add(block if self._resampler is None else self._resampler.feed(block))

    def _wait_in_silence(self) -> None:
        silent_s = time.monotonic() - self._heard_s
        if silent_s > self._config.timeout_s:
            raise SourceError(f"sound card {self._config.device!r} has given nothing for {silent_s:.1f} s")
        # Some plug-ins say that there is something to read where there is nothing yet.
        self._stop.wait(_RETRY_S)

    def _note_gap(self) -> None:
        self.gaps += 1
        self._gaps_in_a_row += 1
        self._windows.restart()
        self._resampler = self._new_resampler()
        now_s = time.monotonic()
        if now_s - self._gap_log_s >= _LOG_INTERVAL_S or not self._gap_log_s:
            self._gap_log_s = now_s
            logger.warning("event=sound_lost device=%s gaps=%d", self._config.device, self.gaps)
        if self._gaps_in_a_row > _GAPS_IN_A_ROW:
            raise SourceError(f"sound card {self._config.device!r} is not read fast enough: it only gives overruns")


def _alsaaudio() -> ModuleType:
    try:
        return importlib.import_module("alsaaudio")
    except ImportError as error:
        raise DependencyError("sound cards need pyalsaaudio", hint="pip install 'edgeinfer[audio]'") from error
