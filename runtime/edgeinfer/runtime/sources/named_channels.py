"""Holds the channels that a package names against those that a sensor gives."""

import logging
from collections.abc import Sequence

import msgspec

from edgeinfer.runtime.errors import ConfigError
from edgeinfer.runtime.pres import Preprocess, WindowPre
from edgeinfer.runtime.sources.records import LACKING_HINT, lacking
from edgeinfer.runtime.sources.sensor_settings import (
    HostSource,
    I2cSource,
    IioSource,
    JoinedSource,
    ModbusSource,
    SensorSource,
    SerialSource,
    TopicSource,
)

__all__ = ["channel_names", "check_channels", "check_same_channels", "declared_channels", "taken_by_name"]

logger = logging.getLogger(__name__)


def declared_channels(declared: Preprocess) -> tuple[str, ...]:
    """Those that the package names."""
    return declared.channels if isinstance(declared, WindowPre) else ()


def check_channels(pipeline: str, source: SensorSource, declared: Preprocess) -> None:
    """Raises ConfigError where the configuration names the source's channels and some of those that the package names
    are missing, or stand at another's place, or where windows have another length: the values would fit the model's
    input, and mean something else.

    Names of which the package has none are let pass where there are as many: whoever lists columns of other names says
    with that which they are. What goes by position is said in the log.
    """
    if not isinstance(declared, WindowPre):
        return
    names, channels = channel_names(source), declared.channels
    if channels and source.window != declared.length:
        raise ConfigError(f"source.window: the package takes {declared.length} rows, found {source.window}")
    if not channels or (not names and _is_nameless(source)):
        logger.info("event=channels_by_position pipeline=%s package=%s", pipeline, ",".join(channels) or "unnamed")
    elif names and names != channels and not _can_be_taken(source, channels):
        _check_places(names, channels)
        logger.info(
            "event=channels_by_position pipeline=%s package=%s source=%s", pipeline, ",".join(channels), ",".join(names)
        )


def _check_places(names: tuple[str, ...], channels: tuple[str, ...]) -> None:
    """Raises ConfigError unless each of the package's names, where it is among those of the source, is at its place."""
    places = zip(names, channels, strict=False)
    if len(names) == len(channels) and all(name == channel or name not in channels for name, channel in places):
        return
    wanted, found = ", ".join(channels), ", ".join(names)
    if set(channels) <= set(names):
        raise ConfigError(
            f"source: the package takes the channels {wanted}, in this order, found {found}",
            hint="list the inputs and their columns in this order",
        )
    raise ConfigError(lacking(channels, names, of="source"), hint=LACKING_HINT)


def check_same_channels(pipeline: str, source: SensorSource, before: Preprocess, after: Preprocess) -> None:
    """Raises ConfigError where a source that was opened for a package that declares `before` would give other rows if
    it were opened for a new version, which declares `after`: it goes on as it is."""
    old, new = declared_channels(before), declared_channels(after)
    if not _is_same_row(source, old, new):
        raise ConfigError(
            f"pipeline {pipeline!r}: the new version takes the channels {', '.join(new) or 'as they come'}, "
            f"and the source gives {', '.join(old) or 'what a version took that names none'}",
            hint="make it with the channels of the version before, in their order, or list the source's columns in the "
            "configuration under names of their own: they are taken by position then",
        )


def taken_by_name(source: SensorSource, channels: Sequence[str]) -> SensorSource:
    """The source with the package's channels as its columns, in their order, where the configuration names them all;
    else as it is. Lines and messages whose columns may be positions are left to their parsers."""
    if not channels or isinstance(source, JoinedSource | SerialSource | TopicSource):
        return source
    if not set(channels) <= set(channel_names(source)):
        return source
    if isinstance(source, I2cSource | ModbusSource):
        named = {register.name: register for register in source.registers}
        return msgspec.structs.replace(source, registers=tuple(named[channel] for channel in channels))
    if isinstance(source, IioSource):
        return msgspec.structs.replace(source, channels=tuple(channels))
    return msgspec.structs.replace(source, columns=tuple(channels))


def _is_same_row(source: SensorSource, old: tuple[str, ...], new: tuple[str, ...]) -> bool:
    """Whether a source gives the same rows to packages with these channels. Other names for numbers that have none are
    nothing else; one of the old names among them says that it is known which number that is."""
    if not channel_names(source) and _is_nameless(source):
        return old == new or set(old).isdisjoint(new)
    return _row(source, old) == _row(source, new)


def _row(source: SensorSource, channels: tuple[str, ...]) -> tuple[str, ...]:
    """What the rows of a source hold that was opened for a package with these channels; empty: all that come."""
    names = channel_names(source)
    return names if names and not (channels and _can_be_taken(source, channels)) else channels


def _can_be_taken(source: SensorSource, channels: tuple[str, ...]) -> bool:
    """Whether the configuration names them all, and they need not be in its order: joined sensors are, one after the
    other."""
    return set(channels) <= set(channel_names(source)) and not isinstance(source, JoinedSource)


def _is_nameless(source: SensorSource) -> bool:
    """Whether what comes is numbers alone, but for a header that there may be."""
    return isinstance(source, SerialSource) and source.format == "csv"


def channel_names(source: SensorSource) -> tuple[str, ...]:
    """The columns of its windows, in order; none where only what comes tells."""
    match source:
        case JoinedSource():
            return tuple(name for one in source.inputs for name in channel_names(one))
        case I2cSource() | ModbusSource():
            return tuple(register.name for register in source.registers)
        case IioSource():
            return source.channels
        case HostSource():
            from edgeinfer.runtime.sources.host import CHANNELS

            return source.columns or CHANNELS
        case _:
            return source.columns
