"""Samples from CSV tables: windows of rows, or single rows, with a column of labels.

    datetime;Current;Pressure;anomaly          window = 60, stride = 30, columns = ["Current", "Pressure"],
    2020-03-09 10:14:33;1.33;0.05;0            label_column = "anomaly"

The first line names the columns. A file alone, or all tables of a folder, which then have the same columns. A window
lies within one file.
"""

import csv
import hashlib
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeinfer.quantize.dataset.archive import check_labels, numbered_groups
from edgeinfer.quantize.dataset.files import folder_sha256, read_text
from edgeinfer.quantize.dataset.naming import Written, class_numbers, nearest, unseen_classes
from edgeinfer.quantize.dataset.options import SampleOptions
from edgeinfer.quantize.dataset.samples import Loaded
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import SamplesError
from edgeinfer.runtime.manifest import Task

__all__ = ["Windows", "load_tables", "read_windows"]

_DELIMITERS = ",;\t"
# Columns of text that are left out without a word: nothing is learnt from a time of day that is no number.
_TIMES = {"timestamp", "datetime", "date", "time"}


class Windows:
    """Windows (length, columns) of tables (rows, columns) float32, which are kept once however much windows overlap."""

    def __init__(self, tables: Sequence[Array], places: Sequence[tuple[int, int]], length: int) -> None:
        self._tables = tuple(tables)
        self._places = tuple(places)
        self._length = length

    @property
    def shape(self) -> tuple[int, ...]:
        columns = self._tables[0].shape[1]
        row = (columns,) if self._length == 1 else (self._length, columns)
        return (len(self._places), *row)

    @property
    def dtype(self) -> "np.dtype[np.float32]":
        return np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int, /) -> Array:
        table, start = self._places[index]
        rows: Array = self._tables[table][start : start + self._length]
        return rows[0] if self._length == 1 else rows


@dataclass(frozen=True, slots=True)
class _Table:
    """One file: `values` (rows, columns) float32, and a label for each row where there is a column of them."""

    path: Path
    values: Array
    labels: list[Written]


def load_tables(
    path: Path, files: Sequence[Path], *, task: Task, options: SampleOptions, labels: tuple[str, ...]
) -> Loaded:
    """Raises SamplesError, naming file and line, for cells that are no numbers, lines of another length, columns that
    are not there, and files shorter than a window."""
    layout = _layout(files[0], options)
    needs_labels = task in {"classification", "anomaly"}
    if needs_labels and layout.label is None:
        raise _no_label(files[0], options, layout.header)
    tables = [_read(file, layout, options) for file in files]
    places = _places(tables, path, options)
    windows = Windows([table.values for table in tables], places, options.window)
    y, names = _labels(tables, places, task=task, options=options, labels=labels)
    if needs_labels:
        check_labels(y, task=task, where=f"{path}: column {options.label_column!r}")
    group = numbered_groups(np.array([table for table, _ in places]), y, where=str(path)) if options.group else None
    return Loaded(
        x=windows,
        y=y,
        sha256=_sha256(path, files),
        group=group,
        labelled=layout.label is not None,
        raw=True,
        labels=names,
        warnings=(*layout.warnings, *_overlaps(options), *unseen_classes(y, names)),
    )


def read_windows(files: Sequence[Path], *, where: Path, options: SampleOptions) -> Windows:
    """Windows alone, to calibrate with. Raises SamplesError."""
    if not files:
        raise SamplesError(f"{where}: expected CSV tables to calibrate with, found none")
    layout = _layout(files[0], options)
    tables = [_read(file, layout, options) for file in files]
    return Windows([table.values for table in tables], _places(tables, where, options), options.window)


def _overlaps(options: SampleOptions) -> tuple[str, ...]:
    if not options.stride or options.stride >= options.window:
        return ()
    shared = options.window - options.stride
    return (
        f"windows that follow each other share {shared} of {options.window} rows: they are less than as many samples",
    )


@dataclass(frozen=True, slots=True)
class _Layout:
    """The columns of a file: which are inputs, which the label."""

    header: tuple[str, ...]
    columns: tuple[str, ...]
    label: str | None
    warnings: tuple[str, ...]


def _layout(path: Path, options: SampleOptions) -> _Layout:
    """Of the first file."""
    lines = _lines(path, options)
    header = next(lines, (0, []))[1]
    if not header:
        raise SamplesError(f"{path}: expected a first line that names the columns, found an empty file")
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise SamplesError(f"{path}: line 1: expected each column once, found {twice[0]!r} more often")
    label = options.label_column if options.label_column in header else None
    for name in options.columns:
        if name not in header:
            raise SamplesError(f"{path}: expected a column {name!r}, found none", hint=nearest(name, header))
    if options.columns:
        return _Layout(tuple(header), options.columns, label, ())
    first = next(lines, (0, []))[1]
    numeric = [name for name, cell in zip(header, first, strict=False) if _is_number(cell)]
    columns = tuple(name for name in numeric if name != label)
    if not columns:
        raise SamplesError(f"{path}: expected columns of numbers, found {', '.join(header[:20])}")
    text = [name for name in header if name not in numeric and name != label and name.lower() not in _TIMES]
    warning = f"columns without numbers are left out: {', '.join(text)}"
    return _Layout(tuple(header), columns, label, (warning,) if text else ())


def _no_label(path: Path, options: SampleOptions, header: Sequence[str]) -> SamplesError:
    return SamplesError(
        f"{path}: expected a column {options.label_column!r} with a label for each row, found {', '.join(header[:20])}",
        hint="--samples label_column=NAME, or label_column in the recipe's [samples], names it",
    )


def _lines(path: Path, options: SampleOptions) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each line that is not empty. Raises SamplesError."""
    text = read_text(path)
    delimiter = options.delimiter or max(_DELIMITERS, key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise SamplesError(f"{path}: line {reader.line_num}: expected separated values: {error}") from error


def _read(path: Path, layout: _Layout, options: SampleOptions) -> _Table:
    lines = _lines(path, options)
    header = next(lines, (0, []))[1]
    if tuple(header) != layout.header:
        raise SamplesError(
            f"{path}: line 1: expected the columns of the first file, {', '.join(layout.header[:20])}; "
            f"found {', '.join(header[:20]) or 'none'}"
        )
    places = [header.index(name) for name in layout.columns]
    at_label = header.index(layout.label) if layout.label is not None else None
    values: list[Array] = []
    labels: list[Written] = []
    for number, cells in lines:
        if len(cells) != len(header):
            raise SamplesError(f"{path}: line {number}: expected {len(header)} columns, found {len(cells)}")
        row = [_value(cells[place], header[place], path, number) for place in places]
        values.append(np.array(row, np.float32))
        if at_label is not None:
            labels.append(Written(cells[at_label], f"{path}: line {number}"))
    return _Table(path, np.array(values, np.float32).reshape(len(values), len(places)), labels)


def _value(cell: str, column: str, path: Path, line: int) -> float:
    value = _number(cell)
    if value is None or abs(value) > float(np.finfo(np.float32).max):
        raise SamplesError(f"{path}: line {line}: expected a number in the column {column!r}, found {cell!r}")
    return value


def _number(cell: str) -> float | None:
    """None for what is no finite number."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _is_number(cell: str) -> bool:
    return _number(cell) is not None


def _places(tables: Sequence[_Table], path: Path, options: SampleOptions) -> list[tuple[int, int]]:
    """Table and first row of each window."""
    step = options.stride or options.window
    places = [
        (index, start)
        for index, table in enumerate(tables)
        for start in range(0, len(table.values) - options.window + 1, step)
    ]
    if not places:
        longest = max(len(table.values) for table in tables)
        raise SamplesError(f"{path}: expected tables with a window of {options.window} rows, found {longest} at most")
    return places


def _labels(
    tables: Sequence[_Table],
    places: Sequence[tuple[int, int]],
    *,
    task: Task,
    options: SampleOptions,
    labels: tuple[str, ...],
) -> tuple[Array, tuple[str, ...]]:
    """Of each window, and the names of the classes."""
    written = [label for table in tables for label in table.labels]
    if not written:
        return np.zeros(len(places), np.int64), ()
    if task == "regression":
        each: Array = np.array([_target(label) for label in written], np.float32)
        names: tuple[str, ...] = labels
    else:
        each, names = class_numbers(written, labels)
    ends = np.cumsum([0, *(len(table.labels) for table in tables)])
    windows = (each[ends[table] + start : ends[table] + start + options.window] for table, start in places)
    last = options.window_label == "last"
    return np.array([window[-1] if last else window.max() for window in windows], each.dtype), names


def _target(label: Written) -> float:
    value = _number(label.text)
    if value is None:
        raise SamplesError(f"{label.where}: expected a number as target, found {label.text!r}")
    return value


def _sha256(path: Path, files: Sequence[Path]) -> str:
    digests = [hashlib.sha256(file.read_bytes()).digest() for file in files]
    return digests[0].hex() if path.is_file() else folder_sha256(path, files, digests)
