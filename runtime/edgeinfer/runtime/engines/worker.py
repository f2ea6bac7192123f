"""The process of an isolated engine.

    python -m edgeinfer.runtime.engines.worker SOCKET LIFELINE INPUTS OUTPUTS ENGINE FILE THREADS SPIN

The first four are inherited file descriptors. It says hello, answers calls until its parent closes the socket, and
dies with its parent whatever it is doing.
"""

import contextlib
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edgeinfer.runtime.engines.base import Engine, load_engine
from edgeinfer.runtime.engines.exchange import MAX_MESSAGE_BYTES, Answer, Hello, Placed, Region
from edgeinfer.runtime.errors import DependencyError, EdgeInferError

__all__ = ["die_with_parent", "leave_signals_to_parent", "main"]

# Of the two, the kernel's memory killer shall take this one: proc_pid_oom_score_adj(5).
_OOM_SCORE = "500"


def main(argv: Sequence[str]) -> int:
    """Serve until the parent ends the connection."""
    socket_fd, lifeline, inputs_fd, outputs_fd, name, file, threads, spin = argv
    die_with_parent(int(lifeline))
    leave_signals_to_parent()
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE, encoding="ascii")
    with socket.socket(fileno=int(socket_fd)) as connection:
        try:
            engine = load_engine(name, Path(file), threads=int(threads), spin=spin == "1")
        except EdgeInferError as error:
            is_missing = isinstance(error, DependencyError)
            connection.send(msgspec.msgpack.encode(Hello(error=str(error), is_missing=is_missing)))
            return error.exit_code
        connection.send(msgspec.msgpack.encode(Hello(engine.version, engine.inputs, engine.outputs)))
        _serve(connection, engine, Region(int(inputs_fd)), Region(int(outputs_fd)))
    return 0


def _serve(connection: socket.socket, engine: Engine, inputs: Region, outputs: Region) -> None:
    decoder = msgspec.msgpack.Decoder(tuple[Placed, ...])
    encoder = msgspec.msgpack.Encoder()
    while question := connection.recv(MAX_MESSAGE_BYTES):
        try:
            answer = Answer(outputs.put(engine.run(inputs.get(decoder.decode(question)))))
        except EdgeInferError as error:
            answer = Answer(error=error.message)
        connection.send(encoder.encode(answer))


def die_with_parent(lifeline: int) -> None:
    """The parent holds the other end of this pipe and never writes. When it ends, however it does, the kernel sends
    SIGIO, whose default is death: also in the middle of a call, whatever that holds. (PR_SET_PDEATHSIG would come
    when the parent's *thread* ends.)"""
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        os.read(lifeline, 1)  # the end of it: the parent ended before this was set up
        sys.exit(1)


def leave_signals_to_parent() -> None:
    """A Ctrl-C, and the SIGTERM that a service manager sends to all processes of a service, are the parent's to
    obey: it still wants to end its last frames."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
