"""A Debian of its own with a real systemd as its first process, in a container (systemd-nspawn).

    root = debian(folder / "root")
    with Machine(root) as machine:
        machine.run("systemctl", "start", "edgeinfer")
        machine.cut_power()

It has a network of its own, of which only the loopback is there: no port is anybody else's.
"""

import os
import shutil
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from waiting import wait_until

__all__ = ["Machine", "debian"]

_PACKAGES = "systemd,systemd-sysv,dbus,python3,mosquitto"
# A mirror that is far away, and a machine under load.
_MAKE_S, _BOOT_S, _COMMAND_S = 900.0, 120.0, 300.0


def debian(root: Path) -> Path:
    """A minimal Debian 12 below `root`. Skips the test where none can be made."""
    for program in ("mmdebstrap", "systemd-nspawn", "nsenter"):
        if shutil.which(program) is None:
            reason = f"{program} is not installed (Debian: apt install mmdebstrap systemd-container util-linux)"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
    if os.geteuid() != 0:
        pytest.skip("a container with a systemd of its own needs root")
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", str(root)]
    made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_MAKE_S)
    if made.returncode:
        pytest.skip(f"no Debian could be made here: {made.stderr.strip()[-500:]}")
    return root


class Machine:
    """Booted while its `with` block runs. Skips the test where nspawn may not start here."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._log = root.with_name(f"{root.name}.log")

    def __enter__(self) -> Self:
        self.boot()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cut_power()

    def boot(self) -> None:
        command = ["systemd-nspawn", "--quiet", "-D", str(self.root), "--register=no", "--keep-unit"]
        with self._log.open("ab") as log:
            self._supervisor = subprocess.Popen(
                [*command, "--private-network", "--console=pipe", "--boot"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._init = 0
        try:
            wait_until(self._has_booted, timeout_s=_BOOT_S, what="the machine to boot")
        except BaseException:
            self.cut_power()
            raise
        if self._supervisor.poll() is not None:
            pytest.skip(f"systemd-nspawn does not start here: {self._log.read_text(errors='replace')[-500:]}")

    def cut_power(self) -> None:
        """Every process of the machine is gone at once, without a word; what it wrote is still there."""
        if self._init:
            os.kill(self._init, signal.SIGKILL)
        self._supervisor.kill()
        self._supervisor.wait(timeout=_BOOT_S)

    def attempt(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command inside, as root."""
        enter = ["nsenter", "-t", str(self._init), "--mount", "--uts", "--ipc", "--net", "--pid", "--"]
        return subprocess.run(
            [*enter, *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=_COMMAND_S,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
        )

    def run(self, *command: str) -> str:
        """What it prints; fails the test where its status is not 0."""
        done = self.attempt(*command)
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def show(self, unit: str, name: str) -> str:
        """A property of a unit, as systemd says it."""
        return self.run("systemctl", "show", "--property", name, "--value", unit).strip()

    def _has_booted(self) -> bool:
        if self._supervisor.poll() is not None:
            return True
        # Its first child is gone when the machine's own first process starts.
        children = Path(f"/proc/{self._supervisor.pid}/task/{self._supervisor.pid}/children").read_text().split()
        if not children:
            return False
        self._init = int(children[0])
        asked = self.attempt("systemctl", "is-active", "multi-user.target")
        return asked.stdout.strip() == "active"
