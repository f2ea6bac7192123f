"""The parent's side of a variant's process: start it, give it turns, and notice when it fails, crashes or hangs."""

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from edgeinfer.runtime.bench.messages import MAX_LINE_BYTES, Failed, Message, Ready, Timed, Turn
from edgeinfer.runtime.errors import ModelError

__all__ = ["Command", "Contestant", "child_command"]

Command = Callable[[Path, str, int], list[str]]
"""Folder of the package, variant and threads to the command that runs it."""

_READ_BYTES = 1 << 16
_REAP_TIMEOUT_S = 2.0
_MAX_REASON = 300
_Answer = TypeVar("_Answer", Ready, Timed)


def child_command(folder: Path, variant: str, threads: int) -> list[str]:
    """What runs one variant of the package that was extracted to `folder`; a descriptor is still to be added."""
    return [sys.executable, "-m", "edgeinfer.runtime.bench.child", str(folder), variant, str(threads)]


class Contestant:
    """One process, from construction to `close`. Every method but `close` raises ModelError where the variant fails,
    its process ends, or gives no answer in `patience_s`: it is of no use afterwards.

    While an answer is awaited `meanwhile` is called every `period_s`, if there is one.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        patience_s: float,
        meanwhile: Callable[[], None] = lambda: None,
        period_s: float | None = None,
    ) -> None:
        self._patience_s, self._meanwhile, self._period_s = patience_s, meanwhile, period_s
        self._received = bytearray()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        lifeline, self._held = os.pipe()
        try:
            # A session of its own: a Ctrl-C is this process's to obey, which still wants to say what was measured.
            self._process = subprocess.Popen(
                [*command, str(lifeline)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                pass_fds=(lifeline,),
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            os.close(self._held)
            self._log.close()
            raise ModelError(f"no process can be started for it: {error.strerror}") from error
        finally:
            os.close(lifeline)

    def ready(self) -> Ready:
        """Wait until it is loaded."""
        return self._expect(Ready, within_s=self._patience_s)

    def turn(self, seconds: float) -> Timed:
        """Have it call its engine for `seconds`."""
        try:
            self._pipe(self._process.stdin).write(msgspec.json.encode(Turn(seconds)) + b"\n")
        except OSError as error:
            raise ModelError(self._obituary()) from error
        return self._expect(Timed, within_s=self._patience_s + seconds)

    def close(self) -> None:
        """End the process, whatever it is doing. May be called again."""
        if self._log.closed:
            return
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            self._pipe(pipe).close()
        os.close(self._held)
        self._log.close()
        try:
            self._process.wait(_REAP_TIMEOUT_S)
        except subprocess.TimeoutExpired:  # in the kernel's hands; subprocess reaps it later
            return

    def _expect(self, kind: type[_Answer], *, within_s: float) -> _Answer:
        line = self._line(within_s)
        try:
            answer = msgspec.json.decode(line, type=Message)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ModelError("its process gave no answer that can be read") from error
        if isinstance(answer, Failed):
            raise ModelError(answer.error)
        if not isinstance(answer, kind):
            raise ModelError(f"its process answered out of turn: {type(answer).__name__}")
        return answer

    def _line(self, within_s: float) -> bytes:
        """The next line that it says."""
        descriptor = self._pipe(self._process.stdout).fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        deadline_s = time.monotonic() + within_s
        while b"\n" not in self._received:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise ModelError(f"gave no answer in {within_s:.0f} s: it hangs, or is far too slow for this device")
            if not poll.poll(1000 * (left_s if self._period_s is None else min(left_s, self._period_s))):
                self._meanwhile()
                continue
            read = os.read(descriptor, _READ_BYTES)
            if not read:
                raise ModelError(self._obituary())
            self._received += read
            if len(self._received) > MAX_LINE_BYTES:
                raise ModelError(f"its process gave an answer of more than {MAX_LINE_BYTES} bytes")
        line, _, rest = bytes(self._received).partition(b"\n")
        self._received = bytearray(rest)
        return line

    def _obituary(self) -> str:
        """How the process ended, and the last thing that it said."""
        try:
            status = self._process.wait(_REAP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "its process does not answer"
        how = f"crashed: its process ended by {_signal_name(-status)}" if status < 0 else f"ended with status {status}"
        said = self._last_line()
        return f"{how}: {said}" if said else how

    def _last_line(self) -> str:
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - 4 * _MAX_REASON))
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip()[:_MAX_REASON] if lines else ""

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        if pipe is None:  # Popen was told to make both
            raise AssertionError("a process without pipes")
        return pipe


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
