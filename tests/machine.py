"""A Debian of its own with a real systemd as its first process, in a container (systemd-nspawn).

    root = debian(folder / "root")
    with Machine(root) as machine:
        machine.run("systemctl", "start", "edgeinfer")
        machine.cut_power()

It has a network of its own, of which only the loopback is there: no port is anybody else's. It ends with the tests,
however they do.
"""

import contextlib
import itertools
import os
import select
import shutil
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import pytest

from waiting import wait_until

__all__ = ["Machine", "debian"]

_PACKAGES = "systemd,systemd-sysv,dbus,python3,mosquitto"
# A mirror that is far away, and a machine under load.
_MAKE_S, _BOOT_S, _COMMAND_S = 900.0, 600.0, 300.0
# A supervisor that finds its machine dead tidies up, and ends.
_TIDY_S = 60.0
# Ends with the tests, also where these are killed, with all that it has started: its first process ends with `unshare`,
# and a namespace of processes with its first one. A supervisor alone would leave its machine running.
_NO_LONGER_THAN_WE = ("setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
_numbers = itertools.count(1)


def debian(root: Path) -> Path:
    """A minimal Debian 12 below `root`. Skips the test where none can be made."""
    for program in ("mmdebstrap", "systemd-nspawn", "nsenter", "setpriv", "unshare"):
        if shutil.which(program) is None:
            reason = f"{program} is not installed (Debian: apt install mmdebstrap systemd-container util-linux)"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
    if os.geteuid() != 0:
        pytest.skip("a container with a systemd of its own needs root")
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", str(root)]
    with subprocess.Popen(
        [*_NO_LONGER_THAN_WE, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as making:
        try:
            _, said = making.communicate(timeout=_MAKE_S)
        except BaseException as error:
            making.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                pytest.skip(f"no Debian could be made here in {_MAKE_S:.0f} s")
            raise
    if making.returncode:
        pytest.skip(f"no Debian could be made here: {said.strip()[-500:]}")
    return root


class Machine:
    """Booted while its `with` block runs. Skips the test where nspawn may not start here."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._log = root.with_name(f"{root.name}.log")
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._init: int | None = None  # a descriptor: a number alone may be another process's by now
        self._pid = 0
        self._has_run = False

    def __enter__(self) -> Self:
        self.boot()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cut_power()

    def boot(self) -> None:
        name = f"edgeinfer-{os.getpid()}-{next(_numbers)}"
        command = ["systemd-nspawn", "--quiet", "-D", str(self.root), "-M", name, "--register=no", "--keep-unit"]
        with self._log.open("ab") as log:
            self._supervisor = subprocess.Popen(
                [*_NO_LONGER_THAN_WE, *command, "--private-network", "--console=pipe", "--boot"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            wait_until(self._has_booted, timeout_s=_BOOT_S, what="the machine to boot")
        except AssertionError as error:
            self._give_up(f"no machine boots here: {error}: {self._said()}")
        except BaseException:
            self.cut_power()
            raise
        if self._supervisor.poll() is not None:
            self._give_up(f"systemd-nspawn does not start here: {self._said()}")
        self._has_run = True

    def cut_power(self) -> None:
        """Every process of the machine is gone at once, without a word; what it wrote is still there. Nothing to do
        where it does not run."""
        supervisor, init = self._supervisor, self._init
        self._supervisor = self._init = None
        if supervisor is None:
            return
        try:
            if init is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(init, signal.SIGKILL)
                # Its first process is the last to go: readable then.
                select.select([init], [], [], _TIDY_S)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    supervisor.wait(_TIDY_S)
        finally:
            if init is not None:
                os.close(init)
            supervisor.kill()
            supervisor.wait(_TIDY_S)

    def attempt(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command inside, as root."""
        init = self._init
        assert init is not None, "the machine does not run"
        assert not select.select([init], [], [], 0)[0], f"the machine has ended: {self._said()}"
        enter = ["nsenter", "-t", str(self._pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--"]
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
        if self._supervisor is None or self._supervisor.poll() is not None:
            return True
        if self._init is None:
            self._find_init(self._supervisor.pid)
        if self._init is None:
            return False
        asked = self.attempt("systemctl", "is-active", "multi-user.target")
        return asked.stdout.strip() == "active"

    def _find_init(self, process: int) -> None:
        """The first process of the machine, below `process`: in the namespace of the supervisor it has another number,
        and in the one of the tests a third (NSpid of proc(5)). One that is not in the machine's comes before it."""
        with contextlib.suppress(OSError):  # gone meanwhile
            for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
                status = Path(f"/proc/{child}/status").read_text().splitlines()
                (numbers,) = (line.split()[1:] for line in status if line.startswith("NSpid:"))
                if len(numbers) == 3 and numbers[-1] == "1":
                    self._init, self._pid = os.pidfd_open(int(child)), int(child)
                else:
                    self._find_init(int(child))

    def _give_up(self, why: str) -> NoReturn:
        """What has never run here is not held against what is tested; what has, is."""
        self.cut_power()
        if self._has_run:
            pytest.fail(why)
        pytest.skip(why)

    def _said(self) -> str:
        return self._log.read_text(errors="replace")[-500:]
