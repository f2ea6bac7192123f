"""Sensor series: rows of numbers from a file or standard input, cut into sliding windows."""

import csv
import logging
import math
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.errors import SourceError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.sources.settings import CsvSource, StdinSource

__all__ = ["Series", "Windows", "open_series"]

logger = logging.getLogger(__name__)

_MAX_LINE_BYTES = 1 << 20
_MAX_MAGNITUDE = float(np.finfo(np.float32).max)
_STOP_POLL_S = 0.2
# What series write where a sensor gave nothing.
_MISSING = {"", "-", "?", "na", "n/a", "nan", "none", "null"}


class Windows:
    """Collects rows and cuts a window (length, channels) float32 every `stride` rows.

    A value that is missing (NaN) or beyond float32 repeats the channel's last one; 0 before there is one.
    """

    def __init__(self, length: int, stride: int) -> None:
        self._length = length
        self._stride = stride
        self._rows: deque[list[float]] = deque(maxlen=length)
        self._until_next = length
        self._last: list[float] = []

    def add(self, row: Sequence[float]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]] | None:
        """Add one row; the window that it completes, or None."""
        last = self._last or [0.0] * len(row)
        self._last = [
            value if abs(value) <= _MAX_MAGNITUDE else before for value, before in zip(row, last, strict=True)
        ]
        self._rows.append(self._last)
        self._until_next -= 1
        if self._until_next > 0:
            return None
        self._until_next = self._stride
        return np.array(self._rows, dtype=np.float32)


class Series:
    """Frames from rows; the way rows are read is given."""

    def __init__(self, rows: Iterator[Sequence[float]], windows: Windows, *, live: bool) -> None:
        self.live = live
        self._rows = rows
        self._windows = windows
        self._index = 0

    def read(self) -> Frame | None:
        for row in self._rows:
            window = self._windows.add(row)
            if window is not None:
                frame = Frame(window, time.time_ns(), time.monotonic_ns(), self._index)
                self._index += 1
                return frame
        return None

    def close(self) -> None:
        self._rows = iter(())


def open_series(config: CsvSource | StdinSource, stop: threading.Event) -> Series:
    """Raises SourceError for a file that is not there, has no header or lacks a column."""
    windows = Windows(config.window, config.stride)
    if isinstance(config, StdinSource):
        lines = _stdin_lines(stop)
        if config.format == "jsonl":
            return Series(_json_rows(lines, config.columns), windows, live=False)
        rows = _csv_rows(lines, "standard input", config.delimiter, config.columns, time_column="")
        return Series(rows, windows, live=False)
    lines = _file_lines(Path(config.path))
    rows = _csv_rows(lines, config.path, config.delimiter, config.columns, time_column=config.time_column)
    if config.interval_s > 0:
        return Series(_paced(rows, config.interval_s, stop), windows, live=True)
    return Series(rows, windows, live=False)


def _file_lines(path: Path) -> Iterator[str]:
    if not path.is_file():
        raise SourceError(f"{path}: no such series")
    return _read_lines(path)


def _read_lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            while line := file.readline(_MAX_LINE_BYTES):
                if len(line) == _MAX_LINE_BYTES:
                    raise SourceError(f"{path}: expected lines of less than {_MAX_LINE_BYTES} characters")
                yield line
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error


def _stdin_lines(stop: threading.Event) -> Iterator[str]:
    """Lines from standard input, read so that the stop event ends the waiting."""
    descriptor = sys.stdin.fileno()
    rest = b""
    while not stop.is_set():
        readable, _, _ = select.select([descriptor], [], [], _STOP_POLL_S)
        if not readable:
            continue
        block = os.read(descriptor, 1 << 16)
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield line.decode("utf-8", errors="replace") + "\n"
        if not block:
            break
        if len(rest) > _MAX_LINE_BYTES:
            raise SourceError(f"standard input: expected lines of at most {_MAX_LINE_BYTES} bytes")
    if rest:
        yield rest.decode("utf-8", errors="replace")


def _csv_rows(
    lines: Iterator[str], origin: str, delimiter: str, columns: Sequence[str], *, time_column: str
) -> Iterator[list[float]]:
    reader = _csv_records(lines, origin, delimiter)
    header = next(reader, None)
    if header is None:
        raise SourceError(f"{origin}: expected a CSV header, found nothing")
    missing = [name for name in columns if name not in header]
    if missing:
        raise SourceError(f"{origin}: has no column {missing[0]!r}: found {', '.join(header)[:200]}")
    indices = [header.index(name) for name in columns]
    is_first = True
    for row in reader:
        if not row:
            continue
        if is_first:
            indices = _checked_columns(row, header, indices, origin=origin, time_column=time_column)
            is_first = False
        yield [_number(row[i]) if i < len(row) else math.nan for i in indices]


def _checked_columns(
    row: list[str], header: list[str], indices: list[int], *, origin: str, time_column: str
) -> list[int]:
    """The columns that are read, judged by the first row: those that were named, or all that hold a number."""
    if not indices:
        indices = [i for i, cell in enumerate(row) if header[i : i + 1] != [time_column] and _is_number(cell)]
        if not indices:
            raise SourceError(f"{origin}: expected numbers in the first row, found none")
    for i in indices:
        cell = row[i].strip() if i < len(row) else ""
        if cell.lower() not in _MISSING and not _is_number(cell):
            raise SourceError(f"{origin}: expected numbers in column {header[i]!r}, found {cell[:40]!r}")
    return indices


def _csv_records(lines: Iterator[str], origin: str, delimiter: str) -> Iterator[list[str]]:
    reader = csv.reader(lines, delimiter=delimiter)
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise SourceError(f"{origin}: line {reader.line_num} is no CSV: {error}") from error


def _json_rows(lines: Iterator[str], columns: Sequence[str]) -> Iterator[list[float]]:
    """A line that is no JSON object is passed over: the ones after it are good."""
    names = list(columns)
    bad = 0
    for line in lines:
        if not line.strip():
            continue
        try:
            record = msgspec.json.decode(line, type=dict[str, object])
        except MALFORMED as error:
            bad += 1
            if bad == 1:
                logger.warning("event=line_skipped expected=object_a_line error=%s", error)
            continue
        names = names or [name for name, value in record.items() if isinstance(value, int | float)]
        yield [_number(record.get(name)) for name in names]


def _paced(rows: Iterator[list[float]], interval_s: float, stop: threading.Event) -> Iterator[list[float]]:
    due_s = time.monotonic()
    for row in rows:
        if stop.wait(max(0.0, due_s - time.monotonic())):
            return
        due_s += interval_s
        yield row


def _number(cell: object) -> float:
    try:
        return float(str(cell))
    except ValueError:
        return math.nan


def _is_number(cell: str) -> bool:
    return not math.isnan(_number(cell))
