"""What the console asks of its database, and the values that go in and out.

Every write takes part in the open `transaction()` of its thread, or is a transaction of its own. What has been
committed survives a power cut. All methods are safe from any thread and raise `StorageError`, a
BufferStorageError, when the database cannot be read or written.
"""

from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import msgspec

from edgeinfer.console.ledger import Ledger, Range
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.results import Item

__all__ = [
    "Absent",
    "Bucket",
    "Deployment",
    "Device",
    "DeviceChange",
    "Package",
    "PipelineCount",
    "Refusal",
    "Repository",
    "Rollout",
    "SignedDesired",
    "StorageError",
    "StoredResult",
]


class StorageError(BufferStorageError):
    """The console's database cannot be read or written."""


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
    """Results that will never come: `cause` is `evicted`, `missing` or `undecodable`."""

    device: str
    epoch: int
    first: int
    last: int
    cause: str
    reason: str


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


class Repository(Protocol):
    """The one interface; `tests/contract/test_repository.py` says what an implementation must do."""

    def transaction(self) -> AbstractContextManager[None]:
        """All writes of this thread within are committed together, durably, or not at all."""

    def close(self) -> None: ...

    # devices
    def change_device(self, name: str, change: DeviceChange, *, t_ns: int) -> None:
        """Creates the device where it is new; `t_ns` becomes its last sign of life."""

    def all_offline(self) -> None: ...

    def device(self, name: str) -> Device | None: ...

    def devices(self) -> list[Device]:
        """By name."""

    # accounting
    def ledgers(self, device: str) -> dict[int, Ledger]:
        """The ledger of each epoch but those that were retired, in the order in which the epochs were first seen
        (their numbers are random)."""

    def all_ledgers(self) -> dict[str, dict[int, Ledger]]:
        """As `ledgers`, of each device."""

    def retire_epoch(self, device: str, epoch: int) -> None:
        """Forget an epoch's ledger but for its counts, which go into `retired`. Its results stay."""

    def retired_seq(self, device: str, epoch: int) -> int:
        """Up to where a retired epoch was settled; 0 for one that never was retired."""

    def retired(self) -> dict[str, Ledger]:
        """By device, the summed counts of its retired epochs."""

    def save_ledger(self, device: str, epoch: int, ledger: Ledger) -> None: ...

    def add_absent(self, device: str, epoch: int, ranges: Sequence[Range], *, cause: str, reason: str) -> None: ...

    def absent(self, device: str, *, limit: int) -> list[Absent]:
        """Newest first."""

    def add_refusal(self, refusal: Refusal) -> None:
        """Counts it (for its device, where that is known) and remembers the last few."""

    def refusals(self, *, limit: int, device: str | None = None) -> list[Refusal]: ...

    def refused_count(self) -> int:
        """Of all devices and of strangers."""

    # results
    def add_results(self, results: Sequence[StoredResult]) -> int:
        """Insert or ignore on (device, epoch, seq); returns how many were new. The device must be known."""

    def results(
        self, device: str, *, pipeline: str | None = None, after: tuple[int, int] | None = None, limit: int
    ) -> list[StoredResult]:
        """With `after` = (epoch, seq): those that follow, oldest first. Without: the newest, newest first.

        An epoch follows those that were seen before it; an unknown one stands for the very beginning.
        """

    def pipelines(self, device: str | None = None) -> list[PipelineCount]: ...

    def add_buckets(self, buckets: Iterable[Bucket]) -> None:
        """Added to what is stored for the same pipeline, resolution and time."""

    def buckets(self, *, resolution_s: int, since_s: int, until_s: int, device: str | None = None) -> list[Bucket]:
        """Those with since_s <= t_s < until_s, oldest first."""

    def drop_buckets(self, *, resolution_s: int, before_s: int) -> None: ...

    # packages
    def add_package(self, package: Package) -> bool:
        """False where a package of that digest is already known; its blob is then updated."""

    def packages(self) -> list[Package]:
        """Newest first."""

    def package(self, digest: str) -> Package | None: ...

    def blob_bytes(self, sha256: str) -> int:
        """The size of a blob that some package is carried by; 0 for an unknown one."""

    # rollouts
    def add_rollout(self, *, digest: str, target: str, state: str, t_ns: int) -> Rollout: ...

    def rollouts(self, *, limit: int) -> list[Rollout]:
        """Newest first."""

    def rollout(self, rollout_id: int) -> Rollout | None: ...

    def is_unfinished(self, rollout_id: int, *, final: Collection[str]) -> bool:
        """Whether any deployment of the rollout is in a state that is not `final`."""

    def set_rollout_state(self, rollout_id: int, state: str, *, t_ns: int) -> None: ...

    def save_deployment(self, deployment: Deployment) -> None:
        """By (rollout, device): inserted, or replaced."""

    def deployments(self, *, rollout: int | None = None, device: str | None = None) -> list[Deployment]:
        """Newest rollout first, then by device."""

    def desired(self, device: str) -> SignedDesired | None: ...

    def all_desired(self) -> list[SignedDesired]: ...

    def save_desired(self, desired: SignedDesired) -> None: ...
