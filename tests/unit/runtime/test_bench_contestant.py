"""A variant's process that fails, crashes, hangs or says nonsense harms nothing and is told apart."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgeinfer.runtime.bench.contestant import Contestant
from edgeinfer.runtime.errors import ModelError

READY = b'{"type":"ready","version":"fake 1","inputs":"random","call_ns":5,"rss_bytes":7}\n'
TIMED = (
    b'{"type":"timed","calls":2,"warm_up_calls":1,"total_ns":20,"median_ns":10.0,"min_ns":9,"cpu_ns":21,'
    b'"rss_bytes":8,"counts":{"10":2}}\n'
)
SAY = "import os, signal, sys, time\nsay = lambda text: os.write(1, text)\n"


@contextmanager
def contestant(
    script: str,
    *,
    patience_s: float = 30.0,
    meanwhile: Callable[[], None] = lambda: None,
    period_s: float | None = None,
) -> Iterator[Contestant]:
    command = [sys.executable, "-c", SAY + script]
    found = Contestant(command, patience_s=patience_s, meanwhile=meanwhile, period_s=period_s)
    try:
        yield found
    finally:
        found.close()
        found.close()


def test_a_turn() -> None:
    with contestant(f"say({READY!r})\nfor line in sys.stdin: say({TIMED!r})") as one:
        assert one.ready().version == "fake 1"
        assert one.turn(0.01).counts == {10: 2}
        assert one.turn(0.01).calls == 2


def test_answers_in_pieces() -> None:
    with contestant(f"for byte in {READY!r}: say(bytes([byte]))\nsys.stdin.read()") as one:
        assert one.ready().rss_bytes == 7


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ('say(b\'{"type":"failed","error":"no such op"}\\n\')', "no such op"),
        ("print('cannot map the file', file=sys.stderr); sys.exit(4)", "ended with status 4: cannot map the file"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "crashed: its process ended by SIGSEGV"),
        ("say(b'hello\\n')", "no answer that can be read"),
        ("say(b'\\xff\\xfe\\n')", "no answer that can be read"),
        (f"say({TIMED!r})", "answered out of turn"),
        ("say(b'x' * (2 << 20))\nsys.stdin.read()", "more than 1048576 bytes"),
    ],
)
def test_what_goes_wrong_is_told(script: str, reason: str) -> None:
    with contestant(script) as one, pytest.raises(ModelError, match=reason):
        one.ready()


def test_a_process_that_hangs_is_ended() -> None:
    with contestant(f"say({READY!r})\nsignal.pause()") as one:
        one.ready()
        one._patience_s = 0.0
        with pytest.raises(ModelError, match="gave no answer in 0 s: it hangs"):
            one.turn(0.01)


def test_a_process_that_ended_between_two_turns() -> None:
    with contestant(f"say({READY!r})\nos.close(0)\nsys.exit(3)") as one:
        one.ready()
        one._process.wait(60)
        with pytest.raises(ModelError, match="ended with status 3"):
            one.turn(0.01)


def test_a_meter_is_read_while_a_turn_lasts(tmp_path: Path) -> None:
    """The turn ends when it has been."""
    read, turn = tmp_path / "read", tmp_path / "turn"
    script = (
        f"say({READY!r})\nsys.stdin.readline()\nopen({str(turn)!r}, 'w').close()\n"
        f"while not os.path.exists({str(read)!r}): time.sleep(0.01)\nsay({TIMED!r})"
    )

    def meanwhile() -> None:
        if turn.exists():
            read.touch()

    with contestant(script, meanwhile=meanwhile, period_s=0.001) as one:
        one.ready()
        assert one.turn(0.01).calls == 2


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no process can be started"):
        Contestant([str(tmp_path / "nothing")], patience_s=1.0)
