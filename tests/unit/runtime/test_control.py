"""The control socket: what it answers, whom it lets change something, and that no client harms it."""

import contextlib
import errno
import json
import logging
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.runtime import control
from edgeinfer.runtime.control import SOCKET, ControlServer, call
from edgeinfer.runtime.errors import ControlError, EdgeInferError, GateError, RefusedError, UsageError
from waiting import wait_until


class Desk:
    """A server with one handler of each kind; `let_go` ends the slow one, `waits` says that it has begun."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.let_go, self.waits = threading.Event(), threading.Event()
        self.server = ControlServer(
            folder,
            quick={"status": self.status, "fail": self.fail, "huge": lambda _r, _f: {"x": "x" * (5 << 20)}},
            slow={"wait": self.wait, "read": self.read, "refuse": self.refuse},
        )

    def status(self, request: dict[str, Any], _file: int) -> dict[str, Any]:
        return {"echo": request.get("say", "")}

    def fail(self, _request: dict[str, Any], _file: int) -> dict[str, Any]:
        raise RuntimeError("a defect")

    def wait(self, _request: dict[str, Any], _file: int) -> dict[str, Any]:
        self.waits.set()
        assert self.let_go.wait(60)
        return {"waited": True}

    def read(self, _request: dict[str, Any], file: int) -> dict[str, Any]:
        return {"content": os.pread(file, 100, 0).decode()}

    def refuse(self, request: dict[str, Any], _file: int) -> dict[str, Any]:
        raise {"gate": GateError("it says no", hint="try another"), "usage": UsageError("no such model")}[
            request["how"]
        ]

    def raw(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.folder / SOCKET))
        connection.settimeout(60)
        return connection


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    made.server.start()
    yield made
    made.let_go.set()
    made.server.stop()


def test_a_question_is_answered(desk: Desk) -> None:
    assert call(desk.folder, {"do": "status", "say": "grüß Gott\n"}) == {"echo": "grüß Gott\n"}
    assert stat.S_IMODE((desk.folder / SOCKET).stat().st_mode) == 0o660


def test_an_open_file_is_handed_over(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("what is in it")
    with (tmp_path / "f").open("rb") as file:
        assert call(desk.folder, {"do": "read"}, file=file.fileno()) == {"content": "what is in it"}


def test_a_refusal_keeps_its_kind_and_its_hint(desk: Desk) -> None:
    with pytest.raises(RefusedError, match="it says no") as refused:
        call(desk.folder, {"do": "refuse", "how": "gate"})
    assert refused.value.hint == "try another"
    with pytest.raises(UsageError, match="no such model"):
        call(desk.folder, {"do": "refuse", "how": "usage"})


@pytest.mark.parametrize("request_", [{}, {"do": "reboot"}, {"do": None}, {"do": ["status"]}])
def test_what_it_does_not_know_it_says(desk: Desk, request_: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected one of fail, huge, read, refuse, status, wait"):
        call(desk.folder, request_)


def test_a_defect_in_a_handler_is_an_answer(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    for do, reason in (("fail", "internal error: a defect"), ("huge", "bytes, 4194304 are allowed")):
        with pytest.raises(EdgeInferError, match=reason):
            call(desk.folder, {"do": do})
    assert "event=control_request_crashed do=fail" in caplog.text
    assert call(desk.folder, {"do": "status"})


def test_who_waits_keeps_nobody_from_asking(desk: Desk) -> None:
    answers: list[dict[str, Any]] = []
    waiting = threading.Thread(target=lambda: answers.append(call(desk.folder, {"do": "wait"}, timeout_s=60)))
    waiting.start()
    assert desk.waits.wait(60)
    assert call(desk.folder, {"do": "status", "say": "still here"}) == {"echo": "still here"}
    with pytest.raises(EdgeInferError, match="another change is under way"):
        call(desk.folder, {"do": "wait"})
    desk.let_go.set()
    waiting.join(60)
    assert answers == [{"waited": True}]


def test_a_change_that_gets_no_thread_leaves_room_for_the_next(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    desk.let_go.set()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        for _ in range(control.MAX_CLIENTS + 1):
            with pytest.raises(EdgeInferError, match="cannot start a thread"):
                call(desk.folder, {"do": "wait"})
    assert call(desk.folder, {"do": "wait"}) == {"waited": True}


def test_who_leaves_while_it_works_harms_nothing(desk: Desk) -> None:
    with desk.raw() as connection:
        connection.sendall(b'{"do": "wait"}\n')
        wait_until(lambda: any(thread.name == "control-work" for thread in threading.enumerate()))
    desk.let_go.set()
    wait_until(lambda: not any(thread.name == "control-work" for thread in threading.enumerate()))
    assert call(desk.folder, {"do": "status"}) == {"echo": ""}


@given(st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
def test_any_bytes_get_an_answer_or_a_closed_door(desk: Desk, garbage: bytes) -> None:
    with desk.raw() as connection, contextlib.suppress(ConnectionError):
        connection.sendall(garbage.replace(b"\n", b"") + b"\n")
        answer = connection.makefile("rb").readline()
        assert not answer or json.loads(answer)["ok"] is False
    assert call(desk.folder, {"do": "status"}) == {"echo": ""}


def test_a_request_without_an_end_is_cut_off(desk: Desk) -> None:
    with desk.raw() as connection, contextlib.suppress(ConnectionError):
        connection.sendall(b"x" * (control.MAX_REQUEST_BYTES + 10))
        answer = connection.makefile("rb").readline()
        assert not answer or "65536 bytes" in json.loads(answer)["error"]
    assert call(desk.folder, {"do": "status"})


def test_silent_clients_are_dropped_and_hold_nobody_up(desk: Desk) -> None:
    """More than there may be: the oldest makes room for who has something to say."""
    silent = [desk.raw() for _ in range(3 * control.MAX_CLIENTS)]
    try:
        assert call(desk.folder, {"do": "status"}) == {"echo": ""}
        assert len(desk.server._clients) <= control.MAX_CLIENTS
    finally:
        for connection in silent:
            connection.close()


def test_a_client_that_takes_its_time_is_dropped(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "PATIENCE_S", 0.05)
    with desk.raw() as connection:
        connection.sendall(b'{"do":')
        assert connection.recv(10) == b"", "it was closed"


def test_no_file_handle_is_lost(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "f").touch()

    def handles() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with (tmp_path / "f").open("rb") as file:
        call(desk.folder, {"do": "status"}, file=file.fileno())
        wait_until(lambda: not desk.server._clients)
        before = handles()
        for number in range(30):
            with desk.raw() as connection:
                files = [file.fileno()] * (1 + number % 3)
                socket.send_fds(connection, [b'{"do": "status"}\n' if number % 2 else b"garbage"], files)
        assert call(desk.folder, {"do": "status"})
        wait_until(lambda: not desk.server._clients and handles() == before, what="the handles to be closed")


def test_the_end_waits_for_nobody(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.server.start()
    hanging = [desk.raw() for _ in range(5)]
    hanging[0].sendall(b'{"do": "wait"}\n')
    assert desk.waits.wait(60)
    began_s = time.monotonic()
    desk.server.stop()
    assert time.monotonic() - began_s < 30, "the handler alone would take 60 s"
    assert not (tmp_path / SOCKET).exists()
    desk.let_go.set()
    for connection in hanging:
        connection.close()
    with pytest.raises(ControlError, match="cannot be asked"):
        call(tmp_path, {"do": "status"})


def test_a_socket_left_behind_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / SOCKET))
    desk = Desk(tmp_path)
    desk.server.start()
    assert call(tmp_path, {"do": "status"}) == {"echo": ""}
    desk.server.stop()


def test_without_a_place_for_it_the_daemon_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    (tmp_path / SOCKET).write_text("a file of somebody's")
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    for folder, reason in ((tmp_path, "something else is in its place"), (deep, "a socket's path may have 107 bytes")):
        server = Desk(folder).server
        server.start()
        server.stop()
        assert f"event=control_unavailable path={folder / SOCKET}" in caplog.text
        assert reason in caplog.text
        with pytest.raises(ControlError):
            call(folder, {"do": "status"})
    assert (tmp_path / SOCKET).read_text() == "a file of somebody's"


def test_no_file_handles_left_is_no_end(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [OSError(errno.EMFILE, "too many open files")] * 3
    accept = socket.socket.accept

    def failing(self: socket.socket) -> Any:
        if failures:
            raise failures.pop()
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", failing)
    assert call(desk.folder, {"do": "status"}) == {"echo": ""}
    assert not failures


CLIENT = """
import os, sys
from pathlib import Path
from edgeinfer.runtime.control import call
os.chdir(sys.argv[1])  # a stranger may not pass the folders above
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
print(call(Path(), {"do": "status"}))
call(Path(), {"do": "refuse", "how": "gate"})
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user: needs root")
def test_a_stranger_may_look_and_change_nothing(tmp_path: Path) -> None:
    """As the agent, which is in the daemon's group: the socket lets it in, the kernel says who it is."""
    tmp_path.chmod(0o755)
    desk = Desk(tmp_path)
    try:
        desk.server.start()
        (tmp_path / SOCKET).chmod(0o666)
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert done.stdout == "{'echo': ''}\n", done.stderr
        assert "only root and the daemon's own user may change what runs" in done.stderr
    finally:
        desk.server.stop()
