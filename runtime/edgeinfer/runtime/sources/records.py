"""Numbers out of what sensors write: cells of a line, values of a JSON document. No I/O.

A parser that is given the `channels` that a package names takes them by name wherever what it reads has names.
"""

import logging
import math
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

import msgspec

from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.errors import ConfigError

__all__ = [
    "LACKING_HINT",
    "CsvLines",
    "JsonLines",
    "JsonValues",
    "LineParser",
    "Lines",
    "NamedKeys",
    "check_once",
    "is_number",
    "lacking",
    "number",
]

logger = logging.getLogger(__name__)

LACKING_HINT = (
    "have the source name them all as the package does, or list its own columns in the package's order: columns = [...]"
)
# So many objects without them are no other message that came in between.
_MAX_LACKING = 10
_SHOWN = 20


class LineParser(Protocol):
    """Turns lines into rows of always the same length."""

    def parse(self, line: str) -> list[float] | None:
        """None for a line that is no row and need not be: empty, a header. Raises ValueError for any other."""
        ...


def number(cell: object) -> float:
    """NaN for what is none."""
    try:
        return float(str(cell))
    except ValueError:
        return math.nan


def is_number(cell: object) -> bool:
    return not math.isnan(number(cell))


def lacking(channels: Sequence[str], found: Collection[str], *, of: str) -> str:
    """What to say where some of the channels are not among the names that were found."""
    missing = ", ".join(channel for channel in channels if channel not in found)
    names = ", ".join([*found][:_SHOWN]) + (", ..." if len(found) > _SHOWN else "")
    return (
        f"{of}: the package takes the channels {', '.join(channels)}; found {names[:400] or 'none'}, without {missing}"
    )


def check_once(names: Iterable[str], header: Sequence[str], *, of: str) -> None:
    """Raises ConfigError where several columns have a name that is asked for: nobody knows which one is meant."""
    for name in names:
        if (count := header.count(name)) > 1:
            raise ConfigError(f"{of}: expected one column {name!r}, found {count}", hint="give each a name of its own")


class NamedKeys:
    """The package's channels among the keys of objects, once one has had them all: in later ones a key that is not
    there is a value that is missing."""

    def __init__(self, channels: Sequence[str], *, of: str) -> None:
        self._channels = list(channels)
        self._of = of
        self._lacking = 0
        self.refused = ""  # why the last object was, until there is a whole one

    def among(self, found: Collection[str]) -> list[str]:
        """None where the package names none. Raises ValueError where some are missing, ConfigError where they still
        are in many objects."""
        if all(channel in found for channel in self._channels):
            self.refused = ""
            return self._channels
        self._lacking += 1
        self.refused = lacking(self._channels, found, of=self._of)
        if self._lacking >= _MAX_LACKING:
            raise ConfigError(self.refused, hint=LACKING_HINT)
        raise ValueError(f"{self.refused} ({LACKING_HINT})")


def _places(channels: Sequence[str], columns: Sequence[str]) -> list[int]:
    """Where the channels are among the columns; all places in order where they are not all there."""
    if channels and set(channels) <= set(columns):
        return [columns.index(channel) for channel in channels]
    return list(range(len(columns)))


def _by_position(channels: Sequence[str]) -> None:
    if channels:
        logger.info("event=channels_by_position package=%s reason=%r", ",".join(channels), "what comes has no names")


class Lines:
    """Cuts bytes into lines. One longer than `max_bytes` is lost and counted; what comes after it is good again."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._rest = bytearray()
        self._in_long_line = False
        self.too_long = 0

    def feed(self, block: bytes) -> list[str]:
        """The lines that the block completes, without their ends."""
        *complete, rest = block.split(b"\n")
        lines = [self._end_line(part) for part in complete]
        self._append(rest)
        return [line.decode("utf-8", errors="replace").rstrip("\r") for line in lines if line is not None]

    def _end_line(self, part: bytes) -> bytes | None:
        self._append(part)
        line = None if self._in_long_line else bytes(self._rest)
        self._rest.clear()
        self._in_long_line = False
        return line

    def _append(self, part: bytes) -> None:
        if self._in_long_line:
            return
        self._rest += part
        if len(self._rest) > self._max_bytes:
            self._in_long_line = True
            self.too_long += 1
            self._rest.clear()


class CsvLines:
    """Numbers between delimiters. `columns` names them in order; empty: as many as the first good line has. A line
    that holds all the names is a header and says where they stand; without `columns`, the names are `channels`."""

    def __init__(self, columns: Sequence[str], delimiter: str, *, channels: Sequence[str] = ()) -> None:
        self._delimiter = delimiter
        self._indices = _places(channels, columns)
        self._header = [columns[place] for place in self._indices] if columns else list(channels)
        self._columns = columns or channels
        self._width = len(columns)

    def parse(self, line: str) -> list[float] | None:
        cells = [cell.strip() for cell in line.split(self._delimiter)]
        if cells == [""]:
            return None
        if self._columns and set(self._columns) <= set(cells) and not all(map(is_number, cells)):
            check_once(self._header, cells, of="the header")
            self._indices = [cells.index(name) for name in self._header]
            self._width = len(cells)
            return None
        if not self._width:
            return self._first(cells)
        if len(cells) != self._width:
            raise ValueError(f"expected {self._width} cells, found {len(cells)}: {line[:40]!r}")
        return _with_a_number([number(cells[index]) for index in self._indices], line)

    def _first(self, cells: list[str]) -> list[float]:
        values = [number(cell) for cell in cells]
        if any(map(math.isnan, values)):
            if not {name.casefold() for name in self._columns}.isdisjoint(map(str.casefold, cells)):
                raise ConfigError(lacking(self._columns, cells, of="the header"), hint=LACKING_HINT)
            raise ValueError(f"expected numbers between {self._delimiter!r}, found {cells[:4]}")
        self._width = len(values)
        self._indices = list(range(self._width))
        return values


class JsonValues:
    """The values of a decoded document: of an object the ones of `columns` (empty: those that are numbers in the first
    one; `channels`, where there are any), of a list all, or the number that it is. `path` leads there, for instance
    `data.0.readings`. Of `columns` that hold all `channels`, these are taken, in their order."""

    def __init__(self, columns: Sequence[str], path: str = "", *, channels: Sequence[str] = ()) -> None:
        self._columns = list(columns)
        self._places = _places(channels, columns) if channels else []
        self._channels = channels
        self._keys = NamedKeys(channels, of="an object")
        self._path = path.split(".") if path else []
        self._width = len(columns)

    def values(self, document: object) -> list[float]:
        """Raises ValueError where there is none of them."""
        found = self._follow(document)
        if isinstance(found, dict):
            values = self._of_object(found)
        elif isinstance(found, list):
            values = [_plain_number(value) for value in found]
        else:
            values = [_plain_number(found)]
        _with_a_number(values, document)
        if not self._width and not isinstance(found, dict):
            _by_position(self._channels)
        self._width = self._width or len(values)
        if len(values) != self._width:
            raise ValueError(f"expected {self._width} numbers, found {len(values)}")
        return [values[place] for place in self._places] if self._places else values

    def _follow(self, document: object) -> object:
        for step in self._path:
            if isinstance(document, dict):
                document = document.get(step)
            elif isinstance(document, list) and step.isdecimal() and int(step) < len(document):
                document = document[int(step)]
            else:
                raise ValueError(f"has no {'.'.join(self._path)!r}: {document!r:.40}")
        return document

    def _of_object(self, found: dict[str, object]) -> list[float]:
        if not self._columns:
            numbers = [name for name, value in found.items() if not math.isnan(_plain_number(value))]
            self._columns = self._keys.among(found) or numbers
        return [_plain_number(found.get(name)) for name in self._columns]


class JsonLines:
    """A JSON document a line."""

    def __init__(self, columns: Sequence[str], *, channels: Sequence[str] = ()) -> None:
        self._values = JsonValues(columns, channels=channels)

    def parse(self, line: str) -> list[float] | None:
        if not line.strip():
            return None
        try:
            return self._values.values(msgspec.json.decode(line))
        except MALFORMED as error:
            raise ValueError(f"expected JSON, found {line[:40]!r}: {error}") from error


def _plain_number(value: object) -> float:
    """Numbers, and texts that are numbers; true and false are none."""
    return number(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan


def _with_a_number(values: list[float], found: object) -> list[float]:
    if all(map(math.isnan, values)):
        raise ValueError(f"expected numbers, found {found!r:.60}")
    return values
