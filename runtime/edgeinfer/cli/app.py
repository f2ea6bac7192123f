"""The Typer application: which commands there are. Each imports its part of edgeinfer when it is called."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from edgeinfer.cli import (
    SERVICES,
    bench,
    call_service,
    carry,
    device,
    explain,
    fleet,
    models,
    packages,
    top,
    workstation,
)

__all__ = ["app", "run_app"]

_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

app = typer.Typer(
    name="edgeinfer",
    help="Compress a trained model, run it on devices for years without a network, lose no result, replace it safely.",
    epilog="Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 3 refused by a check.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help: the rich one takes 0.1 s longer
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root(
    context: typer.Context,
    *,
    _debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from; log more.")] = False,
    _version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    # Both options are taken before Typer is loaded; here they are only declared, for the help.
    if context.invoked_subcommand is not None:
        debugging = os.environ.get("EDGEINFER_DEBUG", "") not in {"", "0"}
        logging.basicConfig(level=logging.DEBUG if debugging else logging.WARNING, stream=sys.stderr)


def _service(name: str) -> Callable[[typer.Context], None]:
    def forward(context: typer.Context) -> None:
        raise typer.Exit(call_service(name, context.args))

    return forward


app.command()(workstation.demo)
app.command()(workstation.quantize)
app.add_typer(packages.app, name="package")
app.command()(bench.bench)
app.command()(explain.explain)
for _name, (_module, _help) in SERVICES.items():
    app.command(_name, help=_help, context_settings=dict(_PASS_ON))(_service(_name))
app.command()(device.results)
app.command()(device.audit)
app.command()(carry.export)
app.add_typer(models.app, name="models")
app.command()(top.top)
app.command()(fleet.deploy)
app.add_typer(fleet.app, name="fleet")
app.command()(device.probe)
app.command()(device.doctor)


def run_app(arguments: Sequence[str]) -> int:
    """Run a command of the application. Usage errors print how to call it and give 2."""
    try:
        typer.main.get_command(app).main(list(arguments), prog_name="edgeinfer")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    return 0
