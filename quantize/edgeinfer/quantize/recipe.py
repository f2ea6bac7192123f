"""A recipe: all that `edgeinfer quantize` is told, in a TOML file. Flags override what it says.

    task = "classification"                # metric = "top5" for another one than the task's own

    [model]
    files = ["door.onnx", "door.tflite"]   # states = {state = "stateN"}, constants = {sr = 16000}

    [samples]
    path = "samples"                       # .npz, .csv, or a folder; options: `SampleOptions`
    labels = "labels.txt"

    [preprocess]                           # as --preprocess
    kind = "image"
    mean = [127.5]
    std = [127.5]

    [package]
    name = "door-camera"
    version = "1.2.0"
    output = "door-1.2.0.edgepkg"

    [budget]
    max_drop = 0.5
    time_s = 60

    [search]
    target = "rpi4"

Paths are relative to the recipe.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from edgeinfer.quantize.dataset.options import SampleOptions
from edgeinfer.quantize.feeding import Feeding
from edgeinfer.runtime.config import Section, load_config
from edgeinfer.runtime.errors import ConfigError
from edgeinfer.runtime.manifest import Constant, StateTensor, Task

__all__ = [
    "Budget",
    "ModelSection",
    "PackageSection",
    "Recipe",
    "ReportSection",
    "SamplesSection",
    "SearchSection",
    "load_recipe",
    "overridden",
]

_File = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
_TensorName = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
_Count = Annotated[int, msgspec.Meta(ge=1)]
T = TypeVar("T", bound=msgspec.Struct)


class ModelSection(Section, frozen=True):
    """`files`: one float model, or an ONNX and a TFLite file of the same one. `states` feeds an input with what the
    last inference gave for an output, `constants` fills an input with a number. `converter` is the command `onnx2tf`
    where it is not on the PATH. `threads` are the engines'."""

    files: Annotated[tuple[_File, ...], msgspec.Meta(max_length=16)] = ()
    states: dict[_TensorName, _TensorName] = msgspec.field(default_factory=dict)
    constants: dict[_TensorName, float] = msgspec.field(default_factory=dict)
    converter: _File | None = None
    threads: _Count | None = None

    @property
    def feeding(self) -> Feeding:
        return Feeding(
            tuple(StateTensor(*pair) for pair in self.states.items()),
            tuple(Constant(*pair) for pair in self.constants.items()),
        )


class SamplesSection(SampleOptions, frozen=True):
    """`path`: the samples; `labels`: the file of the classes' names, one a line; beside these `SampleOptions`."""

    path: _File | None = None
    labels: _File | None = None

    @property
    def options(self) -> SampleOptions:
        fields = SampleOptions.__struct_fields__
        return SampleOptions(**{name: getattr(self, name) for name in fields})


class PackageSection(Section, frozen=True):
    """What the package is called, where it is written, and the private key that signs it."""

    name: str | None = None
    version: str | None = None
    output: _File | None = None
    sign_key: _File | None = None


class Budget(Section, frozen=True):
    """`max_drop`: points of the metric (hundredths; per cent of the float model's value for an error without a bound)
    that may be lost. `min_agreement`: the share of samples, 0 to 1, on which the float model must be agreed with.
    `max_bytes`: of the file. `time_s`: how long the search may take."""

    max_drop: Annotated[float, msgspec.Meta(ge=0.0)] | None = None
    min_agreement: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] | None = None
    max_bytes: _Count | None = None
    time_s: Annotated[float, msgspec.Meta(gt=0.0)] | None = None


class SearchSection(Section, frozen=True):
    """`objective`: what shall be small. `target`: `local`, the name of a device profile, `ssh://user@host` or
    `device:ID`. `exhaustive`: try everything."""

    objective: Literal["latency", "size", "energy"] | None = None
    target: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)] | None = None
    exhaustive: bool | None = None


class ReportSection(Section, frozen=True):
    """`page`: the HTML file that the report is written to, beside the package's own."""

    page: _File | None = None


class Recipe(Section, frozen=True):
    """Everything may be missing: flags may say it. `preprocess` and `postprocess` have the keys of the declarations in
    a package, and `preprocess` also `raw`. None and empty mean not said."""

    task: Task | None = None
    metric: str = ""
    model: ModelSection = ModelSection()
    samples: SamplesSection = SamplesSection()
    preprocess: dict[str, Any] = msgspec.field(default_factory=dict)
    postprocess: dict[str, Any] = msgspec.field(default_factory=dict)
    package: PackageSection = PackageSection()
    budget: Budget = Budget()
    search: SearchSection = SearchSection()
    report: ReportSection = ReportSection()

    @property
    def preprocess_spec(self) -> str:
        """As `--preprocess` takes it."""
        return _spec(self.preprocess)

    @property
    def postprocess_spec(self) -> str:
        """As `--postprocess` takes it."""
        return _spec(self.postprocess)


def _spec(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, default=str) if fields else ""


def load_recipe(path: Path) -> Recipe:
    """Read `path`, with paths made relative to the folder that one is in. Raises ConfigError: unreadable, not TOML, an
    unknown key (with the nearest known one), a wrong value."""
    recipe = load_config(path, Recipe)
    _check_budget(recipe.budget, path)
    folder = path.parent
    model, samples, package = recipe.model, recipe.samples, recipe.package
    return msgspec.structs.replace(
        recipe,
        model=msgspec.structs.replace(
            model,
            files=tuple(_beside(folder, file) for file in model.files),
            converter=_beside(folder, model.converter),
        ),
        samples=msgspec.structs.replace(
            samples,
            path=_beside(folder, samples.path),
            labels=_beside(folder, samples.labels),
            calibration=_beside(folder, samples.calibration) if samples.calibration else "",
        ),
        postprocess=_with_arrays(folder, recipe.postprocess),
        package=msgspec.structs.replace(
            package, output=_beside(folder, package.output), sign_key=_beside(folder, package.sign_key)
        ),
        report=msgspec.structs.replace(recipe.report, page=_beside(folder, recipe.report.page)),
    )


def _check_budget(budget: Budget, path: Path) -> None:
    """TOML has infinity and NaN, which no bound refuses."""
    for field in msgspec.structs.fields(budget):
        value = getattr(budget, field.name)
        if isinstance(value, float) and not 0.0 <= value < float("inf"):
            raise ConfigError(f"{path}: budget.{field.name}: expected a finite number, found {value}")


def _beside(folder: Path, file: str | None) -> Any:
    """`file` from where the recipe lies; a `~` is the home of who runs it."""
    return None if file is None else str(folder / os.path.expanduser(file))  # noqa: PTH111 - Path's raises for no home


def _with_arrays(folder: Path, fields: dict[str, Any]) -> dict[str, Any]:
    arrays = fields.get("arrays")
    return fields | {"arrays": _beside(folder, arrays)} if isinstance(arrays, str) else fields


def overridden(recipe: Recipe, flags: Mapping[str, object]) -> Recipe:
    """The recipe with what the flags say instead: `{"task": ..., "budget.max_drop": ...}`. None, "" and () say nothing.

    Raises ConfigError for a value that the recipe could not have, either.
    """
    document: dict[str, Any] = msgspec.to_builtins(recipe)
    for name, value in flags.items():
        if value is None or value in ("", ()):
            continue
        section, _, key = name.rpartition(".")
        (document[section] if section else document)[key] = str(value) if isinstance(value, Path) else value
    try:
        # What is said inline, as in --samples window=64, is text.
        return msgspec.convert(document, Recipe, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(_unfit(str(error), flags)) from error


def _unfit(problem: str, flags: Mapping[str, object]) -> str:
    """msgspec's message, with the flag in place of the path in the recipe and with what was found."""
    said, _, place = problem.partition(" - at `$.")
    name = place.rstrip("`")
    given = flags.get(name)
    if name == "samples":
        return f"--samples: {said}; known here: {', '.join(SampleOptions.__struct_fields__)}"
    section, _, key = name.rpartition(".")
    inline = section == "samples" and key in SampleOptions.__struct_fields__
    flag = f"--samples {key}" if inline else "--" + key.replace("_", "-")
    return f"{flag}: {said}" if given is None else f"{flag}: {said}, found {given}"
