"""Sensors for tests, each with its real protocol: they can appear, vanish and come back.

with SerialDevice(tmp_path) as device:
    source = open_source(device.config(window=4), stop)
    device.vanish()

A serial port is a pseudo terminal, IIO a folder like sysfs, Modbus pymodbus's own server in a process of its own, a
topic a real mosquitto. Of I2C only the interface of smbus2 is real: `FakeI2c` puts a module in its place.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import tty
from pathlib import Path
from typing import Any, Protocol, Self

import msgspec
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from brokers import Mosquitto, free_port
from edgeinfer.runtime.sources.settings import (
    I2cSource,
    IioSource,
    ModbusSource,
    SensorSource,
    SerialSource,
    TopicSource,
)
from waiting import wait_until

__all__ = [
    "Device",
    "FakeI2c",
    "FakeIio",
    "ModbusDevice",
    "ModbusLine",
    "SerialDevice",
    "TopicDevice",
    "toml_of",
]

INTERVAL_S = 0.01


class Device(Protocol):
    """One sensor. Its rows have two channels; what it gives is finite."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def config(self, **windows: Any) -> SensorSource: ...

    def appear(self) -> None: ...

    def vanish(self) -> None: ...


def toml_of(config: SensorSource) -> str:
    """The lines of `[pipeline.source]`."""
    return _toml_table(msgspec.to_builtins(config))


def _toml_table(table: dict[str, Any]) -> str:
    return "".join(f"{key} = {_toml(value)}\n" for key, value in table.items())


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


class _Appearing:
    def __enter__(self) -> Self:
        self.appear()
        return self

    def __exit__(self, *exc: object) -> None:
        self.vanish()

    def appear(self) -> None:
        raise NotImplementedError

    def vanish(self) -> None:
        raise NotImplementedError


class SerialDevice(_Appearing):
    """A pseudo terminal behind a link that stays the same, and a thread that writes `lines` again and again."""

    def __init__(self, folder: Path, *, lines: bytes = b"", as_json: bool = False, name: str = "tty") -> None:
        self.path = folder / name
        self._json = as_json
        self._lines = lines
        self._ends: tuple[int, int] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._count = 0

    def config(self, **windows: Any) -> SerialSource:
        form: Any = "jsonl" if self._json else "csv"
        return SerialSource(device=str(self.path), format=form, columns=("a", "b"), **windows)

    def appear(self) -> None:
        device, port = os.openpty()
        tty.setraw(port)
        os.set_blocking(device, False)
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(os.ttyname(port))
        self._ends = device, port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, args=(device, self._stop), daemon=True)
        self._thread.start()

    def vanish(self) -> None:
        """As when the plug is pulled: readers get an end of file or an error."""
        if self._ends is None or self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        for end in self._ends:
            os.close(end)
        self._ends = None
        self.path.unlink()

    def _write(self, device: int, stop: threading.Event) -> None:
        while not stop.wait(INTERVAL_S / 4 if self._lines else INTERVAL_S):
            with contextlib.suppress(BlockingIOError):  # nobody reads: a real port loses it, too
                if self._lines:
                    start = self._count % len(self._lines)
                    self._count += os.write(device, self._lines[start : start + 997])
                else:
                    os.write(device, self._next())

    def _next(self) -> bytes:
        self._count += 1
        a, b = self._count, self._count / 2
        return f'{{"b": {b}, "a": {a}}}\n'.encode() if self._json else f"{a},{b}\r\n".encode()


class FakeIio(_Appearing):
    """A folder like /sys/bus/iio/devices with an accelerometer of two axes that share their scale."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "iio"
        self.device = self.root / "iio:device3"

    def config(self, **windows: Any) -> IioSource:
        return IioSource(
            device="fakeaccel",
            channels=("accel_x", "accel_y"),
            root=str(self.root),
            interval_s=INTERVAL_S,
            **windows,
        )

    def appear(self) -> None:
        self.device.mkdir(parents=True)
        self.write(
            name="fakeaccel",
            in_accel_x_raw="-512",
            in_accel_y_raw="1024",
            in_accel_scale="0.009577",
            in_accel_x_offset="12",
            in_temp_input="23125",
        )

    def write(self, **attributes: str) -> None:
        for name, value in attributes.items():
            (self.device / name).write_text(f"{value}\n")

    def vanish(self) -> None:
        shutil.rmtree(self.device, ignore_errors=True)


_FAKE_SMBUS2 = """
import errno, json, pathlib

_REGISTERS = pathlib.Path(__file__).with_name("registers.json")


class SMBus:
    def __init__(self, bus):
        if not _REGISTERS.exists():
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    def read_byte_data(self, address, register):
        return self.read_i2c_block_data(address, register, 1)[0]

    def read_i2c_block_data(self, address, register, length):
        try:
            return json.loads(_REGISTERS.read_text())[f"{address}:{register}"][:length]
        except (OSError, KeyError, ValueError):
            raise OSError(errno.EREMOTEIO, "Remote I/O error") from None

    def close(self):
        pass
"""


class FakeI2c(_Appearing):
    """Stands in for the module smbus2, also in processes that are started while it is used."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder / "fake_i2c"
        self.folder.mkdir()
        (self.folder / "smbus2.py").write_text(_FAKE_SMBUS2)
        monkeypatch.syspath_prepend(str(self.folder))
        monkeypatch.setenv("PYTHONPATH", str(self.folder))
        monkeypatch.delitem(sys.modules, "smbus2", raising=False)

    def config(self, **windows: Any) -> I2cSource:
        registers = [
            {"name": "t", "address": 0x48, "register": 0, "signed": True, "scale": 0.0625 / 16},
            {"name": "level", "address": 0x23, "register": 0x10, "length": 3, "endian": "little"},
        ]
        made = {"kind": "i2c", "bus": 1, "registers": registers, "interval_s": INTERVAL_S, **windows}
        return msgspec.convert(made, I2cSource)

    def appear(self) -> None:
        self.write({"72:0": [0xE7, 0x00], "35:16": [1, 2, 3]})

    def write(self, registers: dict[str, list[int]]) -> None:
        new = self.folder / "new.json"
        new.write_text(json.dumps(registers))
        new.rename(self.folder / "registers.json")

    def vanish(self) -> None:
        (self.folder / "registers.json").unlink(missing_ok=True)


class ModbusDevice(_Appearing):
    """pymodbus's server over TCP, in a process of its own: holding registers 0 to 29 as `_serve_modbus` fills them,
    input register 0, and exceptions for everything else."""

    def __init__(self) -> None:
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def config(self, **windows: Any) -> ModbusSource:
        return msgspec.convert(
            {"kind": "modbus", "host": "127.0.0.1", "port": self.port, **_MODBUS, **windows}, ModbusSource
        )

    def appear(self) -> None:
        self._start("tcp", str(self.port))

    def _start(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"
        self.process.stdout.close()

    def vanish(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


_MODBUS: dict[str, Any] = {
    "interval_s": INTERVAL_S,
    "timeout_s": 10.0,  # its process may wait seconds for its turn on a busy machine
    "retries": 0,
    "registers": [
        {"name": "count", "address": 20},
        {"name": "temperature", "address": 4, "type": "float32", "scale": 2.0, "offset": 1.0},
    ],
}


class ModbusLine(ModbusDevice):
    """The same as RTU on one end of a serial line, which is two pseudo terminals that socat joins."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        if shutil.which("socat") is None:
            reason = "socat is not installed (Debian: apt install socat)"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
        self._ends = [folder / "rtu-device", folder / "rtu-host"]
        self._line: subprocess.Popen[bytes] | None = None

    def config(self, **windows: Any) -> ModbusSource:
        made = {"kind": "modbus", "device": str(self._ends[1]), "baudrate": 115_200, **_MODBUS, **windows}
        return msgspec.convert(made, ModbusSource)

    def appear(self) -> None:
        if self._line is None:
            sides = [f"PTY,raw,echo=0,link={end}" for end in self._ends]
            self._line = subprocess.Popen(["socat", *sides])
            wait_until(lambda: all(end.exists() for end in self._ends), what="the serial line")
        self._start("rtu", str(self._ends[0]))

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        if self._line is not None:
            self._line.kill()
            self._line.wait()


class TopicDevice(_Appearing):
    """A mosquitto, and a thread that publishes to it."""

    def __init__(self, folder: Path) -> None:
        self.broker = Mosquitto(folder, extra="log_type subscribe")
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def config(self, **windows: Any) -> TopicSource:
        return TopicSource(
            topic="plant/+/vibration", json="data.now", columns=("x", "y"), port=self.broker.port, **windows
        )

    def appear(self) -> None:
        self.broker.start()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._publish, daemon=True)
        self._thread.start()

    def vanish(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.broker.kill()

    def client(self) -> paho.Client:
        client = paho.Client(CallbackAPIVersion.VERSION2)
        client.connect("127.0.0.1", self.broker.port)
        client.loop_start()
        return client

    @staticmethod
    def leave(client: paho.Client) -> None:
        """paho leaves the pair that wakes its loop to the garbage collector."""
        client.disconnect()
        client.loop_stop()
        client._reset_sockets()

    def _publish(self) -> None:
        client = self.client()
        count = 0
        while not self._stop.wait(INTERVAL_S):
            count += 1
            client.publish("plant/press-4/vibration", json.dumps({"data": {"now": {"x": count, "y": -count}}}))
        self.leave(client)


def _serve_modbus(kind: str, where: str) -> None:
    """The process of `ModbusDevice`. Register 20 counts how often it was read."""
    import asyncio
    import struct

    from pymodbus.server import ModbusSerialServer, ModbusTcpServer
    from pymodbus.simulator import DataType, SimData, SimDevice

    def words(form: str, value: float) -> list[int]:
        return list(struct.unpack(">2H", struct.pack(form, value)))

    holding = [0] * 30
    holding[0] = -123 & 0xFFFF
    holding[1] = 60_000
    holding[2:4] = words(">i", -100_000)
    holding[4:6] = words(">f", 21.5)
    holding[6:8] = reversed(words(">f", -3.25))
    holding[8:10] = reversed(words(">I", 4_000_000_000))
    holding[10:12] = words(">f", float("nan"))

    async def count(_code: int, start: int, address: int, _n: int, registers: list[int], _new: object) -> None:
        if address == 20 and len(registers) > 20 - start:
            registers[20 - start] = (registers[20 - start] + 1) & 0xFFFF

    def block(values: list[int]) -> list[SimData]:
        return [SimData(0, values=values, datatype=DataType.REGISTERS)]

    nothing = [SimData(0, values=[False], datatype=DataType.BITS)]
    device = SimDevice(1, simdata=(nothing, nothing, block(holding), block([7])), action=count)

    async def serve() -> None:
        if kind == "tcp":
            server: Any = ModbusTcpServer(device, address=("127.0.0.1", int(where)))
        else:
            server = ModbusSerialServer(device, port=where, baudrate=115_200)
        await server.serve_forever(background=True)
        print("ready", flush=True)
        await server.serving

    asyncio.run(serve())


if __name__ == "__main__":
    _serve_modbus(sys.argv[1], sys.argv[2])
