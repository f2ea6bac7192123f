"""systemd's notify protocol (sd_notify(3)): a datagram to the socket in $NOTIFY_SOCKET. No library needed."""

import os
import socket
import time

__all__ = ["notify", "reloading", "watchdog_interval_s"]


def notify(state: str) -> bool:
    """Send `state` (for instance "READY=1") to the service manager. False where there is none to hear it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):  # the abstract namespace
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect(address)
            sock.sendall(state.encode())
    except OSError:
        return False
    return True


def reloading() -> bool:
    """Tell that a reload began; the manager waits for READY=1 (Type=notify-reload wants the time too)."""
    return notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_interval_s() -> float | None:
    """How often to send WATCHDOG=1: half of what the manager allows. None where it does not watch us."""
    try:
        microseconds = int(os.environ.get("WATCHDOG_USEC", ""))
        watched = int(os.environ.get("WATCHDOG_PID", str(os.getpid()))) == os.getpid()
    except ValueError:
        return None
    return microseconds / 2e6 if watched and microseconds > 0 else None
