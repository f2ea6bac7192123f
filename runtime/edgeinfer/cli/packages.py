"""`edgeinfer package`: looks into packages, checks them, signs them."""

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeinfer.cli.shared import JsonFlag, TaskName, existing, print_json, print_line, print_table

if TYPE_CHECKING:
    from edgeinfer.quantize.report.reading import CarriedReport
    from edgeinfer.runtime.package import PackageFile

__all__ = ["app"]

app = typer.Typer(help="Look into packages, check them, sign them.", no_args_is_help=True, rich_markup_mode=None)

_PIPED_WIDTH = 120

PackageArgument = Annotated[Path, typer.Argument(help="A model package (.edgepkg).")]


@app.command()
def inspect(
    package: PackageArgument,
    *,
    report: Annotated[
        Path | None, typer.Option(help="Write the report of its search as a page (.html) to this file.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what a package says of itself and what the search for it found. Its files are not checked: see verify."""
    from edgeinfer.runtime.package import PackageFile

    with PackageFile(existing(package)) as opened:
        if as_json:
            _print_document(opened)
        else:
            _print_summary(opened)
        if report is not None:
            _write_report(opened, report)


def _print_document(package: "PackageFile") -> None:
    """The manifest's own `report` names the file; what it says goes under `search`."""
    import msgspec

    manifest = msgspec.json.decode(package.manifest_bytes)
    found = _report(package)
    search = {} if found is None else {"search": msgspec.json.decode(found.raw)}
    print_json({**manifest, "digest": package.digest, "signatures": package.signatures, **search})


def _report(package: "PackageFile") -> "CarriedReport | None":
    """The report of the search, or None for a package that carries none. Raises PackageError for one that is beyond
    its bounds."""
    from edgeinfer.quantize.report.reading import carried_report

    return carried_report(package)


def _write_report(package: "PackageFile", path: Path) -> None:
    from edgeinfer.quantize.report.page import write_page
    from edgeinfer.runtime.errors import PackageError

    manifest = package.manifest
    found = _report(package)
    if found is None:
        raise PackageError(f"{package.path}: carries no report of a search", hint="it was packed as it is")
    write_page(found.report, path, title=f"{manifest.name} {manifest.version}", provenance=manifest.provenance)


def _print_summary(package: "PackageFile") -> None:
    manifest = package.manifest
    print_line(f"{manifest.name} {manifest.version}, {manifest.task}")
    print_line(f"digest      {package.digest}")
    print_line(f"signed by   {', '.join(signature.keyid[:12] for signature in package.signatures) or 'nobody'}")
    if manifest.provenance is not None:
        print_line(f"made        {manifest.provenance.created}")
    golden = manifest.golden
    print_line(f"golden      {golden.count if golden else 0} vectors")
    print_line()
    _print_variants(package)
    found = _report(package)
    if found is not None:
        from edgeinfer.quantize.report.table import render

        print_line()
        print_line(render(found.report, width=_width()).rstrip())


def _width() -> int:
    """Of the terminal; what is piped elsewhere gets room for every column."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _PIPED_WIDTH


def _print_variants(package: "PackageFile") -> None:
    rows = []
    for variant in package.manifest.variants:
        metrics = next(iter(variant.metrics.values()), {})
        shown = " ".join(f"{name}={value:g}" for name, value in sorted(metrics.items()))
        rows.append((variant.id, variant.engine, variant.precision, variant.bytes, shown))
    print_table(("variant", "engine", "precision", "bytes", "measured when made"), rows)


@app.command()
def verify(
    package: PackageArgument,
    *,
    key: Annotated[list[str] | None, typer.Option("--key", help="Trusted public key: hex or a .pub file.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check every file of a package against its hash, and with --key its signature. Status 3 if it is not whole."""
    from edgeinfer.runtime.errors import RefusedError
    from edgeinfer.runtime.package import PackageFile
    from edgeinfer.runtime.trust import parse_public_key
    from edgeinfer.runtime.trust import verify as verify_signature

    trusted = [parse_public_key(entry) for entry in key or ()]
    document: dict[str, object] = {"package": str(package), "ok": True, "signed_by": None, "reason": ""}
    try:
        with PackageFile(existing(package)) as opened:
            document["digest"] = opened.digest
            opened.verify_files()
            if trusted:
                document["signed_by"] = verify_signature(opened.manifest_bytes, opened.signatures, trusted)
            files = len(opened.files())
    except RefusedError as error:
        if not as_json:
            raise
        print_json({**document, "ok": False, "reason": error.message})
        raise typer.Exit(error.exit_code) from error
    if as_json:
        print_json(document)
    else:
        signature = f"signed by {document['signed_by']}" if trusted else "signature not checked (no --key)"
        print_line(f"{package}: {files} files whole, {signature}")


@app.command()
def create(
    models: Annotated[list[Path], typer.Argument(help="Model files (.onnx, .tflite), the preferred one first.")],
    *,
    name: Annotated[str, typer.Option(help="The package's name, for instance door-camera.")],
    version: Annotated[str, typer.Option(help="MAJOR.MINOR.PATCH.")],
    task: Annotated[TaskName, typer.Option(help="What the model does.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The package to write (.edgepkg).")],
    labels: Annotated[Path | None, typer.Option(help="Labels, one a line.")] = None,
    preprocess: Annotated[str, typer.Option(help="TOML or JSON file, or inline: kind=image,std=255.")] = "",
    postprocess: Annotated[str, typer.Option(help="The same for what follows the model.")] = "",
    data: Annotated[Path | None, typer.Option(help="Samples (.npz) for golden vectors.")] = None,
    sign_key: Annotated[Path | None, typer.Option(help="Private key to sign with.")] = None,
    threads: Annotated[int, typer.Option(help="Threads of the engine.")] = 1,
    state: Annotated[
        list[str] | None, typer.Option("--state", help="INPUT=OUTPUT: an input fed with the last call's output.")
    ] = None,
    constant: Annotated[
        list[str] | None, typer.Option("--constant", help="INPUT=NUMBER: an input that always has this value.")
    ] = None,
) -> None:
    """Pack model files as they are, without quantizing them."""
    from edgeinfer.quantize.commands import create_package

    digest = create_package(
        [existing(model) for model in models],
        task=task.value,
        name=name,
        version=version,
        output=output,
        labels=labels,
        preprocess=preprocess,
        postprocess=postprocess,
        data=data,
        sign_key=sign_key,
        threads=threads,
        states=state or (),
        constants=constant or (),
    )
    print_line(f"{output}: {digest}")


@app.command()
def sign(
    package: PackageArgument, *, key: Annotated[Path, typer.Option("--key", help="Private key file, made by keygen.")]
) -> None:
    """Add a signature to a package, in place."""
    from edgeinfer.quantize.commands import sign_command

    print_line(f"{package}: signed by {sign_command(existing(package), key=existing(key))}")


@app.command()
def keygen(
    output: Annotated[Path, typer.Argument(help="Private key file to make (.key); the public one lies beside it.")],
) -> None:
    """Make a signing key: FILE (private, mode 0600) and FILE with .pub (public)."""
    from edgeinfer.quantize.commands import keygen_command

    for path in keygen_command(output):
        print_line(str(path))
