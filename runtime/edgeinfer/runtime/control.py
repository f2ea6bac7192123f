"""The control socket: how a person's command reaches the running daemon.

    server = ControlServer(state_dir, quick={"status": ...}, slow={"activate": ...})
    server.start()
    ...
    call(state_dir, {"do": "status"})

A unix stream socket in the state directory. A client sends one line of JSON and gets one line of JSON. An open file
may come with the request (SCM_RIGHTS, unix(7)): the daemon's sandbox does not see where a person keeps a package.

Whoever is in the daemon's group may look. What changes something is for root and the daemon's own user alone, as
the kernel tells who calls (SO_PEERCRED): the agent, which talks to the network, is in that group.

One thread, `control`, does all talking without ever waiting for a client; what takes long runs in one other thread,
one request at a time. Every size and every wait is bounded, and neither thread keeps the daemon from ending.
"""

import errno
import logging
import os
import selectors
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.errors import ControlError, EdgeInferError, RefusedError, UsageError

__all__ = ["SOCKET", "ControlServer", "call"]

logger = logging.getLogger(__name__)

SOCKET = "control.sock"
# sun_path of unix(7) holds 108 bytes with the zero behind them.
MAX_PATH_BYTES = 107
MAX_REQUEST_BYTES = 64 << 10
MAX_ANSWER_BYTES = 4 << 20
MAX_CLIENTS = 16
# What a client may take for its request, and again for taking the answer.
PATIENCE_S = 5.0
_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid
_BLOCK = 64 << 10
# A request comes in one piece, or a few. Connections are taken up a hundred a second: a flood of either must not
# take the interpreter from the pipelines.
_MAX_READS = 32
_ACCEPT_INTERVAL_S = 0.01
_BACKLOG = 128

Request = dict[str, Any]
Answer = dict[str, Any]
# The request, and the file that came with it (-1: none), which is closed when the handler returns.
Handler = Callable[[Request, int], Answer]


class _Client:
    """A connection: first its request comes in, then, perhaps much later, its answer goes out."""

    def __init__(self, connection: socket.socket, now_s: float) -> None:
        self.connection = connection
        self.request = bytearray()
        self.answer = memoryview(b"")
        self.file = -1
        self.working = False  # the other thread is at it
        self.reads = 0
        self.overdue_s = now_s + PATIENCE_S

    def close(self) -> None:
        self.connection.close()
        self.forget_file()

    def forget_file(self) -> None:
        if self.file >= 0:
            os.close(self.file)
            self.file = -1

    def is_trusted(self) -> bool:
        """Root, or the user that the daemon runs as."""
        raw = self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        return _PEER.unpack(raw)[1] in {0, os.geteuid()}


class ControlServer:
    """`quick` handlers answer at once, in the control thread; `slow` ones change something, in a thread of their
    own. What a handler raises becomes the answer. `start` never raises: a daemon without a control socket is one
    that says so in its log."""

    def __init__(self, state_dir: Path, *, quick: Mapping[str, Handler], slow: Mapping[str, Handler]) -> None:
        self._path = state_dir / SOCKET
        self._quick = dict(quick)
        self._slow = dict(slow)
        self._clients: dict[int, _Client] = {}
        self._stopping = False
        self._accepted_s = 0.0
        self._slow_lock = threading.Lock()
        self._done: list[tuple[_Client, bytes]] = []  # answers of the slow thread; list.append is atomic
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        try:
            listener = _listen(self._path)
        except OSError as error:
            logger.warning(
                "event=control_unavailable path=%s error=%s", self._path, error.strerror or error
            )  # the daemon's work needs none
            return
        self._listener = listener
        self._wake_out, self._wake_in = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        for one in (listener, self._wake_out, self._wake_in):
            one.setblocking(False)
        for one in (listener, self._wake_out):
            self._selector.register(one, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Does not wait for clients, nor for what runs on their behalf."""
        if self._thread is None or self._stopping:
            return
        with suppress(OSError):
            self._path.unlink()
        self._stopping = True
        self._wake()
        self._thread.join(0.2)

    def _wake(self) -> None:
        with suppress(OSError):  # full: it will wake anyway; closed: it has ended
            self._wake_in.send(b".")

    def _run(self) -> None:
        """The top of the thread: what goes wrong with one client must not end it for the others."""
        while not self._stopping:
            try:
                for key, _ in self._selector.select(self._wait_s()):
                    self._serve(key.fileobj)
                self._hand_out()
                self._drop_overdue()
            except Exception:
                logger.exception("event=control_crashed")
                time.sleep(0.1)  # whatever it is, it must not eat the processor
        for client in list(self._clients.values()):
            self._drop(client)
        self._selector.close()
        for one in (self._listener, self._wake_out, self._wake_in):
            one.close()

    def _wait_s(self) -> float | None:
        """Until the next client is overdue; for ever while there is none."""
        due = [client.overdue_s for client in self._clients.values() if not client.working]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _serve(self, ready: object) -> None:
        if ready is self._listener:
            self._accept()
        elif ready is self._wake_out:
            with suppress(OSError):
                self._wake_out.recv(_BLOCK)
        elif isinstance(ready, socket.socket) and (client := self._clients.get(ready.fileno())) is not None:
            try:
                self._read(client) if not client.answer else self._write(client)
            except (OSError, ValueError):
                self._drop(client)

    def _accept(self) -> None:
        now_s = time.monotonic()
        if now_s - self._accepted_s < _ACCEPT_INTERVAL_S:
            time.sleep(_ACCEPT_INTERVAL_S)
        self._accepted_s = now_s
        try:
            connection, _ = self._listener.accept()
        except OSError:  # gone again, or no file handle is left
            return
        connection.setblocking(False)
        if len(self._clients) >= MAX_CLIENTS:
            self._make_room()
        if len(self._clients) >= MAX_CLIENTS:
            connection.close()
            return
        self._clients[connection.fileno()] = _Client(connection, time.monotonic())
        self._selector.register(connection, selectors.EVENT_READ)

    def _make_room(self) -> None:
        """Who has been waited for the longest goes: an honest client says at once what it wants."""
        idle = [client for client in self._clients.values() if not client.working]
        if idle:
            self._drop(min(idle, key=lambda client: client.overdue_s))

    def _read(self, client: _Client) -> None:
        data, files, _, _ = socket.recv_fds(client.connection, _BLOCK, 1, socket.MSG_CMSG_CLOEXEC)
        for file in files:
            client.forget_file()
            client.file = file
        client.reads += 1
        if not data or client.working or client.reads > _MAX_READS:
            self._drop(client)  # gone, or it does not keep to one line
            return
        client.request += data
        if len(client.request) > MAX_REQUEST_BYTES:
            self._answer(client, _failure(UsageError(f"a request may have {MAX_REQUEST_BYTES} bytes")))
        elif b"\n" in data:
            self._obey(client, bytes(client.request.partition(b"\n")[0]))

    def _obey(self, client: _Client, line: bytes) -> None:
        try:
            request = msgspec.json.decode(line, type=dict[str, Any])
            do = request.get("do")
        except MALFORMED:
            self._answer(client, _failure(UsageError('expected a line of JSON: {"do": ...}')))
            return
        if isinstance(do, str) and do in self._quick:
            self._answer(client, _run_handler(self._quick[do], request, client.file))
        elif isinstance(do, str) and do in self._slow:
            self._begin_slow(client, self._slow[do], request)
        else:
            known = ", ".join(sorted({*self._quick, *self._slow}))
            self._answer(client, _failure(UsageError(f"expected one of {known}, found {str(do)[:80]!r}")))

    def _begin_slow(self, client: _Client, handler: Handler, request: Request) -> None:
        if not client.is_trusted():
            error = EdgeInferError("only root and the daemon's own user may change what runs", hint="use sudo")
            self._answer(client, _failure(error))
        elif not self._slow_lock.acquire(blocking=False):
            error = EdgeInferError("another change is under way", hint="try again when it has ended")
            self._answer(client, _failure(error))
        else:
            client.working = True
            client.request.clear()
            work = threading.Thread(
                target=self._do_slow, args=(client, handler, request), name="control-work", daemon=True
            )
            try:
                work.start()
            except (RuntimeError, MemoryError) as error:  # no thread is to be had: the next change may be luckier
                client.working = False
                self._slow_lock.release()
                logger.warning("event=control_unable error=%s", error)
                self._answer(client, _failure(EdgeInferError(f"the daemon cannot start a thread: {error}")))

    def _do_slow(self, client: _Client, handler: Handler, request: Request) -> None:
        file, client.file = client.file, -1  # the client may be dropped while this runs
        try:
            answer = _run_handler(handler, request, file)
        finally:
            if file >= 0:
                os.close(file)
            self._slow_lock.release()
        self._done.append((client, answer))
        self._wake()

    def _hand_out(self) -> None:
        while self._done:
            client, answer = self._done.pop(0)
            if client.connection.fileno() >= 0:
                client.working = False
                self._answer(client, answer)

    def _answer(self, client: _Client, answer: bytes) -> None:
        client.request.clear()
        client.forget_file()
        client.answer = memoryview(answer)
        client.overdue_s = time.monotonic() + PATIENCE_S
        self._selector.modify(client.connection, selectors.EVENT_WRITE)

    def _write(self, client: _Client) -> None:
        client.answer = client.answer[client.connection.send(client.answer[:_BLOCK]) :]
        if not client.answer:
            self._drop(client)

    def _drop_overdue(self) -> None:
        now_s = time.monotonic()
        for client in [one for one in self._clients.values() if not one.working and one.overdue_s <= now_s]:
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        self._selector.unregister(client.connection)
        del self._clients[client.connection.fileno()]
        client.close()


def _run_handler(handler: Handler, request: Request, file: int) -> bytes:
    try:
        encoded = msgspec.json.encode({"ok": True, **handler(request, file)}) + b"\n"
    except EdgeInferError as error:
        return _failure(error)
    except Exception as error:
        logger.exception("event=control_request_crashed do=%s", request.get("do"))
        return _failure(EdgeInferError(f"internal error: {error}"))
    if len(encoded) > MAX_ANSWER_BYTES:
        return _failure(EdgeInferError(f"the answer has {len(encoded)} bytes, {MAX_ANSWER_BYTES} are allowed"))
    return encoded


def _failure(error: EdgeInferError) -> bytes:
    document = {"ok": False, "error": error.message, "hint": error.hint, "status": error.exit_code}
    return msgspec.json.encode(document) + b"\n"


def _listen(path: Path) -> socket.socket:
    """Raises OSError. A socket that a daemon before this one left behind is replaced: whoever calls this holds the
    lock of the state directory, so nobody listens there."""
    address = _checked(path)
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(errno.EEXIST, "something else is in its place")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.bind(address)
        path.chmod(0o660)  # nobody can connect before it listens
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _checked(path: Path) -> str:
    """Raises OSError for a path that no socket can have."""
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise OSError(errno.ENAMETOOLONG, f"a socket's path may have {MAX_PATH_BYTES} bytes: shorten state_dir")
    return str(path)


def call(state_dir: Path, request: Request, *, file: int = -1, timeout_s: float = 10.0) -> Answer:
    """Ask the running daemon, and hand it the open `file`. Raises ControlError where none listens,
    answers or may be asked, and otherwise what it refused the request with."""
    path = state_dir / SOCKET
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(timeout_s)
        try:
            _connect(connection, _checked(path), timeout_s)
            socket.send_fds(connection, [msgspec.json.encode(request) + b"\n"], [file] if file >= 0 else [])
            line = _read_line(connection)
        except OSError as error:
            reason = "no answer in time" if isinstance(error, TimeoutError) else error.strerror or str(error)
            raise ControlError(f"{path}: the daemon cannot be asked: {reason}") from error
    return _opened(line, path)


def _connect(connection: socket.socket, address: str, timeout_s: float) -> None:
    """A unix socket says EAGAIN at once where the others that wait are too many: that is waited out, too."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            connection.connect(address)
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                raise
            time.sleep(_ACCEPT_INTERVAL_S)
        else:
            return


def _read_line(connection: socket.socket) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n"):
        block = connection.recv(_BLOCK)
        received += block
        if not block or len(received) > MAX_ANSWER_BYTES:
            raise OSError(errno.EPROTO, "the answer broke off")
    return bytes(received)


def _opened(line: bytes, path: Path) -> Answer:
    try:
        answer = msgspec.json.decode(line, type=dict[str, Any])
    except MALFORMED as error:
        raise ControlError(f"{path}: expected a line of JSON, found something else") from error
    if answer.pop("ok", False):
        return answer
    message, hint = str(answer.get("error")), str(answer.get("hint", ""))
    kinds = {RefusedError.exit_code: RefusedError, UsageError.exit_code: UsageError}
    raise kinds.get(answer.get("status", 1), EdgeInferError)(message, hint=hint)
