"""A serial port that writes lines: numbers between delimiters, or JSON."""

import contextlib
import termios
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeinfer.runtime.errors import DependencyError, SourceError
from edgeinfer.runtime.sources.arrivals import IDLE_S, Arrivals, Skipped, now_arrived
from edgeinfer.runtime.sources.records import CsvLines, JsonLines, LineParser, Lines
from edgeinfer.runtime.sources.sensor_settings import SerialSource

if TYPE_CHECKING:
    import serial

__all__ = ["serial_arrivals"]

_MAX_LINE_BYTES = 64 << 10
_MAX_BLOCK_BYTES = 16 << 10
# What pyserial lets through of the layers below it.
_FAILURES = (OSError, termios.error, ValueError)


def serial_arrivals(config: SerialSource, ended: threading.Event, channels: Sequence[str] = ()) -> Arrivals:
    """Raises SourceError where the port is not there, goes away, or is silent for longer than it may be, ConfigError
    where what comes has names and lacks some that the package names."""
    skipped = Skipped(config.device)
    parser: LineParser = (
        JsonLines(config.columns, channels=channels)
        if config.format == "jsonl"
        else CsvLines(config.columns, config.delimiter, channels=channels)
    )
    with contextlib.closing(_open(config)) as port:
        lines = Lines(_MAX_LINE_BYTES)
        is_first = True
        heard_s = time.monotonic()
        while not ended.is_set():
            block = _read(port, config.device)
            if block:
                heard_s = time.monotonic()
            elif 0 < config.timeout_s < time.monotonic() - heard_s:
                raise SourceError(f"{config.device}: silent for {config.timeout_s:g} s")
            too_long = lines.too_long
            for line in lines.feed(block):
                if is_first:  # it may have begun before we listened
                    is_first = False
                    continue
                try:
                    values = parser.parse(line)
                except ValueError as error:
                    skipped.note(error)
                    continue
                if values is not None:
                    yield now_arrived(values)
            if lines.too_long > too_long:
                skipped.note(f"expected lines of at most {_MAX_LINE_BYTES} bytes")
            yield None


def _open(config: SerialSource) -> "serial.Serial":
    try:
        import serial
    except ImportError as error:
        raise DependencyError("serial ports need pyserial", hint="pip install 'edgeinfer[sensors]'") from error
    try:
        # Exclusive: a second reader would take half of every line.
        return serial.Serial(config.device, config.baudrate, timeout=IDLE_S, exclusive=True)
    except _FAILURES as error:
        raise SourceError(f"{config.device}: cannot be opened: {error}", hint="is it connected?") from error


def _read(port: "serial.Serial", device: str) -> bytes:
    """What has come, waiting a moment for it."""
    try:
        first = port.read(1)
        waiting = min(port.in_waiting, _MAX_BLOCK_BYTES) if first else 0
        return bytes(first + port.read(waiting)) if waiting else bytes(first)
    except _FAILURES as error:
        raise SourceError(f"{device}: went away: {error}") from error
