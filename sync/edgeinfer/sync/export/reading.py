"""Reads files of exported chunks: one after the other, a piece at a time, and believes nothing in them."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

from edgeinfer.runtime.chain import genesis
from edgeinfer.runtime.chunk import NO_LINK
from edgeinfer.runtime.errors import MessageError
from edgeinfer.runtime.hashing import Hash, sha256
from edgeinfer.sync.export.continuity import Continuity
from edgeinfer.sync.export.layout import (
    HEAD,
    TRAILER,
    ExportedFile,
    FileHeader,
    decode_header,
    encode_link,
    header_bytes,
    is_chunks_name,
    unpack_link,
)
from edgeinfer.sync.messages import decode_chunk, valid_pipeline
from edgeinfer.sync.sinks.framing import Frame, Frames

__all__ = ["Checked", "check_file", "found_files", "frames_of"]

_BLOCK = 256 << 10


class Checked(msgspec.Struct, frozen=True):
    """A file that is whole and consistent in itself. Of its chunks, `linked` were held against the hash chain."""

    path: Path
    header: FileHeader
    file: ExportedFile
    linked: int


def found_files(folder: Path) -> list[Path]:
    """The files of exported chunks in `folder`, by name. Raises OSError."""
    return sorted(path for path in folder.iterdir() if is_chunks_name(path.name) and path.is_file())


def check_file(path: Path) -> Checked:
    """Read all of a file: hash, CRC of each chunk, sequence, hash chain. Raises MessageError, OSError."""
    with path.open("rb") as file:
        opened = _Opened(file)
        header = opened.header
        check = Continuity(first_seq=header.first_seq, link=_link_before(header))
        for frame in opened.frames():
            if frame.name == "up/birth":
                continue
            chunk = decode_chunk(frame.payload)
            if chunk.epoch != header.epoch:
                raise MessageError(f"expected chunks of epoch {header.epoch}, found one of {chunk.epoch}")
            check.follow(valid_pipeline(frame.name), chunk)
        exported = opened.exported(path.name, check)
    return Checked(path, header, exported, check.checked)


def frames_of(path: Path) -> Iterator[Frame]:
    """The messages of a file that was checked. Raises MessageError, OSError: it has changed since."""
    with path.open("rb") as file:
        yield from _Opened(file).frames()


class _Opened:
    """A file from its head on."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash: Hash = sha256()
        self._size = 0
        self._frames = Frames()
        head = self._take(HEAD.size)
        encoded = self._take(header_bytes(head))
        self.header = decode_header(encoded)

    def frames(self) -> Iterator[Frame]:
        """Raises MessageError where the file is cut off, or goes on after its trailer."""
        held = b""  # what may be the trailer's hash is hashed only once more has come
        keep = TRAILER.size
        while block := self._file.read(_BLOCK):
            self._size += len(block)
            joined = held + block
            held = joined[-keep:]
            self._hash.update(joined[:-keep])
            yield from self._frames.feed(block)
            if len(self._frames.rest) > TRAILER.size and self._frames.ended:
                raise MessageError("expected the file to end with its trailer, found more")
        if not self._frames.ended or len(self._frames.rest) != TRAILER.size:
            raise MessageError(f"the file is cut off after {self._size} bytes: was the stick pulled out?")
        self._hash.update(held[:-32])

    def exported(self, name: str, check: Continuity) -> ExportedFile:
        """After all `frames`: what the trailer says, held against what was found. Raises MessageError."""
        last_seq, chunks, evicted, link, digest = TRAILER.unpack(self._frames.rest)
        if self._hash.digest() != digest:
            raise MessageError("the file is damaged: its SHA-256 is not the one at its end")
        self._hash.update(digest)
        found = (check.next_seq - 1, check.chunks, check.evicted, check.link)
        if found != (last_seq, chunks, evicted, unpack_link(link)) or not chunks:
            raise MessageError(f"expected chunks up to {last_seq} as the trailer says, found them up to {found[0]}")
        return ExportedFile(
            name=name,
            first_seq=self.header.first_seq,
            last_seq=last_seq,
            chunks=chunks,
            evicted=evicted,
            bytes=self._size,
            sha256=self._hash.hexdigest(),
            link_before=self.header.link_before,
            link_after=encode_link(check.link),
        )

    def _take(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise MessageError("the file is cut off in its header: was the stick pulled out?")
        self._hash.update(data)
        self._size += size
        return data


def _link_before(header: FileHeader) -> bytes:
    """What the header says; before the first chunk of an epoch there is only one answer. Raises MessageError."""
    said = bytes.fromhex(header.link_before)
    if header.first_seq != 1:
        return said
    if said not in {NO_LINK, genesis(header.epoch)}:
        raise MessageError("expected the chain of an epoch to begin with its first link")
    return said
