"""Rows out of single pages of an SQLite file, where SQLite itself can no longer read it. Values only.

A table's rows lie in leaf pages (sqlite.org/fileformat2.html, 1.6): a header, an array of pointers, cells. A cell is a
row: its number and a record; what does not fit goes on in a chain of overflow pages. Everything that is read may be
damaged: nothing here raises for it or trusts a length, and what cannot be right is left out.
"""

from collections.abc import Callable, Iterator

import msgspec

__all__ = ["Cell", "Value", "cell_at", "cells", "record"]

_TABLE_LEAF = 0x0D
_LEAF_HEADER = 8
_FIRST_PAGE_HEADER = 100
# The largest record that is looked at: a chunk's body has at most 4 MiB.
_MAX_RECORD_BYTES = (4 << 20) + 4096
_MAX_COLUMNS = 32

Value = int | bytes | str | None


class Cell(msgspec.Struct, frozen=True):
    """Where a row is: its number, the bytes of its record that lie in the leaf page, and where the rest begins."""

    rowid: int
    size: int
    local: bytes
    overflow_page: int


def cells(page: bytes, *, is_first: bool = False) -> Iterator[tuple[int, Cell]]:
    """The rows of a leaf page of a table, each with its place in the array; nothing of any other page."""
    for index in range(_cell_count(page, is_first=is_first)):
        cell = cell_at(page, index, is_first=is_first)
        if cell is not None:
            yield index, cell


def cell_at(page: bytes, index: int, *, is_first: bool = False) -> Cell | None:
    """One row of a leaf page."""
    if index >= _cell_count(page, is_first=is_first):
        return None
    array = (_FIRST_PAGE_HEADER if is_first else 0) + _LEAF_HEADER
    at = int.from_bytes(page[array + 2 * index : array + 2 * index + 2], "big")
    size, at = _varint(page, at)
    rowid, at = _varint(page, at)
    if not 0 < size <= _MAX_RECORD_BYTES or at > len(page):
        return None
    local = _local_bytes(size, len(page))
    end = at + local
    overflow_page = 0 if local == size else int.from_bytes(page[end : end + 4], "big")
    if end + (4 if overflow_page else 0) > len(page) or (local < size and not overflow_page):
        return None
    return Cell(_signed(rowid), size, page[at:end], overflow_page)


def record(cell: Cell, read_page: Callable[[int], bytes]) -> list[Value] | None:
    """The values of a row. `read_page` gives a page by its number, and what is no page as fewer bytes."""
    payload = _payload(cell, read_page)
    if payload is None:
        return None
    header_size, at = _varint(payload, 0)
    if not at <= header_size <= len(payload):
        return None
    types: list[int] = []
    while at < header_size and len(types) <= _MAX_COLUMNS:
        kind, at = _varint(payload, at)
        types.append(kind)
    if at != header_size:
        return None
    return _values(payload, header_size, types)


def _values(payload: bytes, at: int, types: list[int]) -> list[Value] | None:
    values: list[Value] = []
    for kind in types:
        size = _size_of(kind)
        if size < 0 or at + size > len(payload):
            return None
        values.append(_value(kind, payload[at : at + size]))
        at += size
    return values if at == len(payload) else None


def _payload(cell: Cell, read_page: Callable[[int], bytes]) -> bytes | None:
    parts, missing, number = [cell.local], cell.size - len(cell.local), cell.overflow_page
    while missing > 0:
        page = read_page(number) if number else b""
        if len(page) <= 4:
            return None
        part = page[4 : 4 + missing]
        parts.append(part)
        missing -= len(part)
        number = int.from_bytes(page[:4], "big")
    return b"".join(parts)


def _cell_count(page: bytes, *, is_first: bool) -> int:
    header = _FIRST_PAGE_HEADER if is_first else 0
    if len(page) < header + _LEAF_HEADER or page[header] != _TABLE_LEAF:
        return 0
    count = int.from_bytes(page[header + 3 : header + 5], "big")
    return count if header + _LEAF_HEADER + 2 * count <= len(page) else 0


def _local_bytes(size: int, usable: int) -> int:
    """How much of a record lies in the leaf itself (section 1.6 of the file format; no bytes are reserved)."""
    largest = usable - 35
    if size <= largest:
        return size
    smallest = (usable - 12) * 32 // 255 - 23
    wanted = smallest + (size - smallest) % (usable - 4)
    return wanted if wanted <= largest else smallest


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A variable-length integer (1 to 9 bytes) and where it ends; past the end of the data where it is cut off."""
    value = 0
    for index in range(9):
        if at + index >= len(data):
            return 0, len(data) + 1
        byte = data[at + index]
        if index == 8:
            return value << 8 | byte, at + 9
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + index + 1
    return 0, len(data) + 1  # not reached: the ninth byte ends it


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


def _size_of(kind: int) -> int:
    """Bytes of a value of a serial type; -1 for one that no buffer has (floats and those that are reserved)."""
    if kind >= 12:
        return (kind - 12) // 2
    return 0 if kind in {0, 8, 9} else _INTEGER_BYTES.get(kind, -1)


def _value(kind: int, data: bytes) -> Value:
    if kind == 0:
        return None
    if kind in {8, 9}:
        return kind - 8
    if kind < 12:
        return int.from_bytes(data, "big", signed=True)
    return data if kind % 2 == 0 else data.decode(errors="replace")
