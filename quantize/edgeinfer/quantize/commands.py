"""What the command line calls: typed functions that print results on stdout and say the rest on stderr."""

import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgeinfer.quantize.progress import Progress, Told, listening, silent, terminal_display
from edgeinfer.quantize.recipe import Recipe, load_recipe, overridden
from edgeinfer.runtime.errors import AccuracyBudgetError, UsageError
from edgeinfer.runtime.manifest import Task

if TYPE_CHECKING:
    from edgeinfer.quantize.report.document import Report
    from edgeinfer.quantize.request import Request
    from edgeinfer.quantize.searching import Outcome
    from edgeinfer.quantize.targets.base import Fleet

__all__ = [
    "create_package",
    "keygen_command",
    "quantize_command",
    "quantize_model",
    "read_flags",
    "request_of",
    "sign_command",
]

# Of a table that goes into a file.
_PLAIN_WIDTH = 120
# Of refused candidates, so many are named in an error; the table has all.
_NAMED = 6


def quantize_command(
    recipe: Recipe, *, as_json: bool = False, page: bool = True, command: str = "", fleet: "Fleet | None" = None
) -> None:
    """`edgeinfer quantize`: prints the table, or with `as_json` the document, with the package's path in it. The report
    is written beside the package as a page too, or where the recipe says; without `page` nowhere. `command` is what the
    report says to do it again with. `fleet` asks the device of a target `device:ID`.

    Raises AccuracyBudgetError after printing where nothing keeps the budget.
    """
    request = replace(request_of(recipe, page=page), command=command, fleet=fleet)
    with terminal_display(f"quantizing {request.identity.name} {request.identity.version}") as progress:
        outcome = _search(request, progress)
    _tell(outcome)
    if as_json:
        sys.stdout.write(msgspec.json.encode(_document(outcome)).decode() + "\n")
    else:
        from edgeinfer.quantize.report.table import render

        width = shutil.get_terminal_size((_PLAIN_WIDTH, 24)).columns
        sys.stdout.write(render(outcome.report, package=outcome.package, width=width))
    sys.stdout.flush()
    # Last: where it cannot be written, all else has been said and done.
    _write_page(outcome, request)
    _refuse_over_budget(outcome)


def quantize_model(
    models: Sequence[Path],
    *,
    data: Path,
    task: Task,
    name: str,
    version: str,
    output: Path,
    labels: Path | None = None,
    sign_key: Path | None = None,
    progress: Progress | Told = silent,
    **more: Any,
) -> dict[str, Any]:
    """The same for a program: returns the `--json` document, prints nothing on stdout, tells `progress`. `more` are the
    fields of `edgeinfer.quantize.request.Request`; without `page` no page is written.

    Raises AccuracyBudgetError where nothing keeps the budget.
    """
    from edgeinfer.quantize.pack import Identity
    from edgeinfer.quantize.request import Request

    identity = Identity(name=name, version=version, task=task, output=output, sign_key=sign_key)
    request = Request(models=models, data=data, identity=identity, labels=labels, **more)
    outcome = _search(request, listening(progress))
    _tell_inferred(outcome.inferred)
    _write_page(outcome, request)
    _refuse_over_budget(outcome)
    return _document(outcome)


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


def read_flags(
    models: Sequence[Path],
    flags: Mapping[str, object],
    *,
    specs: Mapping[str, str],
    time_budget: str | None = None,
    states: Sequence[str] = (),
    constants: Sequence[str] = (),
) -> Recipe:
    """The recipe that `models` names, if one of them is a `.toml`, with what the flags say instead. `specs` are inline
    declarations of the sections. Raises UsageError, ConfigError."""
    from edgeinfer.quantize.feeding import parse_feeding
    from edgeinfer.quantize.spec import read_spec

    recipes = [path for path in models if path.suffix.lower() == ".toml"]
    if len(recipes) > 1:
        raise UsageError(f"expected one recipe, found {', '.join(map(str, recipes))}")
    recipe = load_recipe(existing(recipes[0])) if recipes else Recipe()
    feeding = parse_feeding(states, constants)
    given = dict(flags)
    given["model.files"] = tuple(str(path) for path in models if path not in recipes)
    given["model.states"] = {state.input: state.output for state in feeding.states} or None
    given["model.constants"] = {constant.input: constant.value for constant in feeding.constants} or None
    given["budget.time_s"] = _seconds(time_budget) if time_budget is not None else None
    for section in ("preprocess", "postprocess"):
        given[section] = read_spec(specs[section]) if specs.get(section) else None
    options = read_spec(specs["samples"]) if specs.get("samples") else {}
    given |= {f"samples.{key}": value for key, value in options.items()}
    return overridden(recipe, given)


def _seconds(text: str) -> float:
    """Of `90`, `90s`, `5m` or `1h`."""
    scale = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1:], 0.0)
    try:
        seconds = float(text[:-1]) * scale if scale else float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(f"expected --time-budget such as 60s or 5m, found {text!r}")
    return seconds


def request_of(recipe: Recipe, *, page: bool = True) -> "Request":
    """What a recipe, with the flags in it, asks for. Raises UsageError for what it does not say and must."""
    from edgeinfer.quantize.pack import Identity
    from edgeinfer.quantize.request import Request

    data, task, name, version, output = _said(recipe)
    budget, search = recipe.budget, recipe.search
    identity = Identity(name, version, task, output, _path(recipe.package.sign_key))
    given: dict[str, Any] = {
        "max_drop": budget.max_drop,
        "min_agreement": budget.min_agreement,
        "max_bytes": budget.max_bytes,
        "time_s": budget.time_s,
        "objective": search.objective,
        "target": search.target,
        "exhaustive": search.exhaustive,
        "threads": recipe.model.threads,
    }
    return Request(
        models=[existing(Path(file)) for file in recipe.model.files],
        data=data,
        identity=identity,
        metric=recipe.metric,
        preprocess=recipe.preprocess_spec,
        postprocess=recipe.postprocess_spec,
        labels=_path(recipe.samples.labels),
        options=recipe.samples.options,
        feeding=recipe.model.feeding,
        converter=_path(recipe.model.converter),
        page=_page(recipe, output) if page else None,
        **{key: value for key, value in given.items() if value is not None},
    )


def _said(recipe: Recipe) -> tuple[Path, Task, str, str, Path]:
    """What every search needs to be told."""
    package = recipe.package
    wanted = {
        "MODELS": recipe.model.files,
        "--data": recipe.samples.path,
        "--task": recipe.task,
        "--name": package.name,
        "--version": package.version,
        "--output": package.output,
    }
    missing = [flag for flag, value in wanted.items() if not value]
    if missing:
        raise UsageError(
            f"missing: {', '.join(missing)}",
            hint="Usage: edgeinfer quantize MODELS --data SAMPLES --task TASK --name NAME --version X.Y.Z -o PACKAGE; "
            "or a recipe that says these: edgeinfer quantize RECIPE.toml",
        )
    assert recipe.task is not None  # noqa: S101 - looked at above
    path, output = existing(Path(str(recipe.samples.path))), Path(str(package.output))
    return path, recipe.task, str(package.name), str(package.version), output


def _path(file: str | None) -> Path | None:
    return Path(file) if file else None


def _page(recipe: Recipe, output: Path) -> Path:
    return Path(recipe.report.page) if recipe.report.page else output.with_suffix(".report.html")


def existing(path: Path) -> Path:
    """`path`, which was named by the user. Raises UsageError where there is no such file."""
    if not path.exists():
        raise UsageError(f"{path}: no such file")
    return path


def _search(request: "Request", progress: Progress) -> "Outcome":
    from edgeinfer.quantize.searching import search_package

    return search_package(request, progress=progress)


def _write_page(outcome: "Outcome", request: "Request") -> None:
    if request.page is None:
        return
    from edgeinfer.quantize.report.page import write_page

    title = f"{request.identity.name} {request.identity.version}"
    write_page(outcome.report, request.page, title=title, provenance=outcome.provenance)
    sys.stderr.write(f"edgeinfer: report: {request.page}\n")


def _document(outcome: "Outcome") -> dict[str, Any]:
    """What `--json` prints."""
    package = str(outcome.package) if outcome.package is not None else None
    # As it is read again: without infinities, which JSON does not have.
    return {"package": package, **msgspec.json.decode(msgspec.json.encode(outcome.report))}


def _tell(outcome: "Outcome") -> None:
    _tell_inferred(outcome.inferred)
    chosen = outcome.report.chosen
    if chosen is not None and not chosen.quantized:
        # The package looks like success otherwise.
        sys.stderr.write(f"edgeinfer: warning: nothing is quantized: {outcome.report.answer}\n")


def _tell_inferred(inferred: str) -> None:
    if inferred:
        sys.stderr.write(f"edgeinfer: preprocessing inferred: {inferred} (declare it with --preprocess)\n")


def _budget(report: "Report") -> str:
    unit = "%" if report.unit == "percent" else "point" if report.max_drop == 1 else "points"
    asked = [f"at most {report.max_drop:g} {unit} lost"]
    if report.min_agreement is not None:
        asked.append(f"agreement of {report.min_agreement:g} or more")
    if report.max_bytes is not None:
        asked.append(f"{report.max_bytes:,} bytes or fewer")
    return ", ".join(asked)


def _budget_flags(report: "Report") -> str:
    """Those that the user has set beside the one that always holds."""
    given = {"--min-agreement": report.min_agreement, "--max-bytes": report.max_bytes}
    return " or ".join(["--max-drop", *(flag for flag, value in given.items() if value is not None)])


def _refuse_over_budget(outcome: "Outcome") -> None:
    report = outcome.report
    if outcome.package is not None:
        return
    made = [row for row in report.candidates if row.bytes]
    refused = [row for row in made if row.quantized] or made
    reasons = "; ".join(f"{row.variant}: {row.reason}" for row in refused[:_NAMED])
    raise AccuracyBudgetError(
        f"nothing keeps the budget ({_budget(report)}): {reasons}",
        hint=f"allow more with {_budget_flags(report)}, give more calibration samples, or pack the float model: "
        "edgeinfer package create",
    )
