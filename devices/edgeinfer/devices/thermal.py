"""Reads how hard-pressed the device is right now: heat, throttling, pressure, battery, power.

    sensors = DeviceSensors()
    sensors.read(time.monotonic()).temperature_c        # 48.3, or None where nobody says

Everything is a small file of the kernel's; one that is missing or makes no sense is unknown, never an error. What a
board does not have costs nothing after the first look.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

__all__ = ["DeviceReadings", "DeviceSensors"]

# Sensors come and go with USB and hot-plugged CPUs; looking for them costs more than reading them.
_RESCAN_S = 60.0
# hwmon has sensors of disks and network cards too: only those of processors count.
_CPU_SENSORS = {"coretemp", "k10temp", "zenpower", "k8temp", "cpu_thermal", "soc_thermal", "scmi_sensors"}
# Beyond these a sensor is broken or not connected.
_COLDEST_C, _HOTTEST_C = -60.0, 200.0
_FIRMWARE = "sys/devices/platform/soc/soc:firmware/get_throttled"
# https://www.raspberrypi.com/documentation/computers/os.html#get_throttled: the bits of what is so now.
_FIRMWARE_FLAGS = {0: "under_voltage", 1: "frequency_capped", 2: "throttled", 3: "soft_temperature_limit"}
_CPUS = "sys/devices/system/cpu/cpu[0-9]*"
_SUPPLIES = "sys/class/power_supply/*"


class DeviceReadings(msgspec.Struct, frozen=True, omit_defaults=True):
    """None: unknown. `temperature_c` is the hottest sensor of the processor or the board. `throttled` names why the
    device holds itself back now. Pressures are the percentage of the last 10 s in which some task had to wait for a
    CPU or for memory (https://docs.kernel.org/accounting/psi.html). `power_w` is what the widest sensor measures:
    the whole device, else its processor. `frequency_ratio` is the slowest core's clock over its highest."""

    temperature_c: float | None = None
    throttled: tuple[str, ...] = ()
    cpu_pressure: float | None = None
    memory_pressure: float | None = None
    battery_percent: float | None = None
    on_battery: bool | None = None
    power_w: float | None = None
    frequency_ratio: float | None = None


class DeviceSensors:
    """Of the device whose file system is at `root`. Counters need two readings, so it remembers the last one. For one
    thread."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._found: dict[str, list[Path]] = {}
        self._looked_s = float("-inf")
        self._throttle_counts: int | None = None
        self._highest_caps: dict[Path, int] = {}
        self._energy_uj: tuple[float, int] | None = None  # when, how much

    def read(self, now_s: float) -> DeviceReadings:
        """`now_s` is on the monotonic clock. Never raises."""
        if now_s - self._looked_s >= _RESCAN_S:
            self._found, self._looked_s = {}, now_s
        percent, on_battery = self._battery()
        return DeviceReadings(
            temperature_c=self._temperature_c(),
            throttled=tuple(sorted({*self._firmware_flags(), *self._cpu_flags()})),
            cpu_pressure=self._pressure("cpu"),
            memory_pressure=self._pressure("memory"),
            battery_percent=percent,
            on_battery=on_battery,
            power_w=self._power_w(now_s, on_battery=on_battery is True),
            frequency_ratio=self._frequency_ratio(),
        )

    def _glob(self, pattern: str) -> list[Path]:
        paths = self._found.get(pattern)
        if paths is None:
            paths = self._found[pattern] = sorted(self._root.glob(pattern))
        return paths

    # Heat

    def _temperature_c(self) -> float | None:
        found = [_number(zone / "temp") for zone in self._glob("sys/class/thermal/thermal_zone*")]
        for chip in self._glob("sys/class/hwmon/hwmon*"):
            if _text(chip / "name") in _CPU_SENSORS:
                found += [_number(path) for path in self._glob(f"sys/class/hwmon/{chip.name}/temp*_input")]
        degrees = [value / 1000 for value in found if value is not None]
        return max((value for value in degrees if _COLDEST_C < value < _HOTTEST_C), default=None)

    def _firmware_flags(self) -> Iterator[str]:
        """Raspberry Pi: hexadecimal, with or without 0x."""
        text = _text(self._root / _FIRMWARE)
        if re.fullmatch(r"(0x)?[0-9a-fA-F]{1,8}", text):
            bits = int(text, 16)
            yield from (name for bit, name in _FIRMWARE_FLAGS.items() if bits >> bit & 1)

    def _cpu_flags(self) -> Iterator[str]:
        counts = [_number(path) for path in self._glob(f"{_CPUS}/thermal_throttle/core_throttle_count")]
        total = sum(count for count in counts if count is not None)
        if self._throttle_counts is not None and total > self._throttle_counts:
            yield "core_throttled"
        self._throttle_counts = total
        # Cooling lowers the highest frequency that the governor of the frequency may choose. A person may have done
        # that too, for good: only what is lower than it once was counts.
        for path in self._glob(f"{_CPUS}/cpufreq/scaling_max_freq"):
            cap = _number(path) or 0
            self._highest_caps[path] = max(cap, self._highest_caps.get(path, 0))
            if 0 < cap < self._highest_caps[path]:
                yield "frequency_capped"
        for device in self._glob("sys/class/thermal/cooling_device*"):
            if _text(device / "type").startswith(("thermal-cpufreq", "cpufreq-")) and (
                _number(device / "cur_state") or 0
            ):
                yield "cooling"

    def _frequency_ratio(self) -> float | None:
        ratios = []
        for path in self._glob(f"{_CPUS}/cpufreq/scaling_cur_freq"):
            current, highest = _number(path), _number(path.with_name("cpuinfo_max_freq"))
            if current and highest:
                ratios.append(current / highest)
        return min(ratios, default=None)

    # Pressure

    def _pressure(self, what: str) -> float | None:
        match = re.search(r"^some avg10=(\d{1,3}\.\d+)", _text(self._root / "proc/pressure" / what), re.MULTILINE)
        return float(match[1]) if match else None

    # Battery and power

    def _battery(self) -> tuple[float | None, bool | None]:
        """Of the device itself: the batteries of mice and the like say Device as their scope."""
        batteries = [path for path in self._supplies("Battery") if _text(path / "scope") != "Device"]
        if not batteries:
            return None, None
        charges = [_number(path / "capacity") for path in batteries]
        known = [charge for charge in charges if charge is not None and 0 <= charge <= 100]
        states = {_text(path / "status") for path in batteries}
        on_battery = "Discharging" in states and not any(
            _number(path / "online") == 1 for kind in ("Mains", "USB") for path in self._supplies(kind)
        )
        return (sum(known) / len(known) if known else None), on_battery

    def _supplies(self, kind: str) -> list[Path]:
        return [path for path in self._glob(_SUPPLIES) if _text(path / "type") == kind]

    def _power_w(self, now_s: float, *, on_battery: bool) -> float | None:
        """What the battery gives is what the whole device takes. Else the largest of the sensors on its rails (the
        others are parts of that one), else the processor's own counter."""
        drawn = [_number(path / "power_now") for path in self._supplies("Battery")] if on_battery else []
        watts = sum(abs(value) for value in drawn if value is not None) / 1e6
        return watts or max(self._rails_w(), default=None) or self._processor_w(now_s)

    def _rails_w(self) -> Iterator[float]:
        """hwmon counts in microwatts, millivolts, milliamperes (an INA3221 has no power of its own)."""
        for pattern in ("power*_input", "power*_average"):
            values = (_number(path) for path in self._glob(f"sys/class/hwmon/hwmon*/{pattern}"))
            yield from (value / 1e6 for value in values if value is not None and value > 0)
        for path in self._glob("sys/class/hwmon/hwmon*/curr*_input"):
            current, voltage = _number(path), _number(path.with_name(path.name.replace("curr", "in")))
            if current and voltage:
                yield current * voltage / 1e6

    def _processor_w(self, now_s: float) -> float | None:
        """RAPL: energy counters of the packages, or of the whole platform where there is one (psys)."""
        domains = {path: _text(path / "name") for path in self._glob("sys/class/powercap/intel-rapl:[0-9]*")}
        packages = [path for path, name in domains.items() if name.startswith("package")]
        chosen = [path for path, name in domains.items() if name == "psys"] or packages
        energy_uj = _sum(_number(path / "energy_uj") for path in chosen)
        before, self._energy_uj = self._energy_uj, None if energy_uj is None else (now_s, energy_uj)
        if before is None or energy_uj is None or now_s <= before[0] or energy_uj < before[1]:
            return None  # the first reading, or the counter has begun anew
        return (energy_uj - before[1]) / 1e6 / (now_s - before[0])


def _text(path: Path) -> str:
    """The text of a small file; empty where it cannot be had."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if re.fullmatch(r"-?\d{1,20}", text) else None


def _sum(values: Iterable[int | None]) -> int | None:
    """None where there is nothing to sum or some of it cannot be read: it would look like less."""
    found = list(values)
    known = [value for value in found if value is not None]
    return sum(known) if found and len(known) == len(found) else None
