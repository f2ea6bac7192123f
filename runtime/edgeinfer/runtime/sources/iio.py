"""Sensors with a driver of Linux's Industrial I/O subsystem, read through sysfs.

The kernel's Documentation/ABI/testing/sysfs-bus-iio: a channel is in_<type>[number][_modifier]; its value is
(raw + offset) * scale in the unit of its type, or what `_input` says where the driver computes it. Scale and offset
may be shared by all channels of a type (in_accel_scale), or of a device (in_scale, scale).
"""

import math
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from edgeinfer.runtime.errors import ConfigError, SourceError
from edgeinfer.runtime.sources.arrivals import Arrivals, Skipped, sampled
from edgeinfer.runtime.sources.records import LACKING_HINT, lacking, number
from edgeinfer.runtime.sources.sensor_settings import IioSource

__all__ = ["iio_arrivals"]

# An attribute is at most a page; a number is far less.
_MAX_ATTRIBUTE_BYTES = 256


class _Channel(NamedTuple):
    """value = (what `path` says + offset) * scale"""

    path: Path
    scale: float
    offset: float


def iio_arrivals(config: IioSource, ended: threading.Event, named: Sequence[str] = ()) -> Arrivals:
    """`named` are the channels that the package names: taken where the configuration names none. Raises SourceError
    where the device or a channel is not there, and when none of them can be read any more, ConfigError where the device
    lacks some that the package names."""
    folder = _find_device(Path(config.root), config.device)
    channels = [_open_channel(folder, name) for name in config.channels or _taken(folder, named)]
    if not channels:
        raise SourceError(f"{folder}: expected channels (in_*_raw or in_*_input), found none")
    skipped = Skipped(f"iio {config.device}")

    def sample() -> list[float]:
        values = [_read_channel(channel, skipped) for channel in channels]
        if all(map(math.isnan, values)):
            raise SourceError(f"{folder}: no channel can be read", hint="is the device still connected?")
        return values

    yield from sampled(sample, config.interval_s, ended)


def _find_device(root: Path, device: str | int) -> Path:
    """By number, by folder, or by what its `name` says."""
    try:
        folders = sorted(root.glob("iio:device*"))
        for folder in folders:
            if folder.name == device or folder.name == f"iio:device{device}":
                return folder
        named = {folder: _read_text(folder / "name") for folder in folders}
    except OSError as error:
        raise SourceError(f"{root}: cannot be read: {error.strerror}") from error
    for folder, name in named.items():
        if name == str(device):
            return folder
    known = ", ".join(f"{folder.name} ({name})" for folder, name in named.items()) or "none"
    raise SourceError(f"{root}: expected IIO device {device!r}, found {known}"[:400], hint="is its driver loaded?")


def _taken(folder: Path, named: Sequence[str]) -> Sequence[str]:
    """All channels, sorted, or those that the package names."""
    found = [name.removeprefix("in_") for name in _channel_names(folder)]
    if not set(named) <= set(found):
        raise ConfigError(lacking(named, found, of=str(folder)), hint=LACKING_HINT)
    return named or found


def _channel_names(folder: Path) -> Iterator[str]:
    """All channels that give values, without the endings; each once."""
    try:
        names = {entry.name for entry in folder.iterdir()}
    except OSError as error:
        raise SourceError(f"{folder}: cannot be read: {error.strerror}") from error
    found = {match[1] for name in names if (match := re.fullmatch(r"(in_[a-z0-9_-]+)_(?:raw|input)", name))}
    yield from sorted(found)


def _open_channel(folder: Path, name: str) -> _Channel:
    base = name if name.startswith("in_") else f"in_{name}"
    base = base.removesuffix("_raw").removesuffix("_input")
    raw, computed = folder / f"{base}_raw", folder / f"{base}_input"
    if raw.exists():
        return _Channel(raw, _shared(folder, base, "scale", 1.0), _shared(folder, base, "offset", 0.0))
    if computed.exists():
        return _Channel(computed, 1.0, 0.0)
    known = ", ".join(_channel_names(folder)) or "none"
    raise SourceError(f"{folder}: expected channel {base}, found {known}"[:400])


def _shared(folder: Path, base: str, what: str, otherwise: float) -> float:
    """The attribute of the channel, of its type, of its direction, or of the device."""
    for prefix in _prefixes(base):
        value = number(_read_text(folder / f"{prefix}{what}"))
        if math.isfinite(value):
            return value
    return otherwise


def _prefixes(base: str) -> Iterable[str]:
    """For in_voltage0-voltage1: in_voltage0-voltage1_, in_voltage-voltage_, in_voltage_; for in_accel_x: in_accel_x_,
    in_accel_; then in_ and nothing."""
    without_numbers = re.sub(r"[0-9]", "", base)
    kind = re.match(r"in_[a-z]+", base)
    return [f"{base}_", f"{without_numbers}_", f"{kind[0] if kind else base}_", "in_", ""]


def _read_channel(channel: _Channel, skipped: Skipped) -> float:
    """NaN where the driver gives an error or what is no number."""
    try:
        text = _read_attribute(channel.path)
    except OSError as error:
        skipped.note(f"{channel.path.name}: {error.strerror}")
        return math.nan
    value = number(text)
    if math.isnan(value):
        skipped.note(f"{channel.path.name}: expected a number, found {text[:40]!r}")
    return (value + channel.offset) * channel.scale


def _read_text(path: Path) -> str:
    """Empty where there is no such attribute."""
    try:
        return _read_attribute(path)
    except OSError:
        return ""


def _read_attribute(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        return (file.read(_MAX_ATTRIBUTE_BYTES) or b"").decode("ascii", errors="replace").strip()
