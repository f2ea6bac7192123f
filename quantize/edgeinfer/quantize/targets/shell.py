"""Runs a command with a deadline and a limit on what it may say: `ssh`, in the end somebody else's program."""

import os
import selectors
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from edgeinfer.runtime.errors import DependencyError, RemoteError

__all__ = ["Done", "run_limited"]

_READ_BYTES = 1 << 16
_REAP_TIMEOUT_S = 5.0
_LOOK_S = 0.2


class Done(NamedTuple):
    """How a command ended: its status (negative: the signal), and what it said."""

    status: int
    output: bytes
    errors: str

    @property
    def last_error(self) -> str:
        """The last line on standard error."""
        return (self.errors.strip().splitlines() or [""])[-1].strip()


def run_limited(command: Sequence[str], *, stdin: Path | None = None, deadline_s: float, max_bytes: int) -> Done:
    """Run it, with the file `stdin` as its standard input. Raises DependencyError where there is no such program,
    RemoteError where it is not done after `deadline_s` or says more than `max_bytes`; it is ended then."""
    with Path(os.devnull if stdin is None else stdin).open("rb") as source:
        try:
            process = subprocess.Popen(command, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
        except OSError as error:
            raise DependencyError(
                f"{command[0]}: cannot be started: {error.strerror or error}", hint="install an OpenSSH client"
            ) from error
    with process:
        try:
            output, errors = _read(process, time.monotonic() + deadline_s, max_bytes)
            status = process.wait(_REAP_TIMEOUT_S)
        except TimeoutError as error:
            raise RemoteError(
                f"no answer in {deadline_s:.0f} s", hint="does the device hang, or the network?"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise RemoteError("the connection was closed and its command has not ended") from error
        finally:
            process.kill()
    return Done(status, bytes(output), errors.decode(errors="replace"))


def _read(process: "subprocess.Popen[bytes]", deadline_s: float, max_bytes: int) -> tuple[bytearray, bytearray]:
    """What it says on both pipes until they are closed, or it has ended: what it left behind (ssh's ControlPersist) may
    hold them open. Raises TimeoutError, RemoteError."""
    output, errors = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        for pipe, received in ((process.stdout, output), (process.stderr, errors)):
            if pipe is not None:
                selector.register(pipe, selectors.EVENT_READ, received)
        while selector.get_map():
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            ended = process.poll() is not None  # asked first, so that what it said last is read
            ready = selector.select(0.0 if ended else min(left_s, _LOOK_S))
            if ended and not ready:
                break
            for key, _ in ready:
                read = os.read(key.fd, _READ_BYTES)
                if not read:
                    selector.unregister(key.fileobj)
                key.data.extend(read)
                if len(key.data) > max_bytes:
                    raise RemoteError(f"expected an answer of at most {max_bytes} bytes, found more")
    return output, errors
