"""Commands that talk to the console: `deploy` and `fleet`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from edgeinfer.cli.shared import JsonFlag, existing, print_json, print_line, print_table
from edgeinfer.runtime.errors import UsageError

__all__ = ["DEFAULT_CONSOLE", "ConsoleOption", "TokenOption", "app", "deploy", "read_token"]

app = typer.Typer(help="The fleet from a terminal.", no_args_is_help=True, rich_markup_mode=None)

ConsoleOption = Annotated[
    str, typer.Option("--console", envvar="EDGEINFER_CONSOLE", help="The console's address, as a browser takes it.")
]
TokenOption = Annotated[
    Path | None, typer.Option("--token-file", envvar="EDGEINFER_TOKEN_FILE", help="File with the console's token.")
]
DEFAULT_CONSOLE = "http://127.0.0.1:8080"
_FAILED = 1


def deploy(
    package: Annotated[Path, typer.Argument(help="A model package (.edgepkg).")],
    *,
    to: Annotated[str, typer.Option(help="all, device:ID or group:NAME.")],
    console: ConsoleOption = DEFAULT_CONSOLE,
    token_file: TokenOption = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until every device has it, or has failed.")] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.0, help="Seconds to wait at most.")] = 300.0,
    as_json: JsonFlag = False,
) -> None:
    """Release a package and roll it out. With --wait, status 1 if a device failed."""
    from edgeinfer.console.commands import deploy as deploy_package

    token = read_token(token_file)
    rollout = deploy_package(existing(package), to=to, console_url=console, token=token, wait=wait, timeout_s=timeout_s)
    if as_json:
        print_json(rollout)
    else:
        print_line(f"rollout {rollout['id']}: {rollout['package']} to {rollout['to']}, {rollout['state']}")
        _print_deployments([rollout])
    failed = [entry for entry in rollout["deployments"] if entry["outcome"] == "failed"]
    if wait and failed:
        raise typer.Exit(_FAILED)


@app.command()
def devices(
    *, console: ConsoleOption = DEFAULT_CONSOLE, token_file: TokenOption = None, as_json: JsonFlag = False
) -> None:
    """List the devices: online or not, what they run."""
    from edgeinfer.console.commands import fleet_devices

    found = fleet_devices(console_url=console, token=read_token(token_file))
    if as_json:
        print_json(found)
        return
    rows = [
        (
            device["id"],
            "online" if device["online"] else "offline",
            ",".join(device["groups"]) or "-",
            ", ".join(f"{name} {model.get('version', '?')}" for name, model in device["models"].items()) or "-",
            device["backlog"],
        )
        for device in found
    ]
    print_table(("device", "state", "groups", "models", "backlog"), rows)


@app.command()
def rollouts(
    *, console: ConsoleOption = DEFAULT_CONSOLE, token_file: TokenOption = None, as_json: JsonFlag = False
) -> None:
    """List the rollouts, with each device's state."""
    from edgeinfer.console.commands import fleet_rollouts

    found = fleet_rollouts(console_url=console, token=read_token(token_file))
    if as_json:
        print_json(found)
    else:
        _print_deployments(found)


def _print_deployments(found: list[dict[str, Any]]) -> None:
    rows = [
        (rollout["id"], rollout["package"], rollout["state"], entry["device"], entry["state"], entry["reason"] or "")
        for rollout in found
        for entry in rollout["deployments"]
    ]
    print_table(("rollout", "package", "state", "device", "device's state", "reason"), rows)


def read_token(path: Path | None) -> str | None:
    """The secret in a file, never on the command line, where every user of the machine could read it."""
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: the token cannot be read: {error}") from error
