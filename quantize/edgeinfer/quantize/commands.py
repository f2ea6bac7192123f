"""What the command line calls: typed functions that print results on stdout and say the rest on stderr."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgeinfer.quantize.progress import Progress, silent, terminal_bar
from edgeinfer.runtime.errors import AccuracyBudgetError
from edgeinfer.runtime.manifest import Task

if TYPE_CHECKING:
    from edgeinfer.quantize.quantizer import Outcome, Request

__all__ = [
    "create_package",
    "keygen_command",
    "quantize_command",
    "quantize_model",
    "sign_command",
]


def quantize_command(
    models: Sequence[Path],
    *,
    data: Path,
    task: Task,
    name: str,
    version: str,
    output: Path,
    max_drop: float = 1.0,
    as_json: bool = False,
    preprocess: str = "",
    postprocess: str = "",
    labels: Path | None = None,
    sign_key: Path | None = None,
    threads: int = 1,
) -> None:
    """`edgeinfer quantize`: prints the table, or with `as_json` the document, and the package's path in it.

    Raises AccuracyBudgetError after printing where no quantized candidate keeps the budget.
    """
    request = _request(
        models,
        data=data,
        identity=(name, version, task, output, sign_key),
        max_drop=max_drop,
        declared=(preprocess, postprocess),
        labels=labels,
        threads=threads,
    )
    with terminal_bar(f"quantizing {name} {version}") as progress:
        outcome = _search(request, progress)
    _tell_inferred(outcome.inferred)
    _tell_float_first(outcome.document)
    sys.stdout.write(msgspec.json.encode(outcome.document).decode() + "\n" if as_json else outcome.table)
    sys.stdout.flush()
    _refuse_over_budget(outcome.document)


def quantize_model(
    models: Sequence[Path],
    *,
    data: Path,
    task: Task,
    name: str,
    version: str,
    output: Path,
    max_drop: float = 1.0,
    preprocess: str = "",
    postprocess: str = "",
    labels: Path | None = None,
    sign_key: Path | None = None,
    threads: int = 1,
    progress: Progress = silent,
) -> dict[str, Any]:
    """The same for a program: returns the `--json` document, prints nothing on stdout, tells `progress`.

    Raises AccuracyBudgetError where no quantized candidate keeps the budget.
    """
    request = _request(
        models,
        data=data,
        identity=(name, version, task, output, sign_key),
        max_drop=max_drop,
        declared=(preprocess, postprocess),
        labels=labels,
        threads=threads,
    )
    outcome = _search(request, progress)
    _tell_inferred(outcome.inferred)
    _refuse_over_budget(outcome.document)
    return outcome.document


def create_package(
    models: Sequence[Path],
    *,
    task: Task,
    name: str,
    version: str,
    output: Path,
    labels: Path | None = None,
    preprocess: str = "",
    postprocess: str = "",
    data: Path | None = None,
    sign_key: Path | None = None,
    threads: int = 1,
    states: Sequence[str] = (),
    constants: Sequence[str] = (),
) -> str:
    """`edgeinfer package create`: packs model files as they are; returns the package's digest."""
    from edgeinfer.quantize.create import CreateRequest, pack_models
    from edgeinfer.quantize.feeding import parse_feeding
    from edgeinfer.quantize.pack import Identity

    created = pack_models(
        CreateRequest(
            models=models,
            identity=Identity(name=name, version=version, task=task, output=output, sign_key=sign_key),
            labels=labels,
            preprocess=preprocess,
            postprocess=postprocess,
            data=data,
            threads=threads,
            feeding=parse_feeding(states, constants),
        )
    )
    _tell_inferred(created.inferred)
    return created.digest


def sign_command(package: Path, *, key: Path) -> str:
    """`edgeinfer package sign`: adds a signature in place; returns the key's id."""
    from edgeinfer.quantize.signing import sign_package

    return sign_package(package, key)


def keygen_command(output: Path) -> tuple[Path, Path]:
    """`edgeinfer package keygen`: makes a key pair; returns the paths of the private and the public key."""
    from edgeinfer.quantize.signing import make_key

    return make_key(output)


def _request(
    models: Sequence[Path],
    *,
    data: Path,
    identity: tuple[str, str, Task, Path, Path | None],
    max_drop: float,
    declared: tuple[str, str],
    labels: Path | None,
    threads: int,
) -> "Request":
    """The search's own value; `declared` are the preprocessing and the postprocessing."""
    from edgeinfer.quantize.pack import Identity
    from edgeinfer.quantize.quantizer import Request

    name, version, task, output, sign_key = identity
    return Request(
        models=models,
        data=data,
        identity=Identity(name=name, version=version, task=task, output=output, sign_key=sign_key),
        max_drop=max_drop,
        preprocess=declared[0],
        postprocess=declared[1],
        labels=labels,
        threads=threads,
    )


def _search(request: "Request", progress: Progress) -> "Outcome":
    from edgeinfer.quantize.quantizer import search_package

    return search_package(request, progress=progress)


def _tell_inferred(inferred: str) -> None:
    if inferred:
        sys.stderr.write(f"edgeinfer: preprocessing inferred: {inferred} (declare it with --preprocess)\n")


def _tell_float_first(document: dict[str, Any]) -> None:
    """Where quantizing gained nothing, say so: the package looks like success otherwise."""
    chosen = document["chosen"]
    if chosen is None or chosen["quantized"]:
        return
    quantized = [entry for entry in document["candidates"] if entry["quantized"]]
    reasons = "; ".join(f"{entry['variant']}: {entry['reason']}" for entry in quantized)
    sys.stderr.write(
        f"edgeinfer: warning: the float model {chosen['variant']} stays first, the fastest within the budget "
        f"({reasons})\n"
    )


def _refuse_over_budget(document: dict[str, Any]) -> None:
    if document["package"] is not None:
        return
    quantized = [entry for entry in document["candidates"] if entry["quantized"]]
    reasons = "; ".join(f"{entry['variant']}: {entry['reason']}" for entry in quantized)
    raise AccuracyBudgetError(
        f"no quantized candidate stays within {document['max_drop']:g} points of the float model: {reasons}",
        hint="allow more with --max-drop, give more calibration samples, or pack the float model: "
        "edgeinfer package create",
    )
