"""Walks the update machine: reads what the agent brought, checks it, and swaps the model in.

One `tick()` does at most one step. The row is written before the step's side effect; see
`edgeinfer.runtime.update` for the table. Slots and row change in one transaction where both do.

A trial is passed by inferences of the new version itself: at least one in each pipeline of the model whose source
goes on, after `trial_s` at the earliest. It fails where three in a row fail, and where no frame can come any more:
no pipeline of the model is left, or every source has ended. While a source only waits (a camera that is off at
night), the trial stays open, without a deadline: nothing speaks against the new version, and what runs is not
called current before it has been proven. A newer assignment without this job rolls it back first, and then takes
its place.

What is wrong with the assignment or the package ends the job. What is wrong with this device at the moment (no
room, no file handle, a database that cannot be read) is tried again after a growing wait; nothing is given up.
"""

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgeinfer.runtime.assignment import AssignedPackage, AssignmentDocument, next_assignment, read_assignment
from edgeinfer.runtime.choosing import pass_gate
from edgeinfer.runtime.errors import EdgeInferError, GateError, RefusedError, StorageError
from edgeinfer.runtime.floor import VersionFloor
from edgeinfer.runtime.handoff import Desired, RuntimeDb, SyncDb, UpdateRow
from edgeinfer.runtime.retry import Retry
from edgeinfer.runtime.settings import RuntimeConfig
from edgeinfer.runtime.slots import ACTIVE, CANDIDATE, CONFIGURED, PINNED, PREVIOUS, Slots
from edgeinfer.runtime.store import Store
from edgeinfer.runtime.trial_view import TrialView
from edgeinfer.runtime.update import CHECKING, FINAL, TRANSITIONS, Event, State, advance, resume
from edgeinfer.runtime.verify import AssignmentRequest, GateRequest, PackageRequest, ask

__all__ = ["Updater"]

logger = logging.getLogger(__name__)

_KEEP_FINISHED = 32
_MAX_FAILURES = 3


class Updater:
    """Not for use from two threads at once. `sync` opens the agent's database, or returns None.

    Raises BufferStorageError or StorageError on construction where the row cannot be read or written now.
    """

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
        self.config = config
        self._store = store
        self._db = db
        self._slots = slots
        self._running = running
        self._sync = sync
        self._seen = b""  # the last envelope that was looked at, good or bad
        self._document: AssignmentDocument | None = None
        self._trial_began_s: float | None = None
        self._look_retry, self._step_retry = Retry(), Retry()
        self._floor = VersionFloor(Path(config.state_dir))
        with self._slots.changing:
            self._slots.prune()
        self.row = db.update()
        self._save(self._resumed(self.row))

    def tick(self) -> None:
        """One step, if there is one to take. Never raises: what goes wrong is in the row or the log."""
        if not self._slots.changing.acquire(blocking=False):
            return  # a person at the device is bringing another version in
        try:
            self._tick()
        finally:
            self._slots.changing.release()

    def _tick(self) -> None:
        # Apart: an agent's database that cannot be read must not keep a trial from being rolled back.
        self._attempt(self._look_retry, self._look_for_wish)
        self._attempt(self._step_retry, self._step_or_refuse)

    def _attempt(self, retry: Retry, part: Callable[[], None]) -> None:
        if not retry.due():
            return
        try:
            part()
        except EdgeInferError as error:
            logger.warning("event=update_waits state=%s retry_s=%.1f error=%s", self.row.state, retry.failed(), error)
        except Exception:
            logger.exception("event=update_crashed state=%s retry_s=%.1f", self.row.state, retry.failed())
        else:
            retry.reset()

    def _step_or_refuse(self) -> None:
        try:
            self._step()
        except EdgeInferError as error:
            if error.recoverable or State(self.row.state) in (State.IDLE, *FINAL):
                raise
            self._refuse(error)

    def _resumed(self, row: UpdateRow) -> UpdateRow:
        row = msgspec.structs.replace(row, desired_version=max(row.desired_version, self._floor.read()))
        try:
            return resume(row)
        except ValueError:
            # Written by another release of the daemon. The console still wants what it wanted.
            logger.error("event=update_state_unknown state=%s job=%s", row.state, row.job)  # noqa: TRY400 - said in full
            return UpdateRow(desired_version=row.desired_version, finished=row.finished)

    def _look_for_wish(self) -> None:
        """Take up the console's newest assignment, once its signature has been checked."""
        desired = self._desired()
        if desired is not None and desired.envelope != self._seen:
            self._open(desired)
        wish = self._document
        if wish is None:
            return
        wanted = next_assignment(wish, self.row.finished)
        if wanted is None or wanted.job == self.row.job:
            return
        state = State(self.row.state)
        if (state, Event.ASSIGN) in TRANSITIONS:
            self._assign(wish, wanted)
        elif state is State.TRIAL and self.row.job not in {package.job for package in wish.assignments}:
            self._advance(Event.TRIAL_FAILED, reason="a newer assignment came before it had been proven")

    def _desired(self) -> Desired | None:
        sync = self._sync()
        return sync.desired() if sync is not None else None

    def _open(self, desired: Desired) -> None:
        """Check a wish and make it the current one; one that is refused is reported once and then left alone."""
        request = AssignmentRequest(desired.envelope, self.config.trust.console_keys)
        try:
            document = read_assignment(ask(request), device=self.config.device, at_least=self.row.desired_version)
        except GateError as error:  # the check was killed or hung: that is no word about the assignment
            raise StorageError(str(error)) from error
        except RefusedError as error:
            self._seen = desired.envelope
            logger.warning("event=assignment_refused version=%d reason=%s", desired.version, error)
            return
        self._floor.raise_to(document.version)
        self._save(msgspec.structs.replace(self.row, desired_version=document.version))
        self._seen = desired.envelope
        self._document = document

    def _assign(self, wish: AssignmentDocument, wanted: AssignedPackage) -> None:
        if State(self.row.state) is State.SHADOW:
            self._running.end_shadow(self.row.model)
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
        if self._slots.of(self.row.model).get(CANDIDATE, wanted.digest) != wanted.digest:
            with self._slots.lock:  # of a job that was not ended
                self._slots.replace(self.row.model, self._slots.of(self.row.model), drop=CANDIDATE)
        self._save(advance(fresh, Event.ASSIGN))
        self._step_retry.reset()

    def _step(self) -> None:
        self._respect_pin()
        steps: dict[State, Callable[[], None]] = {
            State.ASSIGNED: self._check_assignment,
            State.METADATA_OK: self._ask_for_blob,
            State.DOWNLOADING: self._look_for_blob,
            State.DOWNLOADED: self._install,
            State.STAGED: lambda: self._advance(Event.GATE_BEGAN),
            State.GATE: self._pass_gate,
            State.SHADOW: self._watch_shadow,
            State.TRIAL: self._watch_trial,
            State.ROLLING_BACK: self._roll_back,
            State.COMMITTED: self._report,
            State.REPORTED: lambda: self._advance(Event.REST),
        }
        step = steps.get(State(self.row.state))
        if step is not None:
            step()

    def _respect_pin(self) -> None:
        """A person at the device has pinned the model: the console is told so, and has no say until it is unpinned.
        A trial that has begun is finished: what it leads to is known by then."""
        row = self.row
        if State(row.state) not in CHECKING:
            return
        slots = self._slots.of(row.model)
        if PINNED in slots and slots.get(ACTIVE) != row.digest:
            self._running.end_shadow(row.model)
            raise RefusedError("pinned at the device")

    def _check_assignment(self) -> None:
        row = self.row
        if not self._running.runs(row.model):
            raise RefusedError(f"no pipeline of this device runs model {row.model!r}")
        if self._slots.of(row.model).get(ACTIVE) == row.digest:
            self._finish(row, Event.ALREADY_ACTIVE, self._slots.of(row.model), reason="this package is already active")
            return
        self._advance(Event.VERIFIED)

    def _ask_for_blob(self) -> None:
        row = self.row
        if self._store.blob(row.blob_sha256).is_file():
            self._advance(Event.BLOB_ARRIVED)
        elif self._slots.of(row.model).get(CANDIDATE) == row.digest and self._store.holds(row.digest):
            self._advance(Event.INSTALLED)  # checked before a restart, and hashed afresh just now
        else:
            self._advance(Event.NEED_BLOB)

    def _look_for_blob(self) -> None:
        if self._store.blob(self.row.blob_sha256).is_file():
            self._advance(Event.BLOB_ARRIVED)
            return
        sync = self._sync()
        download = sync.download(self.row.blob_sha256) if sync is not None else None
        if download is not None and download.error:
            raise RefusedError(f"the package cannot be downloaded: {download.error}")

    def _install(self) -> None:
        """A bad blob is removed with the refusal; one that there is no room for stays, and is tried again."""
        row = self.row
        with self._store.staged(row.blob_sha256, row.blob_bytes) as path:
            ask(PackageRequest(str(path), row.digest, self.config.trust.release_keys))
            package = self._store.install(path, digest=row.digest)
        if (package.manifest.name, package.manifest.version) != (row.model, row.version):
            raise RefusedError(
                f"expected package {row.model} {row.version}, found {package.manifest.name} {package.manifest.version}"
            )
        with self._slots.lock:
            slots = {**self._slots.of(row.model), CANDIDATE: row.digest}
            self._save_with_slots(advance(row, Event.INSTALLED), slots)
        self._forget_blobs()

    def _pass_gate(self) -> None:
        row = self.row
        request = GateRequest(
            self.config.state_dir,
            row.digest,
            self._running.variant(row.model),
            self._running.threads(row.model),
            max_latency_us=math.ceil(self.config.gate.max_latency_ms * 1000),
            max_bytes=self.config.gate.max_memory_mb << 20,
        )
        answer = pass_gate(self._store.manifest(row.digest), request, db=self._db, ask=ask)
        logger.info("event=gate_passed model=%s version=%s answer=%s", row.model, row.version, answer)
        self._advance(Event.GATE_PASSED)

    def _watch_shadow(self) -> None:
        """Where the configuration asks for it, the new version first runs beside the active one on the same frames."""
        model, shadow = self.row.model, self.config.shadow
        if not shadow.frames or not self._running.runs(model):
            self._running.end_shadow(model)  # one that a reload has left without pipelines, or without being wanted
            self._begin_trial()
            return
        if not self._running.in_shadow(model, self.row.digest):  # also after a reload, which makes pipelines anew
            self._running.begin_shadow(model, self.row.digest)
            return
        agreement = self._running.shadow_agreement(model)
        if agreement is None:
            return
        failure = self._running.shadow_failure(model)
        self._running.end_shadow(model)
        if failure:
            raise RefusedError(f"in shadow it failed: {failure}")
        if agreement < shadow.min_agreement:
            raise RefusedError(
                f"in shadow it agreed with the active version on {agreement:.1%} of the frames, "
                f"expected {shadow.min_agreement:.1%}"
            )
        self._begin_trial()

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

    def _watch_trial(self) -> None:
        """The new version runs on live frames; it counts once it has run for a while without failing."""
        model = self.row.model
        if not self._running.runs(model):
            self._advance(Event.TRIAL_FAILED, reason=f"no pipeline of this device runs model {model!r} any more")
            return
        # The daemon was started again in the middle of the trial, or its configuration was reloaded.
        if self._trial_began_s is None or not self._running.has_swapped(model, self.row.digest):
            self._try_candidate()
            return
        if self._running.failures(model) >= _MAX_FAILURES:
            self._advance(Event.TRIAL_FAILED, reason=f"{_MAX_FAILURES} inferences in a row failed in trial")
            return
        ended = self._running.idle(model)  # looked at first: the last frame may come in between
        if self._running.inferred(model):
            if time.monotonic() - self._trial_began_s >= self.config.trial_s:
                self._commit()
        elif ended:
            self._advance(Event.TRIAL_FAILED, reason="every source has ended: no frame came to try it on")

    def _commit(self) -> None:
        row = msgspec.structs.replace(self.row, swap_ms=self._running.swap_ms(self.row.model))
        with self._slots.lock:
            slots = self._slots.of(row.model)
            if slots.get(ACTIVE) != row.digest:
                slots = {**slots, ACTIVE: row.digest, PREVIOUS: slots.get(ACTIVE, "")}
            self._finish(row, Event.TRIAL_PASSED, slots)
        self._trial_began_s = None

    def _roll_back(self) -> None:
        """To the active version, or else to the newest one before it that still can be run."""
        row = self.row
        slots = self._slots.of(row.model)
        # Not under the lock: a reload takes it while it keeps the pipelines from being swapped.
        digest = self._swap_to_first([slots[name] for name in (ACTIVE, PREVIOUS, CONFIGURED) if name in slots])
        with self._slots.lock:
            slots = self._slots.of(row.model)
            if digest is None:
                reason = f"{row.reason}; no version before it can be run: it stays until the next start"
                self._finish(row, Event.REFUSED, slots, reason=reason)
            else:
                if digest != slots.get(ACTIVE, digest):
                    slots = {**slots, ACTIVE: digest, PREVIOUS: ""}
                self._finish(row, Event.ROLLED_BACK, slots)
        self._trial_began_s = None

    def _swap_to_first(self, digests: list[str]) -> str | None:
        """The first of `digests` that runs, save the one on trial; empty where there is nothing to run it."""
        model = self.row.model
        if not self._running.runs(model):
            return next((digest for digest in digests if digest != self.row.digest), "")
        for digest in dict.fromkeys(digests):
            if digest == self.row.digest:
                continue
            try:
                self._running.swap(model, digest)
            except EdgeInferError as error:
                if error.recoverable:
                    raise
                logger.error("event=version_unusable model=%s digest=%s error=%s", model, digest, error)  # noqa: TRY400 - said in full
            else:
                return digest
        return None

    def _report(self) -> None:
        sync = self._sync()
        if sync is not None and sync.counter(f"job:{self.row.job}"):
            self._advance(Event.REPORTED)

    def _refuse(self, error: EdgeInferError) -> None:
        if State(self.row.state) is State.TRIAL:
            self._advance(Event.TRIAL_FAILED, reason=str(error))
            return
        with self._slots.lock:
            self._finish(self.row, Event.REFUSED, self._slots.of(self.row.model), reason=str(error))

    def _finish(self, row: UpdateRow, event: Event, slots: dict[str, str], *, reason: str = "") -> None:
        """End the job and write the slots that follow from it; what nobody wants any more is removed."""
        row = advance(row, event, reason=reason)
        finished = dict(list(row.finished.items())[-_KEEP_FINISHED + 1 :]) | {row.job: row.state}
        self._save_with_slots(msgspec.structs.replace(row, finished=finished), slots, drop=CANDIDATE)
        self._slots.prune()
        self._forget_blobs()

    def _forget_blobs(self) -> None:
        """Remove every blob that no open job of the newest assignment needs."""
        wanted = self._document.assignments if self._document is not None else ()
        finished = self.row.finished
        done = {self.row.blob_sha256} if self.row.state == State.STAGED else set()
        self._store.forget_blobs(keep={one.blob_sha256 for one in wanted if one.job not in finished} - done)

    def _advance(self, event: Event, *, reason: str = "") -> None:
        self._save(advance(self.row, event, reason=reason))

    def _save(self, row: UpdateRow) -> None:
        self._db.set_update(row)
        self._take(row)

    def _save_with_slots(self, row: UpdateRow, slots: dict[str, str], *, drop: str = "") -> None:
        self._slots.commit(row, slots, drop=drop)
        self._take(row)

    def _take(self, row: UpdateRow) -> None:
        """Go on with a row, now that it is durable."""
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
