"""What lies on a stick: files of framed chunks, a manifest that names them, and receipts. Values only.

    file    = magic "EIEX" || version (1 byte) || 3 zero bytes || length of the header (4 bytes) || header (JSON)
              || frames (see `edgeinfer.sync.sinks.framing`) || an empty frame || trailer
    trailer = last_seq (8) || chunks (4) || evicted (8) || link after the last chunk (16) || SHA-256 of all before (32)

Numbers are big-endian. The frames are what the broker would carry: first `up/birth`, then `up/res/PIPELINE` in the
order of the sequence numbers, without a hole. A link that is not known is 16 zero bytes (in JSON: an empty string).

Names are plain and lower-case enough for FAT: `ei-DEVICE-EPOCH-FIRST-LAST.chunks`, the epoch in hex.
"""

import re
import struct
from typing import Annotated

import msgspec

from edgeinfer.runtime.chunk import LINK_BYTES, NO_LINK
from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.errors import MessageError
from edgeinfer.sync.messages import is_name

__all__ = [
    "HEAD",
    "MAX_HEADER_BYTES",
    "MAX_MANIFEST_BYTES",
    "SUFFIX",
    "TRAILER",
    "ExportedFile",
    "FileHeader",
    "Manifest",
    "chunks_name",
    "decode_header",
    "decode_link",
    "decode_manifest",
    "encode_head",
    "encode_link",
    "header_bytes",
    "is_chunks_name",
    "manifest_name",
    "pack_link",
    "receipt_name",
    "stem",
    "unpack_link",
]

VERSION = 1
MAX_HEADER_BYTES = 64 << 10
MAX_MANIFEST_BYTES = 16 << 20
SUFFIX = ".chunks"
_MAGIC = b"EIEX"
# magic, version, reserved, bytes of the header
HEAD = struct.Struct(">4sB3xI")
# last_seq, chunks, evicted, link after, sha256 of all before
TRAILER = struct.Struct(f">QIQ{LINK_BYTES}s32s")
_NO_LINK = bytes(LINK_BYTES)

Seq = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Text = Annotated[str, msgspec.Meta(max_length=64)]
HexLink = Annotated[str, msgspec.Meta(pattern=rf"^([0-9a-f]{{{2 * LINK_BYTES}}})?\Z")]
FileName = Annotated[str, msgspec.Meta(pattern=r"^ei-[A-Za-z0-9_.-]{1,200}\.chunks\Z")]


class FileHeader(msgspec.Struct, frozen=True, kw_only=True):
    """Whose chunks a file holds, and the link of the hash chain before the first of them."""

    device: Text
    tenant: Text
    epoch: Seq
    first_seq: Seq
    link_before: HexLink = ""
    made_s: Seq = 0


class ExportedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A whole file. Of its `last_seq - first_seq + 1` numbers, `evicted` are tombstones; `sha256` is of all of it, as
    sha256sum prints it."""

    name: FileName
    first_seq: Seq
    last_seq: Seq
    chunks: Seq
    evicted: Seq
    bytes: Seq
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    link_before: HexLink = ""
    link_after: HexLink = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What an export consists of; written when all of it lies on the stick. The files follow each other."""

    format: Annotated[int, msgspec.Meta(ge=1)] = VERSION
    device: Text
    tenant: Text
    epoch: Seq
    first_seq: Seq
    last_seq: Seq
    chunks: Seq
    evicted: Seq
    complete: bool
    link_before: HexLink
    link_after: HexLink
    made_s: Seq
    files: tuple[ExportedFile, ...]


def stem(device: str, epoch: int) -> str:
    """What all names of one device's epoch begin with."""
    return f"ei-{device}-{epoch:016x}"


def chunks_name(device: str, epoch: int, *, first_seq: int, last_seq: int) -> str:
    return f"{stem(device, epoch)}-{first_seq}-{last_seq}{SUFFIX}"


def manifest_name(device: str, epoch: int) -> str:
    return f"{stem(device, epoch)}.manifest.json"


def receipt_name(device: str, epoch: int) -> str:
    return f"{stem(device, epoch)}.receipt.json"


def encode_head(header: FileHeader) -> bytes:
    """All of a file that comes before its frames."""
    encoded = msgspec.json.encode(header)
    return HEAD.pack(_MAGIC, VERSION, len(encoded)) + encoded


def header_bytes(head: bytes) -> int:
    """How long the header is that follows `head`, the first bytes of a file. Raises MessageError."""
    if len(head) < HEAD.size:
        raise MessageError("the file is cut off in its first bytes")
    magic, version, size = HEAD.unpack(head[: HEAD.size])
    if magic != _MAGIC:
        raise MessageError("expected a file of exported chunks, found something else")
    if version != VERSION:
        raise MessageError(f"expected a file of version {VERSION}, found version {version}")
    if not 0 < size <= MAX_HEADER_BYTES:
        raise MessageError(f"expected a header of at most {MAX_HEADER_BYTES} bytes, found {size}")
    return int(size)


def decode_header(raw: bytes) -> FileHeader:
    """Raises MessageError."""
    try:
        header = msgspec.json.decode(raw, type=FileHeader)
    except MALFORMED as error:
        raise MessageError(f"expected the header of an exported file: {error}") from error
    if not (is_name(header.device) and is_name(header.tenant)):
        raise MessageError(f"expected valid names of device and tenant, found {header.device!r} {header.tenant!r}")
    return header


def decode_manifest(raw: bytes) -> Manifest:
    """Raises MessageError: no manifest, too large, of a newer format, files that do not follow each other."""
    if len(raw) > MAX_MANIFEST_BYTES:
        raise MessageError(f"expected a manifest of at most {MAX_MANIFEST_BYTES} bytes")
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except MALFORMED as error:
        raise MessageError(f"expected a manifest: {error}") from error
    if manifest.format != VERSION:
        raise MessageError(f"expected a manifest of format {VERSION}, found {manifest.format}")
    for before, after in zip(manifest.files, manifest.files[1:], strict=False):
        if after.first_seq != before.last_seq + 1:
            raise MessageError(f"expected a file from {before.last_seq + 1} on, found {after.name}")
    return manifest


def encode_link(link: bytes) -> str:
    return link.hex()


def decode_link(text: str) -> bytes:
    return bytes.fromhex(text)


def pack_link(link: bytes) -> bytes:
    """A link in the trailer; zeros stand for one that is not known."""
    return link if link != NO_LINK else _NO_LINK


def unpack_link(raw: bytes) -> bytes:
    return NO_LINK if raw == _NO_LINK else raw


def is_chunks_name(name: str) -> bool:
    return re.fullmatch(r"ei-[A-Za-z0-9_.-]{1,200}\.chunks", name) is not None
