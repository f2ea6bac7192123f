"""The values that go in and out of the console's database, and what may go wrong with it."""

from typing import Any

import msgspec

from edgeinfer.runtime.chunk import NO_LINK, StoredChunk
from edgeinfer.runtime.errors import BufferStorageError, EdgeInferError
from edgeinfer.runtime.results import Item

__all__ = [
    "Absent",
    "Bucket",
    "ChunkHead",
    "Conflict",
    "Deployment",
    "Device",
    "DeviceBlob",
    "DeviceChange",
    "KeptChunk",
    "OverlapError",
    "Package",
    "PipelineCount",
    "Refusal",
    "Rollout",
    "SignedDesired",
    "Span",
    "StorageError",
    "StoredResult",
    "Unread",
    "kind_bit",
]

# Kinds that are numbered higher share the last bit.
_LAST_BIT = 62


def kind_bit(kind: int) -> int:
    """The bit of `ChunkHead.kinds` that stands for `kind`."""
    return 1 << min(max(kind, 0), _LAST_BIT)


class StorageError(BufferStorageError):
    """The console's database cannot be read or written."""


class OverlapError(EdgeInferError):
    """A result would be stored twice: whoever asked for that has miscounted."""


class DeviceChange(msgspec.Struct, frozen=True, kw_only=True):
    """What a message tells of a device; None leaves what is known. Documents are JSON values."""

    online: bool | None = None
    session: str | None = None
    agent_version: str | None = None
    groups: tuple[str, ...] | None = None
    profile: dict[str, Any] | None = None
    engines: dict[str, str] | None = None
    reported: dict[str, Any] | None = None
    telemetry: dict[str, Any] | None = None


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """`reported` is the device's last ReportedState, `telemetry` its last Telemetry, as documents."""

    name: str
    first_seen_ns: int
    last_seen_ns: int
    online: bool
    session: str
    agent_version: str
    groups: tuple[str, ...]
    profile: dict[str, Any]
    engines: dict[str, str]
    reported: dict[str, Any]
    telemetry: dict[str, Any]
    refused: int


class ChunkHead(msgspec.Struct, frozen=True, kw_only=True):
    """Where a chunk belongs, and what can be asked of it without reading it: the earliest and the latest time of its
    results, and which kinds they are of (bit k: kind k, see `kind_bit`).

    `whole` is false for the rest of a chunk whose beginning or end was stored before: its link still is that of its
    end, but does not follow from what is left of its body.
    """

    device: str
    epoch: int
    first_seq: int
    n: int
    pipeline: str
    codec: int
    t_min_ns: int
    t_max_ns: int
    kinds: int
    link: bytes = NO_LINK
    whole: bool = True

    @property
    def last_seq(self) -> int:
        return self.first_seq + self.n - 1


class KeptChunk(ChunkHead, frozen=True, kw_only=True):
    """A chunk as it came from the device."""

    crc: int
    body: bytes


class Span(msgspec.Struct, frozen=True):
    """The chunks of an epoch that hold results of some stretch of time: the numbers of the first and the last result
    in them, and how many results they have together."""

    epoch: int
    first: int
    last: int
    results: int


class StoredResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A result with its place: unique by (device, epoch, seq)."""

    device: str
    epoch: int
    seq: int
    pipeline: str
    kind: int
    t_ns: int
    frame: int = 0
    latency_us: int = 0
    age_us: int = 0
    items: tuple[Item, ...] = ()
    extra: dict[str, int | float | str] | None = None


class PipelineCount(msgspec.Struct, frozen=True):
    """How many results and events of a pipeline are stored, and when the newest was made."""

    device: str
    pipeline: str
    results: int
    events: int
    last_t_ns: int


class Bucket(msgspec.Struct, frozen=True):
    """`n` results of a pipeline made within `resolution_s` seconds from `t_s` on; `latencies` counts them by
    latency class (see `edgeinfer.console.series`)."""

    device: str
    pipeline: str
    resolution_s: int
    t_s: int
    n: int
    latencies: dict[int, int]


class Absent(msgspec.Struct, frozen=True):
    """Results that will never come: `cause` is `evicted`, `missing` or `undecodable`. `t_ns` is when the first of
    them was made, 0 where the device does not say; `link` that of the hash chain after the last, where it is known."""

    device: str
    epoch: int
    first: int
    last: int
    cause: str
    reason: str
    t_ns: int = 0
    link: bytes = NO_LINK


class Unread(msgspec.Struct, frozen=True):
    """A chunk that could not be read when it came. `id` grows in the order in which they came."""

    id: int
    device: str
    epoch: int
    chunk: StoredChunk


class Conflict(msgspec.Struct, frozen=True):
    """A chunk that was refused because it does not fit the hash chain of what is stored. `times`: how often it came."""

    device: str
    epoch: int
    first_seq: int
    n: int
    reason: str
    first_ns: int
    last_ns: int
    times: int


class DeviceBlob(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a device sent, or is sending. `t_ns` is when the device made it, `received_ns` when the last of it
    came. Its place on the disk is named for its hash; `name` is only what the device calls it."""

    device: str
    sha256: str
    kind: str
    name: str
    pipeline: str
    t_ns: int
    total_bytes: int
    received_ns: int
    done: bool


class Refusal(msgspec.Struct, frozen=True):
    """A message that was not taken. `device` is empty where the topic names no known device."""

    t_ns: int
    device: str
    topic: str
    reason: str
    bytes: int


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """A package in the registry. `digest` is its identity, `blob_sha256` names the file that carries it."""

    digest: str
    name: str
    version: str
    task: str
    blob_sha256: str
    blob_bytes: int
    added_ns: int
    labels: tuple[str, ...]
    label_offset: int
    variants: tuple[dict[str, Any], ...]
    signed_by: str


class Rollout(msgspec.Struct, frozen=True):
    """One package on its way to the devices that `target` named when it was created."""

    id: int
    digest: str
    target: str
    state: str
    created_ns: int
    finished_ns: int


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """One device's part of a rollout. `job` is its name on the wire."""

    rollout: int
    device: str
    job: str
    digest: str
    model: str
    state: str
    desired_version: int
    created_ns: int
    changed_ns: int
    reason: str = ""
    offset: int = 0
    bytes: int = 0
    swap_ms: float = 0.0


class SignedDesired(msgspec.Struct, frozen=True):
    """What a device was last told to run, signed, as it is published."""

    device: str
    version: int
    envelope: bytes
