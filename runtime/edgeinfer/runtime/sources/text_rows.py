"""Rows from text that has a beginning and an end: a CSV file, or standard input."""

import csv
import math
import os
import select
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.errors import ConfigError, SourceError
from edgeinfer.runtime.series import Arrival, Placement
from edgeinfer.runtime.sources.arrivals import IDLE_S, Arrivals, Skipped, now_arrived, wait_until_due
from edgeinfer.runtime.sources.records import LACKING_HINT, NamedKeys, check_once, is_number, lacking, number
from edgeinfer.runtime.sources.sensor_settings import CsvSource, StdinSource
from edgeinfer.runtime.sources.timestamps import LATEST_NS, parse_time

__all__ = ["csv_arrivals", "stdin_arrivals"]

_MAX_LINE_BYTES = 1 << 20
# What series write where a sensor gave nothing.
_MISSING = {"", "-", "?", "na", "n/a", "nan", "none", "null"}
_STDIN = "standard input"
_MAX_UNTIMED = 100
# What is no CSV in its header and first row is another kind of file; further on, it is a bad line.
_FIRST_LINES = 2
# A quoted cell may hold line ends. One with more of them is a quote that noise has opened: it would swallow rows for
# hours.
_MAX_LINES_OF_A_ROW = 20

# The values of a row, and what its time column says (None: there is none).
_Record = tuple[list[float], object]


def csv_arrivals(config: CsvSource, stop: threading.Event, channels: Sequence[str] = ()) -> Arrivals:
    """Raises SourceError for a file that is not there, has no header or lacks a column, ConfigError for one that lacks
    a channel that the package names."""
    path = Path(config.path)
    if not path.is_file():
        raise SourceError(f"{path}: no such series")
    records = _csv_records(_file_lines(path), config.path, config, channels)
    return _paced(records, config.interval_s, stop) if config.interval_s > 0 else _placed(records, config)


def stdin_arrivals(config: StdinSource, stop: threading.Event, channels: Sequence[str] = ()) -> Arrivals:
    lines = _stdin_lines(stop)
    if config.format == "jsonl":
        return _placed(_json_records(lines, config, channels), config)
    return _placed(_csv_records(lines, _STDIN, config, channels), config)


def _paced(records: Iterable[_Record | None], interval_s: float, stop: threading.Event) -> Arrivals:
    due_s = time.monotonic()
    for record in records:
        for _ in wait_until_due(due_s, stop):
            yield None
        if stop.is_set():
            return
        due_s += interval_s
        if record is not None:
            yield now_arrived(record[0])


def _placed(records: Iterable[_Record | None], config: CsvSource | StdinSource) -> Arrivals:
    """Where the time column says; without one, where they arrive, or for a file one after the other."""
    placement = Placement()
    ahead_ns: int | None = None  # of the places: the wall clock when the rows were measured, where it is known
    skipped = Skipped(config.path if isinstance(config, CsvSource) else _STDIN)
    for index, record in enumerate(records):
        if record is None:
            yield None
            continue
        values, cell = record
        t_ns, mono_ns = time.time_ns(), time.monotonic_ns()
        if not config.time_column:
            yield Arrival(index if isinstance(config, CsvSource) else mono_ns, t_ns, mono_ns, values)
            continue
        said = parse_time(cell, config.time_unit)
        place_ns = placement.place(said.place_ns if said is not None else None)
        if place_ns is None and config.needs_time():
            _skip_untimed(skipped, config.time_column, cell)
            continue
        timed = place_ns is not None
        if place_ns is None:  # the order is all that counts
            place_ns = index
        elif said is not None and said.t_ns is not None:
            ahead_ns = said.t_ns - place_ns
        dated = ahead_ns is not None and 0 <= place_ns + ahead_ns <= LATEST_NS
        if ahead_ns is not None and dated:
            t_ns = place_ns + ahead_ns
        yield Arrival(place_ns, t_ns, mono_ns, values, dated=dated, timed=timed)


def _skip_untimed(skipped: Skipped, column: str, cell: object) -> None:
    """Rows before the first that has a time cannot be placed. So many of them are a wrong column."""
    reason = f"expected ISO 8601 or a number as the time in column {column!r}, found {str(cell)[:40]!r}"
    skipped.note(reason)
    if skipped.count >= _MAX_UNTIMED:
        raise SourceError(f"{skipped.origin}: {reason}")


def _file_lines(path: Path) -> Iterator[str | None]:
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            while line := file.readline(_MAX_LINE_BYTES):
                if len(line) == _MAX_LINE_BYTES:
                    raise SourceError(f"{path}: expected lines of less than {_MAX_LINE_BYTES} characters")
                yield line
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error


def _stdin_lines(stop: threading.Event) -> Iterator[str | None]:
    """Lines from standard input; None where none comes, so that the stop event ends the waiting."""
    descriptor = sys.stdin.fileno()
    rest, encoding = b"", "utf-8-sig"  # the mark that some programs begin a text with is no part of it
    while not stop.is_set():
        readable, _, _ = select.select([descriptor], [], [], IDLE_S)
        if not readable:
            yield None
            continue
        block = os.read(descriptor, 1 << 16)
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield line.decode(encoding, errors="replace") + "\n"
            encoding = "utf-8"
        if not block:
            break
        if len(rest) > _MAX_LINE_BYTES:
            raise SourceError(f"{_STDIN}: expected lines of at most {_MAX_LINE_BYTES} bytes")
    if rest:
        yield rest.decode(encoding, errors="replace")


class _Idle(Exception):  # noqa: N818 -- a signal, not an error
    """No line for a moment."""


class _Feed:
    """Lines for csv.reader, which knows of no waiting: between records it is told with an exception, inside of one
    (a quoted line end) the line is awaited."""

    def __init__(self, lines: Iterator[str | None]) -> None:
        self._lines = lines
        self._taken = 0  # of this record
        self.between_records = True

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while (line := next(self._lines)) is None:
            if self.between_records:
                raise _Idle
        self._taken = 1 if self.between_records else self._taken + 1
        self.between_records = False
        if self._taken > _MAX_LINES_OF_A_ROW:
            raise csv.Error(f"a quote is not closed within {_MAX_LINES_OF_A_ROW} lines")
        return line


def _csv_cells(lines: Iterator[str | None], origin: str, delimiter: str) -> Iterator[list[str] | None]:
    feed = _Feed(lines)
    skipped = Skipped(origin)
    reader = csv.reader(feed, delimiter=delimiter)
    while True:
        feed.between_records = True
        try:
            yield next(reader)
        except _Idle:
            yield None
        except StopIteration:
            return
        except csv.Error as error:
            reason = f"line {reader.line_num} is no CSV: {error}"
            if reader.line_num <= _FIRST_LINES:
                raise SourceError(f"{origin}: {reason}") from error
            skipped.note(reason)


def _csv_records(
    lines: Iterator[str | None], origin: str, config: CsvSource | StdinSource, channels: Sequence[str]
) -> Iterator[_Record | None]:
    columns: _Columns | None = None
    header: list[str] | None = None
    for cells in _csv_cells(lines, origin, config.delimiter):
        if not cells:
            yield None
        elif header is None:
            header = _checked_header(cells, origin, config, channels)
        else:
            columns = columns or _Columns(cells, header, origin, config, channels)
            yield columns.record(cells)
    if header is None:
        raise SourceError(f"{origin}: expected a CSV header, found nothing")


def _checked_header(
    header: list[str], origin: str, config: CsvSource | StdinSource, channels: Sequence[str]
) -> list[str]:
    """The names of the columns, without spaces around them where they are not asked for with these."""
    needed = [*config.columns, *([config.time_column] if config.needs_time() and config.time_column else [])]
    named = needed if config.columns else [*channels, *needed]
    if not set(named) <= set(header):
        header = [name.strip() for name in header]
    missing = [name for name in needed if name not in header]
    if missing:
        raise SourceError(f"{origin}: has no column {missing[0]!r}: found {', '.join(header)[:200]}")
    if not config.columns and not set(channels) <= set(header):
        raise ConfigError(lacking(channels, header, of=origin), hint=LACKING_HINT)
    check_once(named, header, of=origin)
    return header


class _Columns:
    """Which cells of a record are read, judged by the first row: those that were named, else the package's channels,
    else all that hold a number."""

    def __init__(
        self, cells: list[str], header: list[str], origin: str, config: CsvSource | StdinSource, channels: Sequence[str]
    ) -> None:
        time_column = config.time_column
        self._time = header.index(time_column) if time_column in header else len(header)
        self._indices = [header.index(name) for name in config.columns or channels] or [
            index for index, cell in enumerate(cells) if index != self._time and is_number(cell)
        ]
        if not self._indices:
            raise SourceError(f"{origin}: expected numbers in the first row, found none")
        for index in self._indices:
            cell = cells[index].strip() if index < len(cells) else ""
            if cell.lower() not in _MISSING and not is_number(cell):
                raise SourceError(f"{origin}: expected numbers in column {header[index]!r}, found {cell[:40]!r}")

    def record(self, cells: list[str]) -> _Record:
        values = [number(cells[index]) if index < len(cells) else math.nan for index in self._indices]
        return values, cells[self._time] if self._time < len(cells) else None


def _json_records(
    lines: Iterator[str | None], config: StdinSource, channels: Sequence[str]
) -> Iterator[_Record | None]:
    """A line that is no JSON object is passed over: the ones after it are good."""
    names: Sequence[str] = config.columns
    keys = NamedKeys(channels, of=_STDIN)
    skipped = Skipped(_STDIN)
    for line in lines:
        if line is None or not line.strip():
            yield None
            continue
        try:
            record = msgspec.json.decode(line, type=dict[str, object])
        except MALFORMED as error:
            skipped.note(f"expected a JSON object a line: {error}")
            continue
        try:
            names = names or keys.among(record)
        except ValueError as error:
            skipped.note(error)
            continue
        names = names or [
            name for name, value in record.items() if name != config.time_column and isinstance(value, int | float)
        ]
        yield [number(record.get(name)) for name in names], record.get(config.time_column)
    if keys.refused:
        raise ConfigError(keys.refused, hint=LACKING_HINT)
