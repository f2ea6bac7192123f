"""`edgeinfer bench`: how fast a package's variants are on this device, as a table or a document."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgeinfer.cli.shared import JsonFlag, existing, print_json, print_line
from edgeinfer.runtime.errors import UsageError

__all__ = ["bench", "parse_threads"]

_INTERRUPTED = 130
_SWEEP = "sweep"


def bench(
    package: Annotated[Path, typer.Argument(help="A model package (.edgepkg).")],
    *,
    seconds: Annotated[
        float, typer.Option(help="How long each variant is run; 60 or more shows what heat does.")
    ] = 5.0,
    threads: Annotated[
        str, typer.Option(help="Threads of the engine: 1, several as 1,2,4, or sweep for 1 to all cores.")
    ] = "1",
    variant: Annotated[
        list[str] | None, typer.Option("--variant", metavar="ID", help="Only this variant; may be repeated.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure a package's variants on this device, side by side.

    Each runs in a process of its own and takes turns with the others. Ctrl-C ends it early, with what was measured.
    """
    from edgeinfer.cli.bench_screen import LiveLine, lines
    from edgeinfer.runtime.bench import bench_package

    with LiveLine(sys.stderr) as live:
        found = bench_package(
            existing(package),
            seconds=seconds,
            threads=parse_threads(threads),
            variants=variant or (),
            watch=live.draw,
        )
    if as_json:
        print_json(found)
    else:
        for line in lines(found):
            print_line(line)
    if found.interrupted:
        raise typer.Exit(_INTERRUPTED)
    if all(row.error for row in found.variants):
        raise typer.Exit(1)


def parse_threads(text: str) -> tuple[int, ...]:
    """Numbers separated by commas; `sweep` is 1, 2, 4 and so on up to the cores that this process may use. Raises
    UsageError."""
    if text.strip().lower() == _SWEEP:
        import os

        cores = len(os.sched_getaffinity(0))
        return tuple(sorted({*(1 << power for power in range(cores.bit_length()) if 1 << power <= cores), cores}))
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"expected --threads as 1, 1,2,4 or sweep, found {text!r}") from error
