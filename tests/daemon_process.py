"""Runs `edgeinfer run` as a process of its own, the way a service manager does.

with Daemon(folder, config_text) as daemon:
    daemon.wait_for("event=started")
    daemon.terminate()
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self

import msgspec

from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.codec import decode
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.handoff import RuntimeDb
from edgeinfer.runtime.results import Result
from waiting import ENDS_WITHIN_S, wait_until

__all__ = ["Daemon", "configuration", "results_of", "run_until_end"]


def configuration(folder: Path, *pipelines: str, extra: str = "") -> Path:
    """Write `edgeinfer.toml`; each pipeline is the text below its `[[pipeline]]`."""
    path = folder / "edgeinfer.toml"
    text = f'device = "dev-1"\nstate_dir = "{folder}/state"\n{extra}\n'
    path.write_text(text + "".join(f"[[pipeline]]\n{pipeline}\n" for pipeline in pipelines))
    return path


def run_until_end(
    config: Path, *arguments: str, stdin: bytes = b"", timeout_s: float = 900
) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "edgeinfer", "run", "--config", str(config), "--until-end", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=timeout_s)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


def results_of(folder: Path, pipeline: str) -> list[Result]:
    """What the buffer in `folder` holds of a pipeline, in order."""
    with BufferReader(folder / "state" / "buffer.db") as reader:
        chunks = [chunk for chunk in reader.chunks(0, limit=1_000_000) if chunk.pipeline == pipeline]
    return [row for chunk in chunks for row in decode(chunk.codec, chunk.body, n=chunk.n)]


class Daemon:
    """A running daemon with a notify socket that is listened to. Killed on exit if it still runs."""

    def __init__(
        self,
        folder: Path,
        config: Path,
        *,
        watchdog_s: float = 0.0,
        stdin: int = subprocess.DEVNULL,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.messages: list[str] = []
        self.log: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = folder / "notify"
        address.unlink(missing_ok=True)
        self._socket.bind(str(address))
        variables = {**os.environ, "NOTIFY_SOCKET": str(address), **(environment or {})}
        if watchdog_s:
            variables["WATCHDOG_USEC"] = str(int(watchdog_s * 1e6))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edgeinfer", "run", "--config", str(config)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=variables,
        )
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._hear, self._read)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._threads[1].join()
        for stream in (self.process.stdout, self.process.stderr, self.process.stdin):
            if stream is not None:
                stream.close()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._socket.close()

    def _hear(self) -> None:
        while message := self._socket.recv(4096):
            self.messages.append(message.decode())

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line.rstrip())

    def wait_for(self, text: str, *, times: int = 1, timeout_s: float = 120.0) -> None:
        """Until `text` stands in that many lines of the log."""
        wait_until(
            lambda: sum(text in line for line in self.log) >= times or self.process.poll() is not None,
            timeout_s=timeout_s,
            what=f"{text!r} in the log",
        )
        assert sum(text in line for line in self.log) >= times, "\n".join(self.log)

    def status(self) -> dict[str, Any]:
        """The status document; empty before the first one."""
        try:
            with RuntimeDb(self.folder / "state" / "runtime.db", read_only=True) as db:
                document: dict[str, Any] = msgspec.json.decode(db.status())
        except BufferStorageError:  # just being made
            return {}
        return document

    def durable_seq(self) -> int:
        """What the status says; 0 before the first one."""
        return int(self.status().get("buffer", {}).get("durable_seq", 0))

    def pipeline(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.status().get("pipelines", {}).get(name, {})
        return found

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Signal it, and wait. Raises subprocess.TimeoutExpired where it does not end in time."""
        self.send(number)
        self.process.wait(ENDS_WITHIN_S)
