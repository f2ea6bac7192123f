"""`edgeinfer top`: the running device in a terminal, anew each second. Works over a slow line and in 80 by 24."""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeinfer.cli.device import ConfigOption, StateDirOption, state_folders
from edgeinfer.cli.shared import JsonFlag, print_json, print_line
from edgeinfer.cli.top_screen import lines, plain, screen, span
from edgeinfer.runtime.errors import BufferStorageError, ControlError, EdgeInferError

__all__ = ["top"]

_REFRESH_S = 1.0
_ASK_TIMEOUT_S = 2.0
# xterm: the alternate screen, so that what was there before comes back; the cursor out of sight.
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _CLEAR_BELOW = "\x1b[H", "\x1b[J"

Document = dict[str, Any]


def top(
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    once: Annotated[bool, typer.Option("--once", help="Print once and leave, as without a terminal.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Watch the pipelines of this device. q leaves."""
    folder = state_folders(config, state_dir)[0]
    if as_json:
        print_json(_read(folder)[0])
    elif once or not sys.stdout.isatty():
        status, note = _read(folder)
        for text, _ in lines(status, None, note=note):
            print_line(text)
    else:
        _watch(folder)


def _read(folder: Path) -> tuple[Document, str]:
    """The status document, and a word where it is not fresh. Raises EdgeInferError where there is none at all."""
    from edgeinfer.runtime.control import call

    try:
        status: Document = call(folder, {"do": "status"}, timeout_s=_ASK_TIMEOUT_S)["status"]
    except ControlError as error:
        return _stored(folder, error)
    return status, ""


def _stored(folder: Path, unreachable: ControlError) -> tuple[Document, str]:
    """What the daemon has written last: every five seconds, while it runs."""
    import msgspec

    from edgeinfer.runtime.decoding import MALFORMED
    from edgeinfer.runtime.handoff import RuntimeDb

    try:
        with RuntimeDb(folder / "runtime.db", read_only=True) as db:
            status = msgspec.json.decode(db.status(), type=dict[str, Any])
        age_s = time.time() - status["t_ns"] / 1e9
    except (BufferStorageError, KeyError, *MALFORMED) as error:
        raise EdgeInferError(
            f"{folder}: no daemon can be asked, and none has left word: {unreachable.message}",
            hint="is edgeinfer run running with this state_dir?",
        ) from error
    return status, f"as of {span(age_s)} ago: {unreachable.message}"


def _watch(folder: Path) -> None:
    before: Document | None = None
    with _terminal():
        while True:
            before = _draw(folder, before)
            if _key_within(_REFRESH_S) in {"q", "Q"}:
                return


def _draw(folder: Path, before: Document | None) -> Document | None:
    """One screen; the document to compare the next one with."""
    status: Document | None = None
    try:
        status, note = _read(folder)
        shown = lines(status, before, note=note, clock=time.strftime("%H:%M:%S"))
    except EdgeInferError as error:  # it may be back in a second
        shown = [(plain(error.message), ""), (plain(error.hint), "")]
    size = shutil.get_terminal_size()
    body = screen(shown, width=size.columns, height=size.lines - 1, colours="NO_COLOR" not in os.environ)
    sys.stdout.write(_HOME + body + _CLEAR_BELOW)
    sys.stdout.flush()
    return status


@contextmanager
def _terminal() -> Iterator[None]:
    """Keys come one by one and are not shown. Whatever ends this, the terminal is as it was before."""
    import signal
    import termios

    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    settings = termios.tcgetattr(sys.stdin) if sys.stdin.isatty() else None
    earlier = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        if settings is not None:
            _read_keys_singly(settings)
        sys.stdout.write(_ENTER)
        yield
    except KeyboardInterrupt:
        pass  # as `q` does
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        if settings is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, settings)
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _read_keys_singly(settings: list[Any]) -> None:
    import termios

    changed = [*settings[:6], list(settings[6])]
    changed[3] &= ~(termios.ICANON | termios.ECHO)
    changed[6][termios.VSUSP] = b"\x00"  # stopped, it would leave its screen to the shell
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, changed)


def _key_within(wait_s: float) -> str:
    """A key that was pressed; empty for none. Without a terminal to read from it only waits."""
    import select

    if not sys.stdin.isatty():
        time.sleep(wait_s)
        return ""
    ready, _, _ = select.select([sys.stdin], [], [], wait_s)
    return os.read(sys.stdin.fileno(), 1).decode("latin-1") if ready else ""
