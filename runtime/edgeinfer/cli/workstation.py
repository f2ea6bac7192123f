"""Commands for a workstation: `quantize` and `demo`."""

from pathlib import Path
from typing import Annotated

import typer

from edgeinfer.cli.shared import JsonFlag, TaskName, existing

__all__ = ["demo", "quantize"]


def quantize(
    models: Annotated[list[Path], typer.Argument(help="The float model: .onnx, .tflite or one of each.")],
    *,
    data: Annotated[Path, typer.Option(help="Labelled samples (.npz): x, y, optionally x_calibration, group.")],
    task: Annotated[TaskName, typer.Option(help="What the model does.")],
    name: Annotated[str, typer.Option(help="The package's name, for instance door-camera.")],
    version: Annotated[str, typer.Option(help="MAJOR.MINOR.PATCH.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The package to write (.edgepkg).")],
    max_drop: Annotated[float, typer.Option(help="Points of accuracy (or AUC) that may be lost.")] = 1.0,
    preprocess: Annotated[str, typer.Option(help="TOML or JSON file, or inline: kind=image,std=255.")] = "",
    postprocess: Annotated[str, typer.Option(help="The same for the outputs: score_threshold=0.65.")] = "",
    labels: Annotated[Path | None, typer.Option(help="Labels, one a line.")] = None,
    sign_key: Annotated[Path | None, typer.Option(help="Private key to sign the package with.")] = None,
    threads: Annotated[int, typer.Option(help="Threads of the engine while measuring.")] = 1,
    as_json: JsonFlag = False,
) -> None:
    """Make the fastest package that stays accurate. Status 3 if none keeps the budget."""
    from edgeinfer.quantize.commands import quantize_command

    quantize_command(
        [existing(model) for model in models],
        data=existing(data),
        task=task.value,
        name=name,
        version=version,
        output=output,
        max_drop=max_drop,
        as_json=as_json,
        preprocess=preprocess,
        postprocess=postprocess,
        labels=labels,
        sign_key=sign_key,
        threads=threads,
    )


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
