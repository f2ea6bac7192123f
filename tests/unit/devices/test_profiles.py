"""The device profiles that come along, and what is refused in one."""

from pathlib import Path

import pytest

from edgeinfer.devices import DeviceKind, ProfileError, find_kind, load_kind, load_kinds
from edgeinfer.devices.probe import probe

NAMES = (
    "generic-x86-64", "imx8mp", "jetson-orin", "rpi-zero2w", "rpi3", "rpi4", "rpi5", "stm32mp1", "x86-64-avx2",
    "x86-64-vnni",
)  # fmt: skip


def test_these_kinds_are_known() -> None:
    assert tuple(sorted(kind.name for kind in load_kinds())) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_says_where_it_has_it_from_and_which_engines_it_can_have(name: str) -> None:
    kind = find_kind(name)
    assert all(kind.sources)
    assert kind.engines
    if kind.boards:
        assert kind.cpu
        assert kind.cores
        assert kind.memory_mb
        assert kind.features


@pytest.mark.parametrize(
    ("name", "cpu", "features", "engines"),
    [
        ("rpi3", "Cortex-A53", ("neon",), {"onnx", "litert"}),
        ("rpi-zero2w", "Cortex-A53", ("neon",), {"onnx", "litert"}),
        ("rpi4", "Cortex-A72", ("neon",), {"onnx", "litert"}),
        ("rpi5", "Cortex-A76", ("neon", "fp16", "dotprod"), {"onnx", "litert"}),
        ("jetson-orin", "Cortex-A78AE", ("neon", "fp16", "dotprod"), {"onnx", "litert"}),
        ("imx8mp", "Cortex-A53", ("neon",), {"onnx", "litert"}),
        ("stm32mp1", "Cortex-A7", ("neon",), {"litert"}),
        ("x86-64-avx2", "", ("avx", "avx2", "fma"), {"onnx", "litert"}),
        ("x86-64-vnni", "", ("avx", "avx2", "fma", "vnni"), {"onnx", "litert"}),
    ],
)
def test_what_decides_which_kernels_there_are(
    name: str, cpu: str, features: tuple[str, ...], engines: set[str]
) -> None:
    kind = find_kind(name)
    assert (kind.cpu, kind.features, set(kind.engines)) == (cpu, features, engines)


def test_on_32_bit_arm_only_tflite_runtime_has_wheels() -> None:
    assert find_kind("stm32mp1").engines == {"litert": "tflite-runtime"}


def test_a_name_that_is_none_gets_those_that_are() -> None:
    with pytest.raises(ProfileError, match=r"expected one of the device profiles .*rpi5.*, found 'rpi9'"):
        find_kind("rpi9")


@pytest.mark.parametrize(
    ("board", "machine", "kind"),
    [
        ("Raspberry Pi 4 Model B Rev 1.5", "aarch64", "rpi4"),
        ("Raspberry Pi 400 Rev 1.0", "aarch64", "rpi4"),
        ("Raspberry Pi Compute Module 4 Rev 1.1", "aarch64", "rpi4"),
        ("Raspberry Pi 500 Rev 1.0", "aarch64", "rpi5"),
        ("Raspberry Pi 3 Model B Plus Rev 1.3", "aarch64", "rpi3"),
        ("Raspberry Pi 3 Model B Plus Rev 1.3", "armv7l", ""),
        ("Raspberry Pi Zero 2 W Rev 1.0", "aarch64", "rpi-zero2w"),
        ("Raspberry Pi Zero W Rev 1.1", "armv6l", ""),
        ("NVIDIA Jetson AGX Orin Developer Kit", "aarch64", "jetson-orin"),
        ("NVIDIA Jetson Orin Nano Developer Kit", "aarch64", "jetson-orin"),
        ("NVIDIA Jetson Nano Developer Kit", "aarch64", ""),
        ("NXP i.MX8MPlus EVK board", "aarch64", "imx8mp"),
        ("STMicroelectronics STM32MP157C-DK2 Discovery Board", "armv7l", "stm32mp1"),
        ("Vendor Box 1", "x86_64", "generic-x86-64"),
    ],
)
def test_boards_are_told_apart(tmp_path: Path, board: str, machine: str, kind: str) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_text(board + "\0")
    assert probe(tmp_path, machine=machine).kind == kind


GOOD = (
    'name = "board"\ntitle = "A board"\narch = "aarch64"\nsources = ["its manual"]\nengines.litert = "ai-edge-litert"\n'
)


def test_a_good_profile(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_text(GOOD)
    assert load_kind(path) == DeviceKind(
        name="board",
        title="A board",
        arch="aarch64",
        sources=("its manual",),
        engines={"litert": "ai-edge-litert"},
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "name"),
        ("name = ", "Invalid value"),
        (GOOD + "colour = 1\n", "colour"),
        (GOOD + "cores = 0\n", "cores"),
        (GOOD + "memory_mb = -1\n", "memory_mb"),
        (GOOD + 'engines.tensorrt = "tensorrt"\n', "tensorrt"),
        (GOOD.replace('engines.litert = "ai-edge-litert"', "engines = {}"), "engines"),
        (GOOD.replace('engines.litert = "ai-edge-litert"', ""), "engines"),
        (GOOD + 'features = ["magic"]\n', "magic"),
        (GOOD + "throttle_c = 90.0\nlimit_c = 80.0\n", "throttle_c <= limit_c"),
        (GOOD.replace("board", "plank", 1), "'plank'"),
        (GOOD.replace('["its manual"]', "[]"), "sources"),
    ],
)
def test_a_bad_profile_is_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "board.toml"
    path.write_text(text)
    with pytest.raises(ProfileError, match=why):
        load_kind(path)


def test_a_missing_profile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"absent\.toml"):
        load_kind(tmp_path / "absent.toml")
