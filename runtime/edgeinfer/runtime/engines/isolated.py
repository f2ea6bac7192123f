"""An engine in a process of its own: it can be ended at any moment, and what crashes there crashes nothing here."""

import os
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.engines.exchange import MAX_MESSAGE_BYTES, Answer, Hello, Region
from edgeinfer.runtime.errors import DependencyError, ModelError

__all__ = ["IsolatedEngine"]

_START_TIMEOUT_S = 60.0
_REAP_TIMEOUT_S = 2.0


class IsolatedEngine:
    """One child process, from construction to `close` or to its death: it is not started again.

    Raises as `load_engine` does. `run` raises ModelError where the process is gone; `alive` tells, and reaps it.
    """

    def __init__(self, name: str, path: Path, *, threads: int = 1, spin: bool = False) -> None:
        self.name = name
        self._path = path
        self._inputs, self._outputs = Region(), Region()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Answer)
        self._start(threads=threads, spin=spin)
        try:
            hello = self._await_hello()
        except BaseException:
            self.close()
            raise
        self.version, self.inputs, self.outputs = hello.version, hello.inputs, hello.outputs

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        try:
            self._socket.send(self._encoder.encode(self._inputs.put(inputs)))
            packet = self._socket.recv(MAX_MESSAGE_BYTES)
        except OSError as error:
            raise ModelError(self.obituary()) from error
        if not packet:
            raise ModelError(self.obituary())
        try:
            answer = self._decoder.decode(packet)
        except msgspec.DecodeError as error:
            raise ModelError(f"{self._path.name}: the engine's process gave no answer that can be read") from error
        if answer.error:
            raise ModelError(answer.error)
        return [view.copy() for view in self._outputs.get(answer.outputs)]

    def interrupt(self) -> bool:
        """End the process. A call that waits for it comes back at once."""
        self._process.kill()
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:  # closed, or not connected any more
            return True
        return True

    def close(self) -> None:
        self._end()
        self._inputs.close()
        self._outputs.close()

    def obituary(self) -> str:
        """How the process ended, as a sentence. Waits a moment for its end."""
        try:
            status = self._process.wait(_REAP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return f"{self._path.name}: the engine's process does not answer"
        how = f"by {_signal_name(-status)}" if status < 0 else f"with status {status}"
        return f"{self._path.name}: the engine's process has ended {how}"

    def _start(self, *, threads: int, spin: bool) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        lifeline, held = os.pipe()
        inherited = (theirs.fileno(), lifeline, self._inputs.descriptor, self._outputs.descriptor)
        command = [sys.executable, "-m", "edgeinfer.runtime.engines.worker", *map(str, inherited)]
        command += [self.name, str(self._path), str(threads), str(int(spin))]
        try:
            # What libraries print goes to the log: the daemon's standard output is its own.
            self._process = subprocess.Popen(
                command, pass_fds=inherited, stdin=subprocess.DEVNULL, stdout=2, start_new_session=True
            )
        except OSError as error:
            os.close(held)
            self._socket.close()
            raise ModelError(f"{self._path.name}: no process can be started for it: {error.strerror}") from error
        finally:
            theirs.close()
            os.close(lifeline)
        self._end = weakref.finalize(self, _end_process, self._process, self._socket, held)

    def _await_hello(self) -> Hello:
        self._socket.settimeout(_START_TIMEOUT_S)
        try:
            packet = self._socket.recv(MAX_MESSAGE_BYTES)
        except TimeoutError as error:
            raise ModelError(f"{self._path}: was not loaded within {_START_TIMEOUT_S:.0f} s") from error
        except OSError as error:
            raise ModelError(self.obituary()) from error
        if not packet:
            raise ModelError(self.obituary())
        self._socket.settimeout(None)
        hello = msgspec.msgpack.decode(packet, type=Hello)
        if hello.is_missing:
            raise DependencyError(hello.error)
        if hello.error:
            raise ModelError(hello.error)
        return hello


def _end_process(process: "subprocess.Popen[bytes]", connection: socket.socket, lifeline: int) -> None:
    os.close(lifeline)
    connection.close()
    process.kill()
    try:
        process.wait(_REAP_TIMEOUT_S)
    except subprocess.TimeoutExpired:  # in the kernel's hands; subprocess reaps it later
        return


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
