"""The layout of a package, byte for byte: a ZIP of stored files whose headers leave no choice.

Hashes cover what the files of a package say. The layout covers what lies between them: one byte that differs in
a header, in the directory, before, behind or in between, and the archive is not the one that was written.

The fields are those of PKWARE's APPNOTE.TXT, sections 4.3.7, 4.3.12 and 4.3.16, without extensions: ZIP64 is not
needed below 4 GiB.
"""

import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import IO, NamedTuple

__all__ = ["MAX_BYTES", "Member", "is_canonical", "write_archive"]

# Four gigabytes less room for the headers of the most files that a package may have.
MAX_BYTES = (1 << 32) - (1 << 20)
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_VERSION = 20
_MADE_ON_UNIX = 3 << 8
_STORED = 0
_NO_FLAGS = 0
# 1980-01-01 00:00: the same content gives the same bytes.
_TIME, _DATE = 0, 0x21
_MODE = 0o100644 << 16
_BLOCK = 1 << 20
_MAX_NAME = 0xFFFF


class Member(NamedTuple):
    """One file of the archive: its name (ASCII), the crc32 and the length of its content."""

    name: str
    crc: int
    size: int


def write_archive(target: IO[bytes], files: Iterable[tuple[str, IO[bytes]]]) -> None:
    """Write the files, in order, to an empty, seekable `target`."""
    members = []
    for name, source in files:
        start = target.tell()
        target.write(_local(Member(name, 0, 0)))
        member = Member(name, *_copy(source, target))
        end = target.tell()
        target.seek(start)
        target.write(_local(member))
        target.seek(end)
        members.append(member)
    target.write(_directory(members))


def is_canonical(file: IO[bytes], members: Sequence[Member]) -> bool:
    """Whether `file` is the archive of `members` and nothing else; their contents are not looked at."""
    at = 0
    for member in members:
        header = _local(member)
        file.seek(at)
        if file.read(len(header)) != header:
            return False
        at += len(header) + member.size
    directory = _directory(members)
    file.seek(0, os.SEEK_END)
    if file.tell() != at + len(directory):
        return False
    file.seek(at)
    return file.read() == directory


def _copy(source: IO[bytes], target: IO[bytes]) -> tuple[int, int]:
    crc = size = 0
    while block := source.read(_BLOCK):
        target.write(block)
        crc = zlib.crc32(block, crc)
        size += len(block)
    return crc, size


def _local(member: Member) -> bytes:
    name = member.name.encode()[:_MAX_NAME]
    size = member.size
    return (
        _LOCAL.pack(b"PK\3\4", _VERSION, _NO_FLAGS, _STORED, _TIME, _DATE, member.crc, size, size, len(name), 0) + name
    )


def _directory(members: Sequence[Member]) -> bytes:
    entries = []
    at = 0
    for member in members:
        name = member.name.encode()[:_MAX_NAME]
        size = member.size
        fields = (_VERSION | _MADE_ON_UNIX, _VERSION, _NO_FLAGS, _STORED, _TIME, _DATE, member.crc, size, size)
        entries.append(_CENTRAL.pack(b"PK\1\2", *fields, len(name), 0, 0, 0, 0, _MODE, at) + name)
        at += _LOCAL.size + len(name) + size
    listed = b"".join(entries)
    return listed + _END.pack(b"PK\5\6", 0, 0, len(members), len(members), len(listed), at, 0)
