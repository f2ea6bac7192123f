"""Walks the update machine: reads what the agent brought, checks it, and swaps the model in.

One `tick()` does at most one step. The row is written before the step's side effect; see
`edgeinfer.runtime.update` for the table.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from edgeinfer.runtime.assignment import AssignedPackage, AssignmentDocument, next_assignment, read_assignment
from edgeinfer.runtime.errors import EdgeInferError, RefusedError
from edgeinfer.runtime.handoff import Desired, RuntimeDb, SyncDb, UpdateRow
from edgeinfer.runtime.settings import RuntimeConfig
from edgeinfer.runtime.slots import ACTIVE, CANDIDATE, PREVIOUS, Slots
from edgeinfer.runtime.store import Store
from edgeinfer.runtime.update import FINAL, Event, State, advance, resume
from edgeinfer.runtime.verify import AssignmentRequest, GateRequest, PackageRequest, ask

__all__ = ["TrialView", "Updater"]

logger = logging.getLogger(__name__)

_KEEP_FINISHED = 32
_MAX_FAILURES = 3


class TrialView(Protocol):
    """What the updater needs of the running pipelines of one model."""

    def threads(self, model: str) -> int: ...
    def variant(self, model: str) -> str: ...
    def runs(self, model: str) -> bool: ...
    def swap(self, model: str, digest: str) -> None: ...
    def inferred(self, model: str) -> int: ...
    def idle(self, model: str) -> bool: ...
    def has_swapped(self, model: str, digest: str) -> bool: ...
    def failures(self, model: str) -> int: ...
    def swap_ms(self, model: str) -> float: ...


class Updater:
    """Not for use from two threads at once. `sync` opens the agent's database, or returns None."""

    def __init__(
        self,
        config: RuntimeConfig,
        *,
        store: Store,
        db: RuntimeDb,
        slots: Slots,
        running: TrialView,
        sync: Callable[[], SyncDb | None],
    ) -> None:
        self._config = config
        self._store = store
        self._db = db
        self._slots = slots
        self._running = running
        self._sync = sync
        self._seen = b""  # the last envelope that was looked at, good or bad
        self._document: AssignmentDocument | None = None
        self._trial_began_s: float | None = None
        self._trial_inferred = 0
        self.row = resume(db.update())
        self._save(self.row)

    def tick(self) -> None:
        """One step, if there is one to take. Never raises: what goes wrong is in the row or the log."""
        try:
            self._look_for_wish()
            self._step()
        except RefusedError as error:
            self._refuse(error)
        except EdgeInferError as error:
            if State(self.row.state) in FINAL or self.row.state == State.IDLE or error.recoverable:
                logger.warning("event=update_waits error=%s", error)
            else:
                self._refuse(error)

    def _look_for_wish(self) -> None:
        """Take up the console's newest assignment, once its signature has been checked."""
        desired = self._desired()
        if desired is not None and desired.envelope != self._seen:
            self._open(desired)
        wish = self._document
        if wish is None or State(self.row.state) not in (State.IDLE, *FINAL, State.DOWNLOADING):
            return
        wanted = next_assignment(wish, self.row.finished)
        if wanted is not None and wanted.job != self.row.job:
            self._assign(wish, wanted)

    def _desired(self) -> Desired | None:
        sync = self._sync()
        return sync.desired() if sync is not None else None

    def _open(self, desired: Desired) -> None:
        """Check a wish and make it the current one; one that is refused is reported once and then left alone."""
        request = AssignmentRequest(desired.envelope, self._config.trust.console_keys)
        try:
            document = read_assignment(ask(request), device=self._config.device, at_least=self.row.desired_version)
        except RefusedError as error:
            self._seen = desired.envelope
            logger.warning("event=assignment_refused version=%d reason=%s", desired.version, error)
            return
        self._seen = desired.envelope
        self._document = document
        self._save(msgspec.structs.replace(self.row, desired_version=document.version))

    def _assign(self, wish: AssignmentDocument, wanted: AssignedPackage) -> None:
        fresh = UpdateRow(
            state=self.row.state,
            desired_version=wish.version,
            job=wanted.job,
            model=wanted.model,
            version=wanted.version,
            digest=wanted.digest,
            blob_sha256=wanted.blob_sha256,
            blob_bytes=wanted.blob_bytes,
            finished=self.row.finished,
        )
        self._save(advance(fresh, Event.ASSIGN))

    def _step(self) -> None:
        steps: dict[State, Callable[[], None]] = {
            State.ASSIGNED: self._check_assignment,
            State.METADATA_OK: self._ask_for_blob,
            State.DOWNLOADING: self._look_for_blob,
            State.DOWNLOADED: self._install,
            State.STAGED: lambda: self._advance(Event.GATE_BEGAN),
            State.GATE: self._pass_gate,
            State.SHADOW: self._begin_trial,
            State.TRIAL: self._watch_trial,
            State.ROLLING_BACK: self._roll_back,
            State.COMMITTED: self._report,
            State.REPORTED: lambda: self._advance(Event.REST),
        }
        step = steps.get(State(self.row.state))
        if step is not None:
            step()

    def _check_assignment(self) -> None:
        row = self.row
        if not self._running.runs(row.model):
            raise RefusedError(f"no pipeline of this device runs model {row.model!r}")
        if self._slots.of(row.model).get(ACTIVE) == row.digest:
            self._finish(Event.ALREADY_ACTIVE, reason="this package is already active")
            return
        self._advance(Event.VERIFIED)

    def _ask_for_blob(self) -> None:
        row = self.row
        if self._blob_path().is_file():
            self._advance(Event.BLOB_ARRIVED)
        elif self._slots.of(row.model).get(CANDIDATE) == row.digest and self._store.holds(row.digest):
            self._advance(Event.INSTALLED)  # checked before a restart, and hashed afresh just now
        else:
            self._advance(Event.NEED_BLOB)

    def _look_for_blob(self) -> None:
        if self._blob_path().is_file():
            self._advance(Event.BLOB_ARRIVED)
            return
        sync = self._sync()
        download = sync.download(self.row.blob_sha256) if sync is not None else None
        if download is not None and download.error:
            raise RefusedError(f"the package cannot be downloaded: {download.error}")

    def _install(self) -> None:
        row = self.row
        path = self._blob_path()
        try:
            ask(PackageRequest(str(path), row.digest, self._config.trust.release_keys))
            package = self._store.install(path)
            if (package.manifest.name, package.manifest.version) != (row.model, row.version):
                raise RefusedError(
                    f"expected package {row.model} {row.version}, "
                    f"found {package.manifest.name} {package.manifest.version}"
                )
        except EdgeInferError:
            path.unlink(missing_ok=True)  # a bad one must not be found again
            raise
        self._slots.put(row.model, CANDIDATE, row.digest)
        self._advance(Event.INSTALLED)
        path.unlink(missing_ok=True)

    def _pass_gate(self) -> None:
        row = self.row
        request = GateRequest(
            self._config.state_dir, row.digest, self._running.variant(row.model), self._running.threads(row.model)
        )
        answer = ask(request)
        logger.info("event=gate_passed model=%s version=%s answer=%s", row.model, row.version, answer.decode())
        self._advance(Event.GATE_PASSED)

    def _begin_trial(self) -> None:
        row = msgspec.structs.replace(self.row, attempts=self.row.attempts + 1)
        self._save(advance(row, Event.SHADOW_PASSED))
        self._try_candidate()

    def _try_candidate(self) -> None:
        model = self.row.model
        try:
            self._running.swap(model, self.row.digest)
        except EdgeInferError as error:
            self._advance(Event.TRIAL_FAILED, reason=str(error))
            return
        self._trial_began_s = time.monotonic()
        self._trial_inferred = self._running.inferred(model)

    def _watch_trial(self) -> None:
        """The new version runs on live frames; it counts once it has run for a while without failing."""
        model = self.row.model
        # The daemon was started again in the middle of the trial, or its configuration was reloaded.
        if self._trial_began_s is None or not self._running.has_swapped(model, self.row.digest):
            self._try_candidate()
            return
        if self._running.failures(model) >= _MAX_FAILURES:
            self._advance(Event.TRIAL_FAILED, reason=f"{_MAX_FAILURES} inferences in a row failed in trial")
            return
        tried_s = time.monotonic() - self._trial_began_s
        proven = self._running.inferred(model) > self._trial_inferred or self._running.idle(model)
        if tried_s >= self._config.trial_s and proven:
            self._commit()

    def _commit(self) -> None:
        slots = self._slots.of(self.row.model)
        previous = slots.get(ACTIVE, "")
        self._slots.replace(self.row.model, {**slots, ACTIVE: self.row.digest, PREVIOUS: previous}, drop=CANDIDATE)
        self._trial_began_s = None
        self.row = msgspec.structs.replace(self.row, swap_ms=self._running.swap_ms(self.row.model))
        self._finish(Event.TRIAL_PASSED)
        self._store.prune(self._slots.all_digests())

    def _roll_back(self) -> None:
        slots = self._slots.of(self.row.model)
        self._trial_began_s = None
        if slots.get(ACTIVE):
            self._running.swap(self.row.model, slots[ACTIVE])
        self._slots.replace(self.row.model, slots, drop=CANDIDATE)
        self._finish(Event.ROLLED_BACK)
        self._store.prune(self._slots.all_digests())

    def _report(self) -> None:
        sync = self._sync()
        if sync is not None and sync.counter(f"job:{self.row.job}"):
            self._advance(Event.REPORTED)

    def _refuse(self, error: EdgeInferError) -> None:
        if State(self.row.state) is State.TRIAL:
            self._advance(Event.TRIAL_FAILED, reason=str(error))
            return
        if State(self.row.state) in (State.IDLE, State.ROLLING_BACK, *FINAL):
            logger.error("event=update_error state=%s error=%s", self.row.state, error)
            return
        self._slots.replace(self.row.model, self._slots.of(self.row.model), drop=CANDIDATE)
        self._finish(Event.REFUSED, reason=str(error))
        self._store.prune(self._slots.all_digests())

    def _finish(self, event: Event, *, reason: str = "") -> None:
        row = advance(self.row, event, reason=reason)
        finished = dict(list(row.finished.items())[-_KEEP_FINISHED + 1 :]) | {row.job: row.state}
        self._save(msgspec.structs.replace(row, finished=finished))

    def _advance(self, event: Event, *, reason: str = "") -> None:
        self._save(advance(self.row, event, reason=reason))

    def _save(self, row: UpdateRow) -> None:
        if row.state != self.row.state or row.job != self.row.job:
            logger.info(
                "event=update state=%s job=%s model=%s version=%s reason=%s",
                row.state,
                row.job,
                row.model,
                row.version,
                row.reason,
            )
        self.row = row
        self._db.set_update(row)

    def _blob_path(self) -> Path:
        return self._store.incoming / f"{self.row.blob_sha256}.edgepkg"
