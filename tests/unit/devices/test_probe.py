"""What is read of a device: from trees like those of real boards, and from this very machine."""

from pathlib import Path

import pytest

from edgeinfer.devices.probe import cpu, probe
from edgeinfer.devices.profile import ThermalZone

PI5 = {
    "proc/cpuinfo": """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd0b

processor\t: 1
Model\t\t: Raspberry Pi 5 Model B Rev 1.0
""",
    "proc/meminfo": "MemTotal:        8245264 kB\nMemFree:         7000000 kB\n",
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/sys/kernel/osrelease": "6.6.31+rpt-rpi-2712\n",
    "etc/os-release": 'NAME="Debian GNU/Linux"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    "sys/devices/system/cpu/online": "0-3\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "51250\n",
    "sys/class/thermal/thermal_zone0/trip_point_0_type": "critical\n",
    "sys/class/thermal/thermal_zone0/trip_point_0_temp": "110000\n",
    "sys/bus/usb/devices/1-1/idVendor": "1a6e\n",
    "sys/bus/usb/devices/1-1/idProduct": "089a\n",
    "dev/hailo0": "",
}


def make_tree(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_a_raspberry_pi_5(tmp_path: Path) -> None:
    found = probe(make_tree(tmp_path, PI5), machine="aarch64")
    assert found.arch == "aarch64"
    assert found.cpu == "Cortex-A76"
    assert found.cores == 4
    assert found.features == ("dotprod", "fp16", "neon")
    assert found.memory_bytes == 8245264 * 1024
    assert found.board == "Raspberry Pi 5 Model B Rev 1.0"
    assert found.kind == "rpi5"
    assert found.os == "Debian GNU/Linux 12 (bookworm)"
    assert found.kernel == "6.6.31+rpt-rpi-2712"
    assert found.accelerators == ("coral-usb", "hailo")
    assert found.thermal_zones == (ThermalZone("cpu-thermal", 51.25, 110.0),)


def test_the_processor_alone(tmp_path: Path) -> None:
    assert cpu(make_tree(tmp_path, PI5)) == ("Cortex-A76", ("dotprod", "fp16", "neon"))
    assert cpu(tmp_path / "nowhere") == ("", ())


def test_a_pc_inside_a_control_group(tmp_path: Path) -> None:
    files = {
        "proc/cpuinfo": "model name\t: A CPU\nflags\t\t: fpu sse2 avx avx2 fma avx512f avx512_vnni\n",
        "proc/meminfo": "MemTotal:        8245264 kB\n",
        "sys/fs/cgroup/memory.max": "268435456\n",
        "sys/devices/system/cpu/online": "0-1,4\n",
        "sys/class/dmi/id/sys_vendor": "Vendor\n",
        "sys/class/dmi/id/product_name": "Box 1\n",
    }
    found = probe(make_tree(tmp_path, files), machine="x86_64")
    assert (found.cpu, found.cores, found.board, found.kind) == ("A CPU", 3, "Vendor Box 1", "generic-x86-64")
    assert found.features == ("avx", "avx2", "avx512", "fma", "vnni")
    assert found.memory_bytes == 256 << 20


@pytest.mark.parametrize("machine", ["riscv64", "sparc64", ""])
def test_an_empty_tree_is_an_unknown_device(tmp_path: Path, machine: str) -> None:
    found = probe(tmp_path, machine=machine or "s390x")
    assert (found.cpu, found.cores, found.memory_bytes, found.board, found.kind) == ("", 0, 0, "", "")
    assert (found.features, found.accelerators, found.thermal_zones) == ((), (), ())


def test_garbage_is_no_reading(tmp_path: Path) -> None:
    files = {
        "proc/cpuinfo": "\x00\xff:::\n: \nflags",
        "proc/meminfo": "MemTotal: lots\n",
        "sys/devices/system/cpu/online": "zero,-,7-\n",
        "sys/class/thermal/thermal_zone0/temp": "hot\n",
    }
    found = probe(make_tree(tmp_path, files), machine="aarch64")
    assert found.memory_bytes == 0
    assert found.thermal_zones == (ThermalZone(""),)


def test_this_machine() -> None:
    found = probe()
    assert found.cores > 0
    assert found.memory_bytes > 0
    assert found.engines["onnx"].startswith("onnxruntime ")
