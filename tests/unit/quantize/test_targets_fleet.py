"""A device of the fleet as a target, with a fleet that measures here."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgeinfer.quantize.candidate import Candidate
from edgeinfer.quantize.targets.base import Fleet
from edgeinfer.quantize.targets.choose import open_target
from edgeinfer.quantize.targets.fleet import DeviceTarget
from edgeinfer.runtime.bench import bench_package
from edgeinfer.runtime.errors import ModelError, RemoteError, UsageError
from edgeinfer.runtime.package import PackageFile
from edgeinfer.runtime.trust import SigningKey, verify
from packages import linear_model

KEY = SigningKey(b"r" * 32)
SAMPLE = np.linspace(0.0, 1.0, 8, dtype=np.float32)[None]


class HereFleet:
    """Runs the bench in place of a device, or gives a prepared answer."""

    def __init__(self, answer: bytes = b"", *, only: tuple[str, ...] = ()) -> None:
        self.profile: dict[str, object] = {"board": "Board 4", "cpu": "Cortex", "arch": "aarch64"}
        self.asked: list[tuple[str, float, int, float]] = []
        self._answer, self._only = answer, only

    def describe(self, device: str) -> tuple[Mapping[str, object], tuple[str, ...]]:
        assert device == "dev-1"
        return self.profile, ("onnx",)

    def bench(self, device: str, package: Path, *, seconds: float, threads: int, timeout_s: float) -> bytes:
        self.asked.append((device, seconds, threads, timeout_s))
        with PackageFile(package) as opened:
            verify(opened.manifest_bytes, opened.signatures, [KEY.public])
        if self._answer:
            return self._answer
        return msgspec.json.encode(bench_package(package, seconds=0.05, variants=self._only))


def candidates(folder: Path) -> list[Candidate]:
    return [
        Candidate("onnx-fp32", "onnx", "fp32", linear_model(folder / "a.onnx"), quantized=False),
        Candidate("onnx-u8", "onnx", "int8", linear_model(folder / "b.onnx", seed=1), quantized=True),
    ]


def target(fleet: Fleet) -> DeviceTarget:
    return DeviceTarget("device:dev-1", fleet, key=KEY, threads=2)


def test_figures_of_a_device(tmp_path: Path) -> None:
    fleet = HereFleet()
    device = target(fleet)
    assert (device.name, device.machine, device.engines) == ("device:dev-1", "Board 4, Cortex", ("onnx",))
    found = device.time(candidates(tmp_path), sample=SAMPLE, reference="onnx-fp32")
    device.time(candidates(tmp_path), sample=SAMPLE, reference="onnx-fp32", rough=True)
    assert (found["onnx-fp32"].ratio, found["onnx-u8"].error) == (1.0, "")
    assert found["onnx-u8"].latency_us > 0
    assert [asked[:3] for asked in fleet.asked] == [("dev-1", 2.0, 2), ("dev-1", 0.5, 2)]
    assert all(60 < timeout_s <= 3600 for *_, timeout_s in fleet.asked)
    device.close()


def test_a_device_that_says_little_of_itself() -> None:
    fleet = HereFleet()
    fleet.profile = {"arch": "armv7l", "board": None}
    assert target(fleet).machine == "armv7l"
    fleet.profile = {}
    assert target(fleet).machine == "dev-1"


@pytest.mark.parametrize("answer", [b"x", b"{}", b"\xff", b"[" * 100_000])
def test_answers_that_are_no_figures(tmp_path: Path, answer: bytes) -> None:
    with pytest.raises(RemoteError, match="expected the JSON of `edgeinfer bench`"):
        target(HereFleet(answer)).time(candidates(tmp_path), sample=SAMPLE, reference="onnx-fp32")


def test_a_reference_that_was_not_measured(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="dev-1: the float model onnx-fp32 cannot be run there"):
        target(HereFleet(only=("onnx-u8",))).time(candidates(tmp_path), sample=SAMPLE, reference="onnx-fp32")


def test_what_a_target_of_the_fleet_needs(tmp_path: Path) -> None:
    key = tmp_path / "release.key"
    KEY.save(key)
    assert open_target("device:dev-1", fleet=HereFleet(), sign_key=key).name == "device:dev-1"
    with pytest.raises(UsageError, match="release key"):
        open_target("device:dev-1", fleet=HereFleet())
    with pytest.raises(UsageError, match="console"):
        open_target("device:dev-1", sign_key=key)
    with pytest.raises(UsageError, match="no such key file"):
        open_target("device:dev-1", fleet=HereFleet(), sign_key=tmp_path / "none.key")
    with pytest.raises(UsageError, match="device:ID"):
        open_target("device:", fleet=HereFleet(), sign_key=key)
    with pytest.raises(UsageError) as caught:
        open_target("rpi99")
    assert "device:ID" in caught.value.hint
