"""Starts a real mosquitto for a test, on a free port, and can kill and restart it.

    with Mosquitto(folder, extra="max_inflight_messages 5") as broker:
        config = BrokerConfig(port=broker.port)
        broker.kill(); broker.start()

Without the binary the test is skipped, unless CI=true says that it has to be there.
"""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

import pytest

__all__ = ["Mosquitto", "find_mosquitto", "free_port"]

_START_S = 60.0
_CONFIG = """
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
persistence false
log_dest stderr
log_type error
log_type warning
max_queued_messages 10000
"""


# Below those that Linux gives to clients and to whoever binds port 0 (ip_local_port_range, from 32768): while a server
# is down, nobody gets its port by chance, and who connects to it is not connected to itself.
_PORTS = range(20_000, 32_000)
_HANDED_OUT: set[int] = set()


def free_port() -> int:
    """A TCP port of the loopback that is free, and that nobody else is given: a server may leave it and come back."""
    chance = random.SystemRandom()
    while True:
        port = chance.choice(_PORTS)
        if port in _HANDED_OUT:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _HANDED_OUT.add(port)
            return port


def find_mosquitto() -> str:
    """The path of the broker's binary. Skips the test where there is none; fails it when CI=true."""
    found = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        reason = "mosquitto is not installed (Debian: apt install mosquitto)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


class Mosquitto:
    """A broker process; its port stays the same over restarts. `config` replaces the whole default
    configuration (with `{port}` in it), `extra` is appended to it; `configuration` is read at each start."""

    def __init__(self, folder: Path, *, config: str = _CONFIG, extra: str = "", port: int = 0) -> None:
        self.port = port or free_port()
        self.log = folder / f"mosquitto-{self.port}.log"
        self._binary = find_mosquitto()
        self.configuration = folder / f"mosquitto-{self.port}.conf"
        # Started by root, mosquitto would become a user who may not read the test's files.
        self.configuration.write_text("user root\n" + config.replace("{port}", str(self.port)) + "\n" + extra + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        if self.is_running():
            return
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary, "-c", str(self.configuration)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Debian's mosquitto would tell a test's notify socket that it is ready.
                env={name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"},
            )
        deadline = time.monotonic() + _START_S
        while not self._accepts():
            if not self.is_running() or time.monotonic() > deadline:
                self.stop()
                raise AssertionError(f"mosquitto did not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL)."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Let it hang: connections stay open, nothing is answered (SIGSTOP)."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(60.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(60.0)

    def _accepts(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1.0).close()
        except OSError:
            return False
        return True
