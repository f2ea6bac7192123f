"""The machine's own vitals through psutil, as sliding windows."""

import threading
import time
from collections.abc import Callable

import psutil

from edgeinfer.runtime.errors import SourceError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.sources.sensor import Windows
from edgeinfer.runtime.sources.settings import HostSource

__all__ = ["CHANNELS", "Host"]

# In the order that a window has them where the configuration names no columns.
CHANNELS = ("cpu_percent", "memory_percent", "disk_percent", "net_kib_s", "temperature_c")
_KIB = 1024


class Host:
    """Samples every `interval_s` seconds on the monotonic clock. A machine without a temperature sensor
    gives 0 there."""

    live = True

    def __init__(self, config: HostSource, stop: threading.Event) -> None:
        self._config = config
        self._stop = stop
        self._windows = Windows(config.window, config.stride)
        self._net = NetworkRate()
        readers: dict[str, Callable[[], float]] = {
            "cpu_percent": lambda: float(psutil.cpu_percent(None)),
            "memory_percent": lambda: float(psutil.virtual_memory().percent),
            "disk_percent": lambda: float(psutil.disk_usage(config.disk).percent),
            "net_kib_s": self._net.read,
            "temperature_c": temperature_c,
        }
        self._readers = [readers[name] for name in config.columns or CHANNELS]
        psutil.cpu_percent(None)  # the first call only sets the reference point
        self._due_s = time.monotonic() + config.interval_s
        self._index = 0

    def read(self) -> Frame | None:
        while not self._stop.wait(max(0.0, self._due_s - time.monotonic())):
            self._due_s = max(self._due_s, time.monotonic() - self._config.interval_s) + self._config.interval_s
            window = self._windows.add(self._sample())
            if window is not None:
                frame = Frame(window, time.time_ns(), time.monotonic_ns(), self._index)
                self._index += 1
                return frame
        return None

    def close(self) -> None:
        self._readers = []

    def _sample(self) -> list[float]:
        try:
            return [reader() for reader in self._readers]
        except (OSError, psutil.Error) as error:
            raise SourceError(f"the host's vitals cannot be read: {error}") from error


class NetworkRate:
    """KiB a second over all interfaces but loopback, both directions, since the last call."""

    def __init__(self) -> None:
        self._bytes = _network_bytes()
        self._at_s = time.monotonic()

    def read(self) -> float:
        total, now = _network_bytes(), time.monotonic()
        elapsed = now - self._at_s
        rate = (total - self._bytes) / _KIB / elapsed if elapsed > 0 else 0.0
        self._bytes, self._at_s = total, now
        return max(rate, 0.0)


def _network_bytes() -> int:
    counters = psutil.net_io_counters(pernic=True)
    return sum(nic.bytes_sent + nic.bytes_recv for name, nic in counters.items() if name != "lo")


def temperature_c() -> float:
    """The hottest sensor, in degrees Celsius; 0 where there is none."""
    read = getattr(psutil, "sensors_temperatures", None)
    sensors = read() if read is not None else {}
    return max((float(entry.current) for entries in sensors.values() for entry in entries), default=0.0)
