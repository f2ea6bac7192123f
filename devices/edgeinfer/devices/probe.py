"""Reads what this device is from /proc, /sys and /dev. Imports nothing heavy, runs no program.

profile = probe()                              # this machine
profile = probe(Path("copy-of-a-board"), machine="aarch64")     # a tree that was copied from another
"""

import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from edgeinfer.devices.distributions import installed_version
from edgeinfer.devices.profile import Architecture, Profile, ThermalZone, load_kinds

__all__ = ["cpu", "probe"]

_X86_FEATURES = {
    "avx": "avx",
    "avx2": "avx2",
    "avx512f": "avx512",
    "fma": "fma",
    "avx_vnni": "vnni",
    "avx512_vnni": "vnni",
    "amx_int8": "amx",
    "avx512_bf16": "bf16",
}
# The kernel's names: https://docs.kernel.org/arch/arm64/elf_hwcaps.html
_ARM_FEATURES = {
    "asimd": "neon",
    "neon": "neon",
    "asimdhp": "fp16",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
}
# "CPU part" of /proc/cpuinfo where the implementer is Arm (0x41): the MIDR_EL1 part numbers.
_ARM_PARTS = {
    "0xb76": "ARM1176",
    "0xc07": "Cortex-A7",
    "0xc09": "Cortex-A9",
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE",
}
_ACCELERATOR_NODES = {
    "dev/apex_*": "coral-pcie",
    "dev/hailo*": "hailo",
    "dev/nvidia[0-9]*": "nvidia",
    "dev/nvhost-gpu": "nvidia",
    "dev/accel/accel*": "npu",
    "dev/dri/renderD*": "gpu",
}
# The Coral USB accelerator before and after its firmware is loaded.
_CORAL_USB = {("1a6e", "089a"), ("18d1", "9302")}
_LIBRARIES = {
    "onnx": ("onnxruntime",),
    "litert": ("ai-edge-litert", "tflite-runtime"),
    "openvino": ("openvino",),
}


def probe(root: Path = Path("/"), *, machine: str | None = None) -> Profile:
    """What the device whose file system is at `root` is; what cannot be read is empty or 0.

    `machine` is the architecture as `uname -m` says it, for a tree that is not this machine's.
    """
    cpuinfo = _fields(root / "proc/cpuinfo")
    arch = _architecture(machine or platform.machine())
    board = _board(root)
    return Profile(
        arch=arch,
        cpu=_cpu(cpuinfo),
        cores=_cores(root),
        features=_features(cpuinfo),
        memory_bytes=_memory_bytes(root),
        board=board,
        kind=_kind(board, arch),
        os=_os_name(root),
        kernel=_read(root / "proc/sys/kernel/osrelease"),
        python=platform.python_version(),
        engines=_engines(),
        accelerators=_accelerators(root),
        thermal_zones=tuple(_thermal_zones(root)),
    )


def cpu(root: Path = Path("/")) -> tuple[str, tuple[str, ...]]:
    """The processor's name and the features that decide which kernels an engine has, as in `Profile`."""
    cpuinfo = _fields(root / "proc/cpuinfo")
    return _cpu(cpuinfo), _features(cpuinfo)


def _read(path: Path) -> str:
    """The text of a small file without the NUL that ends device-tree strings; empty where it cannot be had."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _fields(path: Path) -> dict[str, str]:
    """`key: value` lines; of a repeated key the first counts (the first CPU of /proc/cpuinfo)."""
    found: dict[str, str] = {}
    for line in _read(path).splitlines():
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key.strip(), value.strip())
    return found


def _architecture(machine: str) -> Architecture:
    known: dict[str, Architecture] = {name: name for name in get_args(Architecture)}
    return known.get({"amd64": "x86_64", "arm64": "aarch64", "armv8l": "armv7l"}.get(machine, machine), "other")


def _cpu(cpuinfo: dict[str, str]) -> str:
    part = cpuinfo.get("CPU part", "")
    return _ARM_PARTS.get(part) or cpuinfo.get("model name") or cpuinfo.get("Model") or part


def _features(cpuinfo: dict[str, str]) -> tuple[str, ...]:
    x86 = {_X86_FEATURES[flag] for flag in cpuinfo.get("flags", "").split() if flag in _X86_FEATURES}
    arm = {_ARM_FEATURES[flag] for flag in cpuinfo.get("Features", "").split() if flag in _ARM_FEATURES}
    return tuple(sorted(x86 | arm))


def _cores(root: Path) -> int:
    """Cores online; on this very machine those that this process may use."""
    if root == Path("/"):
        return len(os.sched_getaffinity(0))
    return sum(_range_length(part) for part in _read(root / "sys/devices/system/cpu/online").split(",") if part)


def _range_length(part: str) -> int:
    numbers = [int(number) for number in re.findall(r"\d+", part)]
    return numbers[-1] - numbers[0] + 1 if numbers else 0


def _memory_bytes(root: Path) -> int:
    """The machine's memory, or the control group's limit where that is lower."""
    total = re.match(r"(\d+) kB", _fields(root / "proc/meminfo").get("MemTotal", ""))
    memory = int(total[1]) * 1024 if total else 0
    limit = _read(root / "sys/fs/cgroup/memory.max")
    return min(memory, int(limit)) if limit.isdigit() else memory


def _board(root: Path) -> str:
    """The device tree's model, else vendor and product of the firmware."""
    model = _read(root / "proc/device-tree/model")
    if model:
        return model
    dmi = root / "sys/class/dmi/id"
    return " ".join(part for part in (_read(dmi / "sys_vendor"), _read(dmi / "product_name")) if part)


def _kind(board: str, arch: Architecture) -> str:
    for kind in load_kinds():
        # What names features but no board (x86-64-vnni) is chosen as a target, never found: features are read.
        if kind.arch == arch and (kind.is_any or (kind.boards and board.startswith(kind.boards))):
            return kind.name
    return ""


def _os_name(root: Path) -> str:
    match = re.search(r'^PRETTY_NAME="?([^"\n]*)', _read(root / "etc/os-release"), re.MULTILINE)
    return match[1] if match else ""


def _engines() -> dict[str, str]:
    """Library and version of each engine that is installed; nothing is imported."""
    found: dict[str, str] = {}
    for engine, libraries in _LIBRARIES.items():
        for library in libraries:
            version = installed_version(library)
            if version:
                found.setdefault(engine, f"{library} {version}")
    return found


def _accelerators(root: Path) -> tuple[str, ...]:
    found = {name for pattern, name in _ACCELERATOR_NODES.items() if any(root.glob(pattern))}
    for device in root.glob("sys/bus/usb/devices/*"):
        if (_read(device / "idVendor"), _read(device / "idProduct")) in _CORAL_USB:
            found.add("coral-usb")
    return tuple(sorted(found))


def _thermal_zones(root: Path) -> Iterator[ThermalZone]:
    for zone in sorted(root.glob("sys/class/thermal/thermal_zone*")):
        yield ThermalZone(_read(zone / "type"), _celsius(zone / "temp"), _critical(zone))


def _celsius(path: Path) -> float | None:
    """The kernel counts in thousandths of a degree."""
    text = _read(path)
    return int(text) / 1000 if re.fullmatch(r"-?\d+", text) else None


def _critical(zone: Path) -> float | None:
    for kind in sorted(zone.glob("trip_point_*_type")):
        if _read(kind) == "critical":
            return _celsius(kind.with_name(kind.name.replace("_type", "_temp")))
    return None
