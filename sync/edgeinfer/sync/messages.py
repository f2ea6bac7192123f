"""The wire: topics and messages, as values. No socket, no clock.

Topics are `ei/v1/{tenant}/d/{device}/{rest}`. Control messages are JSON; a reader ignores fields it does
not know. Chunks and blob ranges are a fixed header (big-endian) and bytes. Everything received has a
maximum size; what does not fit its topic raises MessageError.
"""

import re
import struct
import zlib
from typing import Annotated, Any, TypeVar

import msgspec

from edgeinfer.runtime.bench_order import MAX_DOCUMENT_BYTES
from edgeinfer.runtime.chunk import EVICTED_PIPELINE, LINK_BYTES, NO_LINK
from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.errors import MessageError

__all__ = [
    "CANCEL_KIND",
    "MAX_CHUNK_BYTES",
    "MAX_CONTROL_BYTES",
    "MAX_RANGE_BYTES",
    "MAX_RESULT_BYTES",
    "Ack",
    "Assignment",
    "Birth",
    "BlobLabel",
    "BlobPart",
    "BlobRange",
    "BlobRequest",
    "BlobStored",
    "ChunkMessage",
    "Command",
    "CommandResult",
    "DesiredState",
    "JobAck",
    "JobStatus",
    "LogLines",
    "ReportedState",
    "StateMessage",
    "Telemetry",
    "TopicName",
    "decode",
    "decode_blob_part",
    "decode_blob_range",
    "decode_chunk",
    "encode",
    "encode_blob_part",
    "encode_blob_range",
    "encode_chunk",
    "is_name",
    "parse_topic",
    "topic",
    "valid_pipeline",
]

PREFIX = "ei/v1"
CANCEL_KIND = "cancel"
MAX_CONTROL_BYTES = 64 << 10
MAX_CHUNK_BYTES = 4 << 20
# A document as JSON text within JSON: each of its quotes takes two bytes.
MAX_RESULT_BYTES = 2 * MAX_DOCUMENT_BYTES + MAX_CONTROL_BYTES
MAX_RANGE_BYTES = 256 << 10
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_CHUNK_MAGIC = b"EI"
_RANGE_MAGIC = b"ER"
_PART_MAGIC = b"EB"
_WIRE_VERSION = 1
_LINKED_VERSION = 2
# magic, version, codec, epoch, first_seq, n; in version 2 the link of the hash chain; then the check: crc32 of these,
# xor crc32 of the body. A number that was damaged on the way must not take another result's place.
_CHUNK_HEADER = struct.Struct(">2sBBQQI")
_CHUNK_CHECK = struct.Struct(">I")
# magic, version, reserved, sha256 of the blob, offset, total bytes of the blob, crc32 of the range
_RANGE_HEADER = struct.Struct(">2sBx32sQQI")
# magic, version, reserved, sha256 of the blob, offset, total bytes of the blob, bytes of the label; then the check:
# crc32 of all before it and of all that follows it, xor.
_PART_HEADER = struct.Struct(">2sBx32sQQH")

Seq = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
ShortText = Annotated[str, msgspec.Meta(max_length=512)]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
T = TypeVar("T")


class TopicName(msgspec.Struct, frozen=True):
    """A topic taken apart; `rest` is what follows the device, for instance `up/res/door`."""

    tenant: str
    device: str
    rest: str


class StateMessage(msgspec.Struct, frozen=True):
    """`up/state`, retained; the last will says offline for the same session."""

    online: bool
    session: ShortText


class Birth(msgspec.Struct, frozen=True, omit_defaults=True):
    """`up/birth`: who this device is. `epochs` maps each epoch (as text) to the lowest sequence number
    that the device can still send; whatever the console lacks below it will never come."""

    session: ShortText
    agent_version: ShortText
    epochs: dict[str, Seq] = {}
    profile: dict[str, Any] = {}
    engines: dict[str, str] = {}
    groups: tuple[ShortText, ...] = ()
    schema: int = 1


class ReportedState(msgspec.Struct, frozen=True, omit_defaults=True):
    """`up/reported`, retained. `models` maps a model's name to `{version, digest, variant}`; `audit` holds
    the device's own counts (made, durable, sent, acknowledged, evicted). `conflict` is `Ack.conflict`, as it arrived
    here. `usage` is the data of the day in bytes: by network, and there by what was sent."""

    version: Seq
    models: dict[str, dict[str, str]] = {}
    pipelines: dict[str, dict[str, Any]] = {}
    audit: dict[str, Any] = {}
    conflict: Seq = 0
    usage: dict[str, dict[str, int]] = {}


class ChunkMessage(msgspec.Struct, frozen=True):
    """`up/res/{pipeline}`: `n` consecutive results from `first_seq` on. codec 0 is a tombstone: the results
    were evicted on the device and `body` says why (JSON)."""

    codec: int
    epoch: int
    first_seq: int
    n: int
    crc: int
    body: bytes
    link: bytes = NO_LINK


class Ack(msgspec.Struct, frozen=True, omit_defaults=True):
    """`down/ack`: everything up to `seq` of `epoch` is stored; `gaps` are inclusive ranges that are missing
    below what has been stored beyond it, the lowest first. `highest` is the highest number that is stored: with
    `complete`, all between `seq` and it that lies in no gap is stored; else only what lies below the end of the last
    gap. `conflict` is not 0 where the console holds another result under that number than this device sent: two
    devices have one name and one buffer. `link`, in hex, is that of the hash chain after result `seq`, where the
    console knows it: a device that has another there must not take this for its own. `duplicates` counts the results
    of the epoch that came more than once. `bundle`: the console takes so many chunks in one message (0: one alone)."""

    epoch: Seq
    seq: Seq
    gaps: tuple[tuple[Seq, Seq], ...] = ()
    highest: Seq = 0
    complete: bool = True
    conflict: Seq = 0
    link: ShortText = ""
    duplicates: Seq = 0
    bundle: Seq = 0


class Assignment(msgspec.Struct, frozen=True):
    """One model that a device is to run: the package's identity and the blob that carries it."""

    job: ShortText
    model: ShortText
    version: ShortText
    digest: Sha256
    blob_sha256: Sha256
    blob_bytes: Seq


class DesiredState(msgspec.Struct, frozen=True):
    """The payload of the signed `down/desired`. `version` only ever grows; `device` is who it is for."""

    version: Seq
    device: ShortText
    issued_s: Seq
    assignments: tuple[Assignment, ...]


class JobStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """`up/job/{id}`: how far an assignment has come; `state` is a state of the update machine."""

    job: ShortText
    desired_version: Seq
    state: ShortText
    model: ShortText = ""
    version: ShortText = ""
    offset: Seq = 0
    bytes: Seq = 0
    reason: ShortText = ""
    swap_ms: float = 0.0


class JobAck(msgspec.Struct, frozen=True):
    """`down/job/{id}`: the console has stored that the job ended in `state`."""

    job: ShortText
    state: ShortText


class BlobRequest(msgspec.Struct, frozen=True):
    """`up/get`: `length` bytes of a blob from `offset` on."""

    sha256: Sha256
    offset: Seq
    length: Annotated[int, msgspec.Meta(ge=1, le=MAX_RANGE_BYTES)]


class BlobRange(msgspec.Struct, frozen=True):
    """`down/data`: the bytes asked for; `total_bytes` is 0 where the console has no such blob."""

    sha256: str
    offset: int
    total_bytes: int
    data: bytes


class BlobLabel(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a blob from a device is: `kind` (snapshot, example), its file's `name`, and where it comes from."""

    kind: ShortText
    name: ShortText
    pipeline: ShortText = ""
    t_ns: int = 0


class BlobPart(msgspec.Struct, frozen=True):
    """`up/blob`: bytes of a file of the device from `offset` on. Without any bytes it asks how far the console is."""

    sha256: str
    offset: int
    total_bytes: int
    label: BlobLabel
    data: bytes


class BlobStored(msgspec.Struct, frozen=True, omit_defaults=True):
    """`down/blob`: the console durably has the blob up to `offset`; `done`: all of it, and its hash is right.
    `refused` says why it will never be taken, or is empty."""

    sha256: Sha256
    offset: Seq
    done: bool = False
    refused: ShortText = ""


class Command(msgspec.Struct, frozen=True, omit_defaults=True):
    """The payload of the signed `down/cmd`. Carried out once, and only between `issued_s` and `expires_s` (seconds
    since 1970). `kind`: logs (the last `lines`), bench (time each variant of the package in the blob `blob_sha256` for
    `each_ms` milliseconds, with `threads` threads), or cancel (end the bench that the command `ends` began)."""

    id: ShortText
    device: ShortText
    kind: ShortText
    issued_s: Seq
    expires_s: Seq
    lines: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 200
    blob_sha256: ShortText = ""
    blob_bytes: Seq = 0
    each_ms: Annotated[int, msgspec.Meta(ge=0, le=600_000)] = 0
    threads: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    ends: ShortText = ""


class CommandResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """`up/cmdres`: how a command ended; `detail` says what was done, or why not. `document` is what was asked for, as
    JSON text: of bench what `edgeinfer bench --json` prints."""

    id: ShortText
    ok: bool
    detail: ShortText = ""
    document: Annotated[str, msgspec.Meta(max_length=MAX_DOCUMENT_BYTES)] = ""


class LogLines(msgspec.Struct, frozen=True, omit_defaults=True):
    """`up/log`: lines that the command `id` asked for, part `part` of `parts`, from 1."""

    id: ShortText
    lines: tuple[str, ...]
    part: Seq = 1
    parts: Seq = 1


class Telemetry(msgspec.Struct, frozen=True, omit_defaults=True):
    """`up/tel`: a moment of the device; lost without harm."""

    t_ns: int
    pipelines: dict[str, dict[str, Any]] = {}
    cpu_percent: float = 0.0
    memory_percent: float = 0.0
    temperature_c: float | None = None
    rss_bytes: int = 0
    buffer_bytes: int = 0
    backlog: int = 0


def is_name(text: str) -> bool:
    """Whether `text` may name a tenant, device, pipeline or job: letters, digits, `_.-`, at most 64."""
    return _NAME.fullmatch(text) is not None


def valid_pipeline(rest: str) -> str:
    """The pipeline in `up/res/{pipeline}`; `_evicted` is the one of tombstones. Raises MessageError."""
    name = rest.removeprefix("up/res/")
    if name == rest or not (is_name(name) or name == EVICTED_PIPELINE):
        raise MessageError(f"expected up/res/PIPELINE, found {rest[:80]!r}")
    return name


def topic(tenant: str, device: str, rest: str) -> str:
    return f"{PREFIX}/{tenant}/d/{device}/{rest}"


def parse_topic(text: str) -> TopicName:
    """Raises MessageError unless `text` is a topic of this protocol with valid names."""
    parts = text.split("/", 5)
    if len(parts) != 6 or parts[:2] != ["ei", "v1"] or parts[3] != "d":
        raise MessageError(f"expected a topic {PREFIX}/TENANT/d/DEVICE/..., found {text[:120]!r}")
    tenant, device, rest = parts[2], parts[4], parts[5]
    if not (is_name(tenant) and is_name(device)):
        raise MessageError(f"expected valid names in the topic, found {text[:120]!r}")
    return TopicName(tenant, device, rest)


def encode(message: msgspec.Struct) -> bytes:
    return msgspec.json.encode(message)


def decode(raw: bytes, type_: type[T]) -> T:
    """A JSON control message. Raises MessageError: too large, not JSON, not a `type_`."""
    limit = MAX_RESULT_BYTES if type_ is CommandResult else MAX_CONTROL_BYTES
    if len(raw) > limit:
        raise MessageError(f"expected at most {limit} bytes, found {len(raw)}")
    try:
        return msgspec.json.decode(raw, type=type_)
    except MALFORMED as error:
        raise MessageError(f"expected a {type_.__name__} message: {error}") from error


def encode_chunk(message: ChunkMessage) -> bytes:
    version = _LINKED_VERSION if message.link else _WIRE_VERSION
    header = _CHUNK_HEADER.pack(_CHUNK_MAGIC, version, message.codec, message.epoch, message.first_seq, message.n)
    header += message.link
    return header + _CHUNK_CHECK.pack(zlib.crc32(header) ^ message.crc) + message.body


def decode_chunk(raw: bytes) -> ChunkMessage:
    """Raises MessageError: too short, too large, not a chunk, damaged."""
    if len(raw) > MAX_CHUNK_BYTES:
        raise MessageError(f"expected a chunk of at most {MAX_CHUNK_BYTES} bytes, found {len(raw)}")
    version, codec, epoch, first_seq, n = _unpack(
        _CHUNK_HEADER, raw, _CHUNK_MAGIC, "chunk", versions=(_WIRE_VERSION, _LINKED_VERSION)
    )
    header_bytes = _CHUNK_HEADER.size + (LINK_BYTES if version == _LINKED_VERSION else 0)
    start = header_bytes + _CHUNK_CHECK.size
    if len(raw) < start:
        raise MessageError(f"expected a chunk of at least {start} bytes, found {len(raw)}")
    (check,) = _CHUNK_CHECK.unpack_from(raw, header_bytes)
    body = raw[start:]
    found = zlib.crc32(body)
    expected = check ^ zlib.crc32(raw[:header_bytes])
    if found != expected:
        raise MessageError(f"expected a chunk with crc32 {expected:08x}, found {found:08x}")
    if n < 1 or max(epoch, first_seq + n) >= 1 << 63:
        raise MessageError(f"expected a chunk of at least one result in range, found n={n} first_seq={first_seq}")
    return ChunkMessage(codec, epoch, first_seq, n, found, body, raw[_CHUNK_HEADER.size : header_bytes])


def encode_blob_part(message: BlobPart) -> bytes:
    label = encode(message.label)
    header = _PART_HEADER.pack(
        _PART_MAGIC, _WIRE_VERSION, bytes.fromhex(message.sha256), message.offset, message.total_bytes, len(label)
    )
    check = zlib.crc32(header) ^ zlib.crc32(message.data, zlib.crc32(label))
    return header + _CHUNK_CHECK.pack(check) + label + message.data


def decode_blob_part(raw: bytes) -> BlobPart:
    """Raises MessageError: too short, too large, not a part of a blob, damaged, beyond the blob's end."""
    if len(raw) > MAX_RANGE_BYTES + MAX_CONTROL_BYTES:
        raise MessageError(f"expected a part of at most {MAX_RANGE_BYTES} bytes, found {len(raw)}")
    _, sha256, offset, total_bytes, label_bytes = _unpack(_PART_HEADER, raw, _PART_MAGIC, "part of a blob")
    start = _PART_HEADER.size + _CHUNK_CHECK.size
    if len(raw) < start + label_bytes:
        raise MessageError(f"expected a part of at least {start + label_bytes} bytes, found {len(raw)}")
    (check,) = _CHUNK_CHECK.unpack_from(raw, _PART_HEADER.size)
    if zlib.crc32(raw[: _PART_HEADER.size]) ^ zlib.crc32(raw[start:]) != check:
        raise MessageError("expected a part of a blob with the right crc32")
    data = raw[start + label_bytes :]
    if offset + len(data) > total_bytes:
        raise MessageError(f"expected a part within {total_bytes} bytes, found {len(data)} from {offset} on")
    label = decode(raw[start : start + label_bytes], BlobLabel)
    return BlobPart(sha256.hex(), offset, total_bytes, label, data)


def encode_blob_range(message: BlobRange) -> bytes:
    header = _RANGE_HEADER.pack(
        _RANGE_MAGIC,
        _WIRE_VERSION,
        bytes.fromhex(message.sha256),
        message.offset,
        message.total_bytes,
        zlib.crc32(message.data),
    )
    return header + message.data


def decode_blob_range(raw: bytes) -> BlobRange:
    """Raises MessageError: too short, too large, not a range, wrong CRC."""
    if len(raw) > MAX_RANGE_BYTES + _RANGE_HEADER.size:
        raise MessageError(f"expected a range of at most {MAX_RANGE_BYTES} bytes, found {len(raw)}")
    _, sha256, offset, total_bytes, crc = _unpack(_RANGE_HEADER, raw, _RANGE_MAGIC, "blob range")
    data = raw[_RANGE_HEADER.size :]
    if zlib.crc32(data) != crc:
        raise MessageError(f"expected a blob range with crc32 {crc:08x}, found {zlib.crc32(data):08x}")
    return BlobRange(sha256.hex(), offset, total_bytes, data)


def _unpack(
    header: struct.Struct, raw: bytes, magic: bytes, what: str, *, versions: tuple[int, ...] = (_WIRE_VERSION,)
) -> tuple[Any, ...]:
    if len(raw) < header.size:
        raise MessageError(f"expected a {what} of at least {header.size} bytes, found {len(raw)}")
    found_magic, version, *rest = header.unpack_from(raw)
    if found_magic != magic or version not in versions:
        raise MessageError(f"expected a {what} of version {versions[-1]}, found {found_magic!r} version {version}")
    return (version, *rest)
