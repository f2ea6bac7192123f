"""A whole installation for a test: daemon, agent, console and a real broker, each a process that may be killed.

with Installation(tmp_path) as loop:
    loop.daemon.kill(); loop.daemon.start()
"""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from brokers import Mosquitto, free_port
from consoles import RunningConsole
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.chunk import TOMBSTONE
from edgeinfer.runtime.codec import decode
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.handoff import RuntimeDb, SyncDb, UpdateRow, is_made
from edgeinfer.runtime.results import Result
from edgeinfer.runtime.trust import SigningKey
from packages import linear_model, make_package
from waiting import ENDS_WITHIN_S

__all__ = ["DEVICE", "Installation", "Service", "free_of_tracebacks"]

DEVICE = "dev-1"
FEATURES = 8


class Service:
    """One `edgeinfer` process. `kill` is a power cut for it."""

    def __init__(self, folder: Path, name: str, *arguments: str) -> None:
        self.log = folder / f"{name}.log"
        self._command = [sys.executable, "-m", "edgeinfer", *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self.is_running():
            return
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def terminate(self) -> int:
        """SIGTERM; the exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(how)
        try:
            return process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


class Installation:
    """One device with one pipeline, `door`: random sensor rows through a linear model, a window each
    `interval_s`, for as long as the test runs."""

    def __init__(self, folder: Path, *, interval_s: float = 0.002, trial_s: float = 0.5) -> None:
        self.folder = folder
        self.broker = Mosquitto(folder)
        self.release_key = SigningKey.generate()
        self.console_key = SigningKey.load_or_create(folder / "console" / "keys" / "console.key")
        self.digest = self.make_package("1.0.0", seed=1)
        self._write_configs(interval_s, trial_s, web_port=free_port())
        self.console = RunningConsole(folder / "console.toml")
        self.daemon = Service(folder, "daemon", "run", "--config", str(folder / "edgeinfer.toml"))
        self.agent = Service(folder, "agent", "sync", "--config", str(folder / "sync.toml"))

    def __enter__(self) -> Self:
        try:
            self.broker.start()
            self.console.start()
            self.daemon.start()
            self.agent.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._end()

    def _end(self) -> None:
        self.agent.kill()
        self.daemon.kill()
        self.console.kill()
        self.broker.stop()

    def package(self, version: str) -> Path:
        return self.folder / f"m-{version}.edgepkg"

    def make_package(self, version: str, *, seed: int, golden_offset: float = 0.0, signed: bool = True) -> str:
        model = linear_model(self.folder / f"m-{seed}.onnx", features=FEATURES, seed=seed)
        return make_package(
            self.package(version),
            model,
            name="m",
            version=version,
            golden=3,
            golden_offset=golden_offset,
            key=self.release_key if signed else None,
        )

    def durable(self) -> int:
        """The highest durable number; 0 while there is none."""
        try:
            with BufferReader(self.folder / "device" / "buffer.db") as buffer:
                return buffer.durable_seq()
        except BufferStorageError:
            return 0

    def acknowledged(self) -> int:
        try:
            with BufferReader(self.folder / "device" / "buffer.db") as buffer:
                epoch = buffer.epoch
            with SyncDb(self.folder / "agent" / "sync.db", read_only=True) as sync:
                return sync.acknowledged(epoch)
        except BufferStorageError:
            return 0

    def buffered(self) -> list[tuple[int, str, Result]]:
        """Every result that the device's buffer holds: number, pipeline, result."""
        found: list[tuple[int, str, Result]] = []
        with BufferReader(self.folder / "device" / "buffer.db") as buffer:
            for chunk in buffer.chunks(0, limit=1_000_000):
                assert chunk.codec != TOMBSTONE
                results = decode(chunk.codec, chunk.body, n=chunk.n)
                found += [(chunk.first_seq + i, chunk.pipeline, result) for i, result in enumerate(results)]
        return found

    def frames(self) -> dict[str, int]:
        """Frames of the pipeline by state, as the device's buffer counts them."""
        with BufferReader(self.folder / "device" / "buffer.db") as buffer:
            return buffer.frames()["door"]

    def update_row(self) -> UpdateRow:
        """The daemon's row; an idle one while the daemon has not made its database yet."""
        if not is_made(self.folder / "device" / "runtime.db"):
            return UpdateRow()
        with RuntimeDb(self.folder / "device" / "runtime.db", read_only=True) as db:
            return db.update()

    def online(self) -> bool:
        devices: list[dict[str, Any]] = self.console.get("/api/devices")["devices"]
        return any(device["online"] for device in devices)

    def _write_configs(self, interval_s: float, trial_s: float, *, web_port: int) -> None:
        rows = "\n".join(
            ",".join(f"{((i * 31 + c * 17) % 101) / 101:.3f}" for c in range(FEATURES)) for i in range(200_000)
        )
        header = ",".join(f"c{c}" for c in range(FEATURES))
        (self.folder / "series.csv").write_text(f"{header}\n{rows}\n")
        broker = f'[broker]\nhost = "127.0.0.1"\nport = {self.broker.port}\n'
        (self.folder / "edgeinfer.toml").write_text(
            f'device = "{DEVICE}"\nstate_dir = "{self.folder}/device"\ntrial_s = {trial_s}\n'
            "[buffer]\nflush_interval_s = 0.05\n"
            f'[trust]\nrelease_keys = ["{self.release_key.public.hex()}"]\n'
            f'console_keys = ["{self.console_key.public.hex()}"]\n'
            f'[sync]\nstate_dir = "{self.folder}/agent"\n'
            f'[[pipeline]]\nname = "door"\npackage = "{self.package("1.0.0")}"\n'
            f'[pipeline.source]\nkind = "csv"\npath = "{self.folder}/series.csv"\nwindow = 1\n'
            f"interval_s = {interval_s}\n"
        )
        (self.folder / "sync.toml").write_text(
            f'device = "{DEVICE}"\nstate_dir = "{self.folder}/agent"\nruntime_dir = "{self.folder}/device"\n{broker}'
        )
        (self.folder / "console.toml").write_text(
            f'data_dir = "{self.folder}/console"\n{broker}[web]\nport = {web_port}\n'
        )


def free_of_tracebacks(folder: Path) -> bool:
    """Whether no service has left a traceback in its log."""
    return not any("Traceback" in log.read_text(errors="replace") for log in folder.glob("*.log"))
