"""Everything that the demo needs to exist: keys, packages, configuration files, processes."""

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import msgspec

from edgeinfer.console.broker import EmbeddedBroker
from edgeinfer.quantize import example_files
from edgeinfer.quantize.commands import quantize_model
from edgeinfer.quantize.progress import Progress
from edgeinfer.runtime.errors import EdgeInferError
from edgeinfer.runtime.trust import SigningKey

__all__ = ["CAMERA", "DEVICE", "Stage", "wait_for"]

DEVICE = "demo-device"
CAMERA = "/dev/video0"
_PREFERRED_PORT = 8080
_POLL_S = 0.05
# A small board with a slow card is no failure.
_PATIENCE_S = 180.0


class Stage:
    """Made in an empty folder; `close` ends every process that it started, whatever became of it."""

    def __init__(self, folder: Path, *, camera: bool) -> None:
        self.folder = folder
        self.runtime_dir = folder / "device"
        self.sync_dir = folder / "agent"
        self.console_dir = folder / "console"
        self.page_port = _free_port(preferred=_PREFERRED_PORT)
        self.page = f"http://127.0.0.1:{self.page_port}/"
        self.broker = EmbeddedBroker(folder / "broker")
        self.release_key_path = folder / "release.key"
        self._camera = camera
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: list[IO[bytes]] = []
        self.release_key = SigningKey.load_or_create(self.release_key_path)
        self.console_key = SigningKey.load_or_create(self.console_dir / "keys" / "console.key")

    def quantize_digits(self, version: str, progress: Progress) -> dict[str, object]:
        """The vision package of `version`, signed; returns the search's document."""
        files = example_files()
        return quantize_model(
            [files / f"digits-{version.removesuffix('.0')}.onnx"],
            data=files / "digits-samples.npz",
            task="classification",
            name="digits",
            version=version,
            output=self.package("digits", version),
            max_drop=2.0,
            preprocess="kind=image,width=32,height=32,color=gray,layout=nchw",
            labels=files / "digits-labels.txt",
            sign_key=self.release_key_path,
            progress=progress,
        )

    def quantize_vitals(self, progress: Progress) -> dict[str, object]:
        """The anomaly package for the vitals of this machine."""
        files = example_files()
        return quantize_model(
            [files / "vitals-1.0.onnx"],
            data=files / "vitals-samples.npz",
            task="anomaly",
            name="vitals",
            version="1.0.0",
            output=self.package("vitals", "1.0.0"),
            max_drop=2.0,
            preprocess=str(files / "vitals-preprocess.toml"),
            sign_key=self.release_key_path,
            progress=progress,
        )

    def package(self, name: str, version: str) -> Path:
        return self.folder / f"{name}-{version}.edgepkg"

    def start(self) -> None:
        """Broker, console, agent and daemon, each a process of its own."""
        self.broker.start()
        self._write_configs()
        self._spawn("console", ["console", "--config", str(self.folder / "console.toml")])
        self._spawn("agent", ["sync", "--config", str(self.folder / "sync.toml")])
        self._spawn("daemon", ["run", "--config", str(self.folder / "edgeinfer.toml")])

    def check_alive(self) -> None:
        """Raises EdgeInferError with the end of its log where a process has died."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise EdgeInferError(f"the {name} ended with status {process.returncode}:\n{self._end_of_log(name)}")

    def stop_daemon(self) -> None:
        """As `systemctl stop` would: SIGTERM, everything durable, gone."""
        self._end("daemon")

    def close(self) -> None:
        for name in list(self._processes):
            self._end(name)
        self.broker.stop()
        for log in self._logs:
            log.close()

    def get(self, path: str) -> object:
        """A JSON document of the console's REST API. Raises OSError while it does not answer."""
        with urllib.request.urlopen(self.page + path.lstrip("/"), timeout=30) as answer:  # noqa: S310 - our own loopback
            return msgspec.json.decode(answer.read())

    def _spawn(self, name: str, arguments: Sequence[str]) -> None:
        log = (self.folder / f"{name}.log").open("wb")
        self._logs.append(log)
        self._processes[name] = subprocess.Popen(
            _dying_with_parent([sys.executable, "-m", "edgeinfer", *arguments]),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Ctrl-C is for the demo: it ends the others itself, in order.
            start_new_session=True,
        )

    def _end(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _end_of_log(self, name: str) -> str:
        text = (self.folder / f"{name}.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-8:])

    def _write_configs(self) -> None:
        source = (
            f'kind = "camera"\ndevice = "{CAMERA}"'
            if self._camera
            else f'kind = "video"\npath = "{example_files() / "digits.avi"}"\npaced = true\nrepeat = true'
        )
        (self.folder / "edgeinfer.toml").write_text(
            f"""device = "{DEVICE}"
state_dir = "{self.runtime_dir}"
trial_s = 2.0

[trust]
release_keys = ["{self.release_key.public.hex()}"]
console_keys = ["{self.console_key.public.hex()}"]

[sync]
state_dir = "{self.sync_dir}"

[[pipeline]]
name = "door"
package = "{self.package("digits", "1.0.0")}"

[pipeline.source]
{source}

[[pipeline]]
name = "vitals"
package = "{self.package("vitals", "1.0.0")}"

[pipeline.source]
kind = "host"
window = 16
interval_s = 0.25
"""
        )
        (self.folder / "sync.toml").write_text(
            f"""device = "{DEVICE}"
groups = ["demo"]
state_dir = "{self.sync_dir}"
runtime_dir = "{self.runtime_dir}"
telemetry_interval_s = 1.0
report_interval_s = 1.0

[broker]
host = "127.0.0.1"
port = {self.broker.port}
protocol = {self.broker.protocol}
reconnect_max_s = 2.0
"""
        )
        (self.folder / "console.toml").write_text(
            f"""data_dir = "{self.console_dir}"

[broker]
host = "127.0.0.1"
port = {self.broker.port}
protocol = {self.broker.protocol}
reconnect_max_s = 2.0

[web]
port = {self.page_port}

[trust]
release_keys = ["{self.release_key.public.hex()}"]
"""
        )


def wait_for(what: str, done: Callable[[], bool], *, stage: Stage, timeout_s: float = _PATIENCE_S) -> None:
    """Return once `done()`; raises EdgeInferError after `timeout_s`, or when a process has died."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if done():
                return
        except OSError:
            pass  # not up yet
        stage.check_alive()
        if time.monotonic() > deadline:
            raise EdgeInferError(f"waited {timeout_s:.0f} s for {what}", hint=f"the logs are in {stage.folder}")
        time.sleep(_POLL_S)


def _free_port(*, preferred: int) -> int:
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise EdgeInferError("no free port on 127.0.0.1")


def _dying_with_parent(command: Sequence[str]) -> list[str]:
    """Have the kernel end the process with the demo, however the demo ends, where util-linux can arrange it."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--", *command] if setpriv else list(command)
