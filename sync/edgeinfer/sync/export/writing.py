"""Writes chunks into files of bounded size: each is whole and synced before it has its name.

A stick that is pulled out leaves a file `.part` that nobody takes for an export, and whole files before it.
"""

import errno
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from edgeinfer.runtime.chunk import NO_LINK, TOMBSTONE
from edgeinfer.runtime.durable import sync_folder
from edgeinfer.runtime.errors import StorageError
from edgeinfer.runtime.hashing import Hash, sha256
from edgeinfer.sync.export.layout import (
    TRAILER,
    ExportedFile,
    FileHeader,
    chunks_name,
    encode_head,
    encode_link,
    pack_link,
    stem,
)
from edgeinfer.sync.messages import Ack, decode_chunk
from edgeinfer.sync.sinks.base import Batch, Chunk, SinkError, SinkRefusedError
from edgeinfer.sync.sinks.framing import END, Frame, encode_frames

__all__ = ["PART", "ExportSink", "storage_error"]

PART = ".part"
# What a full disk says; a stick that was pulled out says EIO.
_FULL = {errno.ENOSPC, errno.EDQUOT}


class ExportSink:
    """A `Sink` into `folder`. What it answers is what lies there in whole files: `finish` completes the last.

    `files` are those that were completed. Nobody has them yet: the answers must not be taken for acknowledgements of
    the console.
    """

    local_address = ""

    def __init__(
        self, folder: Path, *, device: str, tenant: str, epoch: int, max_bytes: int, link_before: bytes = NO_LINK
    ) -> None:
        self._folder = folder
        self._device, self._tenant, self._epoch = device, tenant, epoch
        self._max_bytes = max_bytes
        self._link = link_before
        self._birth = b""
        self._part: _Part | None = None
        self._acked = 0
        self._aborted = False
        self.files: list[ExportedFile] = []

    def deliver(self, batch: Batch) -> Ack:
        """Raises SinkError: the medium is full, gone, or not writable. The file that was being written is lost then."""
        if self._aborted:
            raise SinkError("the export was ended")
        self._birth = batch.birth or self._birth
        try:
            for chunk in batch.chunks:
                self._write(chunk)
        except OSError as error:
            self._discard()
            raise _failure(self._folder, error) from error
        return Ack(self._epoch, self._acked)

    def finish(self) -> Ack:
        """Complete the file that is being written. Raises SinkError as `deliver` does."""
        try:
            self._complete()
        except OSError as error:
            self._discard()
            raise _failure(self._folder, error) from error
        return Ack(self._epoch, self._acked)

    def abort(self) -> None:
        self._aborted = True

    def close(self) -> None:
        """What is not complete is given up."""
        self._discard()

    def _write(self, chunk: Chunk) -> None:
        part = self._part
        if part is not None and chunk.first_seq != part.last_seq + 1:
            # A hole should not be; where there is one, the files on its two sides are sound.
            self._complete()
            self._link = NO_LINK
        elif part is not None and part.size + len(chunk.message) > self._max_bytes:
            self._complete()
        if self._part is None:
            self._part = self._begin(chunk.first_seq)
        self._part.add(chunk)

    def _begin(self, first_seq: int) -> "_Part":
        header = FileHeader(
            device=self._device,
            tenant=self._tenant,
            epoch=self._epoch,
            first_seq=first_seq,
            link_before=encode_link(self._link),
            made_s=max(0, int(time.time())),
        )
        path = self._folder / f"{stem(self._device, self._epoch)}-{first_seq}{PART}"
        return _Part(path, header, self._birth)

    def _complete(self) -> None:
        if self._part is None:
            return
        file = self._part.complete()
        self._part = None
        self._link = bytes.fromhex(file.link_after)
        self._acked = file.last_seq
        self.files.append(file)

    def _discard(self) -> None:
        part, self._part = self._part, None
        if part is not None:
            part.discard()


class _Part:
    """A file that is being written."""

    def __init__(self, path: Path, header: FileHeader, birth: bytes) -> None:
        self._path = path
        self._header = header
        self._link = bytes.fromhex(header.link_before)
        self.last_seq = header.first_seq - 1
        self._chunks = self._evicted = self.size = 0
        self._hash: Hash = sha256()
        self._file: IO[bytes] = path.open("wb")
        try:
            self._put(encode_head(header))
            if birth:
                self._put_frame(Frame("up/birth", birth))
        except OSError:
            self.discard()
            raise

    def add(self, chunk: Chunk) -> None:
        self._put_frame(chunk.frame)
        self.last_seq = chunk.last_seq
        self._chunks += 1
        self._evicted += chunk.n if chunk.codec == TOMBSTONE else 0
        self._link = decode_chunk(chunk.message).link

    def complete(self) -> ExportedFile:
        """Synced, under its name, and the name synced too. Raises OSError."""
        self._put(END)
        counts = TRAILER.pack(self.last_seq, self._chunks, self._evicted, pack_link(self._link), bytes(32))[:-32]
        self._put(counts)
        self._put(self._hash.digest())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        header = self._header
        target = self._path.with_name(
            chunks_name(header.device, header.epoch, first_seq=header.first_seq, last_seq=self.last_seq)
        )
        self._path.replace(target)
        sync_folder(target.parent)
        return ExportedFile(
            name=target.name,
            first_seq=header.first_seq,
            last_seq=self.last_seq,
            chunks=self._chunks,
            evicted=self._evicted,
            bytes=self.size,
            sha256=self._hash.hexdigest(),
            link_before=header.link_before,
            link_after=encode_link(self._link),
        )

    def discard(self) -> None:
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _put_frame(self, frame: Frame) -> None:
        for piece in encode_frames([frame]):
            self._put(piece)

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)


def _failure(folder: Path, error: OSError) -> SinkError:
    if error.errno in _FULL:
        return SinkRefusedError(f"{folder}: is full")
    return SinkError(f"{folder}: cannot be written: {error.strerror or error}", hint="was it pulled out?")


def storage_error(folder: Path, error: OSError) -> StorageError:
    """The same for files beside the chunks."""
    return StorageError(
        f"{folder}: cannot be written: {error.strerror or error}", hint="was it pulled out, or is it full?"
    )
