"""Which form samples have, and what calibrates them."""

from dataclasses import replace
from pathlib import Path

from edgeinfer.quantize.dataset.archive import load_archive, load_rows
from edgeinfer.quantize.dataset.files import CALIBRATION, find_files, find_pictures, read_pictures
from edgeinfer.quantize.dataset.options import SampleOptions
from edgeinfer.quantize.dataset.samples import Loaded, Material, Pictures
from edgeinfer.runtime.errors import SamplesError, UsageError
from edgeinfer.runtime.manifest import Task
from edgeinfer.runtime.sources.pictures import ENDINGS

__all__ = ["load_samples"]

_NO_OPTIONS = SampleOptions()
_ANNOTATIONS, _LABELS = "annotations.json", "labels.csv"


def load_samples(
    path: Path, *, task: Task, options: SampleOptions = _NO_OPTIONS, labels: tuple[str, ...] = ()
) -> Loaded:
    """Read `path`: an `.npz`, a CSV table, a folder of tables, or one of pictures. `labels` are the classes' names.

    Raises UsageError for a missing file, SamplesError for anything that is not samples, naming file and line.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such samples file or folder")
    loaded = _load(path, task, options, labels)
    if options.calibration:
        return replace(loaded, calibration=_calibration(Path(options.calibration), loaded.x, options))
    inside = path / CALIBRATION
    if path.is_dir() and inside.is_dir():
        return replace(loaded, calibration=_calibration(inside, loaded.x, options))
    return loaded


def _load(path: Path, task: Task, options: SampleOptions, labels: tuple[str, ...]) -> Loaded:
    if path.is_file():
        if path.suffix.lower() not in {".csv", ".tsv", ".txt"}:
            return load_archive(path, task=task)
        from edgeinfer.quantize.dataset.tables import load_tables

        return load_tables(path, [path], task=task, options=options, labels=labels)
    if (path / _ANNOTATIONS).is_file():
        from edgeinfer.quantize.dataset.boxes_file import load_boxes

        return load_boxes(path, path / _ANNOTATIONS, labels=labels)
    if (path / _LABELS).is_file():
        from edgeinfer.quantize.dataset.images import load_listed

        return load_listed(path, path / _LABELS, task=task, options=options, labels=labels)
    tables = find_files(path, {".csv", ".tsv"})
    if tables and not find_files(path, ENDINGS):
        from edgeinfer.quantize.dataset.tables import load_tables

        return load_tables(path, tables, task=task, options=options, labels=labels)
    return _load_pictures(path, task, labels)


def _load_pictures(path: Path, task: Task, labels: tuple[str, ...]) -> Loaded:
    from edgeinfer.quantize.dataset.images import load_classes, load_unlabelled

    if not find_files(path, ENDINGS):
        raise SamplesError(
            f"{path}: expected samples, found a folder without any",
            hint="pictures with labels.csv or annotations.json, pictures in a sub-folder for each class, or CSV tables",
        )
    return load_classes(path, task=task, labels=labels) if _by_class(task) else load_unlabelled(path)


def _by_class(task: Task) -> bool:
    return task in {"classification", "anomaly"}


def _calibration(path: Path, like: Material, options: SampleOptions) -> Material:
    """Rows to calibrate with, of the form of those to evaluate with."""
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder of samples to calibrate with")
    if path.is_file() and path.suffix.lower() == ".npz":
        made: Material = load_rows(path)
    elif isinstance(like, Pictures):
        made = read_pictures(find_pictures(path) if path.is_dir() else [path])
    else:
        from edgeinfer.quantize.dataset.tables import read_windows

        files = find_files(path, {".csv", ".tsv"}) if path.is_dir() else [path]
        made = read_windows(files, where=path, options=options)
    if isinstance(made, Pictures) != isinstance(like, Pictures):
        raise SamplesError(f"{path}: expected samples to calibrate with of the form of the others, found another form")
    return made
