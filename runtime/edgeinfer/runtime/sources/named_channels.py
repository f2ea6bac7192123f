"""Holds the channels that a package names against those that a sensor gives."""

from edgeinfer.runtime.errors import ConfigError
from edgeinfer.runtime.pres import Preprocess, WindowPre
from edgeinfer.runtime.sources.sensor_settings import (
    CsvSource,
    HostSource,
    I2cSource,
    IioSource,
    JoinedSource,
    ModbusSource,
    SensorSource,
    SerialSource,
    StdinSource,
    TopicSource,
)

__all__ = ["channel_names", "check_channels", "check_same_channels", "declared_channels"]


def declared_channels(declared: Preprocess) -> tuple[str, ...]:
    """Those that the package names."""
    return declared.channels if isinstance(declared, WindowPre) else ()


def check_same_channels(pipeline: str, source: SensorSource, before: Preprocess, after: Preprocess) -> None:
    """Raises ConfigError where a new version names other channels than the one before, and the source was opened to
    give those: it goes on as it is."""
    old, new = declared_channels(before), declared_channels(after)
    if old and new and old != new and _is_by_name(source):
        raise ConfigError(
            f"pipeline {pipeline!r}: the new version takes the channels {', '.join(new)}, "
            f"and the source gives {', '.join(old)}",
            hint="make it with the channels of the version before, in their order",
        )


def check_channels(source: SensorSource, declared: Preprocess) -> None:
    """Raises ConfigError where the package names its channels and the source gives these in another order, not as
    many, or in windows of another length: the values would fit the model's input, and mean something else.

    Other names are let pass: what a sensor is called is the device's own business.
    """
    if not isinstance(declared, WindowPre) or not declared.channels:
        return
    if source.window != declared.length:
        raise ConfigError(f"source.window: the package takes {declared.length} rows, found {source.window}")
    names = channel_names(source)
    if not names or names == declared.channels:
        return
    wanted, found = ", ".join(declared.channels), ", ".join(names)
    if len(names) != len(declared.channels):
        raise ConfigError(
            f"source: the package takes {len(declared.channels)} channels, found {len(names)}: {found}",
            hint=f"the package names {wanted}",
        )
    if sorted(names) == sorted(declared.channels):
        raise ConfigError(f"source: the package takes the channels {wanted}, in this order, found {found}")


def _is_by_name(source: SensorSource) -> bool:
    """Whether it gives the package's channels, where what comes has names."""
    match source:
        case CsvSource() | StdinSource() | TopicSource():
            return not source.columns
        case SerialSource():
            return source.format == "jsonl" and not source.columns
        case _:
            return False


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
