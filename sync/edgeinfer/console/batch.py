"""One transaction's worth of messages: what they change, and what to answer once that is committed."""

from collections import Counter
from collections.abc import Iterator

import msgspec

from edgeinfer.console.deployer import Deployer
from edgeinfer.console.intake import Evicted, Inbound, Results, Undecodable, read_message
from edgeinfer.console.kept import count_events, kept, pieces
from edgeinfer.console.known import Known
from edgeinfer.console.late import Wanted, settle, wanted
from edgeinfer.console.ledger import Ledger, Range
from edgeinfer.console.repository import Repository
from edgeinfer.console.repository.base import (
    Absent,
    Conflict,
    Deployment,
    DeviceChange,
    KeptChunk,
    PipelineCount,
    Refusal,
)
from edgeinfer.console.series import FINE_KEPT_S, Tally
from edgeinfer.console.verdict import CONFLICT
from edgeinfer.runtime.chunk import NO_LINK, StoredChunk
from edgeinfer.runtime.codec import Summary
from edgeinfer.runtime.errors import CodecError, MessageError
from edgeinfer.sync.jobs import FINAL_STATES
from edgeinfer.sync.messages import (
    Ack,
    Birth,
    BlobPart,
    BlobRequest,
    CommandResult,
    JobAck,
    JobStatus,
    LogLines,
    ReportedState,
    StateMessage,
    Telemetry,
)

__all__ = ["Batch", "Passed"]

Passed = BlobPart | CommandResult | LogLines
"""What is not for the database: others in the console take it."""

_MAX_TEXT = 300
_INT64 = 1 << 63


class _ConflictError(MessageError):
    """A chunk belies what is stored."""


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
        self._told: dict[tuple[str, int], Ledger] = {}  # changed, with nothing to acknowledge
        self._conflicts: dict[tuple[str, int], int] = {}
        self._tally = Tally(fine_since_s=t_ns // 1_000_000_000 - FINE_KEPT_S)
        self._counts: dict[tuple[str, str], PipelineCount] = {}
        self.chunks: list[KeptChunk] = []
        self._flushed = 0  # of them are in the repository
        self.requests: list[tuple[str, BlobRequest]] = []
        self.passed: list[tuple[str, Passed]] = []
        self.deployments: list[Deployment] = []
        self.job_acks: list[tuple[str, JobAck]] = []
        self.refusals: list[Refusal] = []
        self.changed_devices: set[str] = set()

    def add(self, topic: str, payload: bytes, message: Inbound | None = None) -> None:
        """Take one message, `message` where it has been read already; what it is not is refused and remembered so."""
        try:
            if message is None:
                message = read_message(topic, payload, tenant=self._tenant)
            self._apply(message)
            if isinstance(message.body, Undecodable):
                self.refuse(topic, payload, f"settled as undecodable: {message.body.reason}")
        except MessageError as error:
            self.refuse(topic, payload, error.message)

    def add_again(self, device: str, body: Results) -> bool:
        """A chunk that could not be read when it came, and that was settled as undecodable: its place in the chain was
        looked at then, and nobody hears of it now. False where nothing of it is to be stored."""
        ledger = self._ledger(device, body.epoch)
        found = wanted(self._repository, device, body.epoch, body.chunk, ledger, has_come=True)
        if not found.late:
            return False
        try:
            self._known.check_pipeline(device, body.chunk.pipeline)
            self._store(device, body, ledger, found)
        except MessageError:
            return False
        return True

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
        self._flush()
        for device, change in self._changes.items():
            self._repository.change_device(device, change, t_ns=self._t_ns)
        for (device, epoch), ledger in (self._told | self._touched).items():
            self._repository.save_ledger(device, epoch, ledger)
        self._repository.add_counts(self._counts.values())
        self._repository.add_buckets(self._tally.buckets())
        for refusal in self.refusals:
            self._repository.add_refusal(refusal)

    def acks(self) -> Iterator[tuple[str, Ack]]:
        """What to acknowledge, after the commit."""
        for (device, epoch), ledger in self._touched.items():
            yield device, self._known.ack(device, epoch, ledger, conflict=self._conflicts.get((device, epoch), 0))

    @property
    def counts(self) -> Counter[tuple[str, str]]:
        """Results that are new, by device and pipeline."""
        return Counter({place: count.results for place, count in self._counts.items()})

    def _apply(self, message: Inbound) -> None:
        device, body = message.device, message.body
        if isinstance(body, BlobRequest | Passed):
            if self._known.is_device(device):
                self._set_aside(device, body)
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
                self._apply_state(device, body)
            case ReportedState():
                self._apply_report(device, body)
            case Telemetry():
                self._change(device, DeviceChange(telemetry=msgspec.to_builtins(body)))

    def _set_aside(self, device: str, body: BlobRequest | Passed) -> None:
        """For after the commit; what answers go to, goes on the device's own topic only."""
        if isinstance(body, BlobRequest):
            self.requests.append((device, body))
        else:
            self.passed.append((device, body))

    def _introduce(self, device: str) -> None:
        if device in self._changes:
            return
        if not self._known.is_device(device):
            self._known.add_device(device)
            self._repository.change_device(device, DeviceChange(), t_ns=self._t_ns)
        self._change(device, DeviceChange())

    def _change(self, device: str, change: DeviceChange) -> None:
        before = self._changes.get(device, DeviceChange())
        news = {field: value for field, value in msgspec.structs.asdict(change).items() if value is not None}
        self._changes[device] = msgspec.structs.replace(before, **news)
        self.changed_devices.add(device)

    def _apply_results(self, device: str, body: Results) -> None:
        chunk = body.chunk
        ledger = self._ledger(device, body.epoch)
        self._known.check_room(ledger, chunk.first_seq)
        self._known.check_pipeline(device, chunk.pipeline)
        self._check_chain(device, body.epoch, chunk, ledger)
        self._store(device, body, ledger, wanted(self._repository, device, body.epoch, chunk, ledger))

    def _store(self, device: str, body: Results, ledger: Ledger, found: Wanted) -> None:
        """Raises MessageError, with nothing changed."""
        chunk = body.chunk
        new, whole = found.ranges, found.ranges == ((chunk.first_seq, chunk.last_seq),)
        try:
            parts = [(chunk, body.summary)] if whole else list(pieces(chunk, body.summary, new))
        except CodecError as error:
            raise MessageError(f"expected a chunk that can be taken apart: {error.message}") from error
        settle(self._repository, device, body.epoch, chunk, ledger, found.late)
        for part, summary in parts:
            self._keep(kept(device, body.epoch, part, summary, whole=whole), summary)
        self._settled(device, body.epoch, chunk, ledger, new=new)

    def _flush(self) -> None:
        """Have the repository know all that is stored by now."""
        if self._flushed < len(self.chunks):
            self._repository.add_chunks(self.chunks[self._flushed :])
            self._flushed = len(self.chunks)

    def _keep(self, chunk: KeptChunk, summary: Summary) -> None:
        self.chunks.append(chunk)
        place = (chunk.device, chunk.pipeline)
        before = self._counts.get(place, PipelineCount(*place, 0, 0, 0))
        self._counts[place] = PipelineCount(
            *place,
            before.results + chunk.n,
            before.events + count_events(summary),
            max(before.last_t_ns, chunk.t_max_ns),
        )
        self._tally.add(*place, summary)

    def _apply_absence(self, device: str, body: Evicted | Undecodable) -> None:
        chunk = body.chunk
        ledger = self._ledger(device, body.epoch)
        self._known.check_room(ledger, chunk.first_seq)
        self._check_chain(device, body.epoch, chunk, ledger)
        if isinstance(body, Evicted):
            cause, new = "evicted", ledger.evict(chunk.first_seq, chunk.n)
        else:
            cause, new = "undecodable", ledger.give_up(chunk.first_seq, chunk.n)
            if new:  # it is acknowledged, so the device will not have it much longer
                self._repository.keep_unread(device, body.epoch, chunk)
        self._repository.add_absent(
            device,
            [
                Absent(
                    device, body.epoch, first, last, cause, body.reason, chunk.t0_ns if first == chunk.first_seq else 0,
                    chunk.link if last == chunk.last_seq else NO_LINK,
                )
                for first, last in new
            ],
        )  # fmt: skip
        self._settled(device, body.epoch, chunk, ledger, new=new)

    def _settled(self, device: str, epoch: int, chunk: StoredChunk, ledger: Ledger, *, new: tuple[Range, ...]) -> None:
        if new and new[-1][1] == chunk.last_seq:
            self._known.links.remember(device, epoch, chunk)
        self._touched[device, epoch] = ledger

    def _check_chain(self, device: str, epoch: int, chunk: StoredChunk, ledger: Ledger) -> None:
        """Raises _ConflictError, which is told to the device too."""
        if not self._known.links.is_next(device, epoch, chunk, ledger):
            self._flush()  # what lies around it is looked up there
        objection = self._known.links.objection(device, epoch, chunk, ledger)
        if not objection:
            return
        ledger.conflicts += 1
        self._touched[device, epoch] = ledger
        self._conflicts[device, epoch] = min(chunk.first_seq, self._conflicts.get((device, epoch), chunk.first_seq))
        self._repository.add_conflict(
            Conflict(device, epoch, chunk.first_seq, chunk.n, objection, self._t_ns, self._t_ns, times=1)
        )
        raise _ConflictError(f"conflict in epoch {epoch} at {chunk.first_seq}: {objection} ({CONFLICT})")

    def _apply_birth(self, device: str, birth: Birth) -> None:
        for text, lowest in birth.epochs.items():
            epoch = int(text)
            ledger = self._ledger(device, epoch)
            new = ledger.raise_floor(lowest)
            if new:
                reason = f"the device holds nothing below {lowest}"
                self._repository.add_absent(
                    device, [Absent(device, epoch, first, last, "missing", reason) for first, last in new]
                )
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

    def _apply_report(self, device: str, report: ReportedState) -> None:
        """What the device says it has made outlives the report: of a buffer that is lost nothing else will tell."""
        self._change(device, DeviceChange(reported=msgspec.to_builtins(report)))
        epoch, made = (_number(report.audit.get(name)) for name in ("epoch", "made"))
        if not epoch or not made:
            return
        ledger = self._ledger(device, epoch)
        if made > ledger.made:
            ledger.made = made
            self._told[device, epoch] = ledger

    def _apply_state(self, device: str, state: StateMessage) -> None:
        if not state.online:
            known = self._repository.device(device)
            change = self._changes.get(device)
            session = (change.session if change else None) or (known.session if known else "")
            if session not in {"", state.session}:
                return  # the last will of an agent whose place another has taken
        self._change(device, DeviceChange(online=state.online, session=state.session))

    def _apply_job(self, device: str, status: JobStatus) -> None:
        changed = self._deployer.reported(device, status, t_ns=self._t_ns)
        if changed is not None:
            self.deployments.append(changed)
        # An end is acknowledged whether or not it changed anything here: it has been heard for good.
        if status.state in FINAL_STATES:
            self.job_acks.append((device, JobAck(status.job, status.state)))

    def _ledger(self, device: str, epoch: int) -> Ledger:
        """Raises MessageError for an epoch too many."""
        touched = self._touched.get((device, epoch))
        if touched is not None:
            return touched
        self._flush()  # an epoch may have to be retired for it
        busy = {of for name, of in self._touched | self._told if name == device}
        return self._known.ledger(device, epoch, busy=busy)


def _number(said: object) -> int:
    """A count that a device reports; 0 for what is none."""
    return said if isinstance(said, int) and not isinstance(said, bool) and 0 <= said < _INT64 else 0


def _clean(text: str) -> str:
    """Short, and storable whatever bytes it came from."""
    return text[:_MAX_TEXT].encode("utf-8", errors="replace").decode()
