"""Registers of a Modbus device, over TCP or a serial line, by pymodbus."""

import contextlib
import logging
import math
import struct
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Union

from edgeinfer.runtime.errors import DependencyError, SourceError
from edgeinfer.runtime.sources.arrivals import Arrivals, Skipped, sampled
from edgeinfer.runtime.sources.sensor_settings import ModbusRegister, ModbusSource

if TYPE_CHECKING:
    from pymodbus.client import ModbusSerialClient, ModbusTcpClient

__all__ = ["modbus_arrivals"]

_Client = Union["ModbusTcpClient", "ModbusSerialClient"]
_FORMATS = {"int16": ">h", "uint16": ">H", "int32": ">i", "uint32": ">I", "float32": ">f"}


def modbus_arrivals(config: ModbusSource, ended: threading.Event) -> Arrivals:
    """Raises SourceError where the device does not answer, or answers every register with an exception."""
    name = f"{config.host}:{config.port}" if config.host else config.device
    skipped = Skipped(f"modbus {name}")
    with contextlib.closing(_connect(config, name)) as client:

        def sample() -> list[float]:
            values = [_read_register(client, register, config.unit, name, skipped) for register in config.registers]
            if all(map(math.isnan, values)):
                raise SourceError(f"modbus {name}: no register can be read", hint="look at addresses and unit")
            return values

        yield from sampled(sample, config.interval_s, ended)


def _connect(config: ModbusSource, name: str) -> _Client:
    try:
        from pymodbus.client import ModbusSerialClient, ModbusTcpClient
    except ImportError as error:
        raise DependencyError("Modbus needs pymodbus", hint="pip install 'edgeinfer[sensors]'") from error
    # What it reports is said in our own words.
    logging.getLogger("pymodbus").setLevel(logging.CRITICAL)
    client: _Client
    if config.host:
        client = ModbusTcpClient(config.host, port=config.port, timeout=config.timeout_s, retries=config.retries)
    else:
        client = ModbusSerialClient(
            config.device,
            baudrate=config.baudrate,
            parity=config.parity,
            stopbits=config.stopbits,
            timeout=config.timeout_s,
            retries=config.retries,
        )
    try:
        connected = client.connect()
    except (OSError, ValueError) as error:
        raise SourceError(f"modbus {name}: cannot be opened: {error}") from error
    if not connected:
        raise SourceError(f"modbus {name}: cannot be opened", hint="is it connected and switched on?")
    return client


def _read_register(client: _Client, register: ModbusRegister, unit: int, name: str, skipped: Skipped) -> float:
    """NaN where the device answers with an exception. Raises SourceError where it does not answer."""
    read = client.read_holding_registers if register.table == "holding" else client.read_input_registers
    count = struct.calcsize(_FORMATS[register.type]) // 2
    try:
        answer = read(register.address, count=count, device_id=unit)
    except Exception as error:  # silence, a broken line, bytes that are no answer: pymodbus raises what its parser does
        raise SourceError(f"modbus {name}: no answer for {register.name}: {error}") from error
    if answer.isError():
        skipped.note(f"{register.name}: {answer}")
        return math.nan
    if len(answer.registers) != count:
        skipped.note(f"{register.name}: expected {count} registers, found {len(answer.registers)}")
        return math.nan
    return _decode(register, answer.registers)


def _decode(register: ModbusRegister, words: Sequence[int]) -> float:
    """A word is sent with its high byte first; which word is first, nobody agrees on."""
    ordered = words if register.word_order == "big" else tuple(reversed(words))
    content = struct.pack(f">{len(ordered)}H", *ordered)
    (raw,) = struct.unpack(_FORMATS[register.type], content)
    return float(raw) * register.scale + register.offset
