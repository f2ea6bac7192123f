"""Registers on an I2C bus, read through /dev/i2c-N by smbus2."""

import contextlib
import math
import threading
from typing import TYPE_CHECKING

from edgeinfer.runtime.errors import DependencyError, SourceError
from edgeinfer.runtime.sources.arrivals import Arrivals, Skipped, sampled
from edgeinfer.runtime.sources.sensor_settings import I2cRegister, I2cSource

if TYPE_CHECKING:
    from smbus2 import SMBus

__all__ = ["i2c_arrivals"]


def i2c_arrivals(config: I2cSource, ended: threading.Event) -> Arrivals:
    """Raises SourceError where there is no such bus, and when none of the registers can be read."""
    skipped = Skipped(f"i2c-{config.bus}")
    with contextlib.closing(_open(config.bus)) as bus:

        def sample() -> list[float]:
            values = [_read_register(bus, register, skipped) for register in config.registers]
            if all(map(math.isnan, values)):
                raise SourceError(f"i2c-{config.bus}: no register can be read", hint="is the device connected?")
            return values

        yield from sampled(sample, config.interval_s, ended)


def _open(bus: int) -> "SMBus":
    try:
        from smbus2 import SMBus
    except ImportError as error:
        raise DependencyError("I2C needs smbus2", hint="pip install 'edgeinfer[sensors]'") from error
    try:
        return SMBus(bus)
    except OSError as error:
        raise SourceError(f"/dev/i2c-{bus}: cannot be opened: {error.strerror}") from error


def _read_register(bus: "SMBus", register: I2cRegister, skipped: Skipped) -> float:
    """NaN where the device does not answer."""
    try:
        if register.length == 1:  # not every device knows reads of a block
            block = [bus.read_byte_data(register.address, register.register)]
        else:
            block = bus.read_i2c_block_data(register.address, register.register, register.length)
    except OSError as error:
        skipped.note(f"{register.name} (0x{register.address:02x}): {error.strerror}")
        return math.nan
    if len(block) != register.length:
        skipped.note(f"{register.name}: expected {register.length} bytes, found {len(block)}")
        return math.nan
    raw = int.from_bytes(bytes(block), register.endian, signed=register.signed)
    return raw * register.scale + register.offset
