"""One transaction's worth of messages: what they change, and what to answer once that is committed."""

from collections.abc import Collection, Iterator

import msgspec

from edgeinfer.console.deployer import Deployer
from edgeinfer.console.intake import Evicted, Inbound, Results, Undecodable, read_message
from edgeinfer.console.ledger import Ledger, Range
from edgeinfer.console.repository import Repository
from edgeinfer.console.repository.base import Deployment, DeviceChange, Refusal, StoredResult
from edgeinfer.console.series import bucket_results
from edgeinfer.console.settings import LimitsConfig
from edgeinfer.runtime.errors import MessageError
from edgeinfer.sync.jobs import FINAL_STATES
from edgeinfer.sync.messages import (
    Ack,
    Birth,
    BlobRequest,
    JobAck,
    JobStatus,
    ReportedState,
    StateMessage,
    Telemetry,
)

__all__ = ["Batch", "Known"]

# What fits a control message many times over; a device fills these first and hears of the next then.
_MAX_GAPS = 100
_MAX_TEXT = 300


class Known:
    """What the repository knows, remembered by the one thread that changes it. `forget()` after a failure."""

    def __init__(self, repository: Repository, limits: LimitsConfig) -> None:
        self._repository = repository
        self.limits = limits
        self.forget()

    def forget(self) -> None:
        self._devices: set[str] | None = None
        self._ledgers: dict[str, dict[int, Ledger]] = {}
        self._pipelines: dict[str, set[str]] = {}

    def is_device(self, name: str) -> bool:
        return name in self._names()

    def add_device(self, name: str) -> None:
        """Raises MessageError when there are too many already."""
        names = self._names()
        if len(names) >= self.limits.max_devices:
            raise MessageError(f"expected at most {self.limits.max_devices} devices, this would be one more")
        names.add(name)

    def ledger(self, device: str, epoch: int, *, busy: Collection[int] = ()) -> Ledger:
        """Where there are too many epochs, the oldest without a gap that is not `busy` is retired.

        Raises MessageError where there is none.
        """
        ledgers = self._ledgers.get(device)
        if ledgers is None:
            ledgers = self._ledgers[device] = self._repository.ledgers(device)
        if epoch not in ledgers:
            if len(ledgers) >= self.limits.max_epochs:
                self._retire_one(device, ledgers, busy)
            ledgers[epoch] = Ledger(contiguous=self._repository.retired_seq(device, epoch))
        return ledgers[epoch]

    def check_room(self, ledger: Ledger, first_seq: int) -> None:
        """Raises MessageError where a chunk would open a gap too many."""
        if first_seq > ledger.contiguous + 1 and len(ledger.ranges) >= self.limits.max_ranges:
            raise MessageError(f"expected at most {self.limits.max_ranges} gaps, this would be one more")

    def check_pipeline(self, device: str, pipeline: str) -> None:
        """Raises MessageError for a pipeline too many."""
        names = self._pipelines.get(device)
        if names is None:
            names = self._pipelines[device] = {count.pipeline for count in self._repository.pipelines(device)}
        if pipeline not in names and len(names) >= self.limits.max_pipelines:
            raise MessageError(f"expected at most {self.limits.max_pipelines} pipelines of a device, found one more")
        names.add(pipeline)

    def ack(self, epoch: int, ledger: Ledger) -> Ack:
        return Ack(epoch, ledger.contiguous, ledger.gaps(_MAX_GAPS))

    def _retire_one(self, device: str, ledgers: dict[int, Ledger], busy: Collection[int]) -> None:
        for epoch, ledger in ledgers.items():  # oldest first
            if not ledger.ranges and epoch not in busy:
                self._repository.retire_epoch(device, epoch)
                del ledgers[epoch]
                return
        raise MessageError(f"expected at most {self.limits.max_epochs} epochs of a device, found one more")

    def _names(self) -> set[str]:
        if self._devices is None:
            self._devices = {device.name for device in self._repository.devices()}
        return self._devices


class Batch:
    """Add messages, then `write()`, all inside one transaction; the answers are for after it."""

    def __init__(self, repository: Repository, known: Known, deployer: Deployer, *, tenant: str, t_ns: int) -> None:
        self._repository = repository
        self._known = known
        self._deployer = deployer
        self._tenant = tenant
        self._t_ns = t_ns
        self._changes: dict[str, DeviceChange] = {}
        self._touched: dict[tuple[str, int], Ledger] = {}
        self.results: list[StoredResult] = []
        self.requests: list[tuple[str, BlobRequest]] = []
        self.deployments: list[Deployment] = []
        self.job_acks: list[tuple[str, JobAck]] = []
        self.refusals: list[Refusal] = []
        self.changed_devices: set[str] = set()

    def add(self, topic: str, payload: bytes) -> None:
        """Take one message; what it is not is refused and remembered so."""
        try:
            message = read_message(topic, payload, tenant=self._tenant)
            if message is not None:
                self._apply(message)
                if isinstance(message.body, Undecodable):
                    self.refuse(topic, payload, f"settled as undecodable: {message.body.reason}")
        except MessageError as error:
            self.refuse(topic, payload, error.message)

    def refuse(self, topic: str, payload: bytes, reason: str) -> None:
        parts = topic.split("/", 5)
        device = parts[4] if len(parts) == 6 else ""
        refusal = Refusal(
            t_ns=self._t_ns,
            device=_clean(device),
            topic=_clean(topic),
            reason=_clean(reason),
            bytes=len(payload),
        )
        self.refusals.append(refusal)
        self.changed_devices.add(refusal.device)

    def write(self) -> None:
        """Write what was collected. Inside the transaction."""
        for device, change in self._changes.items():
            self._repository.change_device(device, change, t_ns=self._t_ns)
        for (device, epoch), ledger in self._touched.items():
            self._repository.save_ledger(device, epoch, ledger)
        self._repository.add_buckets(bucket_results(self.results))
        for refusal in self.refusals:
            self._repository.add_refusal(refusal)

    def acks(self) -> Iterator[tuple[str, Ack]]:
        """What to acknowledge, after the commit."""
        for (device, epoch), ledger in self._touched.items():
            yield device, self._known.ack(epoch, ledger)

    def _apply(self, message: Inbound) -> None:
        device, body = message.device, message.body
        if isinstance(body, BlobRequest):
            # Answered for known devices only, and only on the device's own topic.
            if self._known.is_device(device):
                self.requests.append((device, body))
            return
        self._introduce(device)
        match body:
            case Results():
                self._apply_results(device, body)
            case Evicted() | Undecodable():
                self._apply_absence(device, body)
            case Birth():
                self._apply_birth(device, body)
            case JobStatus():
                self._apply_job(device, body)
            case StateMessage():
                self._change(device, DeviceChange(online=body.online, session=body.session))
            case ReportedState():
                self._change(device, DeviceChange(reported=msgspec.to_builtins(body)))
            case Telemetry():
                self._change(device, DeviceChange(telemetry=msgspec.to_builtins(body)))

    def _introduce(self, device: str) -> None:
        if not self._known.is_device(device):
            self._known.add_device(device)
            self._repository.change_device(device, DeviceChange(), t_ns=self._t_ns)
        self._change(device, DeviceChange())

    def _change(self, device: str, change: DeviceChange) -> None:
        before = self._changes.get(device, DeviceChange())
        news = {field: value for field, value in msgspec.structs.asdict(change).items() if value is not None}
        self._changes[device] = msgspec.structs.replace(before, **news)
        self.changed_devices.add(device)

    def _apply_results(self, device: str, chunk: Results) -> None:
        ledger = self._ledger(device, chunk.epoch)
        self._known.check_room(ledger, chunk.first_seq)
        self._known.check_pipeline(device, chunk.pipeline)
        new = ledger.store(chunk.first_seq, len(chunk.results))
        rows = list(_rows(device, chunk, new))
        self._repository.add_results(rows)
        self.results.extend(rows)
        self._touched[device, chunk.epoch] = ledger

    def _apply_absence(self, device: str, absence: Evicted | Undecodable) -> None:
        ledger = self._ledger(device, absence.epoch)
        self._known.check_room(ledger, absence.first_seq)
        if isinstance(absence, Evicted):
            cause, new = "evicted", ledger.evict(absence.first_seq, absence.n)
        else:
            cause, new = "undecodable", ledger.give_up(absence.first_seq, absence.n)
        self._repository.add_absent(device, absence.epoch, new, cause=cause, reason=absence.reason)
        self._touched[device, absence.epoch] = ledger

    def _apply_birth(self, device: str, birth: Birth) -> None:
        for text, lowest in birth.epochs.items():
            epoch = int(text)
            ledger = self._ledger(device, epoch)
            new = ledger.raise_floor(lowest)
            if new:
                reason = f"the device holds nothing below {lowest}"
                self._repository.add_absent(device, epoch, new, cause="missing", reason=reason)
            self._touched[device, epoch] = ledger
        self._change(
            device,
            DeviceChange(
                session=birth.session,
                agent_version=birth.agent_version,
                groups=birth.groups,
                profile=birth.profile,
                engines=birth.engines,
            ),
        )

    def _apply_job(self, device: str, status: JobStatus) -> None:
        changed = self._deployer.reported(device, status, t_ns=self._t_ns)
        if changed is not None:
            self.deployments.append(changed)
        # An end is acknowledged whether or not it changed anything here: it has been heard for good.
        if status.state in FINAL_STATES:
            self.job_acks.append((device, JobAck(status.job, status.state)))

    def _ledger(self, device: str, epoch: int) -> Ledger:
        """Raises MessageError for an epoch too many."""
        busy = {touched for name, touched in self._touched if name == device}
        return self._known.ledger(device, epoch, busy=busy)


def _rows(device: str, chunk: Results, new: tuple[Range, ...]) -> Iterator[StoredResult]:
    for first, last in new:
        for seq in range(first, last + 1):
            result = chunk.results[seq - chunk.first_seq]
            yield StoredResult(
                device=device,
                epoch=chunk.epoch,
                seq=seq,
                pipeline=chunk.pipeline,
                kind=result.kind,
                t_ns=result.t_ns,
                frame=result.frame,
                latency_us=result.latency_us,
                age_us=result.age_us,
                items=result.items,
                extra=result.extra,
            )


def _clean(text: str) -> str:
    """Short, and storable whatever bytes it came from."""
    return text[:_MAX_TEXT].encode("utf-8", errors="replace").decode()
