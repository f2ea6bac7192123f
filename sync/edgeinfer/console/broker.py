"""A broker for a demonstration on one machine: mosquitto where it is installed, else amqtt in a process of its own.

    with EmbeddedBroker() as broker:
        print(broker.port)

Nothing is retained over a restart and nobody is asked for a password: it listens on the loopback only. Not for
use in earnest.
"""

import argparse
import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from edgeinfer.runtime.errors import BrokerError

__all__ = ["EmbeddedBroker", "main"]

_START_S = 60.0
_STOP_S = 3.0
_POLL_S = 0.02
_MOSQUITTO = """
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
persistence false
log_dest stderr
log_type error
"""


class EmbeddedBroker:
    """A broker on 127.0.0.1; its files lie in `folder`, a temporary one where none is given.

    Its `port` stays the same over `stop()` or `kill()` and `start()`. `kind` is `mosquitto` or `amqtt`; empty
    chooses. amqtt speaks MQTT 3.1.1 only: see `protocol`.
    """

    def __init__(self, folder: Path | None = None, *, port: int = 0, kind: str = "") -> None:
        self._mosquitto = _find_mosquitto()
        self.kind = kind or ("mosquitto" if self._mosquitto else "amqtt")
        self.port = port or _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = folder
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def protocol(self) -> int:
        """What to set as `broker.protocol` of those who connect."""
        return 5 if self.kind == "mosquitto" else 4

    @property
    def pid(self) -> int | None:
        return self._process.pid if self.running and self._process is not None else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and wait until it accepts connections. Raises BrokerError when it does not."""
        if self.running:
            return
        # A session of its own: Ctrl-C in the terminal is for whoever owns the broker.
        self._process = subprocess.Popen(
            self._command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + _START_S
        while not _accepts(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise BrokerError(f"the embedded broker ({self.kind}) did not start on port {self.port}")
            time.sleep(_POLL_S)

    def stop(self) -> None:
        self._end(signal.SIGTERM)
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_STOP_S)
        self._process = None

    def _command(self) -> list[str]:
        if self.kind != "mosquitto":
            return [sys.executable, "-m", "edgeinfer.console.broker", "--port", str(self.port)]
        if self._mosquitto is None:
            raise BrokerError("mosquitto is not installed", hint="Debian: apt install mosquitto")
        folder = self._folder
        if folder is None:
            self._temporary = self._temporary or tempfile.TemporaryDirectory(prefix="edgeinfer-broker-")
            folder = Path(self._temporary.name)
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "mosquitto.conf"
        config.write_text(_MOSQUITTO.format(port=self.port), encoding="ascii")
        return [self._mosquitto, "-c", str(config)]


def main(argv: Sequence[str]) -> int:
    """Run amqtt in this process until SIGTERM, or until the process that started it is gone."""
    parser = argparse.ArgumentParser(prog="python -m edgeinfer.console.broker")
    parser.add_argument("--port", type=int, required=True)
    asyncio.run(_run_amqtt(parser.parse_args(argv).port))
    return 0


async def _run_amqtt(port: int) -> None:
    from amqtt.broker import Broker

    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}", "max_connections": 100}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    await broker.start()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    parent = os.getppid()
    while not stopping.is_set() and os.getppid() == parent:
        try:
            await asyncio.wait_for(stopping.wait(), 1.0)
        except TimeoutError:
            continue
    await broker.shutdown()


def _find_mosquitto() -> str | None:
    # Debian keeps it in /usr/sbin, which is not on everybody's path.
    return shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=0.5).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
