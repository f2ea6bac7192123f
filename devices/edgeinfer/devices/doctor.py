"""What is wrong with this device, and how to mend it: checks that need nothing of edgeinfer but the profile.

    for finding in check_device(probe(), now_s=time.time()):
        ...

A check never raises and never changes anything for longer than it takes to look.
"""

import errno
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from edgeinfer.devices.profile import Profile, load_kinds

__all__ = ["Finding", "check_broker", "check_device", "check_state_dir", "check_watchdog"]

_MIN_MEMORY_BYTES = 256 << 20
_MIN_FREE_BYTES = 64 << 20
_FULL_SHARE = 0.05
# No device can rightly be earlier than the day that this was written (2026-01-01T00:00:00Z).
_EARLIEST_CLOCK_S = 1_767_225_600
_CONNECT_TIMEOUT_S = 3.0


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at. `mend` says what to do about it; it is empty where all is well."""

    check: str
    ok: bool
    detail: str
    mend: str = ""


def check_device(profile: Profile, *, now_s: float) -> list[Finding]:
    """The machine itself: memory, engines' libraries, clock, temperature."""
    return [
        _check_memory(profile),
        _check_engine_present(profile),
        _check_clock(now_s),
        *_check_temperature(profile),
    ]


def _check_memory(profile: Profile) -> Finding:
    mebibytes = profile.memory_bytes >> 20
    ok = profile.memory_bytes >= _MIN_MEMORY_BYTES
    return Finding(
        "memory",
        ok,
        f"{mebibytes} MiB, {profile.cores} core{'s' * (profile.cores != 1)}",
        "" if ok else f"expected at least {_MIN_MEMORY_BYTES >> 20} MiB: raise the limit of the control group",
    )


def _check_engine_present(profile: Profile) -> Finding:
    installed = ", ".join(profile.engines.values())
    return Finding(
        "engine installed", bool(installed), installed or "none", "" if installed else "pip install 'edgeinfer[litert]'"
    )


def _check_clock(now_s: float) -> Finding:
    ok = now_s >= _EARLIEST_CLOCK_S
    return Finding(
        "clock",
        ok,
        time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now_s)),
        "" if ok else "the clock is in the past: timedatectl set-ntp true; results keep their order all the same",
    )


def _check_temperature(profile: Profile) -> list[Finding]:
    limit_c = next((kind.throttle_c for kind in load_kinds() if kind.name == profile.kind), 0.0)
    findings = []
    for zone in profile.thermal_zones:
        throttle_c = limit_c or zone.critical_c
        if zone.temperature_c is None or not throttle_c:
            continue
        ok = zone.temperature_c < throttle_c
        mend = "" if ok else f"the device slows down from {throttle_c:.0f} C on: cool it, or lower the frame rate"
        findings.append(Finding(f"temperature {zone.name}", ok, f"{zone.temperature_c:.0f} C", mend))
    return findings


def check_state_dir(folder: Path, *, check: str = "state directory") -> list[Finding]:
    """Whether files can be written and synced in `folder`, and how much room there is."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"edgeinfer")
            file.flush()
            os.fsync(file.fileno())
        usage = shutil.disk_usage(folder)
    except OSError as error:
        return [Finding(check, False, f"{folder}: {error.strerror}", _mend_folder(folder, error))]
    free_ok = usage.free >= max(_MIN_FREE_BYTES, usage.total * _FULL_SHARE)
    return [
        Finding(check, True, f"{folder} is writable"),
        Finding(
            f"{check}: free space",
            free_ok,
            f"{usage.free >> 20} of {usage.total >> 20} MiB",
            "" if free_ok else "free space, or lower [buffer] max_bytes: a full disk evicts the oldest results",
        ),
    ]


def _mend_folder(folder: Path, error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return f"make it: systemd-tmpfiles --create, or install -d {folder}"
    if error.errno in {errno.EACCES, errno.EPERM}:
        return "run this as the service's user: sudo -u edgeinfer edgeinfer doctor --config ..."
    if error.errno == errno.ENOSPC:
        return "the disk is full: free some of it"
    return "look at the file system: dmesg, mount"


def check_broker(host: str, port: int) -> Finding:
    """Whether anything listens there. Nothing is sent."""
    where = f"{host}:{port}"
    try:
        socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError as error:
        reason = error.strerror or str(error)
        return Finding("broker", False, f"{where}: {reason}", "start the broker, or correct [broker] host and port")
    return Finding("broker", True, f"{where} accepts connections")


def check_watchdog(unit_files: Sequence[Path], environment: Mapping[str, str]) -> Finding:
    """Whether systemd restarts the daemon when it hangs: told to us, or written in an installed unit."""
    if "WATCHDOG_USEC" in environment:
        return Finding("watchdog", True, f"systemd waits {int(environment['WATCHDOG_USEC']) // 1_000_000} s")
    installed = next((path for path in unit_files if path.is_file()), None)
    if installed is None:
        return Finding("watchdog", False, "no unit edgeinfer.service", "install packaging/systemd/*.service")
    ok = "WatchdogSec=" in installed.read_text(encoding="utf-8", errors="replace")
    return Finding("watchdog", ok, str(installed), "" if ok else "add WatchdogSec=30 to [Service]")
