"""What a configuration may say of sound."""

from typing import Annotated

import msgspec

from edgeinfer.runtime.config import Section
from edgeinfer.runtime.errors import ConfigError
from edgeinfer.runtime.pres import AudioPre, Preprocess

__all__ = ["AudioSource", "check_sound"]

Samples = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]


class AudioSource(Section, frozen=True, tag="audio", tag_field="kind"):
    """Sound from a WAV file (`path`) or from a sound card (`device`, as ALSA names it: `default`, `hw:1`, `plughw:1`).

    A frame is a window of `window` samples at `rate_hz`, one each `hop` samples (0: no overlap). Sound of another rate
    is resampled, several channels are averaged. `lead_in`: the first window starts so many samples before the sound,
    with zeros, for models that take some of the past with what is new.

    Of a file: `paced` plays it at its own speed as a live source; `repeat` starts again at the end. Samples at the end
    that fill no window are left out.
    Of a card: `channels` are asked for; `timeout_s` is how long it may be silent before it is opened again.
    """

    window: Samples
    path: str = ""
    device: str = ""
    rate_hz: Annotated[int, msgspec.Meta(ge=1000, le=768_000)] = 16_000
    hop: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] = 0
    lead_in: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] = 0
    paced: bool = False
    repeat: bool = False
    channels: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    timeout_s: Annotated[float, msgspec.Meta(gt=0.0, le=3600.0)] = 5.0

    def __post_init__(self) -> None:
        if bool(self.path) == bool(self.device):
            raise ValueError("expected either path (a WAV file) or device (a sound card)")
        if self.hop > self.window:
            raise ValueError(f"expected a hop of at most the window's {self.window} samples, found {self.hop}")
        if self.lead_in >= self.window:
            raise ValueError(f"expected a lead_in below the window's {self.window} samples, found {self.lead_in}")
        if self.device and (self.paced or self.repeat):
            raise ValueError("paced and repeat are for files: a sound card has its own pace and no end")


def check_sound(source: AudioSource, declared: Preprocess) -> None:
    """Raises ConfigError where the package takes sound of another rate or length: at another rate a model hears another
    pitch, and says so in no way."""
    if not isinstance(declared, AudioPre):
        return
    for key, found, wanted in (
        ("rate_hz", source.rate_hz, declared.rate_hz),
        ("window", source.window, declared.length),
    ):
        if found != wanted:
            raise ConfigError(f"source.{key}: the package takes {wanted}, found {found}")
