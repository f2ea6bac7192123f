"""Opens the rows of one sensor by its kind. Each kind is imported when it is used."""

import threading
from collections.abc import Sequence

from edgeinfer.runtime.sources.arrivals import Arrivals
from edgeinfer.runtime.sources.background import in_background
from edgeinfer.runtime.sources.sensor_settings import (
    CsvSource,
    HostSource,
    I2cSource,
    IioSource,
    Input,
    ModbusSource,
    SerialSource,
    StdinSource,
    TopicSource,
)

__all__ = ["kind_of", "open_arrivals", "open_here"]


def open_arrivals(config: Input, stop: threading.Event, channels: Sequence[str] = ()) -> Arrivals:
    """The rows of a sensor, to be read by a thread that must not be held up: a bus, a port or a broker may block, and
    is read by a thread of its own. `channels`: as of `open_here`."""
    if isinstance(config, CsvSource | StdinSource | HostSource):
        return open_here(config, stop, channels)
    return in_background(lambda ended: open_here(config, ended, channels), kind_of(config))


def kind_of(config: Input) -> str:
    return str(config.__struct_config__.tag)


def open_here(config: Input, ended: threading.Event, channels: Sequence[str] = ()) -> Arrivals:
    """The same, read by the caller's thread. `ended` ends them. `channels`: what is taken by name, where
    what comes has names and the configuration gives it no others. Raises SourceError and ConfigError, at once or when
    they are read."""
    match config:
        case CsvSource():
            from edgeinfer.runtime.sources.text_rows import csv_arrivals

            return csv_arrivals(config, ended, channels)
        case StdinSource():
            from edgeinfer.runtime.sources.text_rows import stdin_arrivals

            return stdin_arrivals(config, ended, channels)
        case SerialSource():
            from edgeinfer.runtime.sources.serial_port import serial_arrivals

            return serial_arrivals(config, ended, channels)
        case IioSource():
            from edgeinfer.runtime.sources.iio import iio_arrivals

            return iio_arrivals(config, ended, channels)
        case I2cSource():
            from edgeinfer.runtime.sources.i2c import i2c_arrivals

            return i2c_arrivals(config, ended)
        case ModbusSource():
            from edgeinfer.runtime.sources.modbus import modbus_arrivals

            return modbus_arrivals(config, ended)
        case TopicSource():
            from edgeinfer.runtime.sources.topic import topic_arrivals

            return topic_arrivals(config, ended, channels)
        case HostSource():
            from edgeinfer.runtime.sources.host import host_arrivals

            return host_arrivals(config, ended)
