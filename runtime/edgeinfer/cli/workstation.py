"""Commands for a workstation: `quantize` and `demo`."""

import enum
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeinfer.cli.fleet import DEFAULT_CONSOLE, ConsoleOption, TokenOption, read_token
from edgeinfer.cli.shared import JsonFlag, TaskName

if TYPE_CHECKING:
    from edgeinfer.console.bench_client import ConsoleFleet

__all__ = ["demo", "quantize"]


class Objective(enum.Enum):
    """What shall be small."""

    LATENCY = "latency"
    SIZE = "size"
    ENERGY = "energy"


def quantize(
    models: Annotated[
        list[Path] | None, typer.Argument(help="The float model: .onnx, .tflite or one of each; or a recipe (.toml).")
    ] = None,
    *,
    data: Annotated[
        Path | None, typer.Option(help="Labelled samples: .npz, a folder of pictures, or CSV windows.")
    ] = None,
    task: Annotated[TaskName | None, typer.Option(help="What the model does.")] = None,
    name: Annotated[str | None, typer.Option(help="The package's name, for instance door-camera.")] = None,
    version: Annotated[str | None, typer.Option(help="MAJOR.MINOR.PATCH.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The package to write (.edgepkg).")] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="Points of the metric that may be lost (per cent of an error).  [default: 1]")
    ] = None,
    min_agreement: Annotated[
        float | None, typer.Option(help="Share of samples, 0 to 1, on which it must say what the float model says.")
    ] = None,
    max_bytes: Annotated[int | None, typer.Option(help="Bytes that the file may have.")] = None,
    metric: Annotated[
        str | None, typer.Option(help="top5, auc, mse, box_map50, ..., or yours: module:function.")
    ] = None,
    objective: Annotated[Objective | None, typer.Option(help="What shall be small.  [default: latency]")] = None,
    time_budget: Annotated[str | None, typer.Option(help="How long the search may take: 60s, 5m.")] = None,
    target: Annotated[
        str | None, typer.Option(help="local, a profile (rpi4, ...), ssh://user@host, device:ID.  [default: local]")
    ] = None,
    exhaustive: Annotated[bool, typer.Option("--exhaustive", help="Try everything, however slow.")] = False,
    preprocess: Annotated[str, typer.Option(help="TOML or JSON file, or inline: kind=image,std=255.")] = "",
    postprocess: Annotated[str, typer.Option(help="The same for the outputs: score_threshold=0.65.")] = "",
    samples: Annotated[str, typer.Option(help="How samples are read: window=64,label_column=fault.")] = "",
    labels: Annotated[Path | None, typer.Option(help="Labels, one a line.")] = None,
    state: Annotated[list[str] | None, typer.Option(help="INPUT=OUTPUT: an input fed with an output.")] = None,
    constant: Annotated[list[str] | None, typer.Option(help="INPUT=NUMBER: an input that is always this.")] = None,
    converter: Annotated[Path | None, typer.Option(help="onnx2tf 2.x, where it is not on the PATH.")] = None,
    report: Annotated[Path | None, typer.Option(help="The report as a page.  [default: beside the package]")] = None,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Write that page.")] = True,
    sign_key: Annotated[Path | None, typer.Option(help="Private key to sign the package with.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the engine while measuring.  [default: 1]")] = None,
    console: ConsoleOption = DEFAULT_CONSOLE,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Make the fastest package that stays accurate. Status 3 if nothing keeps the budget."""
    from edgeinfer.quantize.commands import quantize_command, read_flags

    recipe = read_flags(
        models or [],
        {
            "task": task.value if task is not None else None,
            "metric": metric,
            "samples.path": data,
            "samples.labels": labels,
            "package.name": name,
            "package.version": version,
            "package.output": output,
            "package.sign_key": sign_key,
            "budget.max_drop": max_drop,
            "budget.min_agreement": min_agreement,
            "budget.max_bytes": max_bytes,
            "search.objective": objective.value if objective is not None else None,
            "search.target": target,
            "search.exhaustive": exhaustive or None,
            "model.converter": converter,
            "model.threads": threads,
            "report.page": report,
        },
        specs={"preprocess": preprocess, "postprocess": postprocess, "samples": samples},
        time_budget=time_budget,
        states=state or [],
        constants=constant or [],
    )
    quantize_command(
        recipe,
        as_json=as_json,
        page=page,
        command=shlex.join(["edgeinfer", *sys.argv[1:]]),
        fleet=_fleet(recipe.search.target, console, token_file),
    )


def _fleet(target: str | None, console: str, token_file: Path | None) -> "ConsoleFleet | None":
    """Only a device of the fleet needs the console's part."""
    if target is None or not target.startswith("device:"):
        return None
    from edgeinfer.console.bench_client import ConsoleFleet

    return ConsoleFleet(console, read_token(token_file))


def demo(
    *,
    seconds: Annotated[float, typer.Option(help="How long each part is shown, about.")] = 0.0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
    camera: Annotated[bool, typer.Option("--camera", help="Use /dev/video0 in place of the clip.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show the whole loop on this machine. With a broker of its own and a page to look at."""
    from edgeinfer.console.demo import run_demo

    raise typer.Exit(run_demo(seconds=seconds, browser=browser, camera=camera, as_json=as_json))
