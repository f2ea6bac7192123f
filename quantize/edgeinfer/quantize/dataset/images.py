"""Pictures in a folder, with their classes in `labels.csv` or one sub-folder a class."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeinfer.quantize.dataset.archive import check_labels
from edgeinfer.quantize.dataset.files import find_pictures, folder_sha256, read_pictures, read_text
from edgeinfer.quantize.dataset.naming import Written, class_numbers, class_places, nearest, plain_name, unseen_classes
from edgeinfer.quantize.dataset.options import SampleOptions
from edgeinfer.quantize.dataset.samples import Loaded, Pictures
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import SamplesError
from edgeinfer.runtime.manifest import Task
from edgeinfer.runtime.sources.pictures import ENDINGS

__all__ = ["load_classes", "load_listed", "load_unlabelled"]


@dataclass(frozen=True, slots=True)
class _Entry:
    """A line of `labels.csv`."""

    path: Path
    label: Written


def load_listed(folder: Path, listing: Path, *, task: Task, options: SampleOptions, labels: tuple[str, ...]) -> Loaded:
    """The pictures that `labels.csv` names, relative to the folder, with a class each.

    Raises SamplesError, naming the line, for a missing file, a file that is named twice, and a label that is none.
    """
    entries = list(_entries(folder, listing, options))
    if not entries:
        raise SamplesError(f"{listing}: expected a line for each picture, found the names of the columns alone")
    if task == "regression":
        y, names = _targets([entry.label for entry in entries]), labels
    else:
        y, names = class_numbers([entry.label for entry in entries], labels)
    pictures = read_pictures(entry.path for entry in entries)
    listed = {entry.path for entry in entries}
    others = sum(path not in listed for path in find_pictures(folder))
    warnings = (f"{others} pictures in {folder} are not in {listing.name} and are left out",) if others else ()
    return _loaded(folder, pictures, y, task=task, names=names, warnings=warnings)


def load_classes(folder: Path, *, task: Task, labels: tuple[str, ...]) -> Loaded:
    """The pictures in sub-folders, one a class: their sorted names are the classes, or `labels` give the order.

    Raises SamplesError for a sub-folder without pictures, one that is no class, and pictures that lie beside them.
    """
    subfolders = sorted({path.relative_to(folder).parts[0] for path in _inside(folder)})
    loose = find_pictures(folder)
    outside = [path for path in loose if path.parent == folder]
    if outside or not subfolders:
        raise SamplesError(
            f"{folder}: expected labels.csv, or a sub-folder for each class, found {len(outside)} pictures without a "
            f"class, the first one {outside[0].name if outside else ''!r}",
            hint="labels.csv has the columns file and label",
        )
    empty = sorted(set(subfolders) - {path.relative_to(folder).parts[0] for path in loose})
    if empty:
        raise SamplesError(
            f"{folder / empty[0]}: expected pictures of this class, found none",
            hint=f"files that end in {', '.join(sorted(ENDINGS))}; or take the folder away",
        )
    classes = [Written(path.relative_to(folder).parts[0], str(path.parent)) for path in loose]
    y, names = _by_folder(classes, subfolders, labels)
    return _loaded(folder, read_pictures(loose), y, task=task, names=names, warnings=())


def _inside(folder: Path) -> Iterator[Path]:
    """The sub-folders that are classes."""
    for path in folder.iterdir():
        if path.is_dir() and not path.name.startswith(".") and path.name != "calibration":
            yield path


def _by_folder(
    classes: Sequence[Written], subfolders: Sequence[str], labels: tuple[str, ...]
) -> tuple[Array, tuple[str, ...]]:
    names = labels or tuple(subfolders)
    places = class_places(names)
    numbers = [places.get(label.text, places.get(plain_name(label.text))) for label in classes]
    for label, number in zip(classes, numbers, strict=True):
        if number is None:
            raise SamplesError(
                f"{label.where}: expected a folder named as one of the {len(names)} labels, found {label.text!r}",
                hint=nearest(label.text, names),
            )
    return np.array(numbers, np.int64), tuple(names)


def load_unlabelled(folder: Path) -> Loaded:
    """All pictures of a folder, for what is held against the float model alone."""
    pictures = read_pictures(find_pictures(folder))
    digest = folder_sha256(folder, pictures.files, pictures.digests)
    return Loaded(x=pictures, y=np.zeros(len(pictures), np.int64), sha256=digest, labelled=False, raw=True)


def _loaded(
    folder: Path, pictures: Pictures, y: Array, *, task: Task, names: tuple[str, ...], warnings: tuple[str, ...]
) -> Loaded:
    if task != "regression":
        check_labels(y, task=task, where=str(folder))
    return Loaded(
        x=pictures,
        y=y,
        sha256=folder_sha256(folder, pictures.files, pictures.digests),
        raw=True,
        labels=names,
        warnings=(*warnings, *_twins(pictures, y), *unseen_classes(y, names)),
    )


def _twins(pictures: Pictures, y: Array) -> tuple[str, ...]:
    """A warning for pictures that are there more than once. Raises SamplesError where they have different labels."""
    seen: dict[bytes, int] = {}
    twins = 0
    for place, digest in enumerate(pictures.digests):
        first = seen.setdefault(digest, place)
        twins += first != place
        if not np.array_equal(y[first], y[place]):
            raise SamplesError(
                f"{pictures.files[place]}: expected one label for a picture, found {y[place]} here and {y[first]} for "
                f"the same picture in {pictures.files[first]}"
            )
    return (f"{twins} pictures are copies of others among the samples",) if twins else ()


def _targets(written: Sequence[Written]) -> Array:
    targets = []
    for label in written:
        try:
            targets.append(float(label.text))
        except ValueError as error:
            raise SamplesError(f"{label.where}: expected a number as target, found {label.text!r}") from error
    return np.array(targets, np.float32)


def _entries(folder: Path, listing: Path, options: SampleOptions) -> Iterator[_Entry]:
    lines = csv.reader(io.StringIO(read_text(listing), newline=""), delimiter=options.delimiter or ",", strict=True)
    try:
        header = [name.strip() for name in next(lines, [])]
        at_file, at_label = _columns(listing, header, options)
        seen: dict[Path, int] = {}
        for row in lines:
            if not any(cell.strip() for cell in row):
                continue
            where = f"{listing}: line {lines.line_num}"
            if len(row) != len(header):
                raise SamplesError(f"{where}: expected {len(header)} columns as in the first line, found {len(row)}")
            path = _named_file(folder, row[at_file].strip(), where)
            if path in seen:
                raise SamplesError(
                    f"{where}: expected each file once, found {row[at_file]!r} in line {seen[path]}, too"
                )
            seen[path] = lines.line_num
            yield _Entry(path, Written(row[at_label].strip(), where))
    except csv.Error as error:
        raise SamplesError(f"{listing}: line {lines.line_num}: expected comma-separated values: {error}") from error


def _columns(listing: Path, header: list[str], options: SampleOptions) -> tuple[int, int]:
    """Places of the file's and the label's column; of two columns the other one is the label."""
    for option, name in (("file", options.file_column), ("label", options.label_column)):
        if name not in header and not (option == "label" and name == "label" and len(header) == 2):
            raise SamplesError(
                f"{listing}: expected a column {name!r}, found {', '.join(header[:20]) or 'none'}",
                hint=f"--samples {option}_column=NAME, or {option}_column in the recipe's [samples], says what it is "
                "called",
            )
    at_file = header.index(options.file_column)
    return at_file, header.index(options.label_column) if options.label_column in header else 1 - at_file


def _named_file(folder: Path, name: str, where: str) -> Path:
    """Raises SamplesError for a file that is not there, or not in the folder."""
    if not name or "\0" in name:
        raise SamplesError(f"{where}: expected the name of a file, found {name!r}")
    path = folder / name
    inside = not Path(name).is_absolute() and ".." not in Path(name).parts
    try:
        found = inside and path.is_file()
    except OSError:  # a name longer than one can be
        found = False
    if not found:
        expected = "a file" if inside else "a file in this folder"
        raise SamplesError(
            f"{where}: expected {expected}, found none at {path}", hint="names are relative to the folder"
        )
    return path
