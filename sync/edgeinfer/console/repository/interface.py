"""What the console asks of its database.

Every write takes part in the open `transaction()` of its thread, or is a transaction of its own. What has been
committed survives a power cut. All methods are safe from any thread and raise `StorageError`, a
BufferStorageError, when the database cannot be read or written.
"""

from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from edgeinfer.console.ledger import Ledger
from edgeinfer.console.repository.base import (
    Absent,
    Bucket,
    ChunkHead,
    Conflict,
    Deployment,
    Device,
    DeviceBlob,
    DeviceChange,
    KeptChunk,
    Package,
    PipelineCount,
    Refusal,
    Rollout,
    SignedDesired,
    Span,
    StoredResult,
    Unread,
)
from edgeinfer.runtime.chunk import StoredChunk

__all__ = ["Repository"]


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

    def add_absent(self, device: str, absents: Sequence[Absent]) -> None:
        """One that goes on where another of the same cause and reason ended becomes part of it."""

    def absent(self, device: str, *, limit: int) -> list[Absent]:
        """Newest first."""

    def absent_in(self, device: str, epoch: int, first: int, last: int) -> list[Absent]:
        """What of the absent ranges lies within `first` to `last`, by number."""

    def forget_absent(self, device: str, epoch: int, first: int, last: int) -> None:
        """`first` to `last` are absent no more; what lies around them still is."""

    def keep_unread(self, device: str, epoch: int, chunk: StoredChunk) -> None:
        """A chunk that cannot be read here, as it came. Of more than a device's buffer holds, the oldest go."""

    def next_unread(self, after_id: int) -> Unread | None:
        """The first that came after the one of that number; 0: the first of all."""

    def drop_unread(self, id_: int) -> None: ...

    def add_conflict(self, conflict: Conflict) -> None:
        """Remembered once for each (device, epoch, first_seq); `times` add up."""

    def conflicts(self, device: str, *, limit: int) -> list[Conflict]:
        """The newest first."""

    def add_refusal(self, refusal: Refusal) -> None:
        """Counts it (for its device, where that is known) and remembers the last few."""

    def refusals(self, *, limit: int, device: str | None = None) -> list[Refusal]: ...

    def refused_count(self) -> int:
        """Of all devices and of strangers."""

    # results
    def add_chunks(self, chunks: Sequence[KeptChunk]) -> None:
        """The devices must be known. Raises OverlapError for a number that is stored already."""

    def results(
        self,
        device: str,
        *,
        pipeline: str | None = None,
        kinds: int = 0,
        after: tuple[int, int] | None = None,
        limit: int,
    ) -> list[StoredResult]:
        """With `after` = (epoch, seq): those that follow, oldest first. Without: the newest, newest first. With
        `kinds` (bits, see `kind_bit`) only results of these.

        An epoch follows those that were seen before it; an unknown one stands for the very beginning.
        """

    def results_at(self, device: str, t_ns: int, *, kinds: int, limit: int) -> list[StoredResult]:
        """Those of `kinds` that were made at exactly `t_ns`; of so many chunks at most."""

    def link_at(self, device: str, epoch: int, seq: int) -> bytes:
        """The link after result `seq`; NO_LINK where none is known, or nothing that is known ends there."""

    def chunk_at(self, device: str, epoch: int, first_seq: int) -> KeptChunk | None:
        """The chunk that begins with `first_seq`."""

    def heads(self, device: str, epoch: int, *, after: int, last: int, limit: int) -> list[ChunkHead]:
        """The chunks that begin after number `after` and not after `last`, in order."""

    def neighbours(self, device: str, epoch: int, seq: int) -> tuple[ChunkHead | None, ChunkHead | None]:
        """The nearest chunk that begins at or before `seq`, and the nearest that begins after it."""

    def spans(self, device: str, *, since_ns: int, until_ns: int) -> list[Span]:
        """Of each epoch that has chunks with a time in since_ns <= t < until_ns, in the order of the epochs. A chunk
        counts whose earliest and latest time enclose such a one."""

    def add_counts(self, counts: Iterable[PipelineCount]) -> None:
        """Added to what is counted for the same pipeline."""

    def pipelines(self, device: str | None = None) -> list[PipelineCount]: ...

    def add_buckets(self, buckets: Iterable[Bucket]) -> None:
        """Added to what is stored for the same pipeline, resolution and time."""

    def buckets(self, *, resolution_s: int, since_s: int, until_s: int, device: str | None = None) -> list[Bucket]:
        """Those with since_s <= t_s < until_s, oldest first."""

    def drop_buckets(self, *, resolution_s: int, before_s: int) -> None: ...

    # files from devices
    def save_device_blob(self, blob: DeviceBlob) -> None:
        """By (device, sha256): inserted, or replaced."""

    def device_blob(self, device: str, sha256: str) -> DeviceBlob | None: ...

    def device_blobs(self, device: str | None = None, *, done: bool = True, limit: int) -> list[DeviceBlob]:
        """Newest first. With `done`, only those that have come whole."""

    def oldest_device_blob(self, device: str) -> DeviceBlob | None:
        """Whole or not."""

    def device_blob_bytes(self) -> dict[str, int]:
        """By device, the bytes of all its blobs, whole or not; each counts as 4096 at least."""

    def drop_device_blob(self, device: str, sha256: str) -> None: ...

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
