"""Results that somebody carries: `export` at the device, `console import` at the console."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeinfer.cli.device import ConfigOption, StateDirOption
from edgeinfer.cli.fleet import ConsoleOption, TokenOption, read_token
from edgeinfer.cli.shared import JsonFlag, print_json, print_line
from edgeinfer.runtime.errors import UsageError

if TYPE_CHECKING:
    from edgeinfer.console.importing import ImportReport
    from edgeinfer.sync.export.exporting import Carrier, ExportReport, ReceiptTaken

__all__ = ["export", "run_import"]

_CONFIG = Path("/etc/edgeinfer/edgeinfer.toml")
_SYNC_CONFIG = Path("/etc/edgeinfer/sync.toml")
_CONSOLE = "http://127.0.0.1:8080"
_FAILED, _REFUSED = 1, 3
_MIB = 1 << 20

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="A folder: where the stick is mounted.")]


def export(
    folder: FolderArgument,
    *,
    config: ConfigOption = None,
    sync_config: Annotated[Path | None, typer.Option(help="The agent's sync.toml, where there is one.")] = None,
    state_dir: StateDirOption = None,
    sync_dir: Annotated[Path | None, typer.Option("--sync-dir", help="The agent's folder, with --state-dir.")] = None,
    device: Annotated[str, typer.Option(help="This device's name, with --state-dir.")] = "",
    tenant: Annotated[str, typer.Option(help="In place of sync.toml's.")] = "",
    console_key: Annotated[list[str] | None, typer.Option(help="A console that may sign receipts; repeatable.")] = None,
    receipt: Annotated[bool, typer.Option("--receipt", help="Take the receipt, export nothing.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write what is not acknowledged onto a stick. A receipt that came back on it is taken first."""
    from edgeinfer.sync.export.exporting import export as write_export
    from edgeinfer.sync.export.exporting import take_receipt

    carrier = _carrier(config, sync_config, state_dir, sync_dir, device, tenant, console_key or [])
    if receipt:
        taken = take_receipt(carrier, folder)
        if taken is None:
            raise UsageError(f"{folder}: no receipt for {carrier.device} lies there", hint="import it at the console")
        if as_json:
            print_json(taken)
        else:
            _print_receipt(taken)
        return
    report = write_export(carrier, folder)
    if as_json:
        print_json(report)
    else:
        _print_export(report, folder)
    if not report.complete:
        raise typer.Exit(_FAILED)


def _carrier(
    config: Path | None,
    sync_config: Path | None,
    state_dir: Path | None,
    sync_dir: Path | None,
    device: str,
    tenant: str,
    console_keys: Sequence[str],
) -> "Carrier":
    """Who exports, from the options or from the usual configuration files."""
    from edgeinfer.runtime.config import load_config
    from edgeinfer.runtime.settings import RuntimeConfig
    from edgeinfer.runtime.trust import parse_public_key
    from edgeinfer.sync.export.exporting import Carrier

    keys = list(console_keys)
    if state_dir is None:
        if config is None and not _CONFIG.exists():
            raise UsageError(f"expected --config or --state-dir: there is no {_CONFIG}")
        settings = load_config(config or _CONFIG, RuntimeConfig)
        state_dir, device = Path(settings.state_dir), device or settings.device
        sync_dir = sync_dir or (Path(settings.sync.state_dir) if settings.sync.state_dir else None)
        keys += settings.trust.console_keys
    elif not device:
        raise UsageError("expected --device beside --state-dir: whose results are they?")
    return Carrier(
        device=device,
        tenant=tenant or _tenant(sync_config, device),
        state_dir=state_dir,
        sync_dir=sync_dir,
        console_keys=tuple(parse_public_key(key) for key in keys),
    )


def _tenant(sync_config: Path | None, device: str) -> str:
    """The agent's; `default` on a device that has none. Raises ConfigError, UsageError."""
    path = sync_config or _SYNC_CONFIG
    if sync_config is None and not path.exists():
        return "default"
    from edgeinfer.sync.settings import load_sync_config

    settings = load_sync_config(path)
    if settings.device != device:
        raise UsageError(f"{path}: expected device {device}, as the daemon's, found {settings.device}")
    return settings.tenant


def _print_receipt(taken: "ReceiptTaken") -> None:
    when = "" if taken.recorded else "; the running agent records it within a second or two"
    print_line(f"receipt    everything up to {taken.seq} is stored at the console{when}")


def _print_export(report: "ExportReport", folder: Path) -> None:
    print_line(f"device     {report.device}, epoch {report.epoch}")
    if report.receipt is not None:
        _print_receipt(report.receipt)
    if report.files:
        evicted = f", of them {report.evicted} given up" if report.evicted else ""
        print_line(f"numbers    {report.first_seq} to {report.last_seq} in {report.chunks} chunks{evicted}")
        print_line(f"files      {len(report.files)} ({report.written} new), {report.bytes / _MIB:.2f} MiB in {folder}")
    elif report.complete:
        print_line(f"nothing to carry: all {report.acknowledged} results are acknowledged")
        return
    if not report.complete:
        print_line(f"NOT ALL    up to {report.durable} is on this device: {report.reason or 'more came meanwhile'}")
        return
    print_line("complete   unmount the stick, import it at the console, and bring it back: the receipt is on it")


def run_import(arguments: Sequence[str]) -> int:
    """`edgeinfer console import ...`, called as a command of its own: the console's other arguments are a service's."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(context_settings={"help_option_names": ["-h", "--help"]})(_import)
    try:
        typer.main.get_command(app).main(list(arguments), prog_name="edgeinfer console import")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    return 0


def _import(
    folder: FolderArgument,
    *,
    console: ConsoleOption = _CONSOLE,
    token_file: TokenOption = None,
    config: Annotated[Path | None, typer.Option("--config", help="console.toml: of a console that is stopped.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Take what a stick carries, and leave receipts on it. Status 3 if a file was refused."""
    report = _imported(folder, console, token_file, config)
    if as_json:
        print_json(report)
    else:
        _print_import(report)
    if not report.ok:
        raise typer.Exit(_REFUSED)


def _imported(folder: Path, console: str, token_file: Path | None, config: Path | None) -> "ImportReport":
    from edgeinfer.console.import_targets import RunningConsole, stopped_console
    from edgeinfer.console.importing import import_folder

    if config is None:
        return import_folder(folder, RunningConsole(console, read_token(token_file)))
    from edgeinfer.console.settings import load_console_config

    with stopped_console(load_console_config(config)) as target:
        return import_folder(folder, target)


def _print_import(report: "ImportReport") -> None:
    for epoch in report.epochs:
        gaps = ", ".join(f"{first}-{last}" for first, last in epoch.gaps)
        print_line(f"device     {epoch.device}, epoch {epoch.epoch}")
        print_line(f"files      {epoch.files}: numbers {epoch.first_seq} to {epoch.last_seq} in {epoch.chunks} chunks")
        print_line(
            f"new        {epoch.stored} results, {epoch.evicted} given up on the device, "
            f"{epoch.undecodable} unreadable; {epoch.duplicates} were known"
        )
        print_line(f"gaps       {gaps or 'none'}")
        print_line(f"chain      unbroken ({epoch.linked} of {epoch.chunks} chunks could be held against it)")
        if epoch.conflicts:
            print_line(f"CONFLICTS  {epoch.conflicts}: this console has other results under the same numbers")
        for note in epoch.notes:
            print_line(f"note       {note}")
        if epoch.receipt:
            print_line(f"receipt    {epoch.receipt}: everything up to {epoch.acknowledged} is stored here")
    for damaged in report.damaged:
        print_line(f"REFUSED    {damaged.name}: {damaged.reason}")
    if report.damaged:
        print_line("nothing of these was taken: the device still has it; export again")
