"""What the machine takes while a block of calls runs: RAPL's counters, or a power monitor's readings over time.

    meter, source = find_meter(Path("/"))
    meter.begin(now_s); ...; meter.sample(now_s); ...; energy_uj = meter.end(now_s)

RAPL counts microjoules (https://docs.kernel.org/power/powercap/powercap.html); since kernel 5.10 only root may read it.
Power monitors, such as TI's INA family, show up under hwmon in microwatts, or as milliamperes and millivolts
(https://docs.kernel.org/hwmon/sysfs-interface.html), or under IIO in milliwatts after scaling
(https://docs.kernel.org/driver-api/iio: in_power0_raw times in_power0_scale).
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

__all__ = ["CPU_SECONDS", "Meter", "PowerMeter", "RaplMeter", "find_meter"]

CPU_SECONDS = "cpu-seconds"
"""The source where there is no meter: CPU time a call stands for energy."""

# hwmon and IIO have many chips with a power reading (graphics, disks): these measure a supply rail.
_MONITORS = ("ina", "ltc29", "pac19")
# They average over some milliseconds; reading one over I2C takes about one.
_SAMPLE_S = 0.02


class Meter(Protocol):
    """Measures one block at a time. `period_s`: how often `sample` has to be called meanwhile; None: never."""

    source: str
    period_s: float | None

    def begin(self, now_s: float) -> None: ...

    def sample(self, now_s: float) -> None: ...

    def end(self, now_s: float) -> float | None:
        """Microjoules since `begin`; None where they could not be read."""
        ...


def find_meter(root: Path = Path("/")) -> tuple[Meter | None, str]:
    """The best meter of the device whose file system is at `root`, and a sentence about it: a monitor of the widest
    rail sees the whole device, RAPL its processor."""
    rails = [(watts, rail) for rail in _rails(root) if (watts := rail.read_w()) is not None]
    if rails:
        rail = max(rails, key=lambda pair: pair[0])[1]
        return PowerMeter(rail.read_w, source="power-monitor"), f"power monitor {rail.name}"
    domains = _domains(root)
    readable = [domain for domain in domains if _number(domain / "energy_uj") is not None]
    if readable:
        return RaplMeter(readable), f"RAPL {', '.join(_text(domain / 'name') for domain in readable)}"
    if domains:
        return None, "RAPL is there, but only root may read it"
    return None, "no RAPL and no power monitor is readable here"


class RaplMeter:
    """The sum of RAPL domains' counters, each of which begins anew past its own `max_energy_range_uj`."""

    source = "rapl"
    period_s: float | None = None

    def __init__(self, domains: list[Path]) -> None:
        self._domains = domains
        self._ranges = [_number(domain / "max_energy_range_uj") or 0 for domain in domains]
        self._begin: list[int | None] = []

    def begin(self, now_s: float) -> None:
        del now_s  # a counter needs no clock
        self._begin = self._read()

    def sample(self, now_s: float) -> None:
        """A counter needs none."""

    def end(self, now_s: float) -> float | None:
        del now_s
        total = 0
        for before, after, range_uj in zip(self._begin, self._read(), self._ranges, strict=True):
            if before is None or after is None or (after < before and not range_uj):
                return None
            total += after - before if after >= before else range_uj - before + after
        return float(total)

    def _read(self) -> list[int | None]:
        return [_number(domain / "energy_uj") for domain in self._domains]


class PowerMeter:
    """Readings of power over time, integrated by the trapezoidal rule."""

    period_s: float | None = _SAMPLE_S

    def __init__(self, read_w: Callable[[], float | None], *, source: str) -> None:
        self._read_w, self.source = read_w, source
        self._energy_j = 0.0
        self._last: tuple[float, float] | None = None  # when, watts

    def begin(self, now_s: float) -> None:
        self._energy_j, self._last = 0.0, None
        self.sample(now_s)

    def sample(self, now_s: float) -> None:
        watts = self._read_w()
        if watts is None:
            return
        if self._last is not None:
            self._energy_j += (now_s - self._last[0]) * (watts + self._last[1]) / 2
        self._last = (now_s, watts)

    def end(self, now_s: float) -> float | None:
        self.sample(now_s)
        return self._energy_j * 1e6 if self._energy_j > 0.0 else None


def _domains(root: Path) -> list[Path]:
    """Those that count the most without counting anything twice: the platform's, else the packages'."""
    found = {path: _text(path / "name") for path in sorted(root.glob("sys/class/powercap/intel-rapl:[0-9]*"))}
    platform = [path for path, name in found.items() if name == "psys"]
    return platform or [path for path, name in found.items() if name.startswith("package")]


class _Rail(NamedTuple):
    name: str
    read_w: Callable[[], float | None]


def _rails(root: Path) -> Iterator[_Rail]:
    for chip in sorted(root.glob("sys/class/hwmon/hwmon*")):
        if (name := _text(chip / "name")).startswith(_MONITORS):
            yield from (_Rail(f"{name} {path.name}", _scaled(path, 1e-6)) for path in sorted(chip.glob("power*_input")))
            yield from (_Rail(f"{name} {path.name}", _product(path)) for path in sorted(chip.glob("curr*_input")))
    for chip in sorted(root.glob("sys/bus/iio/devices/iio:device*")):
        if (name := _text(chip / "name")).startswith(_MONITORS):
            yield from (_Rail(f"{name} {path.name}", _iio(path)) for path in sorted(chip.glob("in_power*_raw")))


def _scaled(path: Path, factor: float) -> Callable[[], float | None]:
    def read_w() -> float | None:
        value = _number(path)
        return None if value is None else value * factor

    return read_w


def _product(current: Path) -> Callable[[], float | None]:
    """Milliamperes and, beside them, millivolts."""
    voltage = current.with_name(current.name.replace("curr", "in"))

    def read_w() -> float | None:
        milliamperes, millivolts = _number(current), _number(voltage)
        return None if milliamperes is None or millivolts is None else milliamperes * millivolts * 1e-6

    return read_w


def _iio(path: Path) -> Callable[[], float | None]:
    scale_path = path.with_name(path.name.replace("_raw", "_scale"))

    def read_w() -> float | None:
        value, scale = _number(path), _real(scale_path)
        return None if value is None or scale is None else value * scale * 1e-3

    return read_w


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _real(path: Path) -> float | None:
    try:
        value = float(_text(path))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _number(path: Path) -> int | None:
    value = _real(path)
    return None if value is None or not abs(value) < 2**63 else int(value)
