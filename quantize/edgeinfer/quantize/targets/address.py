"""`ssh://[user@]host[:port][/path/to/edgeinfer]`, and the command that reaches it.

The client is `ssh`, with the user's own configuration and keys. The environment variable EDGEINFER_SSH names another
command line for it, as GIT_SSH_COMMAND does for git: `EDGEINFER_SSH="ssh -F lab.conf -i lab.key"`.
"""

import os
import re
import shlex
from dataclasses import dataclass
from urllib.parse import urlsplit

from edgeinfer.runtime.errors import UsageError

__all__ = ["SSH_VARIABLE", "Address", "parse_address"]

SSH_VARIABLE = "EDGEINFER_SSH"
_FORM = "ssh://[user@]host[:port][/path/to/edgeinfer]"
# What ssh takes for an option, and what a shell would see, never gets that far. An IPv6 address may name its interface.
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}|[0-9A-Fa-f:.]{2,45}(%[A-Za-z0-9._-]{1,32})?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]{0,63}")
_CONNECT_TIMEOUT_S = 15
# A link that is dead for a minute is noticed.
_ALIVE = ("ServerAliveInterval=15", "ServerAliveCountMax=4")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a device is reached; `program` is its edgeinfer."""

    host: str
    user: str = ""
    port: int | None = None
    program: str = "edgeinfer"

    def __str__(self) -> str:
        return f"{self.user}@{self.host}" if self.user else self.host

    def command(self, script: str) -> list[str]:
        """Runs `script` there, by sh, whatever the login shell is. It asks for nothing: a key must do."""
        client = shlex.split(os.environ.get(SSH_VARIABLE, "")) or ["ssh"]
        options = ["-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT_TIMEOUT_S}"]
        for option in _ALIVE:
            options += ["-o", option]
        if self.port is not None:
            options += ["-p", str(self.port)]
        if self.user:
            options += ["-l", self.user]
        return [*client, *options, "--", self.host, f"sh -c {shlex.quote(script)}"]


def parse_address(spec: str) -> Address:
    """Raises UsageError for anything but the form above."""
    try:
        url = urlsplit(spec)
        port = url.port
        user, path = url.username or "", url.path
    except ValueError as error:
        raise UsageError(f"expected a target as {_FORM}, found {spec!r}: {error}") from error
    host = _host(url.netloc)
    if url.password is not None:
        raise UsageError("a target names no password", hint="ssh-copy-id puts a key on the device")
    if url.scheme != "ssh" or url.query or url.fragment or not _HOST.fullmatch(host):
        raise UsageError(f"expected a target as {_FORM}, found {spec!r}")
    if (user or "@" in url.netloc) and not _USER.fullmatch(user):
        raise UsageError(f"expected a target as {_FORM}, found the user {user!r}")
    if path not in {"", "/"} and not path.isprintable():
        raise UsageError(f"expected a target as {_FORM}, found the path {path!r}")
    return Address(host, user, port, path if path not in {"", "/"} else "edgeinfer")


def _host(netloc: str) -> str:
    """As it was written: a name of the user's ssh configuration may have capitals."""
    host = netloc.rpartition("@")[2]
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
