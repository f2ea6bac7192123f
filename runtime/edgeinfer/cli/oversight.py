"""What a terminal asks a running console of one device: `console audit` and `console logs`."""

import datetime as dt
import re
import sys
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from edgeinfer.cli.fleet import ConsoleOption, TokenOption, read_token
from edgeinfer.cli.shared import JsonFlag, print_json, print_line, print_table
from edgeinfer.runtime.errors import UsageError

__all__ = ["parse_time", "run_oversight"]

_CONSOLE = "http://127.0.0.1:8080"
_FAILED = 1
_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_TIME_HELP = "A time (2026-03-01, 2026-03-01T08:00, seconds since 1970), or so long ago (90m, 24h, 7d)."

DeviceArgument = Annotated[str, typer.Argument(help="The device's name.")]


def run_oversight(arguments: Sequence[str]) -> int:
    """`edgeinfer console audit ...` and `console logs ...`, called as commands of their own: the console's other
    arguments are a service's."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    settings = {"help_option_names": ["-h", "--help"]}
    app.command("audit", context_settings=settings)(_audit)
    app.command("logs", context_settings=settings)(_logs)
    try:
        typer.main.get_command(app).main(list(arguments), prog_name="edgeinfer console")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    return 0


def parse_time(text: str, now_s: float) -> float:
    """Seconds since 1970. A time without a zone is of this machine's. Raises UsageError."""
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return now_s - float(ago[1]) * _UNIT_S[ago[2]]
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return dt.datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise UsageError(f"expected a time, found {text[:40]!r}", hint=_TIME_HELP) from None


def _audit(
    device: DeviceArgument,
    *,
    since: Annotated[str | None, typer.Option(help=_TIME_HELP)] = None,
    until: Annotated[str | None, typer.Option(help="As --since.")] = None,
    console: ConsoleOption = _CONSOLE,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Whether anything of a device is missing at the console, for any time. Status 1 where something is."""
    from edgeinfer.console.commands import device_audit

    now_s = time.time()
    found = device_audit(
        device,
        since_s=None if since is None else parse_time(since, now_s),
        until_s=None if until is None else parse_time(until, now_s),
        console_url=console,
        token=read_token(token_file),
    )
    if as_json:
        print_json(found)
    else:
        _print_audit(found)
    if found["verdict"] == "bad":
        raise typer.Exit(_FAILED)


def _print_audit(found: dict[str, Any]) -> None:
    for finding in found["findings"]:
        mark = {"good": "ok  ", "warn": "note", "bad": "BAD "}[finding["level"]]
        print_line(f"{mark}  {_plain(finding['text'])}")
    print_line()
    for name in ("made", "durable", "stored", "acknowledged", "evicted", "missing", "left", "undecodable", "awaited",
                 "unsent", "vanished", "gaps", "duplicates", "conflicts"):  # fmt: skip
        if found.get(name) is not None:  # an older console has fewer words
            print_line(f"{name:<13}{found[name]:>15,}")
    if not found["holes"]:
        return
    print_line()
    rows = [
        (hole["epoch"], hole["first"], hole["last"], hole["n"], hole["cause"], _plain(hole["reason"]) or "-")
        for hole in found["holes"]
    ]
    print_table(("epoch", "from", "to", "results", "why", "reason"), rows)
    if found["holes_in_all"] > len(rows):
        print_line(f"and {found['holes_in_all'] - len(rows)} more")


def _logs(
    device: DeviceArgument,
    *,
    lines: Annotated[int, typer.Option(min=1, max=10_000, help="How many of the latest.")] = 200,
    console: ConsoleOption = _CONSOLE,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """The latest lines of a device's log, which it sends when it is asked."""
    from edgeinfer.console.commands import device_log

    found = device_log(device, lines=lines, console_url=console, token=read_token(token_file))
    if as_json:
        print_json(found)
        return
    for line in found["lines"]:
        print_line(_plain(line))
    if not found["complete"]:
        sys.stderr.write("edgeinfer: some parts of the log got lost on the way\n")


def _plain(text: str) -> str:
    """What a device says must not steer the terminal."""
    return "".join(character if character.isprintable() or character == "\t" else "\ufffd" for character in text)
