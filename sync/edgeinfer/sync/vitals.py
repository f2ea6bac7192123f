"""The machine's own load from /proc and /sys: what telemetry needs, without a library for it."""

import os
from pathlib import Path

import msgspec

__all__ = ["Vitals", "read_vitals"]


class Vitals(msgspec.Struct, frozen=True):
    """`cpu` is (busy, total) jiffies since boot; two of them make a percentage."""

    cpu: tuple[int, int] = (0, 0)
    memory_percent: float = 0.0
    temperature_c: float | None = None
    rss_bytes: int = 0

    def cpu_percent(self, earlier: "Vitals") -> float:
        total = self.cpu[1] - earlier.cpu[1]
        return round(100.0 * (self.cpu[0] - earlier.cpu[0]) / total, 1) if total > 0 else 0.0


def read_vitals(root: Path = Path("/")) -> Vitals:
    """What cannot be read counts as zero, or as no temperature. Never raises."""
    return Vitals(
        cpu=_cpu(_text(root / "proc/stat")),
        memory_percent=_memory_percent(_text(root / "proc/meminfo")),
        temperature_c=_temperature_c(root / "sys/class/thermal"),
        rss_bytes=_rss_bytes(_text(root / "proc/self/statm")),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _cpu(stat: str) -> tuple[int, int]:
    """proc(5): user nice system idle iowait irq softirq steal ..."""
    fields = [int(field) for field in stat.partition("\n")[0].split()[1:9] if field.isdigit()]
    if len(fields) < 5:
        return (0, 0)
    idle = fields[3] + fields[4]
    return (sum(fields) - idle, sum(fields))


def _memory_percent(meminfo: str) -> float:
    found: dict[str, int] = {}
    for line in meminfo.splitlines():
        name, _, value = line.partition(":")
        number = value.split()
        if number and number[0].isdigit():
            found[name] = int(number[0])
    total = found.get("MemTotal", 0)
    return round(100.0 * (total - found.get("MemAvailable", 0)) / total, 1) if total else 0.0


def _temperature_c(folder: Path) -> float | None:
    """The hottest thermal zone."""
    readings = [_text(zone / "temp").strip() for zone in folder.glob("thermal_zone*")]
    degrees = [int(text) / 1000 for text in readings if text.lstrip("-").isdigit()]
    return max(degrees) if degrees else None


def _rss_bytes(statm: str) -> int:
    fields = statm.split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 and fields[1].isdigit() else 0
