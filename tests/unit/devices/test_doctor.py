"""The doctor finds what is wrong, and says how to mend it."""

import socket
from pathlib import Path

import msgspec
import pytest

from edgeinfer.devices.doctor import Finding, check_broker, check_device, check_state_dir, check_watchdog
from edgeinfer.devices.probe import probe
from edgeinfer.devices.profile import Profile, ThermalZone

NOW_S = 1_800_000_000.0


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    found = probe(tmp_path, machine="aarch64")
    return msgspec.structs.replace(found, memory_bytes=1 << 30, kind="rpi4", engines={"litert": "ai-edge-litert 2"})


def bad(findings: list[Finding]) -> dict[str, Finding]:
    assert all(bool(finding.mend) != finding.ok for finding in findings), "every bad finding says how to mend it"
    return {finding.check: finding for finding in findings if not finding.ok}


def test_a_sound_device(profile: Profile) -> None:
    assert bad(check_device(profile, now_s=NOW_S)) == {}


def test_a_clock_at_1970(profile: Profile) -> None:
    clock = bad(check_device(profile, now_s=12.0))["clock"]
    assert clock.detail == "1970-01-01 00:00:12 UTC"
    assert "timedatectl" in clock.mend


def test_one_core_is_one(profile: Profile) -> None:
    details = {
        count: check_device(msgspec.structs.replace(profile, cores=count), now_s=NOW_S)[0].detail for count in (1, 2)
    }
    assert details == {1: "1024 MiB, 1 core", 2: "1024 MiB, 2 cores"}


def test_little_memory_and_no_engine(profile: Profile) -> None:
    poor = msgspec.structs.replace(profile, memory_bytes=64 << 20, engines={})
    assert bad(check_device(poor, now_s=NOW_S)).keys() == {"memory", "engine installed"}


@pytest.mark.parametrize(
    ("zone", "found"),
    [
        (ThermalZone("cpu", 79.0, 110.0), set()),
        (ThermalZone("cpu", 81.0, 110.0), {"temperature cpu"}),
        (ThermalZone("cpu", None, 110.0), set()),
    ],
)
def test_heat(profile: Profile, zone: ThermalZone, found: set[str]) -> None:
    hot = msgspec.structs.replace(profile, thermal_zones=(zone,))
    assert bad(check_device(hot, now_s=NOW_S)).keys() == found


def test_state_directory(tmp_path: Path) -> None:
    assert check_state_dir(tmp_path)[0].ok
    assert list(tmp_path.iterdir()) == []
    assert "make it" in bad(check_state_dir(tmp_path / "absent"))["state directory"].mend
    (tmp_path / "file").write_text("")
    assert "state directory" in bad(check_state_dir(tmp_path / "file"))


def test_broker_that_is_there_and_one_that_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert check_broker("127.0.0.1", port).ok
    assert bad([check_broker("127.0.0.1", port)])["broker"].detail.startswith(f"127.0.0.1:{port}: ")


def test_watchdog(tmp_path: Path) -> None:
    unit = tmp_path / "edgeinfer.service"
    assert check_watchdog([unit], {"WATCHDOG_USEC": "30000000"}).ok
    assert "watchdog" in bad([check_watchdog([unit], {})])
    unit.write_text("[Service]\n")
    assert "WatchdogSec" in bad([check_watchdog([unit], {})])["watchdog"].mend
    unit.write_text("[Service]\nWatchdogSec=30\n")
    assert check_watchdog([unit], {}).ok
