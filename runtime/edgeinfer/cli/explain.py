"""`edgeinfer explain`: which part of an input a result comes from, as a picture."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeinfer.cli.shared import JsonFlag, existing, print_json, print_line
from edgeinfer.runtime.errors import UsageError

if TYPE_CHECKING:
    from edgeinfer.runtime.explain import Explanation, Request
    from edgeinfer.runtime.store import InstalledPackage

__all__ = ["explain"]

_DEFAULT_CONFIG = Path("/etc/edgeinfer/edgeinfer.toml")
_BAR = 24


def explain(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="[PACKAGE] INPUT",
            help="A package, unless --pipeline; a picture, a video, or a .csv, .npz or .wav file.",
            show_default=False,
        ),
    ],
    *,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The picture to write (.png).")] = None,
    pipeline: Annotated[str, typer.Option(help="Explain what this pipeline of the device runs.")] = "",
    config: Annotated[Path | None, typer.Option("--config", help="The daemon's edgeinfer.toml.")] = None,
    state_dir: Annotated[Path | None, typer.Option("--state-dir", help="The daemon's folder, not --config.")] = None,
    variant: Annotated[str, typer.Option(help="The package's variant, not the first that runs here.")] = "",
    label: Annotated[str, typer.Option(help="The class to explain, by name or number, not the best.")] = "",
    frame: Annotated[int, typer.Option(min=0, help="Frame of a video, row of an .npz or .csv, window of a .wav.")] = 0,
    patch: Annotated[
        int, typer.Option(min=0, show_default=False, help="Pixels a side, or steps, covered at a time.")
    ] = 0,
    stride: Annotated[int, typer.Option(min=0, show_default=False, help="How far apart patches lie.")] = 0,
    fill: Annotated[str, typer.Option(help="Cover with: grey, blur; of series mean, neighbours, shuffle.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Show which part of an input a result comes from. Writes a heat map."""
    from edgeinfer.runtime.explain import Request
    from edgeinfer.runtime.learn.packages import package_from_file, package_of_pipeline

    if output is not None and output.suffix.lower() not in {"", ".png"}:
        raise UsageError(f"--output {output}: expected a name that ends in .png, found {output.suffix!r}")
    if pipeline:
        subject = existing(_only(files, 1, "an input, as --pipeline names the package")[0])
        package, running = package_of_pipeline(_state_dir(config, state_dir), pipeline)
        found = _explained(package, subject, frame, Request(variant or running, label, patch, stride, fill))
    else:
        if config is not None or state_dir is not None:
            raise UsageError("--config and --state-dir go with --pipeline")
        package_path, subject = (existing(path) for path in _only(files, 2, "a package and an input"))
        with package_from_file(package_path) as package:
            found = _explained(package, subject, frame, Request(variant, label, patch, stride, fill))
    path = _write(found, output or Path(f"{subject.stem}-explained.png"))
    if as_json:
        print_json({"input": str(subject), "frame": frame, "picture": str(path), **found.document()})
    else:
        _print_summary(found, path)


def _only(files: list[Path], count: int, what: str) -> list[Path]:
    if len(files) != count:
        raise UsageError(f"expected {what}, found {len(files)} files", hint="edgeinfer explain --help")
    return files


def _state_dir(config: Path | None, state_dir: Path | None) -> Path:
    if state_dir is not None:
        return state_dir
    if config is None and not _DEFAULT_CONFIG.exists():
        raise UsageError(f"--pipeline: expected --config or --state-dir: there is no {_DEFAULT_CONFIG}")
    from edgeinfer.runtime.config import load_config
    from edgeinfer.runtime.settings import RuntimeConfig

    return Path(load_config(config or _DEFAULT_CONFIG, RuntimeConfig).state_dir)


def _explained(package: "InstalledPackage", subject: Path, frame: int, request: "Request") -> "Explanation":
    from edgeinfer.runtime.explain import explain as run
    from edgeinfer.runtime.learn.subject import read_subject

    found = run(package, read_subject(subject, package.manifest, frame=frame), request, tick=_show_progress)
    _show_progress(1.0)
    return found


def _show_progress(done: float) -> None:
    """A bar for a person who watches; nothing else is told on stderr."""
    if not sys.stderr.isatty():
        return
    filled = round(done * _BAR)
    end = "\r\x1b[K" if done >= 1.0 else ""
    sys.stderr.write(f"\rcovering [{'#' * filled}{'.' * (_BAR - filled)}] {done:4.0%}{end}")
    sys.stderr.flush()


def _write(found: "Explanation", path: Path) -> Path:
    try:
        path.write_bytes(found.picture())
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from error
    return path


def _print_summary(found: "Explanation", path: Path) -> None:
    document = found.document()
    where = " ".join(f"{axis}={value}" for axis, value in document["peak"].items())
    print_line(f"{found.package} ({found.variant}): {document['name']} {document['score']:.4g}")
    print_line(f"covered, the score falls by up to {document['drop']:.4g} ({where})")
    ordered = sorted(document["by_channel"].items(), key=lambda entry: -entry[1])
    for name, drop in ordered[:8] if len(ordered) > 1 else ():
        print_line(f"  {name:<24} by {drop:.4g}, where all of it is covered")
    print_line(f"written to {path}")
