"""How the device fares while it is measured: temperature, frequency, and why it held itself back.

conditions = Watcher(Path("/"))
conditions.look(now_s)          # as often as one likes: the files are read once a second
conditions.conditions()
"""

from pathlib import Path

from edgeinfer.devices.thermal import DeviceSensors
from edgeinfer.runtime.bench.document import Conditions, Span

__all__ = ["Watcher"]

_EVERY_S = 1.0
_KHZ_PER_MHZ = 1000


class Watcher:
    """Of the device whose file system is at `root`. Never raises: what cannot be read is unknown."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._sensors = DeviceSensors(root)
        self._clocks = sorted(root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"))
        self._temperatures_c: list[float] = []
        self._frequencies_mhz: list[float] = []
        self._throttled: set[str] = set()
        self._looked_s = float("-inf")

    @property
    def temperature_c(self) -> float | None:
        """The last one that was read."""
        return self._temperatures_c[-1] if self._temperatures_c else None

    @property
    def frequency_mhz(self) -> float | None:
        return self._frequencies_mhz[-1] if self._frequencies_mhz else None

    def look(self, now_s: float, *, at_once: bool = False) -> None:
        """Read what there is, unless that was just done. `now_s` is on the monotonic clock."""
        if now_s - self._looked_s < _EVERY_S and not at_once:
            return
        self._looked_s = now_s
        readings = self._sensors.read(now_s)
        if readings.temperature_c is not None:
            self._temperatures_c.append(readings.temperature_c)
        self._throttled.update(readings.throttled)
        frequency_mhz = self._fastest_mhz()
        if frequency_mhz is not None:
            self._frequencies_mhz.append(frequency_mhz)

    def conditions(self) -> Conditions:
        return Conditions(_span(self._temperatures_c), _span(self._frequencies_mhz), tuple(sorted(self._throttled)))

    def _fastest_mhz(self) -> float | None:
        """Of the fastest core: it is the one that works."""
        found = [_khz(path) for path in self._clocks]
        fastest = max(found, default=0)
        return fastest / _KHZ_PER_MHZ if fastest else None


def _khz(path: Path) -> int:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def _span(values: list[float]) -> Span | None:
    return Span(values[0], values[-1], min(values), max(values)) if values else None
