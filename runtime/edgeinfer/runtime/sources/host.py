"""The machine's own vitals through psutil."""

import threading
import time
from collections.abc import Callable

import psutil

from edgeinfer.runtime.errors import SourceError
from edgeinfer.runtime.sources.arrivals import Arrivals, sampled, wait_until_due
from edgeinfer.runtime.sources.sensor_settings import HostSource

__all__ = ["CHANNELS", "host_arrivals"]

# In the order that a window has them where the configuration names no columns.
CHANNELS = ("cpu_percent", "memory_percent", "disk_percent", "net_kib_s", "temperature_c")
_KIB = 1024


def host_arrivals(config: HostSource, stop: threading.Event) -> Arrivals:
    """A machine without a temperature sensor gives 0 there. Raises SourceError for a disk that is not there."""
    net = NetworkRate()
    readers: dict[str, Callable[[], float]] = {
        "cpu_percent": lambda: float(psutil.cpu_percent(None)),
        "memory_percent": lambda: float(psutil.virtual_memory().percent),
        "disk_percent": lambda: float(psutil.disk_usage(config.disk).percent),
        "net_kib_s": net.read,
        "temperature_c": temperature_c,
    }
    used = [readers[name] for name in config.columns or CHANNELS]

    def sample() -> list[float]:
        try:
            return [reader() for reader in used]
        except (OSError, psutil.Error) as error:
            raise SourceError(f"the host's vitals cannot be read: {error}") from error

    psutil.cpu_percent(None)  # the first call only sets the reference point
    for _ in wait_until_due(time.monotonic() + config.interval_s, stop):
        yield None
    yield from sampled(sample, config.interval_s, stop)


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
