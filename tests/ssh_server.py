"""A real sshd for a test: on a port of its own, as this user, with keys that live as long as the test.

with SshServer(tmp_path) as server:
    monkeypatch.setenv("EDGEINFER_SSH", server.client)
    SshTarget(f"ssh://127.0.0.1:{server.port}")
"""

import getpass
import os
import shlex
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Self

import pytest

from brokers import free_port
from waiting import wait_until

__all__ = ["SshServer"]


class SshServer:
    """`client` is the ssh command that it lets in, `stranger` one with another key; `temporary` is where programs over
    there have their temporary files. The test is skipped where OpenSSH is not installed."""

    def __init__(self, folder: Path) -> None:
        path = f"{os.environ.get('PATH', '')}:/usr/sbin"
        sshd, keygen = shutil.which("sshd", path=path), shutil.which("ssh-keygen")
        if sshd is None or keygen is None or shutil.which("ssh") is None:
            pytest.skip("no OpenSSH: apt-get install openssh-server openssh-client")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where sshd confines itself; a service manager makes it
        self.port, self._folder, self._sshd = free_port(), folder, sshd
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        for name in ("host", "client", "stranger"):
            subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        (folder / "authorized_keys").write_bytes((folder / "client.pub").read_bytes())
        host_key = (folder / "host.pub").read_text().rsplit(" ", 1)[0]
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {host_key}\n")
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized_keys\n"
            f"StrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile none\nAllowUsers {getpass.getuser()}\n"
            f"PermitRootLogin yes\nSetEnv TMPDIR={self.temporary}\n"
        )
        self.client, self.stranger = self._client("client"), self._client("stranger")

    def _client(self, key: str) -> str:
        (self._folder / f"{key}.conf").write_text(
            f"Host *\nIdentityFile {self._folder}/{key}\nIdentitiesOnly yes\n"
            f"UserKnownHostsFile {self._folder}/known_hosts\nGlobalKnownHostsFile /dev/null\n"
        )
        return shlex.join(["ssh", "-F", str(self._folder / f"{key}.conf")])

    def __enter__(self) -> Self:
        with (self._folder / "sshd.log").open("wb") as log:
            command = [self._sshd, "-D", "-e", "-f", str(self._folder / "sshd_config")]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self._is_up, what="sshd")
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.terminate()
        self._process.wait(60)

    def _is_up(self) -> bool:
        assert self._process.poll() is None, (self._folder / "sshd.log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
