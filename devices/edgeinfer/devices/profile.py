"""What a device is, as values: `Profile` is what was found on one, `DeviceKind` what is known of its kind.

A kind is a file `profiles/{name}.toml`. It says what cannot be read from the device itself: where it throttles,
which engine has been seen to work. Each carries the `sources` of what it claims.
"""

import tomllib
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import msgspec

__all__ = [
    "Architecture",
    "DeviceKind",
    "EngineName",
    "Feature",
    "Library",
    "Profile",
    "ProfileError",
    "ThermalZone",
    "find_kind",
    "load_kind",
    "load_kinds",
]

Architecture = Literal["x86_64", "aarch64", "armv7l", "armv6l", "riscv64", "other"]
# Those that decide which int8 kernels an engine has; what both architectures share is left out.
Feature = Literal["avx", "avx2", "avx512", "fma", "vnni", "amx", "neon", "fp16", "dotprod", "i8mm", "bf16", "sve"]
EngineName = Literal["onnx", "litert", "openvino"]
# What executes an engine's variants: there is more than one library for a TFLite file.
Library = Literal["onnxruntime", "ai-edge-litert", "tflite-runtime", "openvino"]
Positive = Annotated[int, msgspec.Meta(gt=0)]

_FOLDER = Path(__file__).parent / "profiles"


class ProfileError(ValueError):
    """A profile file is not what it must be."""


class ThermalZone(msgspec.Struct, frozen=True, omit_defaults=True):
    """A temperature sensor of the kernel, in degrees Celsius; None where it cannot be read."""

    name: str
    temperature_c: float | None = None
    critical_c: float | None = None


class Profile(msgspec.Struct, frozen=True):
    """What `probe` found. `cores` are those that this process may use, `memory_bytes` what it may have.

    `engines` maps an engine to its library and version; `accelerators` are devices that are present, which
    does not say that an engine can use them. `kind` is the name of the matching `DeviceKind`, or empty.
    """

    arch: Architecture
    cpu: str
    cores: int
    features: tuple[str, ...]
    memory_bytes: int
    board: str
    kind: str
    os: str
    kernel: str
    python: str
    engines: dict[str, str]
    accelerators: tuple[str, ...]
    thermal_zones: tuple[ThermalZone, ...]


class DeviceKind(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is known of a kind of device.

    `boards` are beginnings of the board's name as the kernel gives it; without any, and without `features`, it is what
    every other machine of its architecture is. `cores` and `memory_mb` are the least that the kind comes with.
    `engines` maps those that it can have to the library that has wheels for it.
    `throttle_c` is where the device starts to slow itself down, `limit_c` where it does so hard; 0 where nobody says.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
    title: str
    arch: Architecture
    boards: tuple[str, ...] = ()
    cpu: str = ""
    cores: Positive | None = None
    memory_mb: Positive | None = None
    features: tuple[Feature, ...] = ()
    engines: dict[EngineName, Library]
    throttle_c: float = 0.0
    limit_c: float = 0.0
    sources: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]

    def __post_init__(self) -> None:
        if self.throttle_c > self.limit_c:
            raise ValueError(f"expected throttle_c <= limit_c, found {self.throttle_c} and {self.limit_c}")
        if not self.engines:
            raise ValueError("expected at least one of the engines")

    @property
    def is_any(self) -> bool:
        """Whether it says no more than the architecture."""
        return not self.boards and not self.features


def load_kind(path: Path) -> DeviceKind:
    """Read a profile file. Raises ProfileError: unreadable, not TOML, unknown key, wrong value, wrong name."""
    try:
        kind = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), DeviceKind)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ProfileError(f"{path}: is no device profile: {error}") from error
    if kind.name != path.stem:
        raise ProfileError(f"{path}: expected name = {path.stem!r}, found {kind.name!r}")
    return kind


@cache
def load_kinds() -> tuple[DeviceKind, ...]:
    """All kinds that edgeinfer knows, those that name boards first."""
    kinds = (load_kind(path) for path in sorted(_FOLDER.glob("*.toml")))
    return tuple(sorted(kinds, key=lambda kind: not kind.boards))


def find_kind(name: str) -> DeviceKind:
    """The kind that comes along under this name. Raises ProfileError."""
    kinds = {kind.name: kind for kind in load_kinds()}
    if name not in kinds:
        raise ProfileError(f"expected one of the device profiles {', '.join(sorted(kinds))}, found {name!r}")
    return kinds[name]
